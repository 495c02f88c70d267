# SPDX-License-Identifier: MIT
"""Pack and unpack streams of bytes: gzip, bzip2 and xz by Python's modules, zstd by its program."""

from __future__ import annotations

import bz2
import lzma
import shutil
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_pipe

BLOCK = 1 << 20
# By how a file begins.
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
# By how a file's name ends.
ENDINGS = {".tar": "none", ".tar.gz": "gzip", ".tgz": "gzip", ".tar.zst": "zstd", ".tar.bz2": "bzip2"}


class PackingError(Exception):
    """What was to be unpacked is damaged, or a program is missing; the message is one line."""


def has_zstd() -> bool:
    """Return whether this machine has the program zstd."""
    return shutil.which("zstd") is not None


def wire_form(compression: str, *zstd: bool) -> str:
    """Return the form in which data travels. compression: auto, gzip or none; zstd: whether each end has it."""
    if compression != "auto":
        return compression
    return "zstd" if all(zstd) else "none"


def form_of(beginning: bytes) -> str:
    """Return in which form something is, by its first bytes: none, gzip, zstd, bzip2 or xz."""
    return next((form for magic, form in _MAGIC.items() if beginning.startswith(magic)), "none")


def form_by_name(path: Path) -> str | None:
    """Return the form that a file's name asks for, None where it asks for none that we write."""
    return next((form for ending, form in ENDINGS.items() if path.name.endswith(ending)), None)


def packed(form: str, data: Iterable[bytes], level: int = 1) -> Iterator[bytes]:
    """Yield data in a form. level: of gzip and zstd."""
    if form == "none":
        yield from data
    elif form == "zstd":
        yield from _zstd([f"-{level}", "-T0"], data)
    else:
        packer: Any = bz2.BZ2Compressor() if form == "bzip2" else zlib.compressobj(level, zlib.DEFLATED, 31)
        for block in data:
            yield packer.compress(block)
        yield packer.flush()


def unpacked(form: str, data: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what was packed in a form. Raises PackingError."""
    if form == "none":
        yield from data
        return
    if form == "zstd":
        yield from _zstd(["-d"], data, "it is damaged: ")
        return
    fresh: Any = {"gzip": lambda: zlib.decompressobj(31), "bzip2": bz2.BZ2Decompressor, "xz": lzma.LZMADecompressor}
    unpacker, begun = fresh[form](), False
    try:
        for given in data:
            block = given
            while block:
                if unpacker.eof:
                    if not block.strip(b"\0"):
                        break  # what tapes put after the end
                    unpacker = fresh[form]()
                begun = True
                yield unpacker.decompress(block)
                block = unpacker.unused_data if unpacker.eof else b""
    except (zlib.error, OSError, EOFError, lzma.LZMAError) as error:
        raise PackingError(f"it is damaged: {error}") from None
    if begun and not unpacker.eof:
        raise PackingError("it is damaged: it ends too early")


def _zstd(options: list[str], data: Iterable[bytes], damaged: str = "") -> Iterator[bytes]:
    if not has_zstd():
        raise PackingError("zstd is not on this machine: install zstd")
    start = host_pipe.here(["zstd", "-q", "-c", *options])
    yield from host_pipe.output(start, feed=data, failure=lambda said: PackingError(f"{damaged}{said}"))
