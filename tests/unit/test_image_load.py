"""What a host is sent of an image, by what it says it has."""

from __future__ import annotations

import json
import struct
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import image_archive, image_load, layer_frames
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.image_archive import ArchiveError, Image, Layer

AMD, ARM = (
    Image(
        json.dumps({"os": "linux", "architecture": name, "rootfs": {"diff_ids": ["sha256:1"]}}).encode(),
        (Layer("sha256:1", f"sha256:{name}", 7),),
    )
    for name in ("amd64", "arm64")
)
PARTIAL = image_archive.partial_tag("x:1", AMD.id, 1)


def reading(images: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "engine": "28.5.2", "machine": "x86_64", "containerd": True, "images": images, "blobs": [], "configs": {},
        "place": "/var/lib/containerd", "free": None, "zstd": False, **more,
    }  # fmt: skip


def loading(said: dict[str, Any], names: tuple[str, ...] = ("x:1",)) -> image_load.Load:
    fetch: Any = SimpleNamespace(form=lambda _zstd: "none")
    load = image_load.Load([ARM, AMD], names, {}, fetch, "gpu1")
    load.hear(f"gpuprov {json.dumps({'reading': said})}\n".encode())
    return load


@pytest.mark.parametrize(
    "said",
    [
        reading([["sha256:index", ["x:1"], []]], configs={"sha256:index": [ARM.id, AMD.id]}),
        reading([["sha256:manifest", ["x:1"], []]], configs={"sha256:manifest": [AMD.id]}),
        reading([[AMD.id, ["x:1"], ["sha256:1"]]], containerd=False, blobs=None),
    ],
    ids=["index", "manifest", "overlay2"],
)
def test_a_host_that_has_the_image_is_sent_nothing_whatever_holds_it(said: dict[str, Any]) -> None:
    load = loading(said)
    assert list(load.frames()) == []
    assert (load.changed, load.missing, load.image) == (False, (), AMD)
    assert load.before == load.after == said["images"][0][0]


def test_what_an_interrupted_transfer_left_goes_without_a_change_of_the_image() -> None:
    images = [["sha256:index", ["x:1"], []], ["sha256:part", [PARTIAL], []]]
    load = loading(reading(images, configs={"sha256:index": [AMD.id]}))
    assert list(load.frames(check_mode=True)) == []
    first, last = load.frames()
    length = struct.calcsize(">cI")
    assert json.loads(first[length:]) == {"name": "x:1", "gone": [PARTIAL]}
    assert last == layer_frames.frame(b"Z")
    assert not load.changed


@pytest.mark.parametrize(
    "said",
    [
        reading([["sha256:index", ["x:1"], []]], configs={"sha256:index": [ARM.id]}),
        reading([["sha256:index", ["y:1"], []]], configs={"sha256:index": [AMD.id]}),
        reading([["sha256:index", ["x:1"], []]], blobs=None),
    ],
    ids=["of another platform", "under another name", "nobody can tell"],
)
def test_what_is_not_the_image_under_its_name_is_a_change(said: dict[str, Any]) -> None:
    load = loading(said)
    assert list(load.frames(check_mode=True)) == []
    assert (load.changed, load.missing) == (True, AMD.layers)


def test_a_name_that_is_missing_is_a_change() -> None:
    said = reading([["sha256:index", ["x:1"], []]], configs={"sha256:index": [AMD.id]})
    load = loading(said, ("x:1", "x:latest"))
    assert list(load.frames(check_mode=True)) == []
    assert load.changed


def test_an_image_for_other_platforms_is_not_sent() -> None:
    load = loading(reading([], machine="riscv64"))
    with pytest.raises(ArchiveError, match="the image is for linux/amd64, linux/arm64, and this host is linux/riscv64"):
        list(load.frames())
