"""Output about images: the table of ls, and the results of tag, build and prune."""

from __future__ import annotations

import re
from typing import Any

from gpuprov import image as image_commands
from gpuprov import report, result
from gpuprov.options import Options
from gpuprov.result import Host, Run
from gpuprov.shared import plugin

text = plugin("plugin_utils/text/images")


def ran(*hosts: Host, check: bool = False) -> Run:
    return Run("image", Options("a,", check=check), {host.name: host for host in hosts})


def ls(run: Run) -> str:
    return report.joined(text.table(image_commands._images(run)))


def tags(run: Run) -> str:
    return report.joined(text.tag_lines([(host.name, host.changes) for host in run.hosts], run.options.check))


def built_text(run: Run) -> str:
    return report.joined(text.built_lines(image_commands._images(run), run.options.check))


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
    assert ls(ran(*hosts)) == (
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
    assert "1 the same on all, 0 not" in ls(ran(first, second))


def test_the_table_fits_80_columns_with_long_names_and_many_hosts() -> None:
    names = [f"node-{n * 7}.cluster.example.com" for n in range(40)]
    long = "registry.example.com:5000/team/a-rather-long-name/train-with-everything:1.9.1-cuda12.4"
    hosts = [host(name, (long, "aaaa" if n % 2 else "bbbb"), ("b:1", "cccc")) for n, name in enumerate(names)]
    shown = ls(ran(*hosts))
    assert [line for line in shown.splitlines() if len(line) > 80 and long not in line] == []
    assert all(name in shown for name in names)
    assert "\x1b" not in shown


def test_images_without_a_name_are_no_difference_between_hosts() -> None:
    shown = ls(ran(host("a", ("", "one1"), ("", "two2")), host("b")))
    assert re.search(r"^   <none> +a$", shown, re.MULTILINE)
    assert "1 the same on all, 0 not" in shown


def test_a_host_that_failed_is_not_one_that_lacks_images() -> None:
    gone = Host("c", error={"task": "t", "message": "no", "hint": ""}, unreachable=True)
    shown = ls(ran(host("a", ("i:1", "x")), host("b", ("i:1", "x")), gone))
    assert "i:1" in shown
    assert "≠" not in shown
    assert ls(ran(gone)) == ""


def test_hosts_that_failed_alike_are_named_together_in_one_line() -> None:
    error = {"task": "t", "message": "train:1.9.1 is not on this host", "hint": result.AGAIN}
    hosts = [Host(f"gpu{n}", error=error) for n in (1, 2, 3)]
    assert report.short_errors_text(ran(*hosts)) == "gpu[1:3]: failed: train:1.9.1 is not on this host\n"


def test_tags_that_moved_are_shown_once_for_hosts_that_agree() -> None:
    change = {"role": "docker_image", "subject": "train:1", "from": "1.9.1", "to": "1.9.2", "disruption": "none"}
    hosts = [Host("gpu1", changes=[change]), Host("gpu2", changes=[change]), Host("gpu3")]
    assert tags(ran(*hosts)) == ("gpu[1:2]  1 tag moved\n  train:1  1.9.1 → 1.9.2\ngpu3      as wanted\n")
    assert "1 tag to move" in tags(ran(*hosts, check=True))


def test_what_was_built_is_named_with_what_travelled() -> None:
    sent = {"files": 2, "bytes": 5}
    built = Host("gpu1", image={"name": "a:1.0.0", "id": "sha256:" + "ab" * 32, "size": 2_000_000, "sent": sent})
    assert built_text(ran(built)) == ("gpu1: a:1.0.0 is abababababab, 2.0 MB; 2 files (5 B) of the context sent\n")
    assert built_text(ran(built, check=True)) == ("gpu1: a:1.0.0 to build; 2 files (5 B) of the context to send\n")


def sent(host: str, number: int, **more: Any) -> tuple[str, dict[str, Any]]:
    image = {"id": "sha256:" + "ab" * 32, "names": ["a:1"], "layers": 3, "sent_layers": number, "seconds": 0.5 * number}
    return host, {**image, "shown_as": image["id"], "sent_bytes": 2_000_000 * number, **more}


def test_what_was_sent_is_a_table_with_the_image_that_hosts_have_now() -> None:
    lines = text.transfer_lines(dict([sent("gpu1", 2), sent("gpu2", 0)]), False, 2)
    assert lines == [
        "host  image ID      layers  sent    seconds",
        "gpu1  abababababab  2 of 3  4.0 MB  1.0",
        "gpu2  abababababab  0 of 3  0 B     0.0",
        f"a:1 is sha256:{'ab' * 32} on all 2 hosts.",
    ]
    assert text.transfer_lines(dict([sent("gpu1", 2)]), False, 2)[-1].endswith("on 1 of 2 hosts.")
    assert text.transfer_lines(dict([sent("gpu1", 2)]), False, 1)[-1].endswith("on the host.")
    assert text.transfer_lines({}, False, 2) == []


def test_what_will_be_sent_is_not_said_to_be_there() -> None:
    lines = text.transfer_lines(dict([sent("gpu1", 2, sent_bytes=None)]), True, 1)
    assert lines[1:] == ["gpu1  abababababab  2 of 3  not yet  1.0"]


def test_each_platform_has_a_line_and_the_id_that_containerd_shows_is_explained() -> None:
    other = {"id": "sha256:" + "cd" * 32, "shown_as": "sha256:" + "ef" * 32}
    lines = text.transfer_lines(dict([sent("gpu1", 1), sent("gpu2", 1, **other)]), False, 2)
    assert lines[-3:] == [
        f"a:1 is sha256:{'ab' * 32} on gpu1.",
        f"a:1 is sha256:{'cd' * 32} on gpu2.",
        "containerd shows it as efefefefefef, the digest of a manifest or an index: gpu2",
    ]


def test_a_clean_up_says_what_went_and_what_stayed() -> None:
    nothing = {"containers": [], "images": [], "bytes": 0}
    gone = {"id": "1", "name": "old", "names": ["a:1"], "why": "no tag", "bytes": 10}
    going = {"containers": [], "images": [gone], "bytes": 10}
    assert text.prune_lines({"gpu1": going, "gpu2": nothing}) == [
        "gpu1  1 image, 10 B", "  image a:1  no tag      10 B", "gpu2  nothing to remove", "To free: 10 B on 1 host.",
    ]  # fmt: skip
    freed = {
        **going,
        "removed": {"containers": [], "images": [gone]},
        "freed": 10,
        "stayed": [{"name": "b", "why": "used"}],
    }
    assert text.freed_lines({"gpu1": freed, "gpu2": nothing}) == [
        "gpu1  removed: 1 image, 10 B", "  stays: b: used", "gpu2  nothing to remove", "Freed: 10 B.",
    ]  # fmt: skip
