"""Images join a bundle, from a registry that gives out tokens and keeps its blobs on another server."""

from __future__ import annotations

import base64
import errno
import gzip
import hashlib
import http.server
import io
import json
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import image_name
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.bundle import (
    contents,
    download,
    images,
    registry,
    repository,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import layer_spool
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import lock_file

from tests import waiting

DOCKER = "application/vnd.docker.distribution.manifest"
NO_KEY = "0" * 40
# A lock of two architectures without packages: the images are all that there is to download.
SOURCE = lock_file.Source("http://127.0.0.1/ubuntu", "noble", ("main",), NO_KEY, "2026-11-27T10:11:12Z", "0" * 64)
SYSTEM = lock_file.System({}, {"noble": SOURCE}, ())
LOCK = lock_file.Lock({("noble", "amd64"): SYSTEM, ("noble", "arm64"): SYSTEM})
AMD64 = lock_file.Lock({("noble", "amd64"): SYSTEM})


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@dataclass
class Registry:
    """What a registry has, and what it was asked for."""

    port: int = 0
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # by path below /v2/
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    token: str = "first"
    accounts: list[str] = field(default_factory=list)
    challenge: str = ""
    cut: int = 0  # bytes after which blobs end, once
    hang: threading.Event | None = None  # blobs that are cut stay open until then
    down: bool = False  # gives out no blobs
    leaks: list[str] = field(default_factory=list)  # logins that the server of the blobs got

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    def put(self, path: str, kind: str, data: bytes) -> dict[str, Any]:
        """Store a blob or a manifest; return its descriptor."""
        self.files[f"{path}/{digest(data)}"] = (kind, data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data)}

    def push(self, repository: str, tag: str, text: str, architectures: tuple[str, ...] = ("amd64", "arm64")) -> str:
        """Store an image for some architectures, with a layer for all of them; return the digest of its index."""
        manifests = []
        for architecture in architectures:
            layers = [tar_of("all"), tar_of(f"{text} {architecture}"), tar_of("all")]
            config = {
                "os": "linux", "architecture": architecture, "config": {"Cmd": ["/hello"]},
                "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
            }  # fmt: skip
            blobs = [
                self.put(f"{repository}/blobs", "application/vnd.docker.image.rootfs.diff.tar.gzip", packed)
                for packed in (gzip.compress(layer, mtime=0) for layer in layers)
            ]
            configured = self.put(
                f"{repository}/blobs", "application/vnd.docker.container.image.v1+json", json.dumps(config).encode()
            )
            manifest = {"schemaVersion": 2, "mediaType": f"{DOCKER}.v2+json", "config": configured, "layers": blobs}
            stored = self.put(f"{repository}/manifests", f"{DOCKER}.v2+json", json.dumps(manifest).encode())
            manifests.append({**stored, "platform": {"os": "linux", "architecture": architecture}})
        unknown = {**manifests[0], "platform": {"os": "unknown", "architecture": "unknown"}}
        windows = {**manifests[0], "platform": {"os": "windows", "architecture": "amd64"}}
        index = {"schemaVersion": 2, "mediaType": f"{DOCKER}.list.v2+json", "manifests": [windows, unknown, *manifests]}
        data = json.dumps(index).encode()
        self.put(f"{repository}/manifests", f"{DOCKER}.list.v2+json", data)
        self.files[f"{repository}/manifests/{tag}"] = (f"{DOCKER}.list.v2+json", data)
        return digest(data)

    def blobs(self) -> list[tuple[str, str]]:
        """Return the blobs that were sent, each with the range."""
        return [(path, asked) for method, path, asked in self.asked if "/cdn/" in path]


def tar_of(text: str) -> bytes:
    """Return a layer with a file that does not shrink much."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        entry = tarfile.TarInfo("hello")
        content = hashlib.shake_256(text.encode()).digest(50_000)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return data.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the files of the registry that is an attribute."""

    registry: Registry

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        here, login = self.registry, self.headers.get("Authorization", "")
        path, _mark, _query = self.path.partition("?")
        here.asked.append((self.command, path, self.headers.get("Range", "")))
        if path == "/token":
            here.accounts.append(login)
            self.answer(200, json.dumps({"token": here.token}).encode())
        elif path.startswith("/cdn/"):
            if login:
                here.leaks.append(login)
            if here.down:
                self.answer(503, b"")
                return
            data = here.files[path.removeprefix("/cdn/")][1]
            begin = int(self.headers.get("Range", "bytes=0-")[6:-1])
            cut, here.cut = (here.cut, 0) if len(data) > here.cut else (0, here.cut)
            self.answer(206 if begin else 200, data[begin:], cut=cut)
        elif login != f"Bearer {here.token}":
            realm = f'Bearer realm="http://{here.name}/token",service="here",scope="repository:x:pull"'
            self.answer(401, b"", {"WWW-Authenticate": here.challenge or realm})
        elif path.startswith("/v2/renamed/"):
            self.answer(307, b"", {"Location": path.replace("renamed", "hello")})
        elif path.removeprefix("/v2/") not in here.files:
            self.answer(404, b"")
        elif "/blobs/" in path:
            # By another name, which is another host.
            self.answer(307, b"", {"Location": f"http://localhost:{here.port}/cdn/{path.removeprefix('/v2/')}"})
        else:
            kind, data = here.files[path.removeprefix("/v2/")]
            self.answer(200, data, {"Content-Type": kind, "Docker-Content-Digest": digest(data)})

    def answer(self, status: int, data: bytes, headers: dict[str, str] | None = None, cut: int = 0) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: cut or None])
        if cut and self.registry.hang:
            self.wfile.flush()
            self.registry.hang.wait()

    def log_message(self, *_arguments: Any) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a person, with the bundle's key."""
    path = tmp_path_factory.mktemp("config")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(path))
        repository.signing_key()
    return path


@pytest.fixture
def hub(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry on this machine. A proxy that does not answer is set: it must not be asked."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    here = Registry()
    handler = type("Own", (Handler,), {"registry": here})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        here.port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield here
        server.shutdown()
    assert here.leaks == []


def make(bundle: Path, *names: str, lock: lock_file.Lock = LOCK, keep: bool = False) -> list[str]:
    """Make a bundle; return what was said."""
    told = [0, 0]
    said: list[str] = []

    def advance(count: int) -> None:
        told[0] += count

    def total(count: int) -> None:
        told[1] += count

    contents.make(lock, bundle, advance, total, None if keep else names, said.append)
    assert told[0] == told[1]
    return said


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_two_bundles_with_images_are_equal_and_the_transport_reads_them(hub: Registry, tmp_path: Path) -> None:
    index = hub.push("team/hello", "latest", "one")
    hub.push("team/base", "1.0", "two")
    one, two = tmp_path / "one", tmp_path / "two"
    make(one, f"{hub.name}/team/hello", f"{hub.name}/team/base:1.0", f"{hub.name}/team/hello:latest")
    # The layer that all of them have is there once in each repository, and was had once for all.
    assert len(hub.blobs()) == len({path for path, _range in hub.blobs()})
    make(two, f"{hub.name}/team/base:1.0", f"{hub.name}/team/hello")
    assert tree(one) == tree(two)
    assert contents.problems(one) == []
    assert not (one / "images/.parts").exists()
    found = contents.images(one)
    assert [(image.reference, image.name, image.architecture) for image in found] == [
        (f"{hub.name}/team/{name}", f"{hub.name}/team/{full}", architecture)
        for name, full in (("base:1.0", "base:1.0"), ("hello", "hello:latest"))
        for architecture in ("amd64", "arm64")
    ]
    assert found[2].digest == index
    assert found[2].path == one / f"images/127.0.0.1={hub.port}+team+hello=latest_amd64.tar"
    for image in found:
        spool = layer_spool.Spool(tmp_path / f"spool-{image.path.name}")
        spool.directory.mkdir()
        loaded, names = layer_spool.read_archive(iter([image.path.read_bytes()]), spool, "none", None)
        assert [one.platform[:2] for one in loaded] == [("linux", image.architecture)]
        assert names == [image.name]
        # What the registry has, so that hosts with containerd's images show its digest.
        assert (
            f"team/{image.name.rpartition('/')[2].partition(':')[0]}/manifests/{loaded[0].shown_as(True)}" in hub.files
        )
        with tarfile.open(image.path) as tar:
            members = tar.getmembers()
            listed = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type]
            layers = [gzip.decompress(tar.extractfile(path).read()) for path in listed[0]["Layers"]]  # type: ignore[union-attr]
        assert {(one.mtime, one.uid, one.gid, one.uname, one.mode) for one in members} == {(0, 0, 0, "", 0o644)}
        assert listed[0]["RepoTags"] == [image.name]
        assert [digest(layer) for layer in layers] == [layer.diff_id for layer in loaded[0].layers]


def test_a_second_run_downloads_nothing_and_says_which_tags_moved(hub: Registry, tmp_path: Path) -> None:
    bundle, name = tmp_path / "bundle", f"{hub.name}/hello"
    first = hub.push("hello", "latest", "one")
    assert make(bundle, name) == []
    before = tree(bundle)
    hub.asked.clear()
    assert make(bundle, name) == []
    assert {(method, path) for method, path, _range in hub.asked} == {
        ("HEAD", "/v2/hello/manifests/latest"),
        ("GET", "/token"),
    }
    assert tree(bundle) == before
    second = hub.push("hello", "latest", "two")
    # Without the option the bundle stays as it is, and nobody is asked.
    hub.asked.clear()
    assert make(bundle, keep=True) == []
    assert (tree(bundle), hub.asked) == (before, [])
    assert make(bundle, name) == [f"{name}: {first} -> {second}"]
    assert {image.digest for image in contents.images(bundle)} == {second}
    assert contents.problems(bundle) == []
    # The digest of a person's choice stays, whatever the tag says. Only the tag is a name for docker.
    make(bundle, f"{name}:latest@{first}", f"{name}@{second}", lock=AMD64)
    assert [(image.name, image.digest) for image in contents.images(bundle)] == [
        (f"{name}:latest", first), (f"{name}@{second}", second)
    ]  # fmt: skip
    tags = []
    for image in contents.images(bundle):
        with tarfile.open(image.path) as tar:
            tags.append(json.load(tar.extractfile("manifest.json"))[0]["RepoTags"])  # type: ignore[arg-type]
    assert tags == [[f"{name}:latest"], None]
    make(bundle)
    assert (contents.images(bundle), (bundle / "images").exists()) == ([], False)
    assert contents.problems(bundle) == []


def test_archives_that_are_not_as_they_were_made_are_named_and_made_again(hub: Registry, tmp_path: Path) -> None:
    hub.push("hello", "latest", "one")
    hub.push("base", "latest", "one")
    bundle = tmp_path / "bundle"
    make(bundle, f"{hub.name}/hello", f"{hub.name}/base")
    before = tree(bundle)
    base, _arm, hello, missing = (image.path for image in contents.images(bundle))
    size = base.stat().st_size
    base.write_bytes(base.read_bytes()[:-1])
    hello.write_bytes(hello.read_bytes()[:-1] + b"x")
    missing.unlink()
    (bundle / "images/more.tar").write_text("x")
    # A part of a run that was interrupted.
    (bundle / "images/.parts").mkdir()
    (bundle / "images/.parts" / ("0" * 64)).write_text("x")
    shown = {path: path.relative_to(bundle) for path in (base, hello, missing)}
    assert sorted(contents.problems(bundle)) == sorted([
        f"missing: {shown[missing]}", f"foreign: images/.parts/{'0' * 64}", f"altered: {shown[hello]}",
        f"truncated: {shown[base]}: {size - 1} of {size} bytes", "foreign: images/more.tar",
    ])  # fmt: skip
    # Even without the option, from the digests that it had.
    hub.push("hello", "latest", "two")
    make(bundle, keep=True)
    assert tree(bundle) == before
    # A list that nothing backs is not accepted either.
    text = (bundle / contents.NAME).read_text()
    (bundle / contents.NAME).write_text(text.replace(f'"path": "{shown[base]}"', '"path": "images/other.tar"'))
    assert "missing: images/other.tar" in contents.problems(bundle)


def test_what_the_registry_should_not_send_is_refused(hub: Registry, tmp_path: Path) -> None:
    bundle, name = tmp_path / "bundle", f"{hub.name}/hello"
    index = hub.push("hello", "latest", "one")

    def refused(reference: str, why: str, error: type[ValueError] = registry.RegistryError) -> None:
        with pytest.raises(error) as raised:
            make(bundle, reference)
        assert why in str(raised.value)
        assert "\n" not in str(raised.value)
        assert contents.problems(bundle) == ["the bundle is not complete: run gpuprov bundle again, it continues"]

    refused(f"{name}:none", f"{name}:none from {hub.name}: it has no such image")
    refused("Hello", "'Hello' is not an image name", image_name.ImageNameError)
    refused(f"{name}@sha512:{'0' * 128}", "only digests with SHA-256 are supported")
    refused("127.0.0.1:9/hello", "127.0.0.1:9/hello:latest from 127.0.0.1:9: Connection refused")
    hub.push("amd", "latest", "one", ("amd64",))
    refused(f"{hub.name}/amd", f"{hub.name}/amd is not there for linux/arm64, only for linux/amd64, windows/amd64")
    good = dict(hub.files)
    (alone,) = [path for path, (_kind, data) in good.items() if path.startswith("amd/m") and b'"config"' in data]
    hub.files["amd/manifests/alone"] = good[alone]
    refused(f"{hub.name}/amd:alone", f"{hub.name}/amd:alone is not there for linux/arm64, only for linux/amd64")
    for text in ('{"schemaVersion": 1, "fsLayers": []}', "[]", "<html>", '{"manifests": 1}'):
        hub.put("odd/manifests", "x", text.encode())
        hub.files["odd/manifests/latest"] = ("x", text.encode())
        refused(f"{hub.name}/odd", "is not an image, or of a kind that is not supported")
    evil = json.loads(good[alone][1])
    evil["layers"][0]["digest"] = "sha256:../../../../x"
    hub.put("odd/manifests", "x", json.dumps(evil).encode())
    hub.files["odd/manifests/latest"] = ("x", json.dumps(evil).encode())
    hub.files[f"odd/blobs/{evil['config']['digest']}"] = good[f"amd/blobs/{evil['config']['digest']}"]
    with pytest.raises(registry.RegistryError, match="only digests with SHA-256"):
        make(bundle, f"{hub.name}/odd", lock=AMD64)
    # Other bytes under a digest: of the index, a manifest, a configuration, a layer.
    hub.files[f"hello/manifests/{index}"] = ("x", b"{}")
    refused(name, f"sends other content than {index}")
    for path, (kind, data) in good.items():
        hub.files = dict(good)
        if path.startswith("hello/blobs/"):
            shutil.rmtree(bundle)
            hub.files[path] = (kind, data[:-1] + b"x")
            error = download.DownloadError if data[:2] == b"\x1f\x8b" else registry.RegistryError
            refused(name, " other content than ", error)
    hub.files = good
    make(bundle, name)
    assert contents.problems(bundle) == []


def test_a_download_that_breaks_is_continued_with_a_new_token(hub: Registry, tmp_path: Path) -> None:
    hub.push("hello", "latest", "one", ("amd64",))
    hub.cut = 30_000

    class Rotating(dict[str, tuple[str, bytes]]):
        """Files of a registry whose token is no longer valid when the first large one was asked for."""

        def __getitem__(self, path: str) -> tuple[str, bytes]:
            kind, data = super().__getitem__(path)
            if len(data) > hub.cut:
                hub.token = "second"
            return kind, data

    hub.files = Rotating(hub.files)
    make(tmp_path / "bundle", f"{hub.name}/hello", lock=AMD64)
    assert [asked for _path, asked in hub.blobs() if asked] == ["bytes=30000-"]
    assert hub.token == "second"
    assert contents.problems(tmp_path / "bundle") == []


def test_a_disk_that_is_full_when_archives_are_written_costs_no_download(
    hub: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push("hello", "latest", "one")
    bundle, name = tmp_path / "bundle", f"{hub.name}/hello"
    make(tmp_path / "whole", name)
    packed: list[Any] = []

    def full(archive: Any) -> None:
        if packed:
            raise OSError(errno.ENOSPC, "No space left on device")
        packed.append(archive)
        images.pack(archive)

    monkeypatch.setattr(contents, "pack", full)
    with pytest.raises(OSError, match="No space left"):
        make(bundle, name)
    monkeypatch.setattr(contents, "pack", images.pack)
    hub.asked.clear()
    make(bundle, name)
    # Configurations are read anew.
    assert [path for path, _range in hub.blobs() if len(hub.files[path.removeprefix("/cdn/")][1]) > 10_000] == []
    assert tree(bundle) == tree(tmp_path / "whole")


def test_a_redirect_on_the_same_server_keeps_the_token(hub: Registry, tmp_path: Path) -> None:
    index = hub.push("hello", "latest", "one")
    make(tmp_path / "bundle", f"{hub.name}/renamed")
    assert {image.digest for image in contents.images(tmp_path / "bundle")} == {index}


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("hello-world", "https://registry-1.docker.io/v2/library/hello-world/manifests/latest"),
        ("ghcr.io/a/b:1", "https://ghcr.io/v2/a/b/manifests/1"),
        ("localhost:5000/a", "http://localhost:5000/v2/a/manifests/latest"),
        ("127.9.9.9:5000/a", "http://127.9.9.9:5000/v2/a/manifests/latest"),
        ("[::1]:5000/a", "http://[::1]:5000/v2/a/manifests/latest"),
        ("10.0.0.1:5000/a", "https://10.0.0.1:5000/v2/a/manifests/latest"),
    ],
)
def test_only_a_registry_on_this_machine_is_asked_without_tls(reference: str, url: str) -> None:
    name = image_name.parse_tagged(reference)
    assert registry.Repository(name).url("manifests", name.tag) == url


def test_the_account_of_docker_login_goes_to_its_registry_alone(hub: Registry, tmp_path: Path) -> None:
    hub.push("hello", "latest", "one")
    login = base64.b64encode(b"me:secret").decode()
    file = tmp_path / "docker" / "config.json"
    file.parent.mkdir()
    auths = {
        f"http://{hub.name}/v1/": {"auth": login},
        "https://index.docker.io/v1/": {"auth": "bm9ib2R5Og=="},
        "x": {},
    }
    file.write_text(json.dumps({"auths": auths}))
    make(tmp_path / "one", f"{hub.name}/hello")
    assert hub.accounts == [f"Basic {login}"]
    assert registry.account_of("docker.io") == "Basic bm9ib2R5Og=="
    assert registry.account_of("quay.io") == ""
    for text in ("", "[]", '{"auths": {"a": 1}}', json.dumps({"auths": {"quay.io": {"auth": "a\nb"}}})):
        file.write_text(text)
        assert registry.account_of("quay.io") == ""
    # A registry that wants an account without tokens, and one that sends logins elsewhere.
    hub.challenge = 'Basic realm="here"'
    with pytest.raises(registry.RegistryError, match=f"is only for an account: docker login {hub.name}"):
        make(tmp_path / "two", f"{hub.name}/hello")
    for realm in ("file:///etc/passwd", ""):
        hub.challenge = f'Bearer realm="{realm}"'
        with pytest.raises(registry.RegistryError, match=f"sends logins to '{realm}', which is not encrypted"):
            make(tmp_path / "two", f"{hub.name}/hello")


def test_the_command_takes_images(hub: Registry, tmp_path: Path) -> None:
    first = hub.push("hello", "latest", "one")
    (tmp_path / lock_file.NAME).write_text(lock_file.dump(LOCK))

    def gpuprov(*words: str) -> tuple[int, str, list[str]]:
        command = [sys.executable, "-m", "gpuprov", "bundle", "--lock", lock_file.NAME, "-o", "b", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr, sorted(path.name[-9:] for path in (tmp_path / "b/images").glob("*"))

    both = ["amd64.tar", "arm64.tar"]
    name = f"{hub.name}/hello"
    assert gpuprov("--image", name) == (0, "", both)
    second = hub.push("hello", "latest", "two")
    assert gpuprov() == (0, "", both)
    assert gpuprov("--image", name) == (0, f"{name}: {first} -> {second}\n", both)
    assert gpuprov("--image", "UPPER") == (
        1, "gpuprov: 'UPPER' is not an image name: 'UPPER' must be in lower case\n", both
    )  # fmt: skip
    assert gpuprov("--image", "") == (0, "", [])


def interruptible() -> None:
    """Undo that a shell without job control starts what is in the background with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_command_that_is_ended_keeps_what_it_received(
    number: int, status: int, hub: Registry, tmp_path: Path
) -> None:
    hub.push("hello", "latest", "one")
    make(tmp_path / "whole", f"{hub.name}/hello")
    (tmp_path / lock_file.NAME).write_text(lock_file.dump(LOCK))
    words = [
        sys.executable,
        "-m",
        "gpuprov",
        "bundle",
        "--lock",
        lock_file.NAME,
        "-o",
        "b",
        "--image",
        f"{hub.name}/hello",
    ]
    hub.cut, hub.hang = 30_000, threading.Event()
    hub.asked.clear()
    parts = tmp_path / "b/images/.parts"
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, preexec_fn=interruptible) as process:
        waiting.until(
            lambda: [path for path in parts.glob("*.part") if path.stat().st_size == 30_000], "a part is there"
        )
        hub.down = True  # so that the command cannot be done before it is ended
        process.send_signal(number)
        hub.hang.set()
        said = process.communicate()[1]
    hub.down = False
    hub.asked.clear()
    assert process.returncode == status
    assert b"Traceback" not in said
    subprocess.run(words, cwd=tmp_path, check=True)
    assert [asked for _path, asked in hub.blobs() if asked] == ["bytes=30000-"]
    assert tree(tmp_path / "b") == tree(tmp_path / "whole")
