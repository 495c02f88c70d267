# SPDX-License-Identifier: MIT
"""Layers on their way: kept on the controller until every host has them, as they travel.

A run that was interrupted finds here what it had fetched; what nobody comes back for goes after a week.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import secrets
import tarfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import image_archive, layer_frames, packing

KEEP = 7 * 24 * 3600
# Files of an archive up to this size are read into memory: lists, configurations, manifests.
_SMALL = 4 << 20
# See layer_frames.
FORMS = ("none", "gzip", "zstd")


@dataclass(frozen=True)
class Spool:
    """A directory of layers, each in the forms in which it travels."""

    directory: Path

    def path(self, digest: str, form: str) -> Path:
        """Where a layer lies in a form."""
        return self.directory / f"{digest.partition(':')[2]}.{form}"

    def size(self, digest: str) -> int | None:
        """The size in bytes of a layer's blob, None where it was never here."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return int(json.loads(self._note(digest).read_text(encoding="utf-8"))["size"])
        return None

    def remember(self, digest: str, size: int) -> None:
        """Keep the size of a layer's blob."""
        _write(self._note(digest), json.dumps({"size": size}).encode())

    def has(self, digest: str, forms: Sequence[str]) -> bool:
        """Whether a layer is here in all these forms."""
        return self.size(digest) is not None and all(self.path(digest, form).exists() for form in forms)

    def drop(self, digests: Iterable[str]) -> None:
        """Remove layers; their sizes stay, as they are small and save a look at the source."""
        for digest in digests:
            for form in FORMS:
                self.path(digest, form).unlink(missing_ok=True)
                (self.directory / f".{digest.partition(':')[2]}-{form}.lock").unlink(missing_ok=True)

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[bool]:
        """Whether nobody else is at something of this name; within this context nobody else will be."""
        descriptor = os.open(self.directory / f".{name.rpartition(':')[2]}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)

    def _note(self, digest: str) -> Path:
        return self.directory / f"{digest.partition(':')[2]}.json"


def spool() -> Spool:
    """Return this account's spool, without what nobody came back for. Raises OSError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "gpuprov" / "layers"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    old = time.time() - KEEP
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < old:
                path.unlink()
    return Spool(directory)


def take(where: Spool, data: Iterable[bytes], form: str, digest: str) -> None:
    """Put a layer into the spool as export_image.py writes it.

    The digest is the one that the source computed; dockerd checks the content again when it is loaded.
    Raises ArchiveError, PackingError.
    """
    part = where.directory / f".{secrets.token_hex(8)}.{form}"
    try:
        with part.open("xb") as file:
            size, found = layer_frames.passed_on(data, file.write)
        if found != digest:
            raise image_archive.ArchiveError(f"expected layer {digest[:19]}, got {found[:19]}")
        where.remember(digest, size)
        part.rename(where.path(digest, form))
    finally:
        part.unlink(missing_ok=True)


def keep(where: Spool, data: Iterable[bytes], form: str, expected: str | None = None) -> tuple[str, str, int, str]:
    """Put a layer's blob into the spool; return its digest, its diff ID, its size and how it is packed.

    Where no digest is expected, a compressed blob is decompressed as well, for its diff ID. It is kept as it is:
    it would not shrink any more. Raises PackingError and ArchiveError.
    """
    part = where.directory / f".{secrets.token_hex(8)}.{form}"
    whole, inner = hashlib.sha256(), hashlib.sha256()
    size = 0
    try:
        with part.open("xb") as file:
            blob = iter(data)
            first = next(blob, b"")
            kind = packing.form_of(first) if expected is None else "raw"

            def seen() -> Iterator[bytes]:
                nonlocal size
                for block in itertools.chain([first], blob):
                    whole.update(block)
                    size += len(block)
                    yield block

            def kept() -> Iterator[bytes]:
                for block in seen():
                    file.write(layer_frames.frame(b"D", block))
                    yield block

            if kind == "raw":
                for frame in layer_frames.packed(form, seen()):
                    file.write(frame)
            else:
                for block in packing.unpacked(kind, kept()):
                    inner.update(block)
        digest = f"sha256:{whole.hexdigest()}"
        if expected is not None and digest != expected:
            raise image_archive.ArchiveError(f"expected layer {expected[:19]}, got {digest[:19]}")
        where.remember(digest, size)
        part.rename(where.path(digest, form))
    finally:
        part.unlink(missing_ok=True)
    return digest, f"sha256:{inner.hexdigest()}" if kind != "raw" else digest, size, kind


def _write(path: Path, data: bytes) -> None:
    new = path.with_name(f".{secrets.token_hex(8)}")
    new.write_bytes(data)
    new.rename(path)


def read_archive(
    stream: layer_frames.Stream, where: Spool, form: str, name: str | None
) -> tuple[tuple[image_archive.Image, ...], list[str]]:
    """Read an archive of docker save, or a layout of OCI, into the spool; return its image as images_in does.

    stream gives the archive unpacked. Raises ArchiveError and PackingError.
    """
    digests: image_archive.Digests = {}
    try:
        return _read_archive(stream, where, form, name, digests)
    except (image_archive.ArchiveError, packing.PackingError):
        where.drop(digest for digest, *_ in digests.values())
        raise


def _read_archive(
    stream: layer_frames.Stream,
    where: Spool,
    form: str,
    name: str | None,
    digests: image_archive.Digests,
) -> tuple[tuple[image_archive.Image, ...], list[str]]:
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    try:
        with tarfile.open(
            fileobj=stream,  # type: ignore[call-overload]
            mode="r|",
            bufsize=packing.BLOCK,
        ) as archive:
            for entry in archive:
                path = os.path.normpath(entry.name)
                if entry.issym() or entry.islnk():
                    target = os.path.join(os.path.dirname(path), entry.linkname) if entry.issym() else entry.linkname
                    links[path] = os.path.normpath(target)
                content = archive.extractfile(entry) if entry.isfile() else None
                if content is None:
                    continue
                if entry.size <= _SMALL:
                    files[path] = content.read()
                    if len(files[path]) < entry.size:
                        raise image_archive.ArchiveError("the archive is damaged: it ends too early")
                else:
                    digests[path] = keep(where, blocks_of(content), form)
    except tarfile.TarError:
        raise image_archive.ArchiveError("it is not an archive of an image, or a damaged one") from None
    for path, data in files.items():
        digests[path] = _digests(data)
    for path, target in links.items():
        if target in digests:
            digests[path] = digests[target]
    images, names = image_archive.images_in(files, digests, name)
    wanted = {layer.digest for image in images for layer in image.layers}
    for path, data in files.items():
        if digests[path][0] in wanted:
            keep(where, [data], form, digests[path][0])
    where.drop({digest for digest, _, size, _ in digests.values() if size > _SMALL} - wanted)
    return images, names


def _digests(data: bytes) -> tuple[str, str, int, str]:
    digest = image_archive.digest_of(data)
    kind = packing.form_of(data)
    if kind == "raw":
        return digest, digest, len(data), kind
    try:
        inner = hashlib.sha256()
        for block in packing.unpacked(kind, [data]):
            inner.update(block)
    except packing.PackingError:
        return digest, digest, len(data), "raw"
    return digest, f"sha256:{inner.hexdigest()}", len(data), kind


def blocks_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file's content."""
    while block := file.read(packing.BLOCK):
        yield block
