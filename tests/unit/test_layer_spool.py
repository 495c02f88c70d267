"""Layers on the controller: kept whole, and as they travel."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import image_archive, layer_frames, layer_spool, packing
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.layer_frames import Stream
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.layer_spool import Spool


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return layer_spool.spool()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def content(spool: Spool, one: str, form: str) -> bytes:
    return b"".join(layer_frames.unpacked([spool.path(one, form).read_bytes()]))


@pytest.mark.parametrize(("form", "most"), [("none", 5_200_000), ("gzip", 130_000), ("zstd", 130_000)])
def test_a_layer_is_kept_in_the_form_that_is_asked_for(form: str, most: int, spool: Spool) -> None:
    data = os.urandom(100_000) + bytes(5_000_000)
    found = layer_spool.keep(spool, [data[:999], data[999:]], form, digest(data))
    assert found == (digest(data), digest(data), len(data), "raw")
    assert spool.has(digest(data), [form])
    assert content(spool, digest(data), form) == data
    assert spool.path(digest(data), form).stat().st_size < most
    spool.drop([digest(data)])
    assert not spool.has(digest(data), [form])
    assert spool.size(digest(data)) == len(data)


def test_a_layer_that_is_something_else_is_not_kept(spool: Spool) -> None:
    with pytest.raises(image_archive.ArchiveError):
        layer_spool.keep(spool, [os.urandom(3_000_000)], "gzip", digest(b"other"))
    assert list(spool.directory.iterdir()) == []


def coming(data: bytes, said: str, size: int = 1000) -> list[bytes]:
    """What export_image.py gives of a layer, in pieces."""
    whole = b"".join(layer_frames.packed("gzip", [data])) + layer_frames.frame(b"T", said.encode())
    return [whole[start : start + size] for start in range(0, len(whole), size)]


@pytest.mark.parametrize("size", [1, 40, 1000, 1 << 20])
def test_a_layer_is_taken_as_it_comes_and_there_only_when_it_is_whole(size: int, spool: Spool) -> None:
    data = os.urandom(100_000)

    def watched() -> Iterator[bytes]:
        for piece in coming(data, f"{len(data)} {digest(data)}", size):
            assert not spool.has(digest(data), ["gzip"])
            yield piece

    layer_spool.take(spool, watched(), "gzip", digest(data))
    assert spool.has(digest(data), ["gzip"])
    assert spool.size(digest(data)) == len(data)
    assert content(spool, digest(data), "gzip") == data


@pytest.mark.parametrize("wrong", ["other", "none", "no size", "cut", "short"])
def test_a_layer_that_does_not_come_as_it_should_is_not_taken(wrong: str, spool: Spool) -> None:
    data = os.urandom(100_000)
    pieces = {
        "other": coming(data, f"{len(data)} {digest(b'other')}"),
        "none": coming(data, ""),
        "no size": coming(data, digest(data)),
        "cut": coming(data, f"{len(data)} {digest(data)}")[:-1],
        "short": coming(data, f"{len(data)} {digest(data)}")[:7],
    }[wrong]
    with pytest.raises((image_archive.ArchiveError, packing.PackingError)):
        layer_spool.take(spool, pieces, "gzip", digest(data))
    assert list(spool.directory.iterdir()) == []


def test_what_nobody_came_back_for_goes(spool: Spool) -> None:
    layer_spool.keep(spool, [b"old"], "gzip", digest(b"old"))
    for path in spool.directory.iterdir():
        os.utime(path, (time.time() - layer_spool.KEEP - 60,) * 2)
    layer_spool.keep(spool, [b"new"], "gzip", digest(b"new"))
    assert not layer_spool.spool().has(digest(b"old"), ["gzip"])
    assert layer_spool.spool().has(digest(b"new"), ["gzip"])


def archive(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            tar.addfile(entry)
    return data.getvalue()


def saved(layers: list[bytes], packed: bool = False) -> dict[str, bytes]:
    """The files of docker save."""
    config = json.dumps({"rootfs": {"diff_ids": [digest(layer) for layer in layers]}}).encode()
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    blobs = [b"".join(packing.packed("gzip", [layer])) if packed else layer for layer in layers]
    manifest = [{"Config": "c.json", "RepoTags": ["x:1"], "Layers": names}]
    return {**dict(zip(names, blobs, strict=True)), "c.json": config, "manifest.json": json.dumps(manifest).encode()}


@pytest.mark.parametrize("packed", [False, True])
def test_docker_save_s_archive_is_read_layer_by_layer(packed: bool, spool: Spool) -> None:
    layers = [os.urandom(5_000_000), b"small"]
    data = archive(saved(layers, packed))
    (image,), names = layer_spool.read_archive(Stream([data[:999], data[999:]]), spool, "gzip", None)
    assert names == ["x:1"]
    assert [layer.diff_id for layer in image.layers] == [digest(layer) for layer in layers]
    for layer, one in zip(image.layers, layers, strict=True):
        blob = content(spool, layer.digest, "gzip")
        assert (b"".join(packing.unpacked("gzip", [blob])) if packed else blob) == one


def test_a_layer_that_is_a_link_to_another_one_is_found(spool: Spool) -> None:
    files = saved([b"same", b"same"])
    del files["1/layer.tar"]
    data = archive(files, {"1/layer.tar": "../0/layer.tar"})
    (image,), _ = layer_spool.read_archive(Stream([data]), spool, "gzip", "x:1")
    assert len(image.layers) == 2


@pytest.mark.parametrize("cut", [300, 600_000, 5_000_700])
def test_an_archive_that_is_cut_off_leaves_nothing(cut: int, spool: Spool) -> None:
    data = archive(saved([os.urandom(5_000_000), b"small"]))
    with pytest.raises(image_archive.ArchiveError):
        layer_spool.read_archive(Stream([data[:cut]]), spool, "gzip", None)
    assert list(spool.directory.glob("*.gzip")) == []


def test_an_archive_with_a_damaged_header_is_called_damaged(spool: Spool) -> None:
    data = bytearray(archive(saved([os.urandom(5_000_000), b"small"])))
    # Of the second file: reading ends there as if the archive did.
    second = data.index(b"1/layer.tar")
    data[second] ^= 1
    with pytest.raises(image_archive.ArchiveError, match="damaged"):
        layer_spool.read_archive(Stream([bytes(data)]), spool, "gzip", None)
