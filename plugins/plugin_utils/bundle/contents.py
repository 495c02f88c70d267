# SPDX-License-Identifier: MIT
"""Make and check a bundle: everything that a lock names, for hosts without a network.

Below the bundle: gpuprov.lock.yml, bundle.yml with the hash of every file, sources/ROLE/CODENAME/ARCHITECTURE/ with a
vendor's own indexes and signature beside the locked packages, sources/distribution/CODENAME/ARCHITECTURE/, a repository
of our own for the rest, and images/ with an archive for each image and architecture. Imports nothing of the collection
but its neighbours.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import urllib.parse
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ...module_utils.apt import openpgp
from .. import deb
from ..lock import lock_file
from . import download, repository
from .errors import BundleError
from .images import DIRECTORY, PARTS, Archive, Image, archives, pack

FORMAT = 1
NAME = "bundle.yml"
VENDORS = ("docker_ce", "nvidia_docker")
# Where packages stay that a repository no longer has, by the last part of the repository's URL.
_SNAPSHOTS = {
    "debian": "https://snapshot.debian.org/archive/debian",
    "debian-security": "https://snapshot.debian.org/archive/debian-security",
    "ubuntu": "https://snapshot.ubuntu.com/ubuntu",
}


# ---- Making --------------------------------------------------------------------------------------


def chosen(lock: lock_file.Lock, codenames: Collection[str]) -> lock_file.Lock:
    """Return the part of a lock for some releases; none means all. Raises BundleError."""
    known = sorted({codename for codename, _architecture in lock.systems})
    for name in codenames:
        if name not in known:
            raise BundleError(f"the lock has no {name}, only {', '.join(known)}: gpuprov lock adds what hosts have")
    return lock_file.Lock({key: one for key, one in lock.systems.items() if not codenames or key[0] in codenames})


def make(
    lock: lock_file.Lock, directory: Path, advance: Callable[[int], None], total: Callable[[int], None],
    references: Collection[str] | None = None, say: Callable[[str], None] = lambda _line: None,
) -> int:  # fmt: skip
    """Make a bundle, or complete one, and return its size in bytes.

    total is told how many bytes there are to have, advance of those that are there. references: the images of the
    bundle; None keeps those that it has. say is told of images whose tags moved. Raises ValueError with a line for
    people, and OSError.
    """
    _begin(directory)
    described, packed = _images(lock, directory, references, say)
    wanted: list[download.Wanted] = []
    for (codename, architecture), system in sorted(lock.systems.items()):
        for name, source in sorted(system.sources.items()):
            packages = [package for package in system.packages if package.source == name]
            if name in VENDORS:
                place = directory / "sources" / name / codename / architecture
                _vendor(source, packages, place, architecture)
                wanted += [_wanted(source, package, place / package.file.removeprefix("./")) for package in packages]
            else:
                place = directory / "sources" / "distribution" / codename / architecture / "pool"
                wanted += [_wanted(source, package, place / file_name(package)) for package in packages]
    # A layer may be in several images.
    wanted += {blob.path: blob for archive in packed for blob in archive.blobs.values()}.values()
    total(sum(file.size for file in wanted))
    download.fetch(wanted, advance)
    for archive in packed:
        pack(archive)
    expected = _expected(lock, directory, described)
    # What an earlier lock or earlier images left. An interrupted run needs the layers until bundle.yml is written.
    parts = directory / DIRECTORY / PARTS
    for path in [*_files(directory / "sources"), *_files(directory / DIRECTORY)]:
        if path.relative_to(directory).as_posix() not in expected and path.parent != parts:
            path.unlink()
    key = repository.signing_key()
    for (codename, architecture), system in sorted(lock.systems.items()):
        place = directory / "sources" / "distribution" / codename / architecture
        place.mkdir(parents=True, exist_ok=True)
        date = max(source.date for source in system.sources.values())
        repository.make(place, codename, architecture, date, key)
    repository.replace(directory / lock_file.NAME, lock_file.dump(lock).encode())
    files = {path: directory / path for path in expected}
    sums = {path: {"sha256": deb.sha256(file), "size": file.stat().st_size} for path, file in files.items()}
    _write(directory, sums, described)
    shutil.rmtree(parts, ignore_errors=True)
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return sum(file.stat().st_size for file in files.values())


def _images(
    lock: lock_file.Lock, directory: Path, references: Collection[str] | None, say: Callable[[str], None]
) -> tuple[list[Image], list[Archive]]:
    """Return the images that a bundle gets, and the archives that it lacks."""
    try:
        files, before = read(directory)
    except BundleError:
        files, before = {}, []  # bundle.yml was damaged, and is made again
    earlier = {}
    for image in before:
        path = image.path.relative_to(directory).as_posix()
        right = path in files and image.path.is_file() and deb.sha256(image.path) == files[path][0]
        earlier[image] = right
    # Images that stay are those that they were, whatever their tags name by now.
    named = [(one.reference, one.digest) for one in before] if references is None else [(one, "") for one in references]
    architectures = {architecture for _codename, architecture in lock.systems}
    found = list(archives(named, architectures, directory / DIRECTORY, earlier, say))
    return [image for image, _archive in found], [archive for _image, archive in found if archive]


def file_name(package: lock_file.Package) -> str:
    """Return a name that no other package has: one with the epoch, and nothing in it that an old apt would decode."""
    return f"{package.name}_{package.version.replace(':', '_')}_{package.architecture}.deb"


def _begin(directory: Path) -> None:
    """Mark a directory as a bundle that is not complete yet. Raises BundleError where it is something else."""
    if directory.is_dir() and any(directory.iterdir()) and not (directory / NAME).is_file():
        raise BundleError(f"{directory} is neither empty nor a bundle: name another directory")
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / NAME).is_file():
        _write(directory, {}, [])


def _write(directory: Path, files: dict[str, Any], images: list[Image]) -> None:
    lines = ["# Written by gpuprov bundle.", f"version: {FORMAT}", "files:" if files else "files: {}"]
    lines += [f"  {json.dumps(path)}: {json.dumps(one, sort_keys=True)}" for path, one in sorted(files.items())]
    lines.append("images:" if images else "images: []")
    for image in images:
        one = {**asdict(image), "path": image.path.relative_to(directory).as_posix()}
        lines.append(f"  - {json.dumps(one, sort_keys=True)}")
    repository.replace(directory / NAME, ("\n".join(lines) + "\n").encode())


def _vendor(source: lock_file.Source, packages: list[lock_file.Package], place: Path, architecture: str) -> None:
    """Fetch the signed indexes of a vendor's repository, and its key, and see that they have the packages."""
    below = repository.directory_of(source.suite)
    base = f"{source.uri.rstrip('/')}/{below}".rstrip("/")
    where = f"{download.shown(source.uri)} {source.suite}"
    release = place / below / "InRelease"
    release.parent.mkdir(parents=True, exist_ok=True)
    if not release.is_file() or deb.sha256(release) != source.inrelease_sha256:
        data = download.get(f"{base}/InRelease")
        if hashlib.sha256(data).hexdigest() != source.inrelease_sha256:
            raise BundleError(f"{where} has changed since the lock was written: run gpuprov lock, and review its diff")
        repository.replace(release, data)
    text = release.read_text(encoding="utf-8", errors="replace")
    files = repository.files_of(text)
    hashes: dict[str, str] = {}
    for component in source.components or ("",):
        path = repository.index_of(files, component, architecture)
        sha256, size = files[path]
        plain = f"{base}/{path}"
        hashed = f"{plain.rpartition('/')[0]}/by-hash/SHA256/{sha256}"
        urls = (hashed, plain) if repository.by_hash(text) else (plain,)
        download.fetch([download.Wanted(release.parent / path, urls, sha256, size)], lambda _bytes: None)
        hashes |= repository.hashes_of(release.parent / path)
    for package in packages:
        if hashes.get(package.file.removeprefix("./")) != package.sha256:
            raise BundleError(f"{where} has not the {package.name} {package.version} of the lock, by its SHA-256")
    if not (place / "key.gpg").is_file():
        repository.replace(place / "key.gpg", _key(source))


def _key(source: lock_file.Source) -> bytes:
    """Return the key of a vendor's repository, found at or above its URL by its fingerprint. Raises BundleError."""
    parts = urllib.parse.urlsplit(source.uri)
    names = [name for name in parts.path.split("/") if name]
    for count in range(len(names), -1, -1):
        for file in ("gpg", "gpgkey"):
            url = parts._replace(path="/".join(["", *names[:count], file])).geturl()
            try:
                return bytes(openpgp.only(download.get(url), source.key))
            except (download.DownloadError, openpgp.KeyringError):
                continue
    raise BundleError(f"the key {source.key} is at no usual place (gpg, gpgkey) of {download.shown(source.uri)}")


def _wanted(source: lock_file.Source, package: lock_file.Package, path: Path) -> download.Wanted:
    file = package.file.removeprefix("./")
    urls = [f"{source.uri.rstrip('/')}/{urllib.parse.quote(file, safe='/~+:')}"]
    archive = _SNAPSHOTS.get(source.uri.rstrip("/").rpartition("/")[2])
    if source.snapshot and archive:
        urls.append(f"{archive}/{source.snapshot}/{urllib.parse.quote(file, safe='/~+:')}")
    return download.Wanted(path, tuple(urls), package.sha256, package.size)


# ---- Checking ------------------------------------------------------------------------------------


def images(directory: Path) -> list[Image]:
    """Return the images of a bundle, by name and architecture. Raises BundleError."""
    return read(directory)[1]


def read(directory: Path) -> tuple[dict[str, tuple[str, int]], list[Image]]:
    """Return {path: (SHA-256, size)} of a bundle's files but bundle.yml, and its images. Raises BundleError."""
    try:
        text = (directory / NAME).read_text(encoding="utf-8")
        document = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        files = {str(path): (str(one["sha256"]), int(one["size"])) for path, one in document["files"].items()}
        return files, [
            Image(one["reference"], one["name"], one["architecture"], one["digest"], directory / one["path"])
            for one in document.get("images") or []
        ]
    except FileNotFoundError:
        raise BundleError(f"{directory} is not a bundle: it has no {NAME}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
        raise BundleError(f"{directory / NAME} cannot be read: make the bundle again") from None


def problems(directory: Path) -> list[str]:
    """Return a line for each wrong file of a bundle. Raises BundleError if the directory is not a bundle."""
    files, listed = read(directory)
    if not files:
        return ["the bundle is not complete: run gpuprov bundle again, it continues"]
    found = {path.relative_to(directory).as_posix(): path for path in _files(directory)}
    said = [f"missing: {path}" for path in files if path not in found]
    for name, path in sorted(found.items()):
        if name == NAME:
            continue
        if name not in files:
            said.append(f"foreign: {name}")
        elif path.stat().st_size < files[name][1]:
            said.append(f"truncated: {name}: {path.stat().st_size} of {files[name][1]} bytes")
        elif deb.sha256(path) != files[name][0]:
            said.append(f"altered: {name}")
    return said or _unlike_lock(directory, files, listed)


def _unlike_lock(directory: Path, files: dict[str, tuple[str, int]], listed: list[Image]) -> list[str]:
    """Return which files are not what the lock in the bundle and its list of images say."""
    expected = _expected(lock_file.load(directory / lock_file.NAME), directory, listed)
    said = [f"missing: {path}" for path in expected if path not in files]
    wrong = [path for path, sha256 in expected.items() if path in files and sha256 not in ("", files[path][0])]
    return said + [f"altered: {path}" for path in wrong]


def _expected(lock: lock_file.Lock, directory: Path, listed: Collection[Image]) -> dict[str, str]:
    """Return {path: SHA-256} of a bundle's files but bundle.yml; the SHA-256 is "" where the lock does not tell it."""
    found = {lock_file.NAME: "", **{image.path.relative_to(directory).as_posix(): "" for image in listed}}
    for (codename, architecture), system in lock.systems.items():
        own = f"sources/distribution/{codename}/{architecture}"
        found |= {f"{own}/{name}": "" for name in ("InRelease", "Packages", "key.gpg")}
        for name, source in system.sources.items():
            packages = [package for package in system.packages if package.source == name]
            if name not in VENDORS:
                found |= {f"{own}/pool/{file_name(package)}": package.sha256 for package in packages}
                continue
            place = f"sources/{name}/{codename}/{architecture}"
            below = f"{place}/{repository.directory_of(source.suite)}".rstrip("/")
            found |= {f"{below}/InRelease": source.inrelease_sha256, f"{place}/key.gpg": ""}
            files = repository.files_of((directory / below / "InRelease").read_text("utf-8", "replace"))
            for component in source.components or ("",):
                path = repository.index_of(files, component, architecture)
                found[f"{below}/{path}"] = files[path][0]
            found |= {f"{place}/{package.file.removeprefix('./')}": package.sha256 for package in packages}
    return found


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in sorted(directory.rglob("*")) if path.is_file())
