"""Layers on the controller: kept whole, and as they travel."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from pathlib import Path

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import image_archive, layer_spool, packing
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.layer_spool import Spool, Stream


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return layer_spool.spool()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def content(spool: Spool, one: str, form: str) -> bytes:
    return b"".join(packing.unpacked(form, [spool.path(one, form).read_bytes()]))


@pytest.mark.parametrize("come", ["raw", "gzip", "zstd"])
def test_a_layer_is_kept_in_all_forms_that_are_wanted(come: str, spool: Spool) -> None:
    data = os.urandom(100_000) + bytes(5_000_000)
    found = layer_spool.keep(spool, packing.packed(come, [data]), come, ["gzip", "zstd"], digest(data))
    assert found == (digest(data), digest(data), len(data))
    assert spool.has(digest(data), ["gzip", "zstd"])
    assert content(spool, digest(data), "gzip") == content(spool, digest(data), "zstd") == data
    spool.drop([digest(data)])
    assert not spool.has(digest(data), ["gzip"])
    assert spool.size(digest(data)) == len(data)


def test_a_layer_that_is_something_else_or_cut_off_is_not_kept(spool: Spool) -> None:
    data = os.urandom(3_000_000)
    packed = b"".join(packing.packed("gzip", [data]))
    with pytest.raises(image_archive.ArchiveError):
        layer_spool.keep(spool, [packed], "gzip", ["gzip"], digest(b"other"))
    with pytest.raises(packing.PackingError):
        layer_spool.keep(spool, [packed[:-100]], "gzip", ["gzip"], digest(data))
    assert list(spool.directory.iterdir()) == []


def test_what_nobody_came_back_for_goes(spool: Spool) -> None:
    layer_spool.keep(spool, [b"old"], "raw", ["gzip"], digest(b"old"))
    for path in spool.directory.iterdir():
        os.utime(path, (time.time() - layer_spool.KEEP - 60,) * 2)
    layer_spool.keep(spool, [b"new"], "raw", ["gzip"], digest(b"new"))
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
    image, names = layer_spool.read_archive(Stream([data[:999], data[999:]]), spool, ["gzip"], None)
    assert names == ["x:1"]
    assert [layer.diff_id for layer in image.layers] == [digest(layer) for layer in layers]
    for layer, one in zip(image.layers, layers, strict=True):
        blob = content(spool, layer.digest, "gzip")
        assert (b"".join(packing.unpacked("gzip", [blob])) if packed else blob) == one


def test_a_layer_that_is_a_link_to_another_one_is_found(spool: Spool) -> None:
    files = saved([b"same", b"same"])
    del files["1/layer.tar"]
    data = archive(files, {"1/layer.tar": "../0/layer.tar"})
    image, _ = layer_spool.read_archive(Stream([data]), spool, ["gzip"], "x:1")
    assert len(image.layers) == 2


@pytest.mark.parametrize("cut", [300, 600_000, 5_000_700])
def test_an_archive_that_is_cut_off_leaves_nothing(cut: int, spool: Spool) -> None:
    data = archive(saved([os.urandom(5_000_000), b"small"]))
    with pytest.raises(image_archive.ArchiveError):
        layer_spool.read_archive(Stream([data[:cut]]), spool, ["gzip"], None)
    assert list(spool.directory.glob("*.gz")) == []
