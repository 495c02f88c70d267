"""Layers on the controller: kept whole, and as they travel."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import random
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_pipe
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import layer_spool, packing
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images.image_archive import Layer
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images.layer_spool import Fetcher, Spool


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return layer_spool.spool()


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def content(spool: Spool, one: str) -> bytes:
    """A layer's blob."""
    found = spool.open(one)
    assert found is not None
    return b"".join(packing.unpacked(layer_spool.form_of(found), [found.read()]))


@pytest.mark.parametrize(("form", "most"), [("none", 5_200_000), ("gzip", 130_000), ("zstd", 130_000)])
def test_a_layer_is_kept_in_the_form_that_is_asked_for(form: str, most: int, spool: Spool) -> None:
    data = os.urandom(100_000) + bytes(5_000_000)
    assert layer_spool.keep(spool, [data[:999], data[999:]], form) == (digest(data), digest(data), len(data), "none")
    found = spool.open(digest(data))
    assert found is not None
    assert layer_spool.form_of(found) == form
    assert content(spool, digest(data)) == data
    assert len(found.read()) < most
    spool.drop([digest(data)])
    assert [*spool.directory.iterdir()] == []


def test_a_layer_is_there_only_when_it_is_whole(spool: Spool) -> None:
    def coming(end: Exception | None) -> Iterator[bytes]:
        for _ in range(3):
            assert spool.open("sha256:1") is None
            yield b"x"
        if end:
            raise end

    with pytest.raises(AnsibleError, match="cut off"):
        spool.put(coming(AnsibleError("cut off")), "none", lambda: "sha256:1")
    assert [*spool.directory.iterdir()] == []
    spool.put(coming(None), "none", lambda: "sha256:1")
    assert content(spool, "sha256:1") == b"xxx"


def test_a_file_of_another_version_beside_a_layer_is_not_the_layer(spool: Spool) -> None:
    (spool.directory / f"{digest(b'x')}.json").write_text("{}")
    assert spool.open(digest(b"x")) is None


def test_what_nobody_came_back_for_goes(spool: Spool) -> None:
    layer_spool.keep(spool, [b"old"], "gzip")
    for path in spool.directory.iterdir():
        os.utime(path, (time.time() - layer_spool.KEEP - 60,) * 2)
    layer_spool.keep(spool, [b"new"], "gzip")
    assert layer_spool.spool().open(digest(b"old")) is None
    assert layer_spool.spool().open(digest(b"new")) is not None


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
    (image,), names = layer_spool.read_archive([data[:999], data[999:]], spool, "gzip", None)
    assert names == ["x:1"]
    assert [layer.diff_id for layer in image.layers] == [digest(layer) for layer in layers]
    for layer, one in zip(image.layers, layers, strict=True):
        blob = content(spool, layer.digest)
        assert (b"".join(packing.unpacked("gzip", [blob])) if packed else blob) == one


def test_a_layer_that_is_a_link_to_another_one_is_found(spool: Spool) -> None:
    files = saved([b"same", b"same"])
    del files["1/layer.tar"]
    data = archive(files, {"1/layer.tar": "../0/layer.tar"})
    (image,), _ = layer_spool.read_archive([data], spool, "gzip", "x:1")
    assert len(image.layers) == 2


@pytest.mark.parametrize("cut", [300, 600_000, 5_000_700])
def test_an_archive_that_is_cut_off_leaves_nothing(cut: int, spool: Spool) -> None:
    data = archive(saved([os.urandom(5_000_000), b"small"]))
    with pytest.raises(AnsibleError):
        layer_spool.read_archive([data[:cut]], spool, "gzip", None)
    assert list(spool.directory.glob("*.gzip")) == []


def test_an_archive_with_a_damaged_header_is_called_damaged(spool: Spool) -> None:
    data = bytearray(archive(saved([os.urandom(5_000_000), b"small"])))
    # Of the second file: reading ends there as if the archive did.
    second = data.index(b"1/layer.tar")
    data[second] ^= 1
    with pytest.raises(AnsibleError, match="damaged"):
        layer_spool.read_archive([bytes(data)], spool, "gzip", None)


# ---- layers from a source, for which a small program stands in

DATA = random.Random(1).randbytes(3_000_000)
PLACE = ["overlay2", "root", "chain"]
LAYER, OTHER = (Layer(digest(data), digest(data), len(data), "", PLACE) for data in (DATA, b"other"))
# Notes what it is asked for, and prints the layer after a line in the fifo "go" that says so.
SOURCE = """
import sys
with open("calls", "a") as calls:
    calls.write(sys.argv[1] + "\\n")
sys.stdout.buffer.write(b"x")
if open("go").readline() != "go\\n":
    sys.exit("it is gone")
sys.stdout.buffer.write(open("layer", "rb").read())
"""


@pytest.fixture
def fetch(spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetcher:
    """A process that takes part in a run."""
    monkeypatch.chdir(tmp_path)
    Path("go").write_text("go\n")
    Path("layer").write_bytes(DATA)
    return fetching(spool)


def calls() -> list[list[str]]:
    """The layers that the source was asked for."""
    return [json.loads(base64.urlsafe_b64decode(word)) for word in Path("calls").read_text().split()]


def fetching(spool: Spool) -> Fetcher:
    export = host_pipe.Command([sys.executable, "-c", SOURCE, host_pipe.VALUE])
    return Fetcher(spool, "source", "none", export)


def test_a_layer_is_fetched_once_by_whoever_needs_it_first(fetch: Fetcher, spool: Spool) -> None:
    with fetch.ahead([LAYER, OTHER]) as one, fetching(spool).ahead([LAYER, OTHER]) as other:
        for layers in (one, other):
            assert [file.read() for file in layers] == [b"x" + DATA] * 2
    assert content(spool, LAYER.digest) == b"x" + DATA
    assert calls() == [["none", layer.digest, *PLACE] for layer in (LAYER, OTHER)]


def test_a_layer_is_handed_on_while_the_next_one_comes(fetch: Fetcher, spool: Spool) -> None:
    spool.put([DATA], "none", lambda: LAYER.digest)
    Path("go").unlink()
    os.mkfifo("go")
    with fetch.ahead([LAYER, OTHER]) as layers:
        assert next(layers).read() == DATA
        assert spool.open(OTHER.digest) is None
        Path("go").write_text("go\n")
        assert next(layers).read() == b"x" + DATA


def test_a_packed_layer_is_not_packed_again_and_one_that_is_there_in_any_form_is_not_fetched(
    fetch: Fetcher, spool: Spool
) -> None:
    fetch.form = "gzip"
    layer_spool.keep(spool, [DATA], "zstd")
    fetch.fetch(LAYER)
    assert not Path("calls").exists()
    fetch.fetch(Layer("sha256:unpacked", OTHER.digest, 5, "", ["containerd", "x", "y"]))
    assert calls() == [["none", OTHER.digest, "containerd", "x", "y"]]


def test_what_keeps_a_layer_from_coming_is_said_of_the_source(fetch: Fetcher, spool: Spool) -> None:
    Path("go").write_text("stop\n")
    with (
        fetch.ahead([LAYER]) as layers,
        pytest.raises(AnsibleError, match=r"^source does not give layer .*: it is gone$"),
    ):
        next(layers)
    assert spool.open(LAYER.digest) is None


def test_whoever_waits_for_another_process_ends_when_the_run_must_end(
    fetch: Fetcher, spool: Spool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "stop").touch()
    monkeypatch.setenv("GPUPROV_STOP", str(tmp_path / "stop"))
    with spool.locked(LAYER.digest, lambda: False), fetch.ahead([LAYER]) as layers, pytest.raises(host_pipe.Stopped):
        next(layers)
