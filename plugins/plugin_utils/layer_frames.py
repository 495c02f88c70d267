# SPDX-License-Identifier: MIT
"""How layers travel: as frames, each a letter, the length of what follows in four bytes, that.

H says the size in bytes of what follows when it is unpacked, in decimal, 0 where that is not known. D is data as
it is, P data as raw deflate (RFC 1951), Y a piece of what zstd packed, an empty one its end. T is the digest of it all.
export_image.py gives layers so, they lie so in the spool (without H and T), and load_image.py takes them so.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterable, Iterator

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import packing

_BLOCK = 1 << 18
_HEAD = struct.Struct(">cI")


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
    """Yield data as frames. form: zlib or zstd."""
    if form == "zstd":
        for piece in packing.packed("zstd", data):
            yield frame(b"Y", piece)
        yield frame(b"Y")
    else:
        for block in data:
            for start in range(0, len(block), _BLOCK):
                yield frame(*shrunk(block[start : start + _BLOCK]))


def shrunk(data: bytes) -> tuple[bytes, bytes]:
    """Return letter and content of a frame with data, packed where it shrinks, as export_image.py does it."""
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


def passed_on(
    data: Iterable[bytes], write: Callable[[bytes], object], sized: Callable[[int], object], hurried: Callable[[], bool]
) -> str:
    """Write layer frames on as they come, without H and T; return the digest that the source saw.

    sized gets the size as soon as it is there. While nobody is in a hurry, data that came as it is gets packed.
    Raises PackingError.
    """
    digest = ""
    for came, given in frames(data):
        letter, content = came, given
        if letter == b"H":
            sized(int(content))
        elif letter == b"T":
            digest = content.decode("ascii", "replace")
        else:
            if letter == b"D" and not hurried():
                letter, content = shrunk(content)
            write(_HEAD.pack(letter, len(content)))
            write(content)
    return digest
