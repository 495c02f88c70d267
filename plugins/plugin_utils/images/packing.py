# SPDX-License-Identifier: MIT
"""Compress and decompress streams of bytes, by the programs gzip, zstd, bzip2 and xz."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ansible.errors import AnsibleError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_pipe

# Forms are none and names of programs. By the first bytes of a file.
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz"}
# By the end of a file's name.
ENDINGS = {".tar": "none", ".tar.gz": "gzip", ".tgz": "gzip", ".tar.zst": "zstd", ".tar.bz2": "bzip2"}


def has_zstd() -> bool:
    """Return whether this machine has the program zstd."""
    return shutil.which("zstd") is not None


def wire_form(compression: str, source_has_zstd: bool = True) -> str:
    """Return the compression on the way. compression: auto (zstd where source and controller have it), gzip or none."""
    automatic = "zstd" if source_has_zstd and has_zstd() else "none"
    return automatic if compression == "auto" else compression


def form_of(beginning: bytes) -> str:
    """Return the form of data by its first bytes."""
    return next((form for magic, form in _MAGIC.items() if beginning.startswith(magic)), "none")


def form_by_name(path: Path) -> str:
    """Return the form that the name of a file to write asks for. Raises AnsibleError."""
    form = next((form for ending, form in ENDINGS.items() if path.name.endswith(ending)), None)
    if form is None:
        raise AnsibleError(f"the name {path.name} must end in {', '.join(ENDINGS)}")
    if form == "zstd" and not has_zstd():
        raise AnsibleError("zstd is not on this machine: install zstd, or name the file .tar.gz")
    return form


def packed(form: str, data: Iterable[bytes], level: int = 1) -> Iterator[bytes]:
    """Yield data, compressed in a form. Raises AnsibleError."""
    return _filtered(form, data, [f"-{level}", *(["-T0"] if form == "zstd" else [])])


def unpacked(form: str, data: Iterable[bytes]) -> Iterator[bytes]:
    """Yield data, decompressed. Raises AnsibleError."""
    return _filtered(form, data, ["-d"], "it is damaged: ")


def _filtered(form: str, data: Iterable[bytes], options: list[str], failure: str = "") -> Iterator[bytes]:
    if form == "none":
        yield from data
        return
    if shutil.which(form) is None:
        raise AnsibleError(f"{form} is not on this machine: install {form}")
    command = host_pipe.Command([form, "-q", "-c", *options])
    yield from host_pipe.output(command, feed=data, failure=failure)
