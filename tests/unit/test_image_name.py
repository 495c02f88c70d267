"""The names of images, and their parts."""

from __future__ import annotations

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images.image_name import (
    ImageNameError,
    parse,
    parse_tagged,
)

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "registry", "path", "tag", "digest"),
    [
        ("busybox", "docker.io", "library/busybox", None, None),
        ("busybox:1.36", "docker.io", "library/busybox", "1.36", None),
        ("team/train:1.9.1", "docker.io", "team/train", "1.9.1", None),
        ("docker.io/library/busybox", "docker.io", "library/busybox", None, None),
        ("index.docker.io/busybox", "docker.io", "library/busybox", None, None),
        ("localhost/train", "localhost", "train", None, None),
        ("registry:5000/train", "registry:5000", "train", None, None),
        ("registry:5000/train:1.9", "registry:5000", "train", "1.9", None),
        ("Registry/train", "Registry", "train", None, None),
        ("registry.example.com:5000/a/b/c:v1_2.3-x", "registry.example.com:5000", "a/b/c", "v1_2.3-x", None),
        ("[2001:db8::1]:5000/train:1", "[2001:db8::1]:5000", "train", "1", None),
        ("192.0.2.7/train", "192.0.2.7", "train", None, None),
        (f"train@{DIGEST}", "docker.io", "library/train", None, DIGEST),
        (f"registry:5000/train:1@{DIGEST}", "registry:5000", "train", "1", DIGEST),
        ("a__b-c.d_e--f", "docker.io", "library/a__b-c.d_e--f", None, None),
        ("train:" + "x" * 128, "docker.io", "library/train", "x" * 128, None),
    ],
)
def test_a_name_is_parted_as_docker_parts_it(
    text: str, registry: str, path: str, tag: str | None, digest: str | None
) -> None:
    assert tuple(parse(text)) == (registry, path, tag, digest)


@pytest.mark.parametrize(
    "text",
    [
        "a;reboot", "$(id)", "`id`", "a b", "a\nb", "a\n", " a", "a|b", "a&b", "a>b", "-a", "--rm", "../a", "a'b",
        'a"b', "", ":1", "a:", "a:b:c", "a:-x", "a:.x", "a:ü", "a/", "/a", "a//b", "A", "a/B", "ä", "a..b", "a___b",
        "a-", ".a", "a:" + "x" * 129, "x" * 256, "registry:port/a", "re_gistry:5000/a", "registry:5000/a;b",
        "registry:5000/", "http://registry/a", "a@", "a@sha256:12", "a@sha256:" + "A" * 64, "a@sha256:" + "0" * 63,
        f"a@{DIGEST};id", "0" * 64, "a:1{{x}}", "a\x1b[2J", "\N{ARABIC-INDIC DIGIT ONE}",
    ],
)  # fmt: skip
def test_what_docker_would_not_take_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(ImageNameError) as error:
        parse(text)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize("value", [None, 1.9, ["a"], {"a": 1}])
def test_what_is_no_text_is_refused(value: object) -> None:
    with pytest.raises(ImageNameError, match="is not an image name"):
        parse(value)


def test_upper_case_is_named_for_what_it_is() -> None:
    with pytest.raises(ImageNameError, match="'Train' must be in lower case"):
        parse("team/Train:1")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("docker.io/library/busybox:1", "busybox:1"),
        ("docker.io/team/train", "team/train"),
        ("registry:5000/library/busybox", "registry:5000/library/busybox"),
        (f"library/busybox:1@{DIGEST}", f"busybox:1@{DIGEST}"),
        ("library/a/b", "library/a/b"),
    ],
)
def test_a_name_is_shown_as_docker_shows_it(text: str, shown: str) -> None:
    assert str(parse(text)) == shown
    assert parse(shown) == parse(text)


def test_a_name_without_tag_and_digest_means_the_tag_latest() -> None:
    assert str(parse_tagged("registry:5000/train")) == "registry:5000/train:latest"
    assert str(parse_tagged("train:1")) == "train:1"
    assert str(parse_tagged(f"train@{DIGEST}")) == f"train@{DIGEST}"


def test_another_tag_of_a_name_takes_the_digest_away() -> None:
    assert str(parse(f"registry:5000/train:1@{DIGEST}").with_tag("1.9")) == "registry:5000/train:1.9"
    with pytest.raises(ImageNameError):
        parse("train").with_tag("a b")
