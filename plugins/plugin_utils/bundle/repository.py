# SPDX-License-Identifier: MIT
"""Read the indexes of apt repositories, and make a signed one. Imports nothing of the collection but its neighbours."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from .. import deb

_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    "": bytes,
}
# Before any lock: gpg signs nothing with a key that is younger than the signature.
_BORN = "20200101T000000!"


class RepositoryError(ValueError):
    """A repository cannot be read or made; the message is one line for people."""


# ---- Reading -------------------------------------------------------------------------------------


def directory_of(suite: str) -> str:
    """Return where the indexes of a suite are, below the URI."""
    return suite.strip("./") if suite.endswith("/") else f"dists/{suite}"


def files_of(release: str) -> dict[str, tuple[str, int]]:
    """Return {path below InRelease: (SHA-256, size)} of an InRelease."""
    section = re.search(r"(?m)^SHA256:[ \t]*\n((?:[ \t]+.*\n)+)", release)
    rows = re.findall(r"(?m)^\s*([0-9a-f]{64})\s+(\d+)\s+(\S+)\s*$", section[1] if section else "")
    return {path: (sha256, int(size)) for sha256, size, path in rows}


def by_hash(release: str) -> bool:
    """Return whether the files of an InRelease can be had by their hashes."""
    return bool(re.search(r"(?mi)^Acquire-By-Hash: *yes", release))


def index_of(files: Mapping[str, tuple[str, int]], component: str, architecture: str) -> str:
    """Return the path of an index of packages, the smallest that can be read; component is "" where it is flat.

    Raises RepositoryError.
    """
    name = f"{component}/binary-{architecture}/Packages" if component else "Packages"
    found = [name + ending for ending in _UNPACK if name + ending in files]
    if not found:
        raise RepositoryError(f"it has no index {name}")
    return min(found, key=lambda path: files[path][1])


def hashes_of(path: Path) -> dict[str, str]:
    """Return {file below the URI: SHA-256} of an index of packages. Raises RepositoryError."""
    try:
        text = _UNPACK[path.suffix if path.suffix in _UNPACK else ""](path.read_bytes()).decode("utf-8", "replace")
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise RepositoryError(f"{path} cannot be read: {error}") from None
    found = {}
    for stanza in text.split("\n\n"):
        fields = dict(re.findall(r"(?m)^(Filename|SHA256): *(\S+)", stanza))
        if len(fields) == 2:
            found[fields["Filename"].removeprefix("./")] = fields["SHA256"]
    return found


# ---- Making --------------------------------------------------------------------------------------


def make(directory: Path, codename: str, architecture: str, date: str, key: Path) -> None:
    """Write Packages and InRelease for the packages in directory/pool, and the public key.

    date: of the Release and its signature, such as 2026-11-27T10:11:12Z; key: a file of signing_key. Equal packages and
    dates give equal bytes. Raises RepositoryError, and what deb.read raises.
    """
    stanzas = []
    for path in sorted((directory / "pool").glob("*.deb")):
        found = [("Filename", f"pool/{path.name}"), ("Size", path.stat().st_size), ("SHA256", deb.sha256(path))]
        stanzas.append("\n".join([deb.read(path).text, *(f"{name}: {value}" for name, value in found)]) + "\n")
    packages = "\n".join(stanzas).encode()
    written = _release_date(date)
    release = (
        f"Origin: gpuprov bundle\nLabel: gpuprov bundle\nSuite: {codename}\nCodename: {codename}\nDate: {written}\n"
        f"Architectures: {architecture}\nSHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    )
    replace(directory / "Packages", packages)
    stamp = re.sub(r"[-:Z]", "", date) + "!"
    with _gpg(key) as gpg:
        public = gpg("--export")
        replace(directory / "InRelease", gpg("--faked-system-time", stamp, "--clearsign", feed=release.encode()))
    replace(directory / "key.gpg", public)


def _release_date(date: str) -> str:
    """Return a date as a Release file has it."""
    return f"{datetime.strptime(date, '%Y-%m-%dT%H:%M:%SZ'):%a, %d %b %Y %H:%M:%S} UTC"


def signing_key() -> Path:
    """Return the file of the key that signs bundles: the person's own, made once. Raises RepositoryError."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    path = Path(home).expanduser() / "gpuprov" / "bundle-key.asc"
    if not path.is_file():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.parent.chmod(0o700)
        with _gpg(None) as gpg:
            # What apt's sqv accepts on Debian 13 and later: no RSA below 2048 bits, no SHA-1.
            words = ("--quick-generate-key", "gpuprov bundle", "rsa4096", "sign", "never")
            gpg("--faked-system-time", _BORN, "--passphrase", "", *words)
            secret = gpg("--passphrase", "", "--armor", "--export-secret-keys")
        replace(path, secret, 0o600)
    return path


def replace(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file in one step. Raises OSError."""
    temporary = path.with_name(path.name + ".new")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
    temporary.replace(path)


class _Gpg:
    def __init__(self, home: str) -> None:
        # Digests of signatures and of the key's signature of itself.
        strong = ["--digest-algo", "SHA512", "--cert-digest-algo", "SHA512"]
        self._words = [
            "gpg",
            "--homedir",
            home,
            "--batch",
            "--no-tty",
            "--quiet",
            "--pinentry-mode",
            "loopback",
            *strong,
        ]
        self._words += ["--no-emit-version", "--no-comments"]

    def __call__(self, *words: str, feed: bytes = b"") -> bytes:
        done = subprocess.run([*self._words, *words], input=feed, capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise RepositoryError(f"gpg failed: {said[-1] if said else done.returncode}")
        return done.stdout


@contextmanager
def _gpg(key: Path | None) -> Iterator[_Gpg]:
    """Start gpg with a key, in a directory with a name that is short enough for a socket. Raises RepositoryError."""
    if shutil.which("gpg") is None:
        raise RepositoryError("gpg is not on this machine: install gnupg")
    with tempfile.TemporaryDirectory(prefix="gpuprov-", dir="/tmp", ignore_cleanup_errors=True) as home:
        gpg = _Gpg(home)
        try:
            if key:
                gpg("--import", str(key))
            yield gpg
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], capture_output=True, check=False)
