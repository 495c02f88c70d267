"""A layer comes out of overlay2 as it went in. The files stand in for dockerd's."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import time
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
    for form in ("zlib", "zstd"):
        assert script.main(["layer", form, str(tmp_path), CHAIN]) == 0
        (first, size), *_others, (last, digest) = layer_frames.frames([out := capfdbinary.readouterr().out])
        assert b"".join(layer_frames.unpacked([out])) == archive
        assert (first, int(size)) == (b"H", len(archive))
        assert (last, digest) == (b"T", f"sha256:{hashlib.sha256(archive).hexdigest()}".encode())
    assert script.main(["sizes", str(tmp_path), CHAIN]) == 0
    assert int(capfdbinary.readouterr().out) == len(archive)


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


def test_what_shrinks_a_little_is_packed_where_whoever_reads_is_slow(tmp_path: Path) -> None:
    # Hexadecimal digits: deflate makes a little more than half of them.
    data = os.urandom(15_000_000).hex().encode()
    archive = stored(tmp_path, {"digits": data, "zeros": bytes(2_000_000)})
    words = [sys.executable, str(SCRIPT), "layer", "zlib", str(tmp_path), CHAIN]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        out = []
        while block := os.read(process.stdout.fileno(), 65536):
            out.append(block)
            time.sleep(0.003)
    letters = [letter for letter, _ in layer_frames.frames(out)]
    assert b"".join(layer_frames.unpacked(out)) == archive
    # Until it is known to be slow, what comes goes as it is.
    assert letters[1:20] == [b"D"] * 19
    assert sum(map(len, out)) < 0.75 * len(data)


@pytest.mark.parametrize(
    ("line", "deflate", "least", "most"),
    [(5e6, 100e6, 0.5, 0.58), (30e6, 100e6, 0.5, 0.58), (120e6, 100e6, 1.0, 1.0), (30e6, 20e6, 0.9, 1.0)],
    ids=["slow", "a quarter of a gigabit", "a gigabit", "a machine that is busy"],
)
def test_packing_is_for_where_it_gets_more_through(
    line: float, deflate: float, least: float, most: float, script: Any
) -> None:
    """line and deflate: bytes a second, after the few that buffers take at once; then the share that is sent."""
    now = [0.0]
    pace = script.Pace(lambda: now[0])
    sent, block = 0.0, 1 << 18
    for _block in range(4000):
        size = block if pace.most == script.LITTLE else block // 2
        sent += size
        # The line goes on while deflate works.
        now[0] += block / deflate if size < block else 0.0
        now[0] = max(now[0], (sent - 2e6) / line)
        pace.went(block)
    assert least <= sent / (4000 * block) <= most


def test_a_line_that_becomes_slow_is_noticed(script: Any) -> None:
    now = [0.0]
    pace = script.Pace(lambda: now[0])
    for line in (300e6, 5e6):
        for _block in range(200):
            now[0] += (1 << 18) / (line if pace.most == script.LITTLE else 2 * line)
            pace.went(1 << 18)
    assert pace.most == script.MUCH
