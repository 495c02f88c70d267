# SPDX-License-Identifier: MIT
"""The version scheme of tags, for ``image tag`` and ``image prune`` alike.

A version is ``1.9.1``. What follows its first hyphen tells which line of versions it belongs to (see ``read``), and
versions are compared within their line only. ``1.9``, ``1`` and ``latest`` point at the newest release that each
covers; those of the variant ``alpine`` are ``1.9-alpine``, ``1-alpine`` and ``latest-alpine``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

with contextlib.suppress(ImportError):  # plugin_utils.requirements
    import semver

# Suffixes of pre-releases. Words that are also in use for variants count with a number only: images tagged 1.9.1-dev
# are often a variant with build tools, and -a100 and -b200 are GPUs.
_PRE = re.compile(
    r"((?:alpha|beta|rc|preview|pre)(?:[-.]?[0-9]+)?(?:\.[0-9a-z]+)*"
    r"|(?:dev|nightly|snapshot|canary|next)[-.]?[0-9]+(?:\.[0-9a-z]+)*)(?:-(.+))?",
    re.IGNORECASE,
)
# The number of a build, or of commits after a release as git describe has it.
_BUILD = re.compile(r"[0-9]+(?:\.[0-9]+)*(?:-g[0-9a-f]{7,40})?")
_MOVING = re.compile(r"(?:latest|(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))?)")


class VersionError(ValueError):
    """A tag is not a version; the message says so for people."""


class Tag(NamedTuple):
    """A tag that is a version.

    kind: release, prerelease or build; variant: "" of a plain version; order: compares tags of one kind and variant,
    and pre-releases with releases.
    """

    kind: str
    variant: str
    order: semver.Version


class Move(NamedTuple):
    """A tag that must point at another version than it does. before is an image's ID, None of a new tag."""

    tag: str
    before: str | None
    after: str
    version: str


def read(tag: str) -> Tag:
    """Return what a tag says. Raises VersionError.

    ``2.0.0-rc.1`` is a pre-release of the plain line, ``2.0.0-rc.1-alpine`` of the line alpine; ``1.9.1-3`` is a
    build, ``1.9.1-slim`` and whatever else has a hyphen is a release of a variant.
    """
    number, hyphen, suffix = tag.partition("-")
    try:
        core = semver.Version.parse(number)
    except ValueError:
        core = None
    if core is None or core.build or bool(hyphen) != bool(suffix) or "\n" in suffix:
        raise VersionError(f"{tag} is not a version such as 1.9.1, 1.9.1-alpine or 2.0.0-rc.1")
    if _BUILD.fullmatch(suffix):
        return Tag("build", "", core.replace(prerelease=_comparable(suffix)))
    if match := _PRE.fullmatch(suffix):
        return Tag("prerelease", match[2] or "", core.replace(prerelease=_comparable(match[1])))
    return Tag("release", suffix, core)


def _comparable(suffix: str) -> str:
    """Return a suffix whose numbers semver compares as numbers: ``rc10`` is newer than ``rc9``."""
    words: list[str] = re.findall(r"[0-9]+|[a-z]+", suffix.lower())
    return ".".join(str(int(word)) if word.isdigit() else word for word in words)


def known(tags: Iterable[str]) -> dict[str, Tag]:
    """Return the tags that are versions, oldest first."""
    found = {}
    for tag in tags:
        try:
            found[tag] = read(tag)
        except VersionError:
            continue
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def lines(tags: Iterable[str]) -> dict[str, list[list[str]] | list[str]]:
    """Return what a clean-up has to know of the tags of one name, as JSON.

    lines: [tags, oldest first] that are compared with each other; superseded: pre-releases that a release of their
    line is newer than; moving: tags that the scheme moves.
    """
    tags = list(tags)
    versions = known(tags)
    newest: dict[str, semver.Version] = {
        one.variant: one.order for one in versions.values() if one.kind == "release"
    }  # the last one of each
    found: dict[tuple[str, str], list[str]] = {}
    superseded = []
    for tag, one in versions.items():
        if one.kind == "prerelease" and one.variant in newest and one.order < newest[one.variant]:
            superseded.append(tag)
        else:
            found.setdefault((one.kind, one.variant), []).append(tag)
    variants = {one.variant for one in versions.values() if one.variant}
    moving = [tag for tag in tags if tag not in versions and _is_moving(tag, variants)]
    return {"lines": list(found.values()), "superseded": superseded, "moving": moving}


def _is_moving(tag: str, variants: set[str]) -> bool:
    """Return whether the scheme moves a tag; a variant's tags move only where it has versions."""
    if _MOVING.fullmatch(tag) or tag in variants:
        return True
    covered, _hyphen, variant = tag.partition("-")
    return variant in variants and bool(_MOVING.fullmatch(covered))


def moves(version: str, present: Mapping[str, str]) -> list[Move]:
    """Return the tags that must move once version is there; pre-releases and builds move none.

    present: {tag: image's ID} of all tags of the name on the host, version among them. Raises
    VersionError where version is not a version.
    """
    new = read(version)
    if new.kind != "release":
        return []
    releases = [
        (tag, one.order) for tag, one in known(present).items() if (one.kind, one.variant) == ("release", new.variant)
    ]
    major, minor = new.order.major, new.order.minor
    covering = {
        f"{major}.{minor}": [tag for tag, one in releases if (one.major, one.minor) == (major, minor)],
        f"{major}": [tag for tag, one in releases if one.major == major],
        "latest": [tag for tag, _one in releases],
    }
    result = []
    for short, covered in covering.items():
        tag, newest = f"{short}-{new.variant}" if new.variant else short, covered[-1]
        if present.get(tag) != present[newest]:
            result.append(Move(tag, present.get(tag), present[newest], newest))
    return result
