"""Output about images: the table of ls, and the results of tag, build and prune."""

from __future__ import annotations

import re
from typing import Any

from gpuprov import image_report, report, result
from gpuprov.options import Options
from gpuprov.result import Host, Run


def ran(*hosts: Host, check: bool = False) -> Run:
    return Run("image", Options("a,", check=check), {host.name: host for host in hosts})


def host(name: str, *images: tuple[str, str], **more: Any) -> Host:
    """A host with images, each as (name, content); an ID is of the store, so another on each host."""
    found = [
        {"id": f"sha256:{content}{'0' * 12}", "content": content, "tags": [tag] if tag else [], "digests": [],
         "size": 1500000}
        for tag, content in images
    ]  # fmt: skip
    return Host(name, image={"images": found}, **more)


def test_images_that_are_the_same_everywhere_have_one_line_and_those_that_differ_come_first() -> None:
    hosts = [host(f"gpu{n:02}", ("a:1", "aaaa"), ("train:1.9", "new1" if n < 15 else "old1")) for n in range(1, 17)]
    hosts[0] = host("gpu01", ("train:1.9", "new1"), ("a:1", "aaaa"), ("x:1", "xxxx"))
    assert image_report.ls_text(ran(*hosts)) == (
        "   image      ID               size  hosts\n"
        "≠  train:1.9  new100000000   1.5 MB  gpu[01:14]\n"
        "              old100000000   1.5 MB  gpu[15:16]\n"
        "≠  x:1        xxxx00000000   1.5 MB  gpu01\n"
        "              -                      gpu[02:16]\n"
        "   a:1        aaaa00000000   1.5 MB  all\n"
        "16 hosts, 3 images: 1 the same on all, 2 not.\n"
    )


def test_the_same_image_in_two_stores_is_no_difference() -> None:
    first, second = host("a", ("i:1", "same")), host("b", ("i:1", "same"))
    (second.image or {})["images"][0]["id"] = "sha256:other"
    assert "1 the same on all, 0 not" in image_report.ls_text(ran(first, second))


def test_the_table_fits_80_columns_with_long_names_and_many_hosts() -> None:
    names = [f"node-{n * 7}.cluster.example.com" for n in range(40)]
    long = "registry.example.com:5000/team/a-rather-long-name/train-with-everything:1.9.1-cuda12.4"
    hosts = [host(name, (long, "aaaa" if n % 2 else "bbbb"), ("b:1", "cccc")) for n, name in enumerate(names)]
    text = image_report.ls_text(ran(*hosts))
    assert [line for line in text.splitlines() if len(line) > 80 and long not in line] == []
    assert all(name in text for name in names)
    assert "\x1b" not in text


def test_images_without_a_name_are_no_difference_between_hosts() -> None:
    text = image_report.ls_text(ran(host("a", ("", "one1"), ("", "two2")), host("b")))
    assert re.search(r"^   <none> +a$", text, re.MULTILINE)
    assert "1 the same on all, 0 not" in text


def test_a_host_that_failed_is_not_one_that_lacks_images() -> None:
    gone = Host("c", error={"task": "t", "message": "no", "hint": ""}, unreachable=True)
    text = image_report.ls_text(ran(host("a", ("i:1", "x")), host("b", ("i:1", "x")), gone))
    assert "i:1" in text
    assert "≠" not in text
    assert image_report.ls_text(ran(gone)) == ""


def test_hosts_that_failed_alike_are_named_together_in_one_line() -> None:
    error = {"task": "t", "message": "train:1.9.1 is not on this host", "hint": result.AGAIN}
    hosts = [Host(f"gpu{n}", error=error) for n in (1, 2, 3)]
    assert report.short_errors_text(ran(*hosts)) == "gpu[1:3]: failed: train:1.9.1 is not on this host\n"


def test_tags_that_moved_are_shown_once_for_hosts_that_agree() -> None:
    change = {"role": "docker_image", "subject": "train:1", "from": "1.9.1", "to": "1.9.2", "disruption": "none"}
    hosts = [Host("gpu1", changes=[change]), Host("gpu2", changes=[change]), Host("gpu3")]
    assert image_report.tag_text(ran(*hosts)) == (
        "gpu[1:2]  1 tag moved\n  train:1  1.9.1 → 1.9.2\ngpu3      as wanted\n"
    )
    assert "1 tag to move" in image_report.tag_text(ran(*hosts, check=True))


def test_what_was_built_is_named_with_what_travelled() -> None:
    sent = {"files": 2, "bytes": 5}
    built = Host("gpu1", image={"name": "a:1.0.0", "id": "sha256:" + "ab" * 32, "size": 2_000_000, "sent": sent})
    assert image_report.built_text(ran(built)) == (
        "gpu1: a:1.0.0 is abababababab, 2.0 MB; 2 files (5 B) of the context sent\n"
    )
    assert image_report.built_text(ran(built, check=True)) == (
        "gpu1: a:1.0.0 to build; 2 files (5 B) of the context to send\n"
    )
