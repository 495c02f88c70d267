"""Images fetched into a pull-through cache, and the cache kept to its size."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import registry_cache

ROOT = Path(__file__).resolve().parents[2]
BLOBS = "docker/registry/v2/blobs"


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Upstream:
    """A registry that gives out tokens for an account and redirects blobs to another server, as Docker Hub does.

    The second server refuses a request with a token. asked has every request.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.files: dict[str, bytes] = {}
        self.challenge = "Bearer"
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_words: Any) -> None:
                pass

        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2)]
        self.url, self.store = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        authorization = request.headers.get("Authorization")
        path = request.path
        self.asked.append(path)
        if request.server is self.servers[1]:
            return self.say(request, 400 if authorization else 200, self.files[path.removeprefix("/store/")])
        if path.startswith("/token"):
            right = authorization == "Basic " + base64.b64encode(b"fleet:secret").decode()
            return self.say(request, 200 if right else 401, b'{"token": "t0k"}')
        if authorization != "Bearer t0k":
            challenge = f'{self.challenge} realm="{self.url}/token",service="registry"'
            return self.say(request, 401, b"", {"WWW-Authenticate": challenge})
        if path == "/v2/":
            return self.say(request, 200, b"{}")
        name = path.rpartition("/")[2]
        if "/blobs/" in path:
            return self.say(request, 307, b"", {"Location": f"{self.store}/store/{name}"})
        return self.say(request, 200 if name in self.files else 404, self.files.get(name, b""))

    def say(
        self, request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None
    ) -> None:
        request.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            request.send_header(key, value)
        request.end_headers()
        request.wfile.write(body)

    def add(self, content: bytes) -> dict[str, Any]:
        self.files[digest(content)] = content
        return {"digest": digest(content), "size": len(content)}

    def image(self, tag: str, *layers: bytes) -> dict[str, Any]:
        manifest = {"config": self.add(b"{}" + tag.encode()), "layers": [self.add(one) for one in layers]}
        self.files[tag] = json.dumps(manifest).encode()
        return self.add(self.files[tag])


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    one = Upstream()
    yield one
    for server in one.servers:
        server.shutdown()
        server.server_close()


def fetch(registry: Upstream, directory: Path, *names: str, check_mode: bool = False, **more: Any) -> list[str]:
    # What the cache would answer for manifests, the upstream registry answers here: the token is asked for too.
    params = {
        "names": names, "architectures": ["amd64"], "cache": registry.url, "directory": str(directory),
        "upstream": registry.url, "username": "fleet", "password": "secret",
    }  # fmt: skip
    return registry_cache.fetch({**params, **more}, check_mode)


@pytest.fixture
def open_cache(upstream: Upstream) -> Iterator[str]:
    """A cache, which asks nobody for a token."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            upstream.say(self, 200, upstream.files.get(self.path.rpartition("/")[2], b"{}"))

        def log_message(self, *_words: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_each_blob_is_fetched_once_with_the_account_and_lies_where_the_registry_looks(
    upstream: Upstream, open_cache: str, tmp_path: Path
) -> None:
    base, own = b"base" * 1000, b"own"
    amd = upstream.image("amd", base, own)
    arm = upstream.image("arm", b"arm")
    upstream.files["1.0"] = json.dumps(
        {
            "manifests": [
                {**amd, "platform": {"os": "linux", "architecture": "amd64"}},
                {**arm, "platform": {"os": "linux", "architecture": "arm64"}},
                {**arm, "platform": {"os": "unknown", "architecture": "unknown"}},
            ]
        }
    ).encode()
    upstream.image("other", base)
    assert fetch(upstream, tmp_path, "train:1.0", check_mode=True, cache="http://127.0.0.1:1") == [
        "train:1.0: 3 layers, 0.0 MB"
    ]
    assert list(tmp_path.iterdir()) == []

    upstream.asked.clear()
    lines = fetch(upstream, tmp_path, "train:1.0", "team/serve:other", cache=open_cache)
    assert lines == ["train:1.0: 3 layers, 0.0 MB", "team/serve:other: 2 layers, 0.0 MB"]
    stored = [path for path in upstream.asked if path.startswith("/store/")]
    assert len(stored) == len(set(stored)) == 4
    for content in (base, own):
        value = digest(content).partition(":")[2]
        data = tmp_path / BLOBS / f"sha256/{value[:2]}/{value}/data"
        assert data.read_bytes() == content
    link = f"_layers/sha256/{digest(base).partition(':')[2]}/link"
    for path in ("library/train", "team/serve"):
        assert (tmp_path / "docker/registry/v2/repositories" / path / link).read_text() == digest(base)

    upstream.asked.clear()
    assert fetch(upstream, tmp_path, "train:1.0", "team/serve:other", cache=open_cache) == []
    assert upstream.asked == []


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("nvcr.io/nvidia/cuda:12", {}, "nvcr.io/nvidia/cuda:12 is not an image of Docker Hub"),
        ("Train", {}, "must be in lower case"),
        ("train:gone", {}, "manifests/gone answers 404"),
        ("train:1", {"architectures": ["arm64"]}, "train:1 is not there for arm64, only for amd64"),
        ("train:1", {"password": "wrong"}, "gives no token for library/train"),
        ("train:bad", {}, "the upstream registry sent other bytes than sha256:"),
        ("train:odd", {}, "a manifest of a kind that is not supported"),
        ("train:1", {"upstream": "http://127.0.0.1:1"}, "does not answer"),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_line_and_nothing_is_stored(
    upstream: Upstream, open_cache: str, tmp_path: Path, name: str, more: dict[str, Any], message: str
) -> None:
    one = upstream.image("one", b"layer")
    listed = {"manifests": [{**one, "platform": {"os": "linux", "architecture": "amd64"}}]}
    upstream.files["1"] = json.dumps(listed).encode()
    bad = upstream.image("bad", b"whole")
    upstream.files[digest(b"whole")] = b"who"
    upstream.files["odd"] = b'{"schemaVersion": 1}'
    assert bad
    cache = upstream.url if "gone" in name else open_cache
    with pytest.raises(HostError) as error:
        fetch(upstream, tmp_path, name, **{"cache": cache, **more}, check_mode="gone" in name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)
    assert digest(b"whole").partition(":")[2] not in {path.parent.name for path in tmp_path.rglob("data*")}


def test_an_upstream_registry_that_docker_registry_cannot_use_is_refused(upstream: Upstream, open_cache: str) -> None:
    account = {"username": "fleet"}
    registry_cache.check({"upstream": upstream.url, **account})
    registry_cache.check({"upstream": upstream.url, "username": ""})
    registry_cache.check({"upstream": open_cache, "username": ""})
    upstream.challenge = "Basic"
    registry_cache.check({"upstream": upstream.url, "username": ""})
    for url in (upstream.url, open_cache):
        with pytest.raises(HostError, match="gives out no tokens"):
            registry_cache.check({"upstream": url, **account})
    with pytest.raises(HostError, match="does not answer this host"):
        registry_cache.check({"upstream": "http://127.0.0.1:1", "username": ""})


def test_the_password_goes_to_no_realm_without_encryption(upstream: Upstream) -> None:
    registry = registry_cache.Registry("https://registry.example.com", "fleet", "secret")
    with pytest.raises(HostError, match="which is not encrypted"):
        registry._log_in(f'Bearer realm="{upstream.url}/token"', "library/train")
    assert upstream.asked == []


@pytest.mark.parametrize(
    ("size", "left"), [("", "abcd"), ("1M", "abcd"), ("3000", "abc"), ("2K", "ab"), ("1", ""), ("1500", "a")]
)
def test_the_layers_that_were_read_last_stay(tmp_path: Path, size: str, left: str) -> None:
    # a was written first and read last.
    for name, written, read in (("a", 1, 9), ("b", 8, 2), ("c", 7, 7), ("d", 6, 3)):
        data = tmp_path / BLOBS / "sha256" / name / "data"
        data.parent.mkdir(parents=True)
        data.write_bytes(b"x" * 1000)
        os.utime(data, (1_800_000_000 + read, 1_800_000_000 + written))
    done = subprocess.run(
        ["sh", ROOT / "roles/registry_cache/files/trim.sh", tmp_path, size], text=True, capture_output=True, check=True
    )
    assert "".join(sorted(path.parent.name for path in tmp_path.rglob("data"))) == left
    assert len(done.stdout.splitlines()) == 4 - len(left)
    assert done.stderr == ""
