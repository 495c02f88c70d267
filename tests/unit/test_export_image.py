"""A layer comes out of overlay2 as it went in. The files stand in for dockerd's."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import layer_frames

SCRIPT = Path(__file__).resolve().parents[2] / "roles/docker_image_transfer/files/export_image.py"
CHAIN = "c" * 64


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("export_image", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stored(root: Path, files: dict[str, bytes], cache: str = "0abc") -> bytes:
    """Keep an archive of files as dockerd keeps a layer; return the archive."""
    data = io.BytesIO()
    entries: list[dict[str, Any]] = []
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            begun = data.tell()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
            whole = data.getvalue()[begun:]
            entries.append({"type": 2, "payload": base64.b64encode(whole[:512]).decode()})
            entries.append({"type": 1, "name": name, "size": len(content), "payload": "AAAA"})
            entries.append({"type": 2, "payload": base64.b64encode(whole[512 + len(content) :]).decode()})
            path = root / "overlay2" / cache / "diff" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        tail = data.tell()
    entries.append({"type": 2, "payload": base64.b64encode(data.getvalue()[tail:]).decode()})
    place = root / "image/overlay2/layerdb/sha256" / CHAIN
    place.mkdir(parents=True)
    lines = "".join(json.dumps({**one, "position": number}) + "\n" for number, one in enumerate(entries))
    (place / "tar-split.json.gz").write_bytes(gzip.compress(lines.encode()))
    (place / "cache-id").write_text(cache)
    return data.getvalue()


FILES = {"bin/tool": b"x" * 3_000_000, "empty": b"", "tëxt": b"words"}


def test_a_layer_comes_out_byte_by_byte(script: Any, tmp_path: Path, capfdbinary: Any) -> None:
    archive = stored(tmp_path, FILES)
    assert b"".join(script.layer(str(tmp_path), CHAIN)) == archive
    for form, letters, least, most in (("none", b"D", 1, 1.1), ("gzip", b"PD", 0, 0.1), ("zstd", b"Y", 0, 0.1)):
        assert script.main(["layer", form, str(tmp_path), CHAIN]) == 0
        *frames, (last, told) = layer_frames.frames([out := capfdbinary.readouterr().out])
        assert b"".join(layer_frames.unpacked([out])) == archive
        assert {letter for letter, _ in frames} <= {letters[i : i + 1] for i in range(len(letters))}
        assert least * len(archive) <= len(out) <= most * len(archive)
        assert (last, told) == (b"T", f"{len(archive)} sha256:{hashlib.sha256(archive).hexdigest()}".encode())
    assert script.main(["sizes", str(tmp_path), CHAIN]) == 0
    assert int(capfdbinary.readouterr().out) == len(archive)


def test_gzip_leaves_what_does_not_shrink_as_it_is(script: Any, tmp_path: Path, capfdbinary: Any) -> None:
    stored(tmp_path, {"weights": random.Random(1).randbytes(3_000_000), "zeros": bytes(3_000_000)})
    assert script.main(["layer", "gzip", str(tmp_path), CHAIN]) == 0
    frames = list(layer_frames.frames([capfdbinary.readouterr().out]))
    sizes = {one: sum(len(content) for letter, content in frames if letter == one) for one in (b"D", b"P")}
    assert 2_700_000 < sizes[b"D"] < 3_100_000
    assert 0 < sizes[b"P"] < 300_000


def test_files_outside_of_the_layer_and_shorter_ones_are_refused(script: Any, tmp_path: Path) -> None:
    stored(tmp_path, FILES)
    path = tmp_path / "overlay2/0abc/diff/bin/tool"
    path.write_bytes(b"short")
    with pytest.raises(script.Refused, match="shorter"):
        list(script.layer(str(tmp_path), CHAIN))
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(script.Refused, match="outside"):
        list(script.layer(str(tmp_path), CHAIN))
    (tmp_path / "image/overlay2/layerdb/sha256" / CHAIN / "cache-id").write_text("../../etc")
    with pytest.raises(script.Refused):
        list(script.layer(str(tmp_path), CHAIN))


def test_the_id_of_a_chain_is_that_of_the_specification(script: Any) -> None:
    one, two = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    first = script.chain_of("", one)
    assert first == "1" * 64
    assert script.chain_of(first, two) == hashlib.sha256(f"{one} {two}".encode()).hexdigest()
