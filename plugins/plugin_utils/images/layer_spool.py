# SPDX-License-Identifier: MIT
"""Layers on the controller, each a file until every host has it, compressed as it arrived.

An interrupted run continues with the layers that are here; layers that no run uses are removed after a week.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import secrets
import tarfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from ansible.errors import AnsibleError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_pipe
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import image_archive, packing, transfer_progress
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images.image_archive import Image, Layer

KEEP = 7 * 24 * 3600
FORMS = ("none", "gzip", "zstd")
# Files of an archive up to this size are read into memory: lists, configurations, manifests.
_SMALL = 4 << 20
# Smaller files are not worth a process that compresses them.
_TINY = 1 << 16
_POLL = 0.05  # seconds


@dataclass(frozen=True)
class Spool:
    """A directory of layers, each in a file whose name ends with its compression."""

    directory: Path

    def open(self, digest: str) -> IO[bytes] | None:
        """Return the file of a layer, None where the layer is not here."""
        for form in FORMS:
            with contextlib.suppress(FileNotFoundError):
                return (self.directory / f"{digest}.{form}").open("rb")
        return None

    def put(self, blocks: Iterable[bytes], form: str, digest: Callable[[], str]) -> Path:
        """Keep blocks that are compressed in a form. digest: of their content; called after the last block."""
        part = self.directory / f".{secrets.token_hex(8)}"
        try:
            with part.open("xb") as file:
                file.writelines(blocks)
            return part.rename(self.directory / f"{digest()}.{form}")
        finally:
            part.unlink(missing_ok=True)

    def drop(self, digests: Iterable[str]) -> None:
        """Remove layers."""
        for digest in digests:
            for path in self.directory.glob(f"*{digest}.*"):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self, digest: str, ends: Callable[[], bool]) -> Iterator[None]:
        """Hold the lock of a layer. Raises Stopped where ends returns true before it is free."""
        with (self.directory / f".{digest}.lock").open("w") as file:
            while True:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                if ends():
                    raise host_pipe.Stopped
                time.sleep(_POLL)
            yield


def form_of(file: IO[bytes]) -> str:
    """Return the compression of a layer's file."""
    return file.name.rpartition(".")[2]


def spool() -> Spool:
    """Return this account's spool, after removing old layers. Raises OSError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "gpuprov" / "layers"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path in directory.iterdir():
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < time.time() - KEEP:
                path.unlink()
    return Spool(directory)


def blocks_of(file: IO[bytes]) -> Iterator[bytes]:
    """Yield a file's content. Raises Stopped."""
    while block := file.read(host_pipe.BLOCK):
        if host_pipe.must_end():
            raise host_pipe.Stopped
        yield block


class Digest:
    """Blocks, and the size and digest of those that were read."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self.size, self._blocks, self._sum = 0, blocks, hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        for block in self._blocks:
            self.size += len(block)
            self._sum.update(block)
            yield block

    def consumed(self) -> Digest:
        """Read all blocks."""
        deque(self, maxlen=0)
        return self

    def text(self) -> str:
        """Return the digest, as OCI writes it."""
        return f"sha256:{self._sum.hexdigest()}"


# ---- from a source


@dataclass
class Fetcher:
    """Fetches the layers of an image, each once, in the first process of a run that needs it.

    label: the source, in messages. form: the compression on the way. export: the command that prints a layer, None
    where the spool has all layers already.
    """

    spool: Spool
    label: str
    form: str
    export: host_pipe.Command | None
    _over: threading.Event = field(default_factory=threading.Event)

    def fetch(self, layer: Layer) -> IO[bytes]:
        """Return the file of a layer when the spool has it. Raises AnsibleError and Stopped."""
        with self.spool.locked(layer.digest, self._ends):
            if file := self.spool.open(layer.digest):
                return file
            if self.export is None or not layer.place:
                raise AnsibleError("the layers that were read are gone: run it again")
            # Compressed layers would not shrink.
            form = self.form if layer.digest == layer.diff_id else "none"
            with transfer_progress.Progress("fetching", f"{self.label} {layer.digest[7:15]}") as progress:
                try:
                    word = json.dumps([form, layer.digest, *layer.place]).encode()
                    command = self.export.with_value(base64.urlsafe_b64encode(word).decode())
                    blocks = host_pipe.output(command, self._ends)
                    path = self.spool.put(progress.counted(blocks), form, lambda: layer.digest)
                except AnsibleError as error:
                    # The source failed, not the host that needs the layer.
                    raise AnsibleError(f"{self.label} does not give layer {layer.digest[7:19]}: {error}") from None
            return path.open("rb")

    @contextlib.contextmanager
    def ahead(self, layers: Sequence[Layer]) -> Iterator[Iterator[IO[bytes]]]:
        """Fetch layers in the background, in order; the iterator waits for each, and raises as fetch does."""
        with ThreadPoolExecutor(1) as pool:
            try:
                futures = [pool.submit(self.fetch, layer) for layer in layers]
                yield (future.result() for future in futures)
            finally:
                self._over.set()
                pool.shutdown(cancel_futures=True)

    def _ends(self) -> bool:
        return self._over.is_set() or host_pipe.must_end()


# ---- from an archive


def keep(where: Spool, data: Iterable[bytes], form: str) -> image_archive.Blob:
    """Put a blob into the spool, compressed in a form unless it is compressed already. Raises AnsibleError."""
    blocks = iter(data)
    first = next(blocks, b"")
    found = packing.form_of(first)
    blob = Digest(itertools.chain([first], blocks))
    if found == "none":
        where.put(packing.packed(form, blob), form, blob.text)
        return image_archive.Blob(blob.text(), blob.text(), blob.size, found)
    with where.put(blob, "none", blob.text).open("rb") as file:
        content = Digest(packing.unpacked(found, blocks_of(file))).consumed()
    return image_archive.Blob(blob.text(), content.text(), blob.size, found)


def read_archive(
    blocks: Iterable[bytes], where: Spool, form: str, name: str | None
) -> tuple[tuple[Image, ...], list[str]]:
    """Read an archive of docker save, or an OCI layout, into the spool; return its image as images_in does.

    blocks: the archive, uncompressed. Raises AnsibleError.
    """
    files: dict[str, bytes] = {}
    links: dict[str, str] = {}
    blobs: image_archive.Blobs = {}
    used: set[str] = set()
    coming = filter(None, blocks)
    stream: Any = SimpleNamespace(read=lambda _size: next(coming, b""))
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=host_pipe.BLOCK) as archive:
            for entry in archive:
                path = os.path.normpath(entry.name)
                if entry.issym() or entry.islnk():
                    beside = os.path.dirname(path) if entry.issym() else ""
                    links[path] = os.path.normpath(os.path.join(beside, entry.linkname))
                file = archive.extractfile(entry) if entry.isfile() else None
                if file is None:
                    continue
                content = blocks_of(file)
                if entry.size <= _SMALL:
                    files[path] = file.read()
                    content = iter([files[path]])
                    if len(files[path]) < entry.size:
                        raise AnsibleError("the archive is damaged: it ends too early")
                blobs[path] = keep(where, content, form if entry.size > _TINY else "none")
        blobs.update({path: blobs[target] for path, target in links.items() if target in blobs})
        images, names = image_archive.images_in(files, blobs, name)
        used = {layer.digest for image in images for layer in image.layers}
    except tarfile.TarError:
        raise AnsibleError("it is not an archive of an image, or a damaged one") from None
    finally:
        where.drop({blob.digest for blob in blobs.values()} - used)
    return images, names
