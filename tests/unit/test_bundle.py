"""A bundle is made from a lock alone, continued after an interruption, and checked."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.bundle import (
    contents,
    download,
    errors,
    images,
    repository,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import lock_file

KEY = ("noble", "amd64")


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves files with ranges, and remembers what was asked for."""

    asked: ClassVar[list[tuple[str, str]]] = []
    # Bytes after which an answer ends, for paths with this text in them.
    cut: ClassVar[dict[str, int]] = {}
    slow = 0.0

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        begin = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.asked.append((self.path, self.headers.get("Range", "")))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        length = next((size for name, size in self.cut.items() if name in self.path), len(data))
        for start in range(0, min(length, len(data)), 4096):
            self.wfile.write(data[start : min(start + 4096, length)])
            time.sleep(self.slow)

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
def site(tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """The directory of a web server, and its URL."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    monkeypatch.setenv("no_proxy", "*")
    root = tmp_path / "site"
    root.mkdir()
    handler = type("Handler", (Server,), {"asked": [], "cut": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(contents, "_SNAPSHOTS", {"ubuntu": f"{url}/snapshot"})
        yield root, url
        server.shutdown()


def deb(path: Path, name: str, version: str) -> lock_file.Package:
    """Write a package."""
    tree = path.parent / f"tree-{name}"
    (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
    (tree / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: M <m@example.com>\nDescription: none\n"
    )
    (tree / "content").write_bytes(hashlib.shake_256(f"{name} {version}".encode()).digest(100_000))
    subprocess.run(["dpkg-deb", "-Znone", "-b", str(tree), str(path)], check=True, capture_output=True)
    shutil.rmtree(tree)
    data = path.read_bytes()
    return lock_file.Package(name, "amd64", version, hashlib.sha256(data).hexdigest(), len(data), path.name, "")


def publish(root: Path, url: str, *, by_hash: bool = False) -> lock_file.Lock:
    """Write a vendor's repository and the distribution's; return their lock."""
    pool = root / "docker/ubuntu/dists/noble/pool"
    index = root / "docker/ubuntu/dists/noble/stable/binary-amd64"
    for directory in (pool, index, root / "ubuntu/pool"):
        directory.mkdir(parents=True, exist_ok=True)
    engine = deb(pool / "docker-ce_29.7.2-1_amd64.deb", "docker-ce", "5:29.7.2-1")
    # Two rebuilds, the older one locked, and a file name without the epoch of its version.
    deb(pool / "docker-ce_29.7.2-2_amd64.deb", "docker-ce", "5:29.7.2-2")
    library = deb(root / "ubuntu/pool/libx_2%3a1.0-1_amd64.deb", "libx", "2:1.0-1")
    engine = replace(engine, file=f"dists/noble/pool/{engine.file}", source="docker_ce", role="docker_ce")
    library = replace(library, file=f"pool/{library.file}", source="noble")
    packages = f"Package: docker-ce\nFilename: {engine.file}\nSHA256: {engine.sha256}\n\n".encode()
    (index / "Packages").write_bytes(packages)
    digest = hashlib.sha256(packages).hexdigest()
    if by_hash:
        (index / "by-hash/SHA256").mkdir(parents=True)
        (index / "Packages").rename(index / "by-hash/SHA256" / digest)
    release = (
        f"Suite: noble\nAcquire-By-Hash: {'yes' if by_hash else 'no'}\nValid-Until: Thu, 1 Jan 2026 00:00:00 UTC\n"
        f"SHA256:\n {digest} {len(packages)} stable/binary-amd64/Packages\n"
    )
    (root / "docker/ubuntu/dists/noble/InRelease").write_text(release)
    with repository._gpg(repository.signing_key()) as gpg:
        (root / "docker/gpg").write_bytes(gpg("--armor", "--export"))
        listed = gpg("--with-colons", "--list-keys").decode()
    fingerprint = re.findall(r"fpr:+([0-9A-F]{40}):", listed)[0]
    docker = lock_file.Source(
        f"{url}/docker/ubuntu", "noble", ("stable",), fingerprint, "2026-11-27T10:11:12Z",
        hashlib.sha256(release.encode()).hexdigest(),
    )  # fmt: skip
    ubuntu = replace(docker, uri=f"{url}/ubuntu", date="2026-11-26T00:00:00Z", snapshot="20261126T000000Z")
    sources = {"docker_ce": docker, "noble": ubuntu}
    return lock_file.Lock({KEY: lock_file.System({"docker-ce": engine.version}, sources, (engine, library))})


def make(lock: lock_file.Lock, directory: Path) -> int:
    """Return how many bytes the packages have, by the progress."""
    told = [0, 0]

    def advance(count: int) -> None:
        told[0] += count

    def total(count: int) -> None:
        told[1] += count

    contents.make(lock, directory, advance, total)
    assert told[0] == told[1]
    return told[1]


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("by_hash", [False, True], ids=["by name", "by hash"])
def test_two_bundles_of_a_lock_are_equal_and_whole(site: tuple[Path, str], tmp_path: Path, by_hash: bool) -> None:
    lock = publish(*site, by_hash=by_hash)
    one, two = tmp_path / "one", tmp_path / "two"
    size = make(lock, one)
    assert size == sum(package.size for package in lock.systems[KEY].packages)
    time.sleep(1.1)  # seconds are what signatures count
    make(lock, two)
    assert tree(one) == tree(two)
    assert contents.problems(one) == []
    # The vendor's own indexes, and one of two rebuilds; the distribution's name has the epoch.
    assert sorted(tree(one)) == [
        "bundle.yml", "gpuprov.lock.yml",
        "sources/distribution/noble/amd64/InRelease", "sources/distribution/noble/amd64/Packages",
        "sources/distribution/noble/amd64/key.gpg",
        "sources/distribution/noble/amd64/pool/libx_2_1.0-1_amd64.deb",
        "sources/docker_ce/noble/amd64/dists/noble/InRelease",
        "sources/docker_ce/noble/amd64/dists/noble/pool/docker-ce_29.7.2-1_amd64.deb",
        "sources/docker_ce/noble/amd64/dists/noble/stable/binary-amd64/Packages",
        "sources/docker_ce/noble/amd64/key.gpg",
    ]  # fmt: skip
    # Another lock: what it does not name goes, what it names stays.
    small = lock_file.Lock({KEY: replace(lock.systems[KEY], packages=lock.systems[KEY].packages[:1])})
    make(small, one)
    assert not list(one.rglob("libx*"))
    assert not (one / "sources/distribution/noble/amd64/pool").exists()
    assert contents.problems(one) == []


def test_a_file_that_is_not_as_it_was_made_is_named(site: tuple[Path, str], tmp_path: Path) -> None:
    lock, bundle = publish(*site), tmp_path / "bundle"
    make(lock, bundle)
    (engine,), (library,) = bundle.rglob("docker-ce*.deb"), bundle.rglob("libx*.deb")
    release = next(bundle.rglob("docker_ce/**/InRelease"))
    engine.write_bytes(engine.read_bytes()[:-10])
    library.unlink()
    release.write_bytes(release.read_bytes().replace(b"noble", b"Noble"))
    (bundle / "sources/more.deb").write_text("x")
    size = lock.systems[KEY].packages[0].size
    assert contents.problems(bundle) == [
        f"missing: {library.relative_to(bundle)}",
        f"altered: {release.relative_to(bundle)}",
        f"truncated: {engine.relative_to(bundle)}: {size - 10} of {size} bytes",
        "foreign: sources/more.deb",
    ]
    # The next run repairs all of it.
    make(lock, bundle)
    assert contents.problems(bundle) == []


def test_a_repository_that_serves_something_else_is_refused(site: tuple[Path, str], tmp_path: Path) -> None:
    root, url = site
    lock, bundle = publish(root, url), tmp_path / "bundle"
    library = root / "ubuntu/pool/libx_2%3a1.0-1_amd64.deb"
    whole = library.read_bytes()
    for content in (whole[:-1] + b"x", whole + b"x"):
        library.write_bytes(content)
        with pytest.raises(download.DownloadError, match=r"libx_2%253a1.0-1_amd64.deb has other content"):
            make(lock, bundle)
        assert contents.problems(bundle) == ["the bundle is not complete: run gpuprov bundle again, it continues"]
    library.unlink()
    with pytest.raises(download.DownloadError, match=r"libx_2%253a1.0-1_amd64.deb: file not found"):
        make(lock, bundle)
    # What the distribution replaced is still in its archive.
    old = root / "snapshot/20261126T000000Z/pool" / library.name
    old.parent.mkdir(parents=True)
    old.write_bytes(whole)
    make(lock, bundle)
    assert contents.problems(bundle) == []
    engine = lock.systems[KEY].packages[0]
    other = replace(engine, sha256="0" * 64)
    with pytest.raises(errors.BundleError, match=r"has not the docker-ce 5:29.7.2-1 of the lock, by its SHA-256"):
        make(lock_file.Lock({KEY: replace(lock.systems[KEY], packages=(other,))}), bundle)
    shutil.rmtree(bundle)
    (root / "docker/ubuntu/dists/noble/InRelease").write_text("SHA256:\n")
    with pytest.raises(errors.BundleError, match="noble has changed since the lock was written: run gpuprov lock"):
        make(lock, bundle)


def test_a_key_with_another_fingerprint_is_not_taken(site: tuple[Path, str], tmp_path: Path) -> None:
    lock = publish(*site)
    system = lock.systems[KEY]
    sources = {**system.sources, "docker_ce": replace(system.sources["docker_ce"], key="A" * 40)}
    with pytest.raises(errors.BundleError, match=f"the key {'A' * 40} is at no usual place"):
        make(lock_file.Lock({KEY: replace(system, sources=sources)}), tmp_path / "bundle")


def test_a_connection_that_breaks_is_continued_where_it_broke(site: tuple[Path, str], tmp_path: Path) -> None:
    root, url = site
    package = deb(root / "a.deb", "a", "1")
    data = (root / "a.deb").read_bytes()
    handler = Server
    handler.asked.clear()
    handler.cut = {"a.deb": 70_000}
    try:
        own = functools.partial(handler, directory=str(root))
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), own) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            place = f"http://me:secret@127.0.0.1:{server.server_port}/a.deb"
            told: list[int] = []
            wanted = download.Wanted(tmp_path / "got/a.deb", (f"{url}/missing", place), package.sha256, package.size)
            download.fetch([wanted], told.append)
            server.shutdown()
    finally:
        handler.cut = {}
    assert (tmp_path / "got/a.deb").read_bytes() == data
    assert sum(told) == len(data)
    assert [byte for _path, byte in handler.asked] == ["", "bytes=70000-"]
    assert download.shown(place) == place.replace("me:secret@", "")


PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from gpuprov.shared import plugin
download = plugin("plugin_utils/bundle/download")
wanted = download.Wanted(__import__("pathlib").Path(sys.argv[1]), (sys.argv[2],), sys.argv[3], int(sys.argv[4]))
download.fetch([wanted], lambda count: None)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_an_interrupted_run_received_is_kept(number: int, site: tuple[Path, str], tmp_path: Path) -> None:
    root, _url = site
    package = deb(root / "a.deb", "a", "1")

    class Slow(Server):
        asked: ClassVar[list[tuple[str, str]]] = []
        slow = 0.05

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Slow, directory=str(root))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        target = tmp_path / "got" / "a.deb"
        url = f"http://127.0.0.1:{server.server_port}/a.deb"
        words = [sys.executable, "-c", PROGRAM, str(target), url, package.sha256, str(package.size)]
        with subprocess.Popen(words, stderr=subprocess.DEVNULL) as process:
            part = target.with_name("a.deb.part")
            while process.poll() is None and not (part.is_file() and part.stat().st_size):
                time.sleep(0.01)
            process.send_signal(number)
        assert process.returncode != 0
        kept = part.stat().st_size
        assert 0 < kept < package.size
        Slow.slow = 0
        subprocess.run(words, check=True)
        server.shutdown()
    assert target.stat().st_size == package.size
    assert Slow.asked[-1] == ("/a.deb", f"bytes={kept}-")


def test_a_full_disk_loses_nothing(site: tuple[Path, str], tmp_path: Path) -> None:
    root, url = site
    package = deb(root / "a.deb", "a", "1")
    target = tmp_path / "got" / "a.deb"
    words = [sys.executable, "-c", PROGRAM, str(target), f"{url}/a.deb", package.sha256, str(package.size)]
    # A limit of files' sizes, in blocks of 512 or 1024 bytes, ends writing as a full disk does.
    full = subprocess.run(
        ["sh", "-c", 'ulimit -f 20; exec "$@"', "sh", *words], capture_output=True, text=True, check=False
    )
    assert f"{target}.part cannot be written: File too large. The next run continues here" in full.stderr
    assert 0 < target.with_name("a.deb.part").stat().st_size < package.size
    subprocess.run(words, check=True)
    assert target.stat().st_size == package.size


def test_the_command_takes_the_lock_beside_the_inventory(site: tuple[Path, str], tmp_path: Path) -> None:
    def gpuprov(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "gpuprov", "bundle", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    (tmp_path / "hosts.ini").write_text("h\n")
    assert gpuprov("hosts.ini", "-o", "b") == (
        1,
        "gpuprov: the lock gpuprov.lock.yml does not exist: gpuprov lock writes it\n",
    )
    (tmp_path / lock_file.NAME).write_text(lock_file.dump(publish(*site)))
    status, said = gpuprov("hosts.ini", "-o", "b")
    # A pipe gets no progress bar.
    assert (status, re.sub(r"[0-9.]+", "N", said)) == (0, "b: N MiB in N s\n")
    assert gpuprov("--verify", "-o", "b") == (0, "b: every file is as it was made\n")
    assert gpuprov("--lock", lock_file.NAME, "--os", "noble", "-o", "c")[0] == 0
    # The lock of an inventory that is a directory is beside the directory, as gpuprov lock writes it.
    (tmp_path / "inventory").mkdir()
    (tmp_path / "inventory" / "hosts").write_text("h\n")
    assert gpuprov("inventory", "-o", "d")[0] == 0
    assert tree(tmp_path / "b") == tree(tmp_path / "c") == tree(tmp_path / "d")
    (tmp_path / "b" / "sources" / "x").write_text("x")
    assert gpuprov("--verify", "-o", "b") == (2, "foreign: sources/x\n")
    assert gpuprov("--lock", lock_file.NAME, "--os", "xenial", "-o", "c")[0] == 1
    assert gpuprov("-o", "c") == (1, "gpuprov: bundle takes the INVENTORY that the lock is beside, or --lock FILE\n")


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(errors.BundleError, match="is neither empty nor a bundle"):
        make(lock_file.Lock({}), tmp_path)
    with pytest.raises(errors.BundleError, match="is not a bundle"):
        contents.problems(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_only_the_named_releases_of_a_lock_are_bundled(site: tuple[Path, str]) -> None:
    lock = publish(*site)
    both = lock_file.Lock({**lock.systems, ("trixie", "amd64"): lock.systems[KEY]})
    assert list(contents.chosen(both, ["trixie"]).systems) == [("trixie", "amd64")]
    assert contents.chosen(both, []).systems == both.systems
    with pytest.raises(errors.BundleError, match="the lock has no xenial, only noble, trixie"):
        contents.chosen(both, ["xenial"])


def test_the_key_is_a_persons_own_and_strong(config: Path) -> None:
    key = config / "gpuprov" / "bundle-key.asc"
    assert (key.stat().st_mode & 0o777, key.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    packets = subprocess.run(["gpg", "--list-packets", key], check=True, capture_output=True, text=True).stdout
    # 10 is SHA-512, 2 would be SHA-1.
    assert set(re.findall(r"digest algo (\d+)", packets)) == {"10"}
    assert "[4096 bits]" in packets


def test_apt_trusts_a_bundle_by_its_key_alone(site: tuple[Path, str], tmp_path: Path) -> None:
    lock, bundle = publish(*site), tmp_path / "bundle"
    make(lock, bundle)
    place = bundle / "sources/distribution/noble/amd64"
    for name in ("lists/partial", "cache/archives/partial", "etc"):
        (tmp_path / "apt" / name).mkdir(parents=True)
    (tmp_path / "apt/status").touch()

    def apt(*words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "apt/sources.list").write_text(f"deb [signed-by={place}/key.gpg] file:{place} ./\n")
        options = {
            "Dir::State": tmp_path / "apt", "Dir::State::status": tmp_path / "apt/status",
            "Dir::Etc": tmp_path / "apt/etc",
            "Dir::State::lists": tmp_path / "apt/lists", "Dir::Cache": tmp_path / "apt/cache",
            "Dir::Etc::sourcelist": tmp_path / "apt/sources.list", "APT::Architecture": "amd64",
            "APT::Sandbox::User": "root", "Debug::NoLocking": "true",
        }  # fmt: skip
        flags = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return subprocess.run(["apt-get", "-q", *flags, *words], capture_output=True, text=True, check=False)

    assert apt("update").returncode == 0, apt("update").stderr
    said = apt("install", "--print-uris", "-y", "libx")
    assert "libx_2_1.0-1_amd64.deb" in said.stdout, said.stdout + said.stderr
    release = place / "InRelease"
    release.write_text(release.read_text().replace("gpuprov bundle", "another bundle", 1))
    broken = apt("update")
    assert "invalid" in broken.stderr or "not signed" in broken.stderr, broken.stderr
    assert os.access(place, os.R_OK)


def test_the_images_of_a_bundle_are_read_from_its_list(tmp_path: Path) -> None:
    bundle, digest = tmp_path / "bundle", f"sha256:{'a' * 64}"
    bundle.mkdir()
    path = "images/hello-world=latest_amd64.tar"
    (bundle / contents.NAME).write_text(
        "version: 1\nfiles: {}\nimages:\n"
        f'  - {{"architecture": "amd64", "digest": "{digest}", "name": "docker.io/library/hello-world:latest",'
        f' "path": "{path}", "reference": "hello-world"}}\n'
    )
    assert contents.images(bundle) == [
        images.Image("hello-world", "docker.io/library/hello-world:latest", "amd64", digest, bundle / path)
    ]
    (bundle / contents.NAME).write_text("version: 1\nfiles: {}\n")  # of an earlier gpuprov
    assert contents.images(bundle) == []
