"""Layers go on while they come. A small program stands in for export_image.py at a source."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import (
    host_pipe,
    image_archive,
    layer_frames,
    layer_spool,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.image_archive import Layer
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.layer_fetch import Fetch, LayerLost

DATA = os.urandom(3_000_000)
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
LAYER = Layer(DIGEST, DIGEST, None, "", "layer root chain")
# Gives the first half at once, and the rest when there is a file "go"; half of it where there is a file "fail".
SOURCE = """
import os, sys, time
data = open("frames", "rb").read()
out = sys.stdout.buffer
out.write(data[: len(data) // 2])
out.flush()
while not os.path.exists("go"):
    time.sleep(0.01)
    if os.path.exists("fail"):
        sys.exit("it is gone")
out.write(data[len(data) // 2 :])
"""


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    whole = [layer_frames.frame(b"H", b"%d" % len(DATA)), *layer_frames.packed("zlib", [DATA])]
    Path("frames").write_bytes(b"".join([*whole, layer_frames.frame(b"T", DIGEST.encode())]))
    start = host_pipe.here([sys.executable, "-c", SOURCE])
    return Fetch(layer_spool.spool(), "x:1", "source", False, lambda *_: start, lambda: False)


def until(stream: Iterator[bytes], enough: Callable[[bytes], bool]) -> bytes:
    """What a stream yields until that is enough."""
    data = b""
    for block in stream:
        data += block
        if enough(data):
            break
        if not block:
            time.sleep(0.005)
    return data


def test_a_layer_goes_on_while_it_comes(fetch: Fetch) -> None:
    with fetch.ahead([LAYER], "zlib"):
        stream = fetch.stream(LAYER, "zlib")
        # The source waits for "go" with the rest.
        first = until(stream, lambda data: len(data) > 100_000)
        assert fetch.sizes([LAYER]) == {DIGEST: len(DATA)}
        assert not fetch.spool.has(DIGEST, ["zlib"])
        Path("go").touch()
        rest = until(stream, lambda _: False)
    assert b"".join(layer_frames.unpacked([first + rest])) == DATA


def test_whoever_is_patient_gets_it_only_when_it_is_complete(fetch: Fetch) -> None:
    fetch.patient = True
    with fetch.ahead([LAYER], "zlib"):
        stream = fetch.stream(LAYER, "zlib")
        threading.Timer(0.3, Path("go").touch).start()
        assert until(stream, bool) != b""
        assert fetch.spool.has(DIGEST, ["zlib"])


def test_what_ends_before_its_end_is_lost_and_so_is_what_came_anew(fetch: Fetch) -> None:
    other = Fetch(fetch.spool, "x:1", "source", False, fetch.export, lambda: False)
    for again in (False, True):
        with fetch.spool.claimed(f"{DIGEST}-zlib") as mine:
            assert mine
            fetch.spool.remember(DIGEST, len(DATA))
            part = fetch.spool.part(DIGEST, "zlib")
            part.write_bytes(b"some")
            stream = other.stream(LAYER, "zlib")
            assert until(stream, bool) == b"some"
            if again:
                layer_spool.keep(fetch.spool, [DATA], ["zlib"], DIGEST)
                part.unlink()
        with pytest.raises(LayerLost):
            until(stream, lambda _: False)


def test_what_keeps_a_layer_from_coming_is_said(fetch: Fetch) -> None:
    Path("fail").touch()
    with fetch.ahead([LAYER], "zlib"), pytest.raises((AnsibleError, image_archive.ArchiveError), match="source"):
        until(fetch.stream(LAYER, "zlib"), lambda _: False)
    assert [path.name for path in fetch.spool.directory.iterdir() if "lock" not in path.name] == [f"{DIGEST[7:]}.json"]


def test_a_line_that_is_slow_leaves_time_to_pack(fetch: Fetch, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch.hurried()
    monkeypatch.setattr(os, "cpu_count", lambda: 1000)
    Path("go").touch()
    fetch.bring([LAYER], ["zlib"])
    for pause, hurried in ((0.05, False), (0.0, True)):
        for _block in fetch.stream(LAYER, "zlib"):
            time.sleep(pause)
        for _time in range(10):
            for _block in fetch.stream(LAYER, "zlib"):
                time.sleep(pause)
        assert fetch.hurried() == hurried


def test_a_machine_that_is_busy_has_no_time_to_pack(fetch: Fetch) -> None:
    fetch.speed, fetch.running = 1e6, 1000.0
    assert fetch.hurried()
