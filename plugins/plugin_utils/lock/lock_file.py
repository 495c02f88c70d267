# SPDX-License-Identifier: MIT
"""Read and write ``gpuprov.lock.yml``: the packages of each release and architecture, down to their hashes.

Imports nothing of the collection.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

FORMAT = 1
NAME = "gpuprov.lock.yml"

_HEADER = """\
# Written by gpuprov lock. Keep it under version control, and review its changes as a diff.
"""
_CODENAME = re.compile(r"[a-z][a-z0-9-]*")
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9-]*")
# Debian Policy 5.6.1 and 5.6.12.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+:~-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[0-9A-F]{40}|[0-9A-F]{64}")
_DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)
_SNAPSHOT = re.compile(r"|\d{8}T\d{6}Z", re.ASCII)
_URI = re.compile(r"(?:https?|file|copy)://[^\s\[\]\"'`\\<>]+")
_SUITE = re.compile(r"[0-9A-Za-z/.][0-9A-Za-z/.+:~_-]*")
_COMPONENT = re.compile(r"[0-9A-Za-z][0-9A-Za-z/.+_-]*")
# A path below the source's URI, which stays below it.
_FILE = re.compile(r"(?!/)(?!(?:.*/)?\.\.(?:/|$))[0-9A-Za-z/.+:~%_@=-]+\.deb")
_ROLE = re.compile(r"[a-z][a-z0-9_]*")
_NAME_OF_SOURCE = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*")


class LockFileError(ValueError):
    """The file cannot be used; the message is one line for people, and names the file."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A repository as it was when the lock was made."""

    uri: str
    suite: str  # "/" or "./" of a flat repository
    components: tuple[str, ...]
    key: str  # fingerprint of the primary key that signed InRelease
    date: str  # InRelease's, such as 2026-11-27T10:11:12Z
    inrelease_sha256: str
    snapshot: str = ""  # of Debian's and Ubuntu's own sources, such as 20261127T101112Z


@dataclasses.dataclass(frozen=True, order=True)
class Package:
    """One package file."""

    name: str
    architecture: str  # dpkg's word, or all
    version: str
    sha256: str
    size: int  # bytes
    file: str  # below the source's URI
    source: str  # a name in System.sources
    role: str = ""  # the role whose package set names it; "" of one that was pulled in


@dataclasses.dataclass(frozen=True)
class System:
    """The locked packages and sources for hosts of one release and architecture."""

    pins: Mapping[str, str]  # {package: version}, as declared when the lock was made
    sources: Mapping[str, Source]
    packages: tuple[Package, ...]  # sorted


@dataclasses.dataclass(frozen=True)
class Lock:
    """A lock. systems: {(codename, architecture as dpkg calls it): System}."""

    systems: Mapping[tuple[str, str], System]


# ---- Reading -------------------------------------------------------------------------------------


def load(path: Path) -> Lock:
    """Read a lock. Raises LockFileError."""
    return parse(read(path), str(path))


def read(path: Path) -> str:
    """Return the text of a lock. Raises LockFileError."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise LockFileError(f"the lock {path} does not exist: gpuprov lock writes it") from None
    except UnicodeDecodeError:
        raise LockFileError(f"the lock {path} is not UTF-8 text") from None
    except OSError as error:
        raise LockFileError(f"the lock {path} cannot be read: {error.strerror}") from None


def beside(inventory: Path) -> Path:
    """Return where the lock of an inventory is. That of a directory is outside it: Ansible reads the files inside."""
    place = Path(os.path.realpath(inventory)) if inventory.is_dir() else inventory
    return place.parent / NAME


def parse(text: str, where: str = NAME) -> Lock:
    """Return the lock that a text holds; where names it in errors. Raises LockFileError."""
    try:
        # Before ansible-core 2.19, registered texts are of a subclass of str, which the loader does not take.
        document = yaml.load(str.encode(text, "utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        return _lock(document)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or "unreadable"
        raise LockFileError(f"the lock {where}{line} is not YAML: {said}. Run gpuprov lock to write it again") from None
    except _Wrong as error:
        raise LockFileError(f"the lock {where} cannot be used: {error}. Run gpuprov lock to write it again") from None


class _Wrong(ValueError):
    """Something in the document is wrong; the message names the place."""


def _lock(document: Any) -> Lock:
    if not isinstance(document, dict) or "version" not in document:
        raise _Wrong("it is not a lock of gpuprov")
    if document["version"] != FORMAT:
        raise _Wrong(f"it has format {document['version']!r}, and this gpuprov reads format {FORMAT}")
    _fields("the file", document, {"version", "systems"})
    systems = {}
    for codename, architectures in _mapping("systems", document["systems"]).items():
        _matching("systems", codename, _CODENAME, "a codename")
        for architecture, system in _mapping(codename, architectures).items():
            _matching(codename, architecture, _ARCHITECTURE, "an architecture")
            systems[codename, architecture] = _system(f"{codename} {architecture}", system)
    return Lock(systems)


def _system(place: str, value: Any) -> System:
    _fields(place, value, {"pins", "sources", "packages"})
    pins = _mapping(f"{place}: pins", value["pins"])
    for name, version in pins.items():
        _matching(f"{place}: pins", name, _PACKAGE, "the name of a package")
        _matching(f"{place}: pins: {name}", version, _VERSION, "a version")
    sources = {}
    for name, source in _mapping(f"{place}: sources", value["sources"]).items():
        _matching(f"{place}: sources", name, _NAME_OF_SOURCE, "the name of a source")
        sources[name] = _source(f"{place}: source {name}", source)
    packages = []
    for number, package in enumerate(_list(f"{place}: packages", value["packages"]), 1):
        packages.append(_package(f"{place}: package {number}", package))
        if packages[-1].source not in sources:
            raise _Wrong(f"{place}: {packages[-1].name} has the source {packages[-1].source!r}, which is not there")
    names = [package.name for package in packages]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise _Wrong(f"{place}: {twice[0]} is there twice")
    for name, version in pins.items():
        if not any(package.name == name and package.version == version for package in packages):
            raise _Wrong(f"{place}: {name} {version} is pinned, and not among the packages")
    return System(pins, sources, tuple(sorted(packages)))


def _source(place: str, value: Any) -> Source:
    _fields(place, value, {"uri", "suite", "components", "key", "date", "inrelease_sha256"}, {"snapshot"})
    components = _list(f"{place}: components", value["components"])
    for component in components:
        _matching(f"{place}: components", component, _COMPONENT, "a component")
    snapshot = value.get("snapshot", "")
    _matching(f"{place}: snapshot", snapshot, _SNAPSHOT, "the time of a snapshot")
    return Source(
        _matching(f"{place}: uri", value["uri"], _URI, "the URL of a repository"),
        _matching(f"{place}: suite", value["suite"], _SUITE, "a suite"),
        tuple(components),
        _matching(f"{place}: key", value["key"], _KEY, "a fingerprint"),
        _matching(f"{place}: date", value["date"], _DATE, "a time in UTC, in quotes"),
        _matching(f"{place}: inrelease_sha256", value["inrelease_sha256"], _SHA256, "a SHA-256"),
        snapshot,
    )


def _package(place: str, value: Any) -> Package:
    _fields(place, value, {"name", "version", "architecture", "sha256", "size", "file", "source"}, {"role"})
    name = _matching(f"{place}: name", value["name"], _PACKAGE, "the name of a package")
    place = f"{place} ({name})"
    size = value["size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise _Wrong(f"{place}: size: {size!r} is not a number of bytes")
    return Package(
        name,
        _matching(f"{place}: architecture", value["architecture"], _ARCHITECTURE, "an architecture"),
        _matching(f"{place}: version", value["version"], _VERSION, "a version"),
        _matching(f"{place}: sha256", value["sha256"], _SHA256, "a SHA-256"),
        size,
        _matching(f"{place}: file", value["file"], _FILE, "the path of a package below its source"),
        _matching(f"{place}: source", value["source"], _NAME_OF_SOURCE, "the name of a source"),
        _matching(f"{place}: role", value["role"], _ROLE, "a role") if "role" in value else "",
    )


def _fields(place: str, value: Any, needed: Iterable[str], optional: Iterable[str] = ()) -> None:
    """Check that a value is a mapping with the needed fields, and no others than the optional ones."""
    found = set(_mapping(place, value))
    missing, unknown = sorted(set(needed) - found), sorted(found - set(needed) - set(optional), key=str)
    if missing or unknown:
        raise _Wrong(f"{place}: {f'{missing[0]} is missing' if missing else f'{unknown[0]!r} is unknown'}")


def _mapping(place: str, value: Any) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise _Wrong(f"{place}: {_shown(value)} is not a mapping")
    return value


def _list(place: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise _Wrong(f"{place}: {_shown(value)} is not a list")
    return value


def _matching(place: str, value: Any, pattern: re.Pattern[str], what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise _Wrong(f"{place}: {_shown(value)} is not {what}")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


# ---- Writing -------------------------------------------------------------------------------------


def dump(lock: Lock) -> str:
    """Return a lock as text: equal locks give equal bytes."""
    lines = [_HEADER.rstrip(), f"version: {FORMAT}", "systems:" if lock.systems else "systems: {}"]
    for codename in sorted({codename for codename, _architecture in lock.systems}):
        lines.append(f"  {_scalar(codename)}:")
        for architecture in sorted(architecture for name, architecture in lock.systems if name == codename):
            lines.append(f"    {_scalar(architecture)}:")
            lines += [f"      {line}" for line in _system_lines(lock.systems[codename, architecture])]
    return "\n".join(lines) + "\n"


def _system_lines(system: System) -> list[str]:
    lines = ["pins:"] if system.pins else ["pins: {}"]
    lines += [f"  {_scalar(name)}: {_quoted(version)}" for name, version in sorted(system.pins.items())]
    lines.append("sources:" if system.sources else "sources: {}")
    for name, source in sorted(system.sources.items()):
        lines.append(f"  {_scalar(name)}:")
        lines += [f"    {field}" for field in _field_lines(source)]
    lines.append("packages:" if system.packages else "packages: []")
    # One line for each package: a diff then shows a changed package in one pair of lines.
    lines += [f"  - {{{', '.join(_field_lines(package))}}}" for package in sorted(system.packages)]
    return lines


# In any order but this one, the version would be behind the architecture, by which packages are sorted.
_ORDER = ("name", "version", "architecture", "sha256", "size", "file", "source", "role")
_TEXTS = ("version", "sha256", "key", "date", "inrelease_sha256", "snapshot")


def _field_lines(value: Source | Package) -> list[str]:
    """Return the fields of a source or package in their order, without empty ones that may be left out."""
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    names = _ORDER if isinstance(value, Package) else tuple(fields)
    return [f"{name}: {_value(name, fields[name])}" for name in names if fields[name] != ""]


def _value(name: str, value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_scalar(item) for item in value)}]"
    return _quoted(value) if name in _TEXTS else _scalar(value)


# What YAML reads as this same text, within braces too.
_PLAIN = re.compile(r"[A-Za-z./][0-9A-Za-z/._+~-]*|[a-z]+://[0-9A-Za-z/._+~:%@=-]*[0-9A-Za-z/]")
_WORDS = re.compile(r"[.~]*|y|n|yes|no|on|off|true|false|null|[.](?:inf|nan|[0-9_e+-]+)", re.IGNORECASE)


def _scalar(value: Any) -> str:
    text = str(value)
    return text if isinstance(value, int) or (_PLAIN.fullmatch(text) and not _WORDS.fullmatch(text)) else _quoted(text)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
