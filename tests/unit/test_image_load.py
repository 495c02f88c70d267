"""The parts of an image that a host is sent, given the parts that it has."""

from __future__ import annotations

import io
import json
import subprocess
from pathlib import Path
from typing import Any, cast

import pytest
from ansible.errors import AnsibleError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_pipe
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import image_archive, image_load
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images.image_archive import Image, Layer
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images.layer_spool import Fetcher, Spool, keep

DATA = b"words " * 1000
DIGEST = image_archive.digest_of(DATA)
AMD, ARM = (
    Image(
        json.dumps({"os": "linux", "architecture": name, "rootfs": {"diff_ids": [DIGEST]}}).encode(),
        (Layer(DIGEST, DIGEST, len(DATA)),),
    )
    for name in ("amd64", "arm64")
)
PARTIAL = image_archive.partial_tag("x:1", AMD.id, 1)


class Pipe:
    """Stands in for image_on_host.py on a host: says these objects, and takes what it is sent."""

    def __init__(self, *said: dict[str, Any]) -> None:
        self.stdout = io.BytesIO(b"".join(json.dumps(one).encode() + b"\n" for one in said))
        self.got = b""
        self.status, self.why = 1, "it broke\n"

    def write(self, data: bytes) -> None:
        self.got += data

    def completed(self, before: bytes = b"") -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], self.status, before.decode(), self.why)


def reading(images: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "machine": "x86_64", "containerd": True, "images": images, "blobs": [], "configs": {},
        "place": "/var/lib/containerd", "free": None, "zstd": False, **more,
    }  # fmt: skip


@pytest.fixture
def fetch(tmp_path: Path) -> Fetcher:
    """A spool that has the layer, packed with zstd."""
    spool = Spool(tmp_path)
    keep(spool, [DATA], "zstd")
    return Fetcher(spool, "source", "zstd", None)


def load(pipe: Pipe, fetch: Fetcher, names: tuple[str, ...] = ("x:1",), check_mode: bool = False) -> image_load.Loaded:
    return image_load.load(cast(host_pipe.Pipe, pipe), [ARM, AMD], names, fetch, "gpu1", check_mode)


@pytest.mark.parametrize(
    "said",
    [
        reading({"sha256:index": [["x:1"], []]}, configs={"sha256:index": [ARM.id, AMD.id]}),
        reading({"sha256:manifest": [["x:1"], []]}, configs={"sha256:manifest": [AMD.id]}),
        reading({AMD.id: [["x:1"], [DIGEST]]}, containerd=False, blobs=None),
    ],
    ids=["index", "manifest", "overlay2"],
)
def test_a_host_that_has_the_image_is_sent_nothing_whatever_holds_it(said: dict[str, Any], fetch: Fetcher) -> None:
    pipe = Pipe(said)
    found = next(iter(said["images"]))
    assert load(pipe, fetch) == image_load.Loaded(AMD, (), found, found, changed=False)
    assert pipe.got == b""


def test_what_an_interrupted_transfer_left_goes_without_a_change_of_the_image(fetch: Fetcher) -> None:
    images = {"sha256:index": [["x:1"], []], "sha256:part": [[PARTIAL], []]}
    said = reading(images, configs={"sha256:index": [AMD.id]})
    checked, pipe = Pipe(said), Pipe(said, {"id": "sha256:index"})
    assert not load(checked, fetch, check_mode=True).changed
    assert checked.got == b""
    assert not load(pipe, fetch).changed
    assert [json.loads(line) for line in pipe.got.splitlines()] == [{"name": "x:1", "gone": [PARTIAL]}, {"end": True}]


@pytest.mark.parametrize(
    "said",
    [
        reading({"sha256:index": [["x:1"], []]}, configs={"sha256:index": [ARM.id]}),
        reading({"sha256:index": [["y:1"], []]}, configs={"sha256:index": [AMD.id]}),
        reading({"sha256:index": [["x:1"], []]}, blobs=None),
    ],
    ids=["of another platform", "under another name", "nobody can tell"],
)
def test_what_is_not_the_image_under_its_name_is_a_change(said: dict[str, Any], fetch: Fetcher) -> None:
    pipe = Pipe(said)
    found = load(pipe, fetch, check_mode=True)
    assert (found.changed, found.missing, pipe.got) == (True, AMD.layers, b"")


def test_a_name_that_is_missing_is_a_change(fetch: Fetcher) -> None:
    said = reading({"sha256:index": [["x:1"], []]}, configs={"sha256:index": [AMD.id]})
    assert load(Pipe(said), fetch, ("x:1", "x:latest"), check_mode=True).changed


@pytest.mark.parametrize("zstd", [True, False])
def test_a_layer_travels_as_it_lies_in_the_spool_unless_the_host_cannot_unpack_it(zstd: bool, fetch: Fetcher) -> None:
    pipe = Pipe(reading({}, zstd=zstd), {"id": AMD.shown_as(True)})
    found = load(pipe, fetch)
    there = fetch.spool.open(DIGEST)
    assert there is not None
    sent = there.read() if zstd else DATA
    assert (found.changed, found.sent, found.after) == (True, len(sent), AMD.shown_as(True))
    head, told, rest = pipe.got.split(b"\n", 2)
    assert json.loads(head) == {"name": "x:1", "gone": []}
    path = image_archive.blob_path(DIGEST)
    form = "zstd" if zstd else "none"
    assert json.loads(told) == {"path": path, "size": len(DATA), "form": form, "bytes": len(sent)}
    assert rest.startswith(sent)
    files, end = (json.loads(line) for line in rest[len(sent) :].splitlines())
    assert [name for name, _content in files["files"]][-1] == "index.json"
    assert end == {"end": True}


@pytest.mark.parametrize(
    ("said", "last", "why"),
    [
        ({}, "docker load failed: x", "^docker load failed: x$"),
        ({}, "write /x: no space left on device", "^the disk is full: /var/lib/containerd has no room"),
        ({}, {"id": "sha256:other"}, "^x:1 has sha256:other on the host, expected sha256:"),
        ({"free": 100}, {}, "^the disk is too full: /var/lib/containerd has 100 B free"),
    ],
)
def test_why_a_host_does_not_have_the_image_is_said(said: dict[str, Any], last: Any, why: str, fetch: Fetcher) -> None:
    pipe = Pipe(reading({}, **said), *([last] if isinstance(last, dict) else []))
    pipe.status, pipe.why = 3, str(last)
    with pytest.raises(AnsibleError, match=why):
        load(pipe, fetch)


def test_a_host_that_cannot_be_read_says_why(fetch: Fetcher) -> None:
    with pytest.raises(AnsibleError, match=r"^the host cannot be read: it broke$"):
        load(Pipe(), fetch)


def test_an_image_for_other_platforms_is_not_sent(fetch: Fetcher) -> None:
    with pytest.raises(AnsibleError, match="the image is for linux/amd64, linux/arm64, and this host is linux/riscv64"):
        load(Pipe(reading({}, machine="riscv64")), fetch)
