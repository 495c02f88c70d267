"""The loader on a host, with stand-ins for dockerd, on a socket of the test, and for its client."""

from __future__ import annotations

import base64
import http.server
import io
import json
import os
import selectors
import shutil
import socketserver
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import packing

from tests import waiting
from tests.text import replaced

SCRIPT = Path(__file__).resolve().parents[2] / "roles/docker_image_transfer/files/image_on_host.py"
# As it stands in the script: no test may reach the real dockerd.
SOCKET = '"/var/run/docker.sock"'
# Seconds, for what happens at once on an idle machine.
PATIENCE = 120
# docker load and docker image rm, of the dockerd on the socket.
CLIENT = """#!{python}
import http.client, json, socket, sys
def ask(method, path, body=None):
    connection = http.client.HTTPConnection("docker")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect({socket!r})
    headers = {{"Transfer-Encoding": "chunked"}} if body else {{}}
    connection.request(method, path, body, encode_chunked=True, headers=headers)
    return json.loads(connection.getresponse().read())
if sys.argv[1] == "load":
    said = ask("POST", "/images/load", iter(lambda: sys.stdin.buffer.read1(1 << 16), b""))
    sys.exit("x\\n" + said["error"] if "error" in said else 0)
for name in sys.argv[3:]:
    ask("DELETE", "/images/" + name)
"""
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
        self.begun: list[bytes] = []
        self.removed: list[str] = []
        self.refuse: str | None = None
        self.unpacking = threading.Event()
        self.unpacking.set()
        self.hung_up = threading.Event()
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
            if data and data[:512] not in self.server.begun:
                self.server.begun.append(data[:512])
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
        self.server.images[f"sha256:{len(self.server.images) + 1}"] = [content(data)["name"].decode()]
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


def with_client(dockerd: Dockerd) -> dict[str, str]:
    """An environment with a docker that is the client of this dockerd."""
    client = Path(str(dockerd.server_address)).with_name("bin") / "docker"
    client.parent.mkdir()
    client.write_text(CLIENT.format(python=sys.executable, socket=str(dockerd.server_address)))
    client.chmod(0o755)
    return {**os.environ, "PATH": f"{client.parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture(params=PYTHONS, ids=[Path(one).parents[1].name for one in PYTHONS])
def loader(request: pytest.FixtureRequest, dockerd: Dockerd) -> Iterator[subprocess.Popen[bytes]]:
    text = replaced(SCRIPT.read_text(), SOCKET, repr(str(dockerd.server_address)))
    words = [request.param, "-c", text, "load"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, env=with_client(dockerd))
    yield process
    process.kill()
    process.communicate()


def line(**what: Any) -> bytes:
    return json.dumps(what).encode() + b"\n"


def file(data: bytes, path: str = "layer.tar", form: str = "none", sent: bytes | None = None) -> bytes:
    """A layer of an archive, packed as sent."""
    sent = data if sent is None else sent
    return line(path=path, size=len(data), form=form, bytes=len(sent)) + sent


def complete(name: str) -> bytes:
    """The end of an archive, whose last file holds a name."""
    return line(files=[["name", base64.b64encode(name.encode()).decode()]])


def archive(name: str, data: bytes = b"data") -> bytes:
    return file(data) + complete(name)


END = line(end=True)


def head(name: str = "x:2", gone: tuple[str, ...] = ("part:1",)) -> bytes:
    return line(name=name, gone=gone)


def heard(out: bytes) -> list[dict[str, Any]]:
    """All that the loader said."""
    return [json.loads(said) for said in out.splitlines()]


def content(archive: bytes) -> dict[str, bytes]:
    """The files of an archive that dockerd got."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        # extractfile returns None for other entries than files; these are all files.
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def test_it_says_what_is_there_before_anything_comes(loader: subprocess.Popen[bytes]) -> None:
    assert loader.stdout is not None
    (reading,) = heard(loader.stdout.readline())
    assert reading.pop("free") > 0
    assert reading.pop("zstd") == (shutil.which("zstd") is not None)
    assert reading == {
        "containerd": False, "images": {"sha256:1": [["old:1"], ["sha256:a"]]}, "blobs": None,
        "place": "/", "machine": "aarch64", "configs": {},
    }  # fmt: skip
    assert loader.communicate(b"")[0] == b""
    assert loader.returncode == 0


def test_archives_are_loaded_in_order_and_names_go_at_the_end(
    loader: subprocess.Popen[bytes], dockerd: Dockerd
) -> None:
    out, _ = loader.communicate(head() + archive("part:1") + archive("x:2", b"") + END)
    assert (loader.returncode, heard(out)[1:]) == (0, [{"id": "sha256:3"}])
    assert [content(one) for one in dockerd.loaded] == [
        {"layer.tar": b"data", "name": b"part:1"}, {"layer.tar": b"", "name": b"x:2"},
    ]  # fmt: skip
    assert dockerd.removed == ["part:1"]


def test_an_archive_is_taken_in_while_the_one_before_is_unpacked(
    loader: subprocess.Popen[bytes], dockerd: Dockerd
) -> None:
    assert loader.stdin is not None
    dockerd.unpacking.clear()
    large = b"y" * 10_000_000
    # Nobody would take this in if it were for one after the other: pipes and sockets hold far less.
    loader.stdin.write(head() + archive("part:1") + file(large))
    loader.stdin.flush()
    assert dockerd.loaded == []
    dockerd.unpacking.set()
    loader.communicate(complete("x:2") + END)
    assert content(dockerd.loaded[1])["layer.tar"] == large


def test_what_was_packed_is_unpacked_for_dockerd(loader: subprocess.Popen[bytes], dockerd: Dockerd) -> None:
    data = b"words " * 500_000
    sent = b""
    forms = ("none", "gzip", "zstd")
    for form in forms:
        sent += file(data, form, form, b"".join(packing.packed(form, [data])))
    assert len(sent) < len(data) + 100_000
    out, _ = loader.communicate(head() + sent + complete("x:2") + END)
    assert loader.returncode == 0, out
    assert content(dockerd.loaded[0]) == {**dict.fromkeys(forms, data), "name": b"x:2"}


def test_what_zstd_cannot_unpack_fails(loader: subprocess.Popen[bytes], dockerd: Dockerd) -> None:
    out, err = loader.communicate(head() + file(b"data", form="zstd", sent=b"no zstd") + complete("x:2") + END)
    assert heard(out)[1:] == []
    assert err.startswith(b"zstd: ")
    assert (dockerd.loaded, dockerd.removed) == ([], ["part:1"])


def test_what_was_cut_off_leaves_what_was_loaded_and_removes_nothing(
    loader: subprocess.Popen[bytes], dockerd: Dockerd
) -> None:
    dockerd.unpacking.clear()
    assert loader.stdin is not None
    loader.stdin.write(head() + archive("part:1") + file(b"x" * 1000)[:-1])
    loader.stdin.flush()
    waiting.until(lambda: len(dockerd.begun) == 2, "the second archive comes")
    dockerd.unpacking.set()
    out, _ = loader.communicate()
    assert (loader.returncode, len(heard(out))) == (3, 1)
    # It ends when dockerd is done with what was complete.
    assert [content(one)["name"] for one in dockerd.loaded] == [b"part:1"]
    assert dockerd.removed == []
    assert dockerd.hung_up.wait(PATIENCE)
    assert len(dockerd.cut_off) == 1


def test_what_dockerd_refuses_is_said_and_nothing_of_it_is_left(
    loader: subprocess.Popen[bytes], dockerd: Dockerd
) -> None:
    dockerd.refuse = "write /x: no space left on device"
    out, err = loader.communicate(head() + archive("part:1") + archive("x:2") + END)
    assert loader.returncode == 3
    assert (heard(out)[1:], err) == ([], b"docker load failed: write /x: no space left on device\n")
    assert dockerd.loaded == []
    assert dockerd.removed == ["part:1"]


def test_a_layer_may_be_larger_than_the_8_gib_that_a_plain_header_can_name(
    loader: subprocess.Popen[bytes], dockerd: Dockerd
) -> None:
    assert loader.stdin is not None
    loader.stdin.write(head() + line(path="layer.tar", size=20 << 30, form="none", bytes=20 << 30) + b"x" * 1000)
    loader.stdin.flush()
    waiting.until(lambda: dockerd.begun, "the archive comes")
    with tarfile.open(fileobj=io.BytesIO(dockerd.begun[0]), mode="r|") as tar:
        entry = tar.next()
    assert entry is not None
    assert entry.size == 20 << 30


@pytest.mark.parametrize("name", ["../info", "x y", "x\r\n", ""])
def test_a_name_that_is_none_asks_dockerd_nothing(name: str, loader: subprocess.Popen[bytes], dockerd: Dockerd) -> None:
    out, err = loader.communicate(head("x:2", (name,)) + archive("x:2") + END)
    assert (heard(out)[1:], err) == ([], b"the input does not describe an image\n")
    assert dockerd.loaded == []
    assert dockerd.removed == []


def test_a_dockerd_that_does_not_answer_is_told_from_none(tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    text = replaced(SCRIPT.read_text(), SOCKET, repr(str(tmp_path / "nothing")))
    for said in ("there is no docker on the host", "docker does not answer"):
        ran = subprocess.run(
            [sys.executable, "-c", text, "load"],
            capture_output=True,
            env={"PATH": str(tmp_path)},
            check=False,
        )
        assert (ran.returncode, ran.stdout, ran.stderr.decode()) == (3, b"", f"{said}\n")
        shutil.copy("/bin/true", docker)


def test_two_loads_come_one_after_the_other(dockerd: Dockerd) -> None:
    text = replaced(SCRIPT.read_text(), SOCKET, repr(str(dockerd.server_address)))
    words = [sys.executable, "-c", text, "load"]
    pipe, env = subprocess.PIPE, with_client(dockerd)
    first, second = (subprocess.Popen(words, stdin=pipe, stdout=pipe, env=env) for _ in range(2))
    selector = selectors.DefaultSelector()
    for one in (first, second):
        assert one.stdout is not None
        selector.register(one.stdout, selectors.EVENT_READ, one)
    ((key, _),) = selector.select(PATIENCE)
    other = second if key.data is first else first
    assert other.stdout is not None
    assert heard(key.data.stdout.readline())[0]["images"] == {"sha256:1": [["old:1"], ["sha256:a"]]}
    selector.unregister(key.fileobj)
    assert selector.select(0.5) == []
    key.data.communicate(head() + archive("x:2") + END)
    # What the first one loaded is there for the second one.
    assert len(heard(other.stdout.readline())[0]["images"]) == 2
    other.communicate()
