"""A layer comes out of overlay2 as it went in. The files stand in for dockerd's."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.util
import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import image_archive, packing

SCRIPT = Path(__file__).resolve().parents[2] / "roles/docker_image_transfer/files/image_on_host.py"
CHAIN = "c" * 64


@pytest.fixture
def script() -> Any:
    spec = importlib.util.spec_from_file_location("image_on_host", SCRIPT)
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


def word(*parts: str) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


FILES = {"bin/tool": b"x" * 3_000_000, "empty": b"", "tëxt": b"words"}


def test_a_layer_comes_out_byte_by_byte(script: Any, tmp_path: Path, capfdbinary: Any) -> None:
    archive = stored(tmp_path, FILES)
    digest = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    assert b"".join(script.overlay2_layer(str(tmp_path), CHAIN)) == archive
    for form, most in (("none", 1), ("gzip", 0.1), ("zstd", 0.1)):
        assert script.main("layer", word(form, digest, "overlay2", str(tmp_path), CHAIN)) == 0
        out = capfdbinary.readouterr().out
        assert b"".join(packing.unpacked(form, [out])) == archive
        assert len(out) <= most * len(archive)


def test_a_layer_with_another_digest_is_not_taken_for_whole(script: Any, tmp_path: Path, capfd: Any) -> None:
    stored(tmp_path, FILES)
    assert script.main("layer", word("none", f"sha256:{'0' * 64}", "overlay2", str(tmp_path), CHAIN)) == 3
    assert re.fullmatch(r"expected sha256:0{12}, got sha256:[0-9a-f]{12}\n", capfd.readouterr().err)


def test_an_image_is_described_with_the_sizes_of_its_layers_archives(script: Any, tmp_path: Path) -> None:
    archive = stored(tmp_path, FILES)
    config = tmp_path / "image/overlay2/imagedb/content/sha256/abc"
    config.parent.mkdir(parents=True)
    config.write_bytes(b"{}")
    said = script.of_overlay2(str(tmp_path), "sha256:abc", [f"sha256:{CHAIN}"])
    image = image_archive.from_json(said)
    assert (image.config, image.layers[0].size) == (b"{}", len(archive))
    assert image.layers[0].place == ["overlay2", str(tmp_path), CHAIN]


def test_files_outside_of_the_layer_and_shorter_ones_are_refused(script: Any, tmp_path: Path) -> None:
    stored(tmp_path, FILES)
    path = tmp_path / "overlay2/0abc/diff/bin/tool"
    path.write_bytes(b"short")
    with pytest.raises(script.Failed, match="shorter"):
        list(script.overlay2_layer(str(tmp_path), CHAIN))
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(script.Failed, match="outside"):
        list(script.overlay2_layer(str(tmp_path), CHAIN))
    (tmp_path / "image/overlay2/layerdb/sha256" / CHAIN / "cache-id").write_text("../../etc")
    with pytest.raises(script.Failed):
        list(script.overlay2_layer(str(tmp_path), CHAIN))


def test_the_id_of_a_chain_is_that_of_the_specification(script: Any) -> None:
    one, two = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    first = script.chain_of("", one)
    assert first == "1" * 64
    assert script.chain_of(first, two) == hashlib.sha256(f"{one} {two}".encode()).hexdigest()
