# SPDX-License-Identifier: MIT
"""Packs and unpacks what travels: gzip by ourselves, zstd by its program."""

from __future__ import annotations

import bz2
import contextlib
import lzma
import shutil
import subprocess
import threading
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

BLOCK = 1 << 20
# By how a file begins.
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
# By how a file's name ends.
ENDINGS = {".tar": "raw", ".tar.gz": "gzip", ".tgz": "gzip", ".tar.zst": "zstd", ".tar.bz2": "bzip2"}


class PackingError(Exception):
    """What was to be unpacked is damaged, or a program is missing; the message is one line."""


def has_zstd() -> bool:
    """Whether this machine has the program zstd."""
    return shutil.which("zstd") is not None


def form_of(beginning: bytes) -> str:
    """Return in which form something is, by its first bytes: raw, gzip, zstd, bzip2 or xz."""
    return next((form for magic, form in _MAGIC.items() if beginning.startswith(magic)), "raw")


def form_by_name(path: Path) -> str | None:
    """Return the form that a file's name asks for, None where it asks for none that we write."""
    return next((form for ending, form in ENDINGS.items() if path.name.endswith(ending)), None)


def packed(form: str, data: Iterable[bytes], level: int = 1) -> Iterator[bytes]:
    """Yield data in a form. level: of gzip and zstd."""
    if form == "raw":
        yield from data
    elif form == "gzip":
        for block in _blocks(data):
            yield _member(block, level)
    elif form == "zstd":
        yield from _through(["zstd", f"-{level}", "-T0", "-q", "-c"], data)
    elif form == "bzip2":
        packer = bz2.BZ2Compressor()
        for block in data:
            yield packer.compress(block)
        yield packer.flush()
    else:
        raise ValueError(form)


def unpacked(form: str, data: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what was packed in a form. Raises PackingError."""
    if form == "raw":
        yield from data
    elif form == "zstd":
        yield from _through(["zstd", "-d", "-q", "-c"], data)
    else:
        yield from _members(form, data)


def _blocks(data: Iterable[bytes]) -> Iterator[bytes]:
    """The same in pieces of at least BLOCK bytes, but for the last."""
    kept: list[bytes] = []
    size = 0
    for block in data:
        kept.append(block)
        size += len(block)
        if size >= BLOCK:
            yield b"".join(kept)
            kept, size = [], 0
    if kept:
        yield b"".join(kept)


def _member(data: bytes, level: int) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


def _members(form: str, data: Iterable[bytes]) -> Iterator[bytes]:
    """What one or more members of gzip, bzip2 or xz hold."""

    def fresh() -> zlib._Decompress | bz2.BZ2Decompressor | lzma.LZMADecompressor:
        if form == "gzip":
            return zlib.decompressobj(31)
        return bz2.BZ2Decompressor() if form == "bzip2" else lzma.LZMADecompressor()

    unpacker, begun = fresh(), False
    try:
        for given in data:
            block = given
            while block:
                if unpacker.eof:
                    if not block.strip(b"\0"):
                        break  # what tapes put after the end
                    unpacker, begun = fresh(), False
                begun = True
                yield unpacker.decompress(block)
                block = unpacker.unused_data if unpacker.eof else b""
    except (zlib.error, OSError, EOFError, lzma.LZMAError) as error:
        raise PackingError(f"it is damaged: {error}") from None
    if begun and not unpacker.eof:
        raise PackingError("it is damaged: it ends too early")


def _through(words: list[str], data: Iterable[bytes]) -> Iterator[bytes]:
    """What a program makes of data."""
    try:
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except OSError:
        raise PackingError(f"{words[0]} is not on this machine: install {words[0]}") from None
    assert process.stdout is not None
    failed: list[BaseException] = []
    feeder = threading.Thread(target=_feed, args=(process.stdin, data, failed), daemon=True)
    feeder.start()
    try:
        while block := process.stdout.read(BLOCK):
            yield block
        said = process.stderr.read().decode(errors="replace") if process.stderr else ""
        status = process.wait()
        feeder.join()
        if failed:
            raise failed[0]
        if status:
            reason = said.strip().splitlines()[-1:] or [f"{words[0]} ended with {status}"]
            raise PackingError(f"it is damaged: {reason[0]}" if "-d" in words else reason[0])
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe:
                pipe.close()


def _feed(pipe: IO[bytes] | None, data: Iterable[bytes], failed: list[BaseException]) -> None:
    assert pipe is not None
    try:
        for block in data:
            pipe.write(block)
    except BrokenPipeError:
        pass  # its exit status says why
    except BaseException as error:
        failed.append(error)
    finally:
        with contextlib.suppress(OSError):
            pipe.close()
