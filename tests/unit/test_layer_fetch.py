"""Layers from a source into the spool. A small program stands in for export_image.py at the source."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
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
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.layer_fetch import Fetch

DATA = random.Random(1).randbytes(3_000_000)
DIGEST = f"sha256:{hashlib.sha256(DATA).hexdigest()}"
LAYER = Layer(DIGEST, DIGEST, None, "", "layer root chain")
# Writes its arguments to a file, the first half of the layer, and the rest after a line in the fifo "go" that says so.
SOURCE = """
import sys
with open("calls", "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
data = open("frames", "rb").read()
out = sys.stdout.buffer
out.write(data[: len(data) // 2])
out.flush()
if open("go").readline() != "go\\n":
    sys.exit("it is gone")
out.write(data[len(data) // 2 :])
"""


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    end = layer_frames.frame(b"T", f"{len(DATA)} {DIGEST}".encode())
    Path("frames").write_bytes(b"".join([*layer_frames.packed("none", [DATA]), end]))
    Path("go").write_text("go\n")
    return fetching()


def fetching() -> Fetch:
    """A process that takes part in a run."""

    def export(*words: str) -> host_pipe.Start:
        return host_pipe.here([sys.executable, "-c", SOURCE, *words])

    return Fetch(layer_spool.spool(), "x:1", "source", "auto", False, export, lambda: False)


def test_the_form_depends_on_the_option_and_on_who_has_zstd(fetch: Fetch) -> None:
    for option, source, host, form in [
        ("auto", True, True, "zstd"), ("auto", True, False, "none"), ("auto", False, True, "none"),
        ("gzip", True, True, "gzip"), ("gzip", False, False, "gzip"), ("none", True, True, "none"),
    ]:  # fmt: skip
        fetch.compression, fetch.zstd = option, source
        assert fetch.form(host) == form, (option, source, host)


def test_a_layer_is_sent_when_it_is_complete_and_its_size_is_known_then(fetch: Fetch) -> None:
    with fetch.ahead([LAYER], "none"):
        stream = fetch.stream(LAYER, "none")
        first = next(block for block in stream if block)
        assert fetch.spool.has(DIGEST, ["none"])
        assert fetch.sizes([LAYER]) == {DIGEST: len(DATA)}
        assert b"".join(layer_frames.unpacked([first, *stream])) == DATA
    assert Path("calls").read_text() == "layer none root chain\n"


def test_nothing_of_a_layer_is_sent_before_all_of_it_came(fetch: Fetch) -> None:
    # As if another process were at it.
    with fetch.spool.claimed(f"{DIGEST}-none") as mine:
        assert mine
        stream = fetch.stream(LAYER, "none")
        assert [next(stream) for _ in range(3)] == [b""] * 3
        assert not fetch.spool.has(DIGEST, ["none"])
    assert all_of(stream) == DATA


def test_a_layer_of_which_another_process_let_go_is_fetched_here(fetch: Fetch) -> None:
    other = fetching()
    with fetch.ahead([LAYER], "none"), other.ahead([LAYER], "none"):
        assert all_of(other.stream(LAYER, "none")) == all_of(fetch.stream(LAYER, "none")) == DATA
    assert Path("calls").read_text().count("layer") == 1
    fetch.spool.drop([DIGEST])
    third = fetching()
    assert all_of(third.stream(LAYER, "none")) == DATA


def test_a_layer_in_another_form_is_not_fetched_again(fetch: Fetch) -> None:
    layer_spool.keep(fetch.spool, [DATA], "zstd", DIGEST)
    fetch.bring([LAYER], ["none", "gzip"])
    assert all_of(fetch.stream(LAYER, "none")) == all_of(fetch.stream(LAYER, "gzip")) == DATA
    assert not Path("calls").exists()


def test_what_keeps_a_layer_from_coming_is_said_and_docker_save_is_tried_before(fetch: Fetch) -> None:
    Path("go").write_text("stop\n")
    with fetch.ahead([LAYER], "none"), pytest.raises((AnsibleError, image_archive.ArchiveError), match="source"):
        all_of(fetch.stream(LAYER, "none"))
    assert Path("calls").read_text() == "layer none root chain\nsave none x:1\n"
    assert [path.name for path in fetch.spool.directory.iterdir() if "lock" not in path.name] == []


def all_of(stream: Iterator[bytes]) -> bytes:
    """What a stream yields, unpacked."""
    return b"".join(layer_frames.unpacked(stream))
