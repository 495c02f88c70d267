# SPDX-License-Identifier: MIT
"""Layers on their way: kept on the controller until every host has them, as they travel.

A run that was interrupted finds here what it had fetched; what nobody comes back for goes after a week.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import image_archive, layer_frames, packing

KEEP = 7 * 24 * 3600
# Files of an archive up to this size are read into memory: lists, configurations, manifests.
_SMALL = 4 << 20
# How layers travel, as layer_frames says: zstd where all who take part have it.
FORMS = ("zlib", "zstd")


@dataclass(frozen=True)
class Spool:
    """A directory of layers, each in the forms in which it travels."""

    directory: Path

    def path(self, digest: str, form: str) -> Path:
        """Where a layer lies in a form."""
        return self.directory / f"{digest.partition(':')[2]}.{form}"

    def part(self, digest: str, form: str) -> Path:
        """Where a layer grows while it comes in a form."""
        return self.directory / f".{digest.partition(':')[2]}.{form}.part"

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
                self.part(digest, form).unlink(missing_ok=True)
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


def take(
    where: Spool, data: Iterable[bytes], form: str, digest: str, known: int | None, hurried: Callable[[], bool]
) -> None:
    """Put a layer that comes from export_image.py into the spool, where others can read it while it grows.

    known: its size, where somebody knows it. hurried: whether somebody waits for it now, so that there is no time
    to pack. The source has seen what it gave, and whoever loads it looks again. Raises ArchiveError, PackingError.
    """
    part = where.part(digest, form)
    # Another one than whoever was cut off left: somebody may still read that.
    part.unlink(missing_ok=True)
    try:
        with part.open("xb", buffering=0) as file:
            said = layer_frames.passed_on(data, file.write, lambda size: where.remember(digest, known or size), hurried)
        if said != digest:
            raise image_archive.ArchiveError(f"what came as {digest[:19]} is something else: {said[:19] or 'nothing'}")
        part.rename(where.path(digest, form))
    finally:
        part.unlink(missing_ok=True)


def keep(
    where: Spool, data: Iterable[bytes], forms: Sequence[str], expected: str | None = None
) -> tuple[str, str, int]:
    """Put a layer's blob into the spool; return its digest, its diff ID and its size.

    forms are those to keep. A blob that is packed itself is looked into only where nobody expects a digest.
    Raises PackingError and ArchiveError.
    """
    mark = secrets.token_hex(8)
    made = {one: where.directory / f".{mark}.{one}" for one in forms}
    blob = iter(data)
    whole, inner = hashlib.sha256(), None
    size = 0
    try:
        with contextlib.ExitStack() as stack:
            files = {one: stack.enter_context(path.open("wb")) for one, path in made.items()}
            first = next(blob, b"")
            kind = packing.form_of(first) if expected is None else "raw"
            inner = hashlib.sha256() if kind != "raw" else None

            def seen() -> Iterator[bytes]:
                nonlocal size
                block: bytes | None = first
                while block is not None:
                    whole.update(block)
                    size += len(block)
                    yield block
                    block = next(blob, None)

            stream: Iterator[bytes] = seen()
            for one in forms:
                stream = _also_packed(one, stream, files[one])
            if inner is None:
                for _block in stream:
                    pass
            else:
                for block in packing.unpacked(kind, stream):
                    inner.update(block)
        digest = f"sha256:{whole.hexdigest()}"
        if expected is not None and digest != expected:
            raise image_archive.ArchiveError(f"what came as {expected[:19]} is something else: {digest[:19]}")
        for one, path in made.items():
            path.rename(where.path(digest, one))
        where.remember(digest, size)
    finally:
        for path in made.values():
            path.unlink(missing_ok=True)
    return digest, f"sha256:{inner.hexdigest()}" if inner else digest, size


def _also_packed(form: str, data: Iterator[bytes], file: IO[bytes]) -> Iterator[bytes]:
    """The same data, which meanwhile goes into a file in another form."""
    import queue
    import threading

    waiting: queue.Queue[bytes | None] = queue.Queue(8)
    failed: list[BaseException] = []

    def write() -> None:
        try:
            for block in layer_frames.packed(form, iter(waiting.get, None)):
                file.write(block)
        except BaseException as error:
            failed.append(error)
            while waiting.get() is not None:
                pass

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        for block in data:
            waiting.put(block)
            yield block
    finally:
        waiting.put(None)
        thread.join()
    if failed:
        raise failed[0]


def _write(path: Path, data: bytes) -> None:
    new = path.with_name(f".{secrets.token_hex(8)}")
    new.write_bytes(data)
    new.rename(path)


def read_archive(
    stream: layer_frames.Stream, where: Spool, forms: Sequence[str], name: str | None
) -> tuple[image_archive.Image, list[str]]:
    """Read an archive of docker save, or a layout of OCI, into the spool; return its image and that one's names.

    stream gives the archive unpacked. Raises ArchiveError and PackingError.
    """
    digests: dict[str, tuple[str, str, int]] = {}
    try:
        return _read_archive(stream, where, forms, name, digests)
    except (image_archive.ArchiveError, packing.PackingError):
        where.drop(digest for digest, _, _ in digests.values())
        raise


def _read_archive(
    stream: layer_frames.Stream,
    where: Spool,
    forms: Sequence[str],
    name: str | None,
    digests: dict[str, tuple[str, str, int]],
) -> tuple[image_archive.Image, list[str]]:
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
                    digests[path] = keep(where, blocks_of(content), forms)
    except tarfile.TarError:
        raise image_archive.ArchiveError("it is no archive of an image, or a damaged one") from None
    for path, data in files.items():
        digests[path] = _digests(data)
    for path, target in links.items():
        if target in digests:
            digests[path] = digests[target]
    image, names = image_archive.image_in(files, digests, name)
    wanted = {layer.digest for layer in image.layers}
    for path, data in files.items():
        if digests[path][0] in wanted:
            keep(where, [data], forms, digests[path][0])
    where.drop({digest for digest, _, size in digests.values() if size > _SMALL} - wanted)
    return image, names


def _digests(data: bytes) -> tuple[str, str, int]:
    digest = image_archive.digest_of(data)
    kind = packing.form_of(data)
    if kind == "raw":
        return digest, digest, len(data)
    try:
        inner = hashlib.sha256()
        for block in packing.unpacked(kind, [data]):
            inner.update(block)
    except packing.PackingError:
        return digest, digest, len(data)
    return digest, f"sha256:{inner.hexdigest()}", len(data)


def blocks_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file's content."""
    while block := file.read(packing.BLOCK):
        yield block
