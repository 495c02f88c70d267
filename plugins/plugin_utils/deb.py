# SPDX-License-Identifier: MIT
"""Read what a package file (.deb) is. Imports nothing of the collection."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import re
import shutil
import subprocess
import tarfile
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

# ar(5): the beginning of the archive, and the length of the header of a member.
_MAGIC, _HEADER = b"!<arch>\n", 60


class Control(NamedTuple):
    """The control file of a package, and three of its fields."""

    name: str
    version: str
    architecture: str
    text: str


def read(path: Path) -> Control:
    """Return the control file of a .deb. Raises OSError, and ValueError where it is truncated or something else."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        text = _control(file, size)
    fields = dict(re.findall(r"(?m)^(Package|Version|Architecture): *(\S+)", text))
    if len(fields) < 3:
        raise ValueError("it does not say what package it is")
    return Control(fields["Package"], fields["Version"], fields["Architecture"], text.strip("\n"))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _control(file: BinaryIO, size: int) -> str:
    """Return the text of the control file, where every member is there. See deb(5)."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it is not a Debian package")
    text, members = "", []
    while file.tell() < size:
        header = file.read(_HEADER)
        if len(header) < _HEADER:
            raise ValueError("it is truncated")
        name, length = header[:16].decode("ascii", "replace").rstrip(" /"), header[48:58].strip()
        begin = file.tell()
        if not length.isdigit() or header[58:] != b"`\n":
            raise ValueError("it is damaged")
        if begin + int(length) > size:
            raise ValueError("it is truncated")
        members.append(name.partition(".tar")[0])
        if members[-1] == "control":
            text = _text_in(_unpacked(name, file.read(int(length))))
        file.seek(begin + int(length) + int(length) % 2)
    if members[:1] != ["debian-binary"]:
        raise ValueError("it is not a Debian package")
    if not {"control", "data"} <= set(members):
        raise ValueError("it is truncated")
    return text


def _unpacked(name: str, data: bytes) -> bytes:
    ending = name.partition(".tar")[2]
    try:
        if ending == ".zst":
            # As Ubuntu packs; Python has it from 3.14 on.
            if not shutil.which("zstd"):
                raise ValueError("zstd is not on this machine: install zstd")
            return subprocess.run(["zstd", "-dqc"], input=data, capture_output=True, check=True).stdout
        if ending == ".xz":
            return lzma.decompress(data)
        return gzip.decompress(data) if ending == ".gz" else data
    except (OSError, EOFError, lzma.LZMAError, zlib.error, subprocess.CalledProcessError):
        raise ValueError("it is damaged") from None


def _text_in(data: bytes) -> str:
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                if Path(member.name).name == "control" and (file := archive.extractfile(member)):
                    return file.read().decode("utf-8", "replace")
    except tarfile.TarError:
        pass
    raise ValueError("it is damaged")
