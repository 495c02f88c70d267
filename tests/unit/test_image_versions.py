"""The version scheme of tags: which tag points at which version, after whatever order."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.image_versions import (
    VersionError,
    moves,
    ordered,
    parse,
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


def test_a_pre_release_moves_nothing_and_no_tag_points_at_one() -> None:
    before = tagged(["1.9.1"])
    assert tagged(["2.0.0-rc.1", "1.9.2-dev"], before) == before | {
        "2.0.0-rc.1": "id-2.0.0-rc.1", "1.9.2-dev": "id-1.9.2-dev"
    }  # fmt: skip


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


@pytest.mark.parametrize("tag", ["1.9", "1", "latest", "v1.9.1", "1.9.1.2", "01.2.3", "", "1.9.x", "1.9.1-", "1.9.1\n"])
def test_what_is_no_version_is_refused(tag: str) -> None:
    with pytest.raises(VersionError, match="is no version such as"):
        parse(tag)


VERSION = st.builds(
    lambda numbers, pre: ".".join(map(str, numbers)) + pre,
    st.tuples(*[st.integers(0, 11)] * 3),
    st.sampled_from(["", "", "", "-rc.1", "-rc.2", "-alpha"]),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(VERSION, min_size=1, max_size=14, unique=True), st.randoms(use_true_random=False))
def test_after_any_order_of_versions_each_tag_is_at_the_newest_that_it_covers(
    versions: list[str], chance: random.Random
) -> None:
    chance.shuffle(versions)
    after = tagged(versions)
    # An oracle that knows nothing of semver: releases are three numbers.
    releases = [tuple(int(part) for part in one.split(".")) for one in versions if "-" not in one]
    expected = {version: f"id-{version}" for version in versions}
    for covered in {release[:length] for release in releases for length in (0, 1, 2)}:
        newest = max(release for release in releases if release[: len(covered)] == covered)
        expected[".".join(map(str, covered)) or "latest"] = "id-" + ".".join(map(str, newest))
    assert after == expected


def test_versions_are_ordered_and_pre_releases_known_by_whether_a_release_replaced_them() -> None:
    assert ordered(["1.0.0", "latest", "1.0.0-rc.2", "1.0.0-rc.10", "0.9.0", "2.0.0-b", "2.0.0-a.1", "dev"]) == {
        "releases": ["0.9.0", "1.0.0"],
        "prereleases": ["2.0.0-a.1", "2.0.0-b"],
        "superseded": ["1.0.0-rc.2", "1.0.0-rc.10"],
    }
