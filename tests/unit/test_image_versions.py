"""The version scheme of tags: which tag points at which version, after whatever order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images.image_versions import (
    VersionError,
    lines,
    moves,
    read,
)
from hypothesis import given, settings
from hypothesis import strategies as st


def tagged(versions: Sequence[str], present: dict[str, str] | None = None) -> dict[str, str]:
    """{tag: ID} after each version came to a host and was tagged, in this order; an ID is the version's name."""
    present = dict(present or {})
    for version in versions:
        present[version] = f"id-{version}"
        for move in moves(version, present):
            assert move.before == present.get(move.tag)
            present[move.tag] = move.after
    return present


def test_the_first_version_gets_all_tags() -> None:
    assert tagged(["1.9.1"]) == dict.fromkeys(["1.9.1", "1.9", "1", "latest"], "id-1.9.1")


def test_an_older_version_moves_its_own_minor_alone() -> None:
    before = tagged(["1.8.4", "1.9.2"])
    assert [(move.tag, move.version) for move in moves("1.8.5", before | {"1.8.5": "x"})] == [("1.8", "1.8.5")]


def test_numbers_are_compared_as_numbers() -> None:
    after = tagged(["1.10.0", "1.9.0", "1.2.10", "1.2.9", "10.0.0", "9.0.0"])
    assert {tag: after[tag] for tag in ("latest", "1", "1.2", "1.9", "10", "9")} == {
        "latest": "id-10.0.0", "1": "id-1.10.0", "1.2": "id-1.2.10", "1.9": "id-1.9.0", "10": "id-10.0.0",
        "9": "id-9.0.0",
    }  # fmt: skip


def test_a_pre_release_or_a_build_moves_nothing_and_no_tag_points_at_one() -> None:
    before = tagged(["1.9.1"])
    new = ["2.0.0-rc.1", "1.9.2-alpha", "1.9.2-dev.4", "2.0.0-beta2-slim", "1.9.2-1", "1.9.2-14-gdeadbee"]
    assert tagged(new, before) == before | {tag: f"id-{tag}" for tag in new}


def test_tags_go_by_the_versions_that_are_there_not_by_those_that_were() -> None:
    after = tagged(["1.9.2", "1.9.1"])
    del after["1.9.2"]
    assert tagged(["1.9.1"], after) == dict.fromkeys(["1.9.1", "1.9", "1", "latest"], "id-1.9.1")


def test_a_tag_that_somebody_moved_by_hand_comes_back() -> None:
    after = tagged(["1.9.2", "1.9.1"]) | {"1.9": "id-1.9.1", "latest": "other"}
    assert {move.tag: (move.before, move.after) for move in moves("1.9.1", after)} == {
        "1.9": ("id-1.9.1", "id-1.9.2"),
        "latest": ("other", "id-1.9.2"),
    }


def test_nothing_moves_twice() -> None:
    after = tagged(["0.1.0", "0.2.0", "1.0.0"])
    assert [moves(version, after) for version in ("0.1.0", "0.2.0", "1.0.0")] == [[], [], []]


def test_tags_that_are_no_versions_are_in_nobody_s_way() -> None:
    assert tagged(["1.0.0"], {"dev": "d", "v3.0.0": "v", "9": "n", "01.2.3": "z"})["latest"] == "id-1.0.0"


@pytest.mark.parametrize(
    "tag",
    ["1.9", "1", "latest", "v1.9.1", "1.9.1.2", "01.2.3", "", "1.9.x", "1.9.1-", "1.9.1\n", "1.9-alpine", "1.9.1-a\n"],
)
def test_what_is_not_a_version_is_refused(tag: str) -> None:
    with pytest.raises(VersionError, match="is not a version such as"):
        read(tag)


VARIANTS = [
    "alpine", "slim", "bookworm", "slim-bookworm", "alpine3.19", "cuda12.1-cudnn8-runtime", "cudnn-devel-ubuntu22.04",
    "py3.10_cuda12", "dev", "nightly", "debug", "a100", "b200", "debian-12-r5", "8-jre", "pregenerated", "rocm",
]  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_a_line_of_its_own_with_tags_of_its_own(variant: str) -> None:
    after = tagged(["1.9.1", f"1.9.1-{variant}", f"1.10.0-{variant}", f"1.9.2-{variant}"])
    plain = dict.fromkeys(["1.9", "1", "latest"], "id-1.9.1")
    own = {
        f"1.9-{variant}": "1.9.2",
        f"1.10-{variant}": "1.10.0",
        f"1-{variant}": "1.10.0",
        f"latest-{variant}": "1.10.0",
    }
    for tag, version in own.items():
        assert after[tag] == f"id-{version}-{variant}"
    assert {tag: after[tag] for tag in plain} == plain
    found = lines(after)
    assert found["lines"] == [["1.9.1"], [f"{version}-{variant}" for version in ("1.9.1", "1.9.2", "1.10.0")]]
    assert (found["superseded"], set(found["moving"])) == ([], {*plain, *own})


@pytest.mark.parametrize(
    ("tag", "kind", "variant"),
    [
        ("1.9.1", "release", ""),
        ("20.11.1-alpine", "release", "alpine"),
        ("2.3.0-cuda12.1-cudnn8-runtime", "release", "cuda12.1-cudnn8-runtime"),
        ("2.0.0-rc.1", "prerelease", ""),
        ("2.0.0-RC1", "prerelease", ""),
        ("2.0.0-rc-1", "prerelease", ""),
        ("2.0.0-alpha.beta", "prerelease", ""),
        ("2.0.0-beta.2.abc123", "prerelease", ""),
        ("2.0.0-preview7", "prerelease", ""),
        ("2.0.0-nightly.20261128", "prerelease", ""),
        ("2.0.0-dev20261128", "prerelease", ""),
        ("2.0.0-rc.1-alpine", "prerelease", "alpine"),
        ("2.0.0-rc-1-slim-bookworm", "prerelease", "slim-bookworm"),
        ("1.9.1-3", "build", ""),
        ("1.9.1-20261128", "build", ""),
        ("1.9.1-3-gdeadbee", "build", ""),
    ],
)
def test_what_follows_the_first_hyphen_tells_the_line(tag: str, kind: str, variant: str) -> None:
    assert read(tag)[:2] == (kind, variant)


@pytest.mark.parametrize(
    ("tags", "found"),
    [
        (["1.0.0", "latest", "1.0.0-rc.2", "1.0.0-rc.10", "0.9.0", "2.0.0-beta", "2.0.0-alpha.1", "dev"],
         ([["0.9.0", "1.0.0"], ["2.0.0-alpha.1", "2.0.0-beta"]], ["1.0.0-rc.2", "1.0.0-rc.10"], ["latest"])),
        # A release of one line says nothing of another one.
        (["1.0.0", "1.0.0-rc.1-slim"], ([["1.0.0-rc.1-slim"], ["1.0.0"]], [], [])),
        (["1.0.0-slim", "1.0.0-rc.1-slim"], ([["1.0.0-slim"]], ["1.0.0-rc.1-slim"], [])),
        # Numbers are numbers, also where nothing parts them from a word. A build is newer than what it was built of.
        (["1.0.0-rc10", "1.0.0-rc9"], ([["1.0.0-rc9", "1.0.0-rc10"]], [], [])),
        (["1.0.0-10", "1.0.0-9", "1.0.0"], ([["1.0.0-9", "1.0.0-10"], ["1.0.0"]], [], [])),
        # Tags of a variant that has no versions are those of somebody else.
        (["alpine", "23.10-py3", "1-slim", "latest-gpu", "1.9"], ([], [], ["1.9"])),
        (["20.1.0-alpine", "alpine", "20-alpine", "20-slim"], ([["20.1.0-alpine"]], [], ["alpine", "20-alpine"])),
    ],
)  # fmt: skip
def test_versions_are_compared_within_their_line(tags: list[str], found: tuple[list[object], ...]) -> None:
    said = lines(tags)
    assert (said["lines"], said["superseded"], said["moving"]) == found


VERSION = st.builds(
    lambda numbers, pre: ".".join(map(str, numbers)) + pre,
    st.tuples(*[st.integers(0, 11)] * 3),
    st.sampled_from(["", "", "", "-rc.1", "-alpha", "-slim", "-cuda12.1"]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(VERSION, min_size=1, max_size=14, unique=True), st.randoms(use_true_random=False))
def test_after_any_order_of_versions_each_tag_is_at_the_newest_that_it_covers(
    versions: list[str], chance: random.Random
) -> None:
    chance.shuffle(versions)
    after = tagged(versions)
    # An oracle that knows nothing of semver: releases are three numbers.
    expected = {version: f"id-{version}" for version in versions}
    for variant in ("", "-slim", "-cuda12.1"):
        parted = [one.partition("-") for one in versions]
        releases = [
            tuple(int(part) for part in number.split(".")) for number, *rest in parted if "".join(rest) == variant
        ]
        for covered in {release[:length] for release in releases for length in (0, 1, 2)}:
            newest = max(release for release in releases if release[: len(covered)] == covered)
            short = ".".join(map(str, covered)) or "latest"
            expected[short + variant] = "id-" + ".".join(map(str, newest)) + variant
    assert after == expected
