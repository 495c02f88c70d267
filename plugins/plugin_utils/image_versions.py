# SPDX-License-Identifier: MIT
"""The version scheme of tags: 1.9.1, and 1.9, 1 and latest at the newest version that each covers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import semver


class VersionError(ValueError):
    """A tag is no version; the message says so for people."""


class Move(NamedTuple):
    """A tag that is to point at another version than it does. before is an image's ID, None of a new tag."""

    tag: str
    before: str | None
    after: str
    version: str


def parse(tag: str) -> semver.Version:
    """Return the version that a tag is. Raises VersionError."""
    try:
        return semver.Version.parse(tag)
    except ValueError:
        raise VersionError(f"{tag} is no version such as 1.9.1 or 2.0.0-rc.1 (semver.org)") from None


def ordered(tags: Iterable[str]) -> dict[str, list[str]]:
    """Return the tags that are versions, ascending: {"releases", "prereleases", "superseded"}.

    superseded are the pre-releases that a release is newer than.
    """
    versions = []
    for tag in tags:
        try:
            versions.append(parse(tag))
        except VersionError:
            continue
    versions.sort()
    releases = [version for version in versions if not version.prerelease]
    waiting = [one for one in versions if one.prerelease and not (releases and one < releases[-1])]
    return {
        "releases": [str(one) for one in releases],
        "prereleases": [str(one) for one in waiting],
        "superseded": [str(one) for one in versions if one.prerelease and one not in waiting],
    }


def moves(version: str, present: Mapping[str, str]) -> list[Move]:
    """Return the tags that are to move once version is there; a pre-release moves none.

    present: {tag: image's ID} of all tags of the name on the host, version among them. Raises
    VersionError where version is none.
    """
    new = parse(version)
    if new.prerelease:
        return []
    releases = [parse(tag) for tag in ordered(present)["releases"]]
    covering = {
        f"{new.major}.{new.minor}": [one for one in releases if (one.major, one.minor) == (new.major, new.minor)],
        f"{new.major}": [one for one in releases if one.major == new.major],
        "latest": releases,
    }
    result = []
    for tag, covered in covering.items():
        newest = str(max(covered))
        if present.get(tag) != present[newest]:
            result.append(Move(tag, present.get(tag), present[newest], newest))
    return result
