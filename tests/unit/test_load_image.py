"""What the loader on a host does with what comes. A dockerd stands in, on a socket of the test's own."""

from __future__ import annotations

import http.server
import json
import secrets
import selectors
import shutil
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import layer_frames

from tests.text import replaced

SCRIPT = Path(__file__).resolve().parents[2] / "roles/docker_image_transfer/files/load_image.py"
# As it stands in the script: no test may reach the real dockerd.
SOCKET = '"/var/run/docker.sock"'
# Seconds, for what happens at once on an idle machine.
PATIENCE = 120
INFO = {
    "ServerVersion": "20.10.24",
    "DockerRootDir": "/",
    "Architecture": "aarch64",
    "DriverStatus": [["Backing Filesystem", "extfs"]],
}
# 16.04's is a 2.7; without one the new ones stand alone.
PYTHONS = [sys.executable, *(str(path) for path in Path.home().glob(".pyenv/versions/2.7.*/bin/python"))]


class Dockerd(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers like dockerd, as far as the loader asks."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        self.images: dict[str, list[str]] = {"sha256:1": ["old:1"]}
        self.loaded: list[bytes] = []
        self.cut_off: list[bytes] = []
        self.removed: list[str] = []
        self.refuse: str | None = None
        self.unpacking = threading.Event()
        self.unpacking.set()
        self.hung_up = threading.Event()
        # Of this test's own, for tests run side by side.
        self.word = secrets.token_hex(4)
        super().__init__(path, Handler)


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"
    server: Dockerd

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        """A socket of this kind has no address."""
        return "here"

    def answer(self, status: int, document: Any, chunked: bool = False) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
            data = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (data[:7], data[7:])) + b"0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/info":
            self.answer(200, INFO)
        elif self.path == "/images/json?all=1":
            self.answer(200, [{"Id": one} for one in self.server.images])
        else:
            asked = self.path[len("/images/") : -len("/json")]
            for one, names in self.server.images.items():
                if asked == one or asked in names:
                    self.answer(200, {"Id": one, "RepoTags": names, "RootFS": {"Layers": ["sha256:a"]}}, chunked=True)
                    return
            self.answer(404, {"message": "no such image"})

    def do_POST(self) -> None:
        data = b""
        while line := self.rfile.readline():
            size = int(line, 16)
            data += self.rfile.read(size)
            self.rfile.readline()
            if not size:
                break
        else:
            self.server.cut_off.append(data)
            self.server.hung_up.set()
            return
        self.server.unpacking.wait()
        if self.server.refuse is not None:
            self.answer(200, {"errorDetail": {}, "error": self.server.refuse}, chunked=True)
            return
        self.server.loaded.append(data)
        self.server.images[f"sha256:{len(self.server.images) + 1}"] = [data.decode()]
        self.answer(200, {"stream": "Loaded image"}, chunked=True)

    def do_DELETE(self) -> None:
        self.server.removed.append(self.path[len("/images/") :])
        self.answer(200, [])


@pytest.fixture
def dockerd(tmp_path: Path) -> Iterator[Dockerd]:
    with Dockerd(str(tmp_path / "socket")) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(params=PYTHONS, ids=[Path(one).parents[1].name for one in PYTHONS])
def loader(request: pytest.FixtureRequest, dockerd: Dockerd) -> Iterator[subprocess.Popen[bytes]]:
    text = replaced(SCRIPT.read_text(), SOCKET, repr(str(dockerd.server_address)))
    words = [request.param, "-c", text, dockerd.word]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def frame(letter: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">cI", letter, len(data)) + data


def archive(*pieces: bytes) -> bytes:
    """An archive of pieces, of which the last waits for the archive before."""
    *first, last = (frame(b"D", piece) for piece in pieces)
    return b"".join([*first, frame(b"W"), last, frame(b"E")])


def head(name: str = "x:2", gone: tuple[str, ...] = ("part:1",)) -> bytes:
    return frame(b"J", json.dumps({"name": name, "gone": gone}).encode())


def heard(out: bytes) -> dict[str, Any]:
    """All that the loader said, in one."""
    found: dict[str, Any] = {}
    for line in out.splitlines():
        word, _, rest = line.partition(b" ")
        assert word == b"gpuprov"
        found |= json.loads(rest)
    return found


def test_it_says_what_is_there_before_anything_comes(loader: subprocess.Popen[bytes]) -> None:
    assert loader.stdout is not None
    reading = heard(loader.stdout.readline())["reading"]
    assert reading.pop("free") > 0
    assert reading.pop("zstd") == (shutil.which("zstd") is not None)
    assert reading == {
        "engine": "20.10.24", "containerd": False, "images": [["sha256:1", ["old:1"], ["sha256:a"]]], "blobs": None,
        "place": "/", "machine": "aarch64", "configs": {},
    }  # fmt: skip
    assert loader.communicate(b"")[0] == b""
    assert loader.returncode == 0


def test_archives_are_loaded_in_order_and_names_go_at_the_end(
    loader: subprocess.Popen[bytes], dockerd: Dockerd
) -> None:
    out, _ = loader.communicate(head() + archive(b"part", b":1") + archive(b"x", b":2") + frame(b"Z"))
    assert (loader.returncode, heard(out)["id"]) == (0, "sha256:3")
    assert dockerd.loaded == [b"part:1", b"x:2"]
    assert dockerd.removed == ["part:1"]


def test_an_archive_is_taken_in_while_the_one_before_is_unpacked(
    loader: subprocess.Popen[bytes], dockerd: Dockerd
) -> None:
    assert loader.stdin is not None
    dockerd.unpacking.clear()
    large = b"y" * 10_000_000
    # Nobody would take this in if it were for one after the other: pipes and sockets hold far less.
    loader.stdin.write(head() + archive(b"part", b":1") + frame(b"D", large))
    loader.stdin.flush()
    assert dockerd.loaded == []
    dockerd.unpacking.set()
    loader.communicate(frame(b"W") + frame(b"D", b"z") + frame(b"E") + frame(b"Z"))
    assert dockerd.loaded == [b"part:1", large + b"z"]


def test_what_was_packed_is_unpacked_for_dockerd(loader: subprocess.Popen[bytes], dockerd: Dockerd) -> None:
    data = b"words " * 500_000
    packed = b"".join(layer_frames.packed("gzip", [data, b"random"]))
    if shutil.which("zstd"):
        packed += b"".join(layer_frames.packed("zstd", [data, data])) + b"".join(layer_frames.packed("zstd", [data]))
        data = data + b"random" + data * 3
    else:
        data += b"random"
    assert len(packed) < 100_000
    out, _ = loader.communicate(head() + packed + frame(b"W") + frame(b"D", b"x") + frame(b"E") + frame(b"Z"))
    assert loader.returncode == 0, out
    assert dockerd.loaded == [data + b"x"]


def test_what_was_cut_off_leaves_what_was_loaded_and_removes_nothing(
    loader: subprocess.Popen[bytes], dockerd: Dockerd
) -> None:
    dockerd.unpacking.clear()
    threading.Timer(0.2, dockerd.unpacking.set).start()
    out, _ = loader.communicate(head() + archive(b"part", b":1") + frame(b"D", b"x"))
    assert loader.returncode == 4
    assert list(heard(out)) == ["reading"]
    # It ends when dockerd is done with what was complete.
    assert dockerd.loaded == [b"part:1"]
    assert dockerd.removed == []
    assert dockerd.hung_up.wait(PATIENCE)
    assert dockerd.cut_off == [b"x"]


def test_what_dockerd_refuses_is_said_and_nothing_of_it_is_left(
    loader: subprocess.Popen[bytes], dockerd: Dockerd
) -> None:
    dockerd.refuse = "write /x: no space left\n on device"
    out, _ = loader.communicate(head() + archive(b"part", b":1") + archive(b"x", b":2") + frame(b"Z"))
    assert loader.returncode == 3
    assert heard(out)["failed"] == "docker load failed: write /x: no space left on device"
    assert dockerd.loaded == []
    assert dockerd.removed == ["part:1"]


@pytest.mark.parametrize("name", ["../info", "x y", "x\r\n", ""])
def test_a_name_that_is_none_asks_dockerd_nothing(name: str, loader: subprocess.Popen[bytes], dockerd: Dockerd) -> None:
    out, _ = loader.communicate(head("x:2", (name,)) + archive(b"x", b":2") + frame(b"Z"))
    assert heard(out)["failed"] == "what came is no image"
    assert dockerd.loaded == []
    assert dockerd.removed == []


def test_a_dockerd_that_does_not_answer_is_told_from_none(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    text = replaced(SCRIPT.read_text(), SOCKET, repr(str(tmp_path / "nothing")))
    for said in ("there is no docker on the host", "docker does not answer"):
        ran = subprocess.run(
            [sys.executable, "-c", text, secrets.token_hex(4)],
            capture_output=True,
            env={"PATH": str(tmp_path)},
            check=False,
        )
        assert (ran.returncode, heard(ran.stdout)) == (3, {"failed": said})
        shutil.copy("/bin/true", docker)


def test_two_loads_of_one_repository_come_one_after_the_other(dockerd: Dockerd) -> None:
    text = replaced(SCRIPT.read_text(), SOCKET, repr(str(dockerd.server_address)))
    words = [sys.executable, "-c", text, dockerd.word]
    first, second = (subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2))
    waiting = selectors.DefaultSelector()
    for one in (first, second):
        assert one.stdout is not None
        waiting.register(one.stdout, selectors.EVENT_READ, one)
    ((key, _),) = waiting.select(PATIENCE)
    other = second if key.data is first else first
    assert other.stdout is not None
    assert heard(key.data.stdout.readline())["reading"]["images"] == [["sha256:1", ["old:1"], ["sha256:a"]]]
    waiting.unregister(key.fileobj)
    assert waiting.select(0.5) == []
    key.data.communicate(head() + archive(b"x", b":2") + frame(b"Z"))
    # What the first one loaded is there for the second one.
    assert len(heard(other.stdout.readline())["reading"]["images"]) == 2
    other.communicate()
