# SPDX-License-Identifier: MIT
"""The format in which layers travel: frames of a letter, the length of the content in four bytes, the content.

D is data as it is, P data as raw deflate (RFC 1951), Y a piece of what zstd packed, and an empty Y its end. T comes
last: the size in decimal and the digest of all data, unpacked. export_image.py writes layers in this format, the
spool keeps them in it (without T), and load_image.py reads it.

A form is how data is packed: none, gzip (deflate, without gzip's header) or zstd.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import packing

_BLOCK = 1 << 18
_HEAD = struct.Struct(">cI")


def form_for(compression: str, *zstd: bool) -> str:
    """Return the form in which data travels.

    compression: none, gzip, or auto, which is zstd where every end has it, else none. zstd: whether each end has it.
    """
    if compression == "auto":
        return "zstd" if all(zstd) else "none"
    return compression


class Stream:
    """Blocks as a file that is read from front to back."""

    def __init__(self, blocks: Iterable[bytes]) -> None:
        self._blocks = iter(blocks)
        self._left, self._at = b"", 0

    def read(self, size: int = -1) -> bytes:
        """Return size bytes, or as many as there are."""
        parts: list[bytes] = []
        missing = size
        while size < 0 or missing > 0:
            if self._at == len(self._left):
                block = next(self._blocks, None)
                if block is None:
                    break
                self._left, self._at = block, 0
            part = self._left[self._at :] if size < 0 else self._left[self._at : self._at + missing]
            self._at += len(part)
            missing -= len(part)
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)


def frame(letter: bytes, content: bytes = b"") -> bytes:
    """Return a frame."""
    return _HEAD.pack(letter, len(content)) + content


def frames(data: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Yield (letter, content) of what comes in pieces. Raises PackingError where it ends too early."""
    stream = Stream(data)
    while head := stream.read(_HEAD.size):
        if len(head) < _HEAD.size:
            raise packing.PackingError("it is damaged: it ends too early")
        letter, size = _HEAD.unpack(head)
        content = stream.read(size)
        if len(content) < size:
            raise packing.PackingError("it is damaged: it ends too early")
        yield letter, content


def packed(form: str, data: Iterable[bytes]) -> Iterator[bytes]:
    """Yield data as frames, packed in a form."""
    if form == "zstd":
        for piece in packing.packed("zstd", data):
            yield frame(b"Y", piece)
        yield frame(b"Y")
        return
    for block in data:
        for start in range(0, len(block), _BLOCK):
            part = block[start : start + _BLOCK]
            yield frame(*(_deflated(part) if form == "gzip" else (b"D", part)))


def _deflated(data: bytes) -> tuple[bytes, bytes]:
    """Return letter and content of a frame, packed unless a sample of the data hardly shrinks."""
    middle = len(data) // 2
    sample = data[:2048] + data[middle : middle + 2048] + data[-2048:]
    if len(zlib.compress(sample, 1)) < 0.9 * len(sample):
        packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        return b"P", packer.compress(data) + packer.flush()
    return b"D", data


def unpacked(data: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what came as frames. Raises PackingError."""
    coming = frames(data)
    for letter, content in coming:
        if letter == b"D":
            yield content
        elif letter == b"P":
            try:
                yield zlib.decompress(content, -zlib.MAX_WBITS, _BLOCK)
            except zlib.error as error:
                raise packing.PackingError(f"it is damaged: {error}") from None
        elif letter == b"Y" and content:
            yield from packing.unpacked("zstd", _pieces(content, coming))


def _pieces(first: bytes, coming: Iterator[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """The pieces of one stream of zstd."""
    yield first
    for _letter, content in coming:
        if not content:
            return
        yield content


def passed_on(data: Iterable[bytes], write: Callable[[bytes], object]) -> tuple[int, str]:
    """Write frames on as they come, without T; return the size and the digest that T names.

    Raises PackingError where there is no T.
    """
    last = b""
    for letter, content in frames(data):
        if letter == b"T":
            last = content
        else:
            write(_HEAD.pack(letter, len(content)))
            write(content)
    size, _, digest = last.decode("ascii", "replace").partition(" ")
    if not size.isdigit():
        raise packing.PackingError("it is damaged: it ends too early")
    return int(size), digest
