# SPDX-License-Identifier: MIT
"""The files of a build context, without those that .dockerignore excludes, and archives of them."""

from __future__ import annotations

import getpass
import hashlib
import io
import os
import re
import socket
import stat
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

IGNORE_FILE = ".dockerignore"
# Up to this many bytes, files are compressed for the host. More are mostly data that does not shrink: compressing them
# takes longer than sending them.
_COMPRESSED = 64 << 20


class ContextError(ValueError):
    """The directory is not a usable build context; the message is one line."""


class Entry(NamedTuple):
    """A file (f), directory (d) or symbolic link (l): detail is a file's SHA-256, or a link's target."""

    path: str
    kind: str
    mode: int
    mtime: int
    size: int
    detail: str


# ---- .dockerignore


class Ignore:
    """The patterns of a .dockerignore, as https://github.com/moby/patternmatcher defines them.

    docker build applies the file again, so that a pattern missed here only costs bytes.
    """

    def __init__(self, text: str, always: Iterable[str] = ()) -> None:
        self.rules: list[tuple[re.Pattern[str], bool]] = []
        for line in text.removeprefix("\ufeff").splitlines():
            pattern = line.strip()
            if not pattern or line.startswith("#"):
                continue
            excluded = not pattern.startswith("!")
            pattern = os.path.normpath(pattern.lstrip("!").strip()).lstrip("/")
            if pattern not in ("", "."):
                self.rules.append((re.compile(_regex(pattern)), excluded))
        for path in always:
            self.rules.append((re.compile(re.escape(path) + r"\Z"), False))
        self.has_exceptions = any(not excluded for _regex, excluded in self.rules)

    def excludes(self, path: str) -> bool:
        """Return whether a path, relative to the context, is excluded; the last matching pattern decides."""
        parts = path.split("/")
        parents = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        result = False
        for regex, excluded in self.rules:
            if result != excluded and any(regex.match(parent) for parent in parents):
                result = excluded
        return result


def _regex(pattern: str) -> str:
    result, rest = "", pattern
    while rest:
        if rest.startswith("**"):
            rest = rest.lstrip("*")
            if rest.startswith("/"):
                rest = rest[1:]
            result += "(?:.*/)?" if rest else ".*"
        elif rest[0] == "[" and (found := re.match(r"\[(\^?)((?:\\.|[^\]\\])+)\]", rest)):
            result += f"[{found[1]}{found[2]}]"
            rest = rest[found.end() :]
        elif rest[0] == "\\" and len(rest) > 1:
            result += re.escape(rest[1])
            rest = rest[2:]
        else:
            result += {"*": "[^/]*", "?": "[^/]"}.get(rest[0], re.escape(rest[0]))
            rest = rest[1:]
    return result + r"\Z"


def ignore_of(context: Path, dockerfile: str) -> Ignore:
    """Return the patterns of a context; a file beside the Dockerfile has precedence, as for BuildKit."""
    names = [name for name in (f"{dockerfile}.dockerignore", IGNORE_FILE) if (context / name).is_file()]
    text = (context / names[0]).read_text(encoding="utf-8", errors="replace") if names else ""
    return Ignore(text, [dockerfile, *names])


# ---- the files


def check(context: Path, dockerfile: str) -> None:
    """Raise ContextError where a directory is not a build context with this Dockerfile."""
    if not context.is_dir():
        raise ContextError(f"the build context {context} is not a directory")
    path = context / dockerfile
    if os.path.isabs(dockerfile) or ".." in Path(dockerfile).parts or not path.is_file():
        raise ContextError(f"there is no {dockerfile} in the build context {context}")


def entries(context: Path, dockerfile: str) -> list[Entry]:
    """Return the entries of a context, directories before their contents. Raises ContextError."""
    check(context, dockerfile)
    ignore = ignore_of(context, os.path.normpath(dockerfile))
    found = sorted(_walk(context, "", ignore))
    # An exception (!) needs its parent directories, even excluded ones.
    needed = {str(parent) for entry in found for parent in Path(entry.path).parents if str(parent) != "."}
    missing = needed - {entry.path for entry in found}
    return sorted(found + [_entry(context, path) for path in missing])


def _walk(context: Path, below: str, ignore: Ignore) -> Iterator[Entry]:
    try:
        names = sorted(os.listdir(context / below))
    except OSError as error:
        raise ContextError(f"{context / below} cannot be read: {error.strerror}") from None
    for name in names:
        path = f"{below}/{name}" if below else name
        try:
            path.encode("utf-8")
        except UnicodeEncodeError:
            raise ContextError(f"the name of {os.fsencode(path)!r} is not UTF-8: exclude it in {IGNORE_FILE}") from None
        mode = (context / path).lstat().st_mode
        excluded = ignore.excludes(path)
        if not excluded and (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
            yield _entry(context, path)
        if stat.S_ISDIR(mode) and (not excluded or ignore.has_exceptions):
            yield from _walk(context, path, ignore)


def _entry(context: Path, path: str) -> Entry:
    full = context / path
    found = full.lstat()
    kind, size, detail = "d", 0, ""
    if stat.S_ISLNK(found.st_mode):
        kind, detail = "l", os.readlink(full)
    elif stat.S_ISREG(found.st_mode):
        kind, size = "f", found.st_size
        try:
            with full.open("rb") as stream:
                detail = _sha256(stream)
        except OSError as error:
            raise ContextError(f"{full} cannot be read: {error.strerror}") from None
    return Entry(path, kind, stat.S_IMODE(found.st_mode), int(found.st_mtime), size, detail)


def _sha256(stream: io.BufferedReader) -> str:
    digest = hashlib.sha256()
    while part := stream.read(1 << 20):
        digest.update(part)
    return digest.hexdigest()


# ---- the archive


def pack(context: Path, found: list[Entry], lacking: Iterable[int], archive: Path) -> None:
    """Write the files that a host lacks into an archive, named by their number in found.

    Raises ContextError where a file is gone meanwhile.
    """
    numbers = [*lacking]
    small = sum(found[number].size for number in numbers) <= _COMPRESSED
    with tarfile.open(archive, "w:gz", compresslevel=1) if small else tarfile.open(archive, "w") as tar:
        for number in numbers:
            try:
                tar.add(context / found[number].path, arcname=str(number), recursive=False)
            except OSError as error:
                raise ContextError(f"{context / found[number].path} cannot be read: {error.strerror}") from None


def directory_name(context: Path) -> str:
    """Return the name of a context's copy on a host, unique for this account, machine and path."""
    place = f"{getpass.getuser()}@{socket.gethostname()}:{context.resolve()}"
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", context.resolve().name).strip("-")[:40] or "context"
    return f"{name}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"
