"""The items that a clean-up removes and keeps, decided without a host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import image_prune
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images.image_prune import PruneError, age, decide, rules
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import image_versions
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = 1_800_000_000
DAY = 86400


def image(id: str, *tags: str, **more: Any) -> dict[str, Any]:
    own = [["base", 100], [f"layer-{id}", 10]]
    return {
        "id": id, "tags": sorted(tags), "digests": [], "created": NOW - DAY, "tagged": 0, "keep": False, "layers": own,
    } | more  # fmt: skip


def container(name: str, image: str, state: str = "exited", **more: Any) -> dict[str, Any]:
    return {
        "id": f"c-{name}", "name": name, "image": image, "image_name": image, "state": state, "created": NOW - DAY,
        "ended": NOW - DAY, "bytes": 7, "keep": False,
    } | more  # fmt: skip


def versions_of(images: list[dict[str, Any]]) -> dict[str, Any]:
    tags: dict[str, list[str]] = {}
    for one in images:
        for tag in one["tags"]:
            tags.setdefault(tag.rpartition(":")[0], []).append(tag.rpartition(":")[2])
    return {name: image_versions.lines(found) for name, found in tags.items()}


def decided(images: list[dict[str, Any]], containers: Sequence[Any] = (), /, **asked: Any) -> dict[str, Any]:
    seen = asked.pop("seen", None)
    found = {"images": images, "containers": list(containers)}
    decision: dict[str, Any] = decide(found, rules(**asked), versions_of(images), NOW, seen)
    return decision


def going(*arguments: Any, **asked: Any) -> list[str]:
    decision = decided(*arguments, **asked)
    return [one["id"] for kind in ("containers", "images") for one in decision[kind]]


def why(*arguments: Any, **asked: Any) -> dict[str, str]:
    return {one["id"]: one["why"] for one in decided(*arguments, **asked)["stay"]}


EVERYTHING = {"all": True, "containers": True, "images": True, "keep": 1}


def test_without_more_stopped_containers_untagged_images_and_replaced_versions_go() -> None:
    images = [image(n, f"train:1.0.{n}") for n in "01234"] + [image("none"), image("dev", "train:dev")]
    containers = [container("done", "x"), container("job", "y", "running")]
    assert going(images, containers) == ["c-done", "0", "1", "none"]


def test_containers_or_images_alone_can_be_asked_for() -> None:
    images, containers = [image("none")], [container("done", "x")]
    assert going(images, containers, containers=True) == ["c-done"]
    assert going(images, containers, images=True) == ["none"]


@pytest.mark.parametrize("state", ["running", "paused", "restarting", "removing", "unknown"])
def test_what_is_not_stopped_stays_and_so_does_its_image(state: str) -> None:
    images, containers = [image("i", "train:dev"), image("j")], [container("job", "i", state)]
    assert going(images, containers, **EVERYTHING) == ["j"]
    assert why(images, containers, **EVERYTHING) == {"c-job": state, "i": "runs in job"}


def test_an_image_of_a_container_that_stays_stays_and_that_of_one_that_goes_may_go() -> None:
    images, containers = [image("i")], [container("done", "i")]
    assert going(images, containers, images=True) == []
    assert why(images, containers, images=True) == {"i": "of container done"}
    assert going(images, containers) == ["c-done", "i"]


@pytest.mark.parametrize("tag", ["latest", "1", "1.9", "0", "0.1", "10.20"])
def test_what_a_tag_of_the_version_scheme_points_at_stays_under_whatever_other_name(tag: str) -> None:
    assert going([image("i", f"r.test:5000/train:{tag}", "train:dev", "train:0.0.1")], **EVERYTHING) == []


@pytest.mark.parametrize("tag", ["dev", "1.9.1.2", "01", "1.x", "latest-gpu", "v1"])
def test_other_tags_are_for_all_alone(tag: str) -> None:
    assert going([image("i", f"train:{tag}")]) == []
    assert going([image("i", f"train:{tag}")], all=True) == ["i"]


def test_the_newest_versions_of_each_name_stay_as_many_as_are_asked_for() -> None:
    images = [image(f"{name}-{n}", f"{name}:1.{n}.0") for name in ("a", "r:5000/a") for n in (2, 10, 9, 1)]
    assert going(images, keep=2) == ["a-2", "a-1", "r:5000/a-2", "r:5000/a-1"]
    assert going(images, keep=1, all=True) == ["a-2", "a-9", "a-1", "r:5000/a-2", "r:5000/a-9", "r:5000/a-1"]
    assert going(images, keep=9) == []


def test_of_pre_releases_the_newest_stay_until_a_release_replaces_them() -> None:
    images = [image(tag, f"a:{tag}") for tag in ("1.0.0-rc.1", "1.0.0", "1.1.0-rc.1", "1.1.0-rc.2")]
    assert going(images, keep=1) == ["1.0.0-rc.1", "1.1.0-rc.1"]


@pytest.mark.parametrize(
    "variants",
    [
        ["", "-alpine", "-slim"],
        ["", "-cuda12.1-cudnn8-runtime", "-cuda12.1-cudnn8-devel", "-cuda11.8-cudnn8-runtime"],
        ["-alpine", "-alpine3.19", "-slim-bookworm", "-py3.10_cu118"],
        ["", "-a100", "-dev", "-rc.1-slim", "-7"],
    ],
)
def test_a_variant_is_a_line_of_its_own_and_keep_counts_within_it(variants: list[str]) -> None:
    one_each = [image(f"20.11.1{variant}", f"node:20.11.1{variant}") for variant in variants]
    assert going(one_each, **EVERYTHING) == []
    several = [image(f"{n}{variant}", f"node:20.{n}.0{variant}") for n in (9, 10, 11) for variant in variants]
    assert sorted(going(several, keep=2)) == sorted(f"9{variant}" for variant in variants)
    assert {one["names"][0].count("20.11") for one in decided(several, keep=1)["images"]} == {0}


@pytest.mark.parametrize("tag", ["20.11-alpine", "20-alpine", "latest-alpine", "alpine"])
def test_what_a_tag_of_a_variant_points_at_stays_where_the_variant_has_versions(tag: str) -> None:
    images = [image("old", "node:20.11.1-alpine", f"node:{tag}"), image("new", "node:22.1.0-alpine")]
    assert going(images, **EVERYTHING) == []
    assert going([image("alone", f"node:{tag}")], **EVERYTHING) == ["alone"]


def test_an_old_version_that_has_another_name_too_is_not_taken_for_less_than_all() -> None:
    images = [image("old", "a:1.0.0", "a:stable"), image("new", "a:1.0.1")]
    assert going(images, keep=1) == []
    assert going(images, keep=1, all=True) == ["old"]


@pytest.mark.parametrize(
    ("started_as", "names"),
    [
        ("r.test:5000/a", {"tags": ["r.test:5000/a:latest"]}),
        ("a:dev", {"tags": ["a:dev", "a:x"]}),
        ("a@sha256:00", {"digests": ["a@sha256:00"]}),
    ],
)
def test_a_container_holds_the_image_that_has_its_name_whatever_id_it_gives(
    started_as: str, names: dict[str, list[str]]
) -> None:
    job = container("job", "sha256:of-one-platform", "running", image_name=started_as)
    assert why([image("i", **{"tags": []} | names)], [job], **EVERYTHING)["i"] == "runs in job"


def test_a_label_protects_an_image_and_a_container_with_its_image() -> None:
    images = [image("i", keep=True), image("j")]
    assert going(images, [container("kept", "j", keep=True)], **EVERYTHING) == []


def test_an_image_that_was_pulled_by_its_digest_is_not_untagged() -> None:
    images = [image("i", digests=["a@sha256:00"])]
    assert (going(images), going(images, all=True)) == ([], ["i"])


def test_only_what_is_older_goes_if_an_age_is_given() -> None:
    images = [
        image("young", created=NOW - 3 * DAY),
        image("old", created=NOW - 8 * DAY),
        image("retagged", "a:dev", created=NOW - 90 * DAY, tagged=NOW - DAY),
    ]
    containers = [
        container("ran-long", "x", created=NOW - 30 * DAY, ended=NOW - DAY),
        container("ended-long-ago", "x", created=NOW - 30 * DAY, ended=NOW - 8 * DAY),
    ]
    assert going(images, containers, all=True, older_than="7d") == ["c-ended-long-ago", "old"]


def test_a_container_about_to_start_and_a_step_of_a_build_are_left_alone() -> None:
    images = [image("step", created=NOW - 5), image("left", created=NOW - 100)]
    containers = [
        container("new", "x", "created", created=NOW - 60, ended=0),
        container("forgotten", "x", "created", created=NOW - 3600, ended=0),
    ]
    assert going(images, containers, **EVERYTHING) == ["c-forgotten", "left"]


def test_on_the_host_an_image_that_is_new_or_was_tagged_meanwhile_stays() -> None:
    images = [image("same", "a:dev"), image("tagged", "a:x", "a:y"), image("new")]
    seen = {"same": ["a:dev"], "tagged": ["a:x"]}
    assert going(images, seen=seen, **EVERYTHING) == ["same"]
    assert set(why(images, seen=seen, **EVERYTHING).values()) == {"new or tagged meanwhile"}


def test_on_the_host_the_newest_of_the_versions_still_there_stays() -> None:
    shown = [image("1", "a:1.0.0"), image("2", "a:2.0.0")]
    seen = {"1": ["a:1.0.0"], "2": ["a:2.0.0"]}
    there = {"images": shown[:1], "containers": []}
    assert decide(there, rules(keep=1), versions_of(shown), NOW, seen)["images"] == []


def test_bytes_are_those_of_layers_that_nothing_that_stays_has_each_once() -> None:
    shared = ["shared", 1000]
    images = [
        image("a", layers=[["base", 5], shared, ["a", 1]]),
        image("b", layers=[["base", 5], shared, ["b", 2]]),
        image("c", "c:latest", layers=[["base", 5], ["c", 3]]),
    ]
    decision = decided(images, [container("done", "x")])
    assert [one["bytes"] for one in decision["images"]] == [1001, 2]
    assert image_prune.total(decision) == 1010
    assert image_prune.layer_bytes(images) - image_prune.layer_bytes(images[2:]) == 1003


@pytest.mark.parametrize(("text", "seconds"), [("7d", 604800), ("12h", 43200), ("90s", 90), ("2w", 1209600), ("", 0)])
def test_an_age_is_a_number_and_a_unit(text: str, seconds: int) -> None:
    assert age(text) == seconds


@pytest.mark.parametrize("text", ["7", "-1d", "1.5d", "d", "7 d", "7d;id", "0d", "7D", "7d\n"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(PruneError, match="such as 7d"):
        age(text)


def test_no_version_at_all_cannot_be_asked_for() -> None:
    with pytest.raises(PruneError, match="keep is 1 or more"):
        rules(keep=0)


# ---- whatever is asked

TAGS = ["latest", "1", "1.9", "1.9.1", "1.9.2", "1.8.5", "2.0.0-rc.1", "dev", "1.10.0", "1.9.1-slim", "1.8.0-slim"]
STATES = ["running", "exited", "created", "paused", "dead", "restarting"]


@st.composite
def hosts(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Images that share tags among them, and containers of some of them."""
    count = draw(st.integers(1, 6))
    tags: list[list[str]] = [[] for _ in range(count)]
    for name in ("a", "r.test:5000/b"):
        for tag in draw(st.sets(st.sampled_from(TAGS))):
            tags[draw(st.integers(0, count - 1))].append(f"{name}:{tag}")
    images = [
        image(str(n), *found, keep=draw(st.booleans()), created=NOW - draw(st.integers(0, 20)) * DAY)
        for n, found in enumerate(tags)
    ]
    containers = [
        container(str(n), draw(st.sampled_from(images))["id"], state, keep=draw(st.integers(0, 3)) == 0)
        for n, state in enumerate(draw(st.lists(st.sampled_from(STATES), max_size=4)))
    ]
    return images, containers


ASKED = st.fixed_dictionaries(
    {
        "containers": st.booleans(),
        "images": st.booleans(),
        "all": st.booleans(),
        "older_than": st.sampled_from(["", "1h", "7d"]),
        "keep": st.integers(1, 3),
    }
)


@settings(max_examples=400, deadline=None)
@given(hosts(), ASKED)
def test_whatever_is_asked_what_runs_its_image_and_the_newest_versions_stay(
    host: tuple[list[dict[str, Any]], list[dict[str, Any]]], asked: dict[str, Any]
) -> None:
    images, containers = host
    gone = set(going(images, containers, **asked))
    left = [one for one in containers if one["id"] not in gone]
    for one in containers:
        if one["state"] in ("running", "paused", "restarting") or one["keep"]:
            assert one["id"] not in gone
    for one in images:
        if one["id"] in gone:
            assert one["id"] not in {user["image"] for user in left}
            assert not one["keep"]
            assert not {tag.rpartition(":")[2] for tag in one["tags"]} & {"latest", "1", "1.9"}
    for name in ("a", "r.test:5000/b"):
        numbers = {
            tuple(int(part) for part in tag.rpartition(":")[2].split(".")): one["id"]
            for one in images
            for tag in one["tags"]
            if tag.rpartition(":")[0] == name and tag.count(".") - name.count(".") == 2 and "-" not in tag
        }
        for newest in sorted(numbers)[-asked["keep"] :]:
            assert numbers[newest] not in gone
        slim = [one["id"] for number in ("1.9.1", "1.8.0") for one in images if f"{name}:{number}-slim" in one["tags"]]
        assert not {*slim[: asked["keep"]]} & gone
