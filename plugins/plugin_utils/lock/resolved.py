# SPDX-License-Identifier: MIT
"""Make a lock of what hosts resolved, and compare locks. Needs python-debian; pure functions."""

from __future__ import annotations

import contextlib
import email.utils
import re
from collections.abc import Iterable, Mapping
from datetime import timezone
from typing import Any
from urllib.parse import unquote

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.apt_get import parsed_file_name
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.package_set import in_channel
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.resolution import DISTRIBUTIONS
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock.lock_file import Lock, Package, Source, System
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan.host_findings import missing_fix

with contextlib.suppress(ImportError):  # plugin_utils.requirements
    from debian.deb822 import Packages

# Packages without a channel of their own: the newest one works with every engine of the repository.
_LEADERS = {"docker_ce": ("docker-ce", "docker-ce-cli")}
Sets = list[dict[str, Any]]  # of {role, packages, install_recommends, source, channel, proxy}


class ResolutionError(ValueError):
    """The pins of hosts, or what a host answered, cannot become a lock; the message is for people."""


# ---- Before --------------------------------------------------------------------------------------


def merged(sets_of: Mapping[str, Sets]) -> Sets:
    """Return one set for each role, of all hosts of one release and architecture: {host: its sets}.

    Raises ResolutionError where two hosts differ in what one lock cannot hold for both.
    """
    result: dict[str, dict[str, Any]] = {}
    first_of: dict[tuple[str, str], str] = {}
    for host, sets in sets_of.items():
        for one in sets:
            into = result.setdefault(one["role"], {**one, "packages": []})
            into["source"] = into["source"] or one["source"]
            into["install_recommends"] |= one["install_recommends"]
            have = {package["name"]: package["version"] for package in into["packages"]}
            wanted = [("channel", one["channel"], into["channel"])]
            wanted += [(name, version, have.get(name, version)) for name, version in _pins([one]).items()]
            for name, version, other in wanted:
                before = first_of.setdefault((one["role"], name), host)
                if version != other:
                    raise ResolutionError(
                        f"{name} is {other or 'empty'} on {before} and {version or 'empty'} on {host}: a lock has one "
                        "version for each release and architecture. Make them the same, or choose hosts with --limit"
                    )
            into["packages"] += [package for package in one["packages"] if package["name"] not in have]
    return [result[role] for role in sorted(result)]


def _pins(sets: Sets) -> dict[str, str]:
    return {package["name"]: package["version"] for one in sets for package in one["packages"]}


def asked(sets: Sets, old: System | None, upgrade: bool) -> Sets:
    """Return the sets as the host resolves them: with exact versions, or a channel of which it takes the newest.

    Without a channel the declared versions are exact. With one, the versions of the old lock stay, or else those that
    are declared, unless they are not in the channel or upgrade is true.
    """
    result = []
    for one in sets:
        channel = one["channel"]
        packages = [dict(package) for package in one["packages"]]
        if channel:
            leaders = _LEADERS.get(one["role"], tuple(package["name"] for package in packages))
            for package in packages:
                package["version"] = (old.pins if old else {}).get(package["name"], package["version"])
            moves = upgrade or not all(
                in_channel(package["version"], channel) for package in packages if package["name"] in leaders
            )
            for package in packages if moves else []:
                package["channel"] = channel if package["name"] in leaders else ""
        result.append({**one, "packages": packages})
    return result


# ---- After ---------------------------------------------------------------------------------------


def system(answer: Mapping[str, Any], sets: Sets) -> System:
    """Return what a host resolved as a part of the lock. answer: that of the module apt_resolution.

    Raises ResolutionError.
    """
    roles = {package["name"]: one["role"] for one in sets for package in one["packages"]}
    stanzas = list(Packages.iter_paragraphs(answer["stanzas"], use_apt_pkg=False))
    names = _names(answer["sources"])
    sources, packages = {}, []
    for uri, file_name, size, sha256 in answer["packages"]:
        name, version, architecture = parsed_file_name(file_name)
        stanza = next(
            (
                one
                for one in stanzas
                if (one["Package"], one["Version"], one["Architecture"]) == (name, version, architecture)
                and one.get("SHA256") == sha256
            ),
            None,
        )
        if stanza is None:
            raise ResolutionError(f"the repository of {name} {version} has no SHA-256 for it: it cannot be locked")
        path = stanza["Filename"]
        # Older versions of apt do not quote what they print.
        key = next((key for key in names if _joined(key[0], path) in (_joined(uri), _joined(unquote(uri)))), None)
        if key is None:
            raise ResolutionError(f"apt would get {name} from {_plain(uri)}, which is not one of the sources")
        sources[names[key]] = _source(next(one for one in answer["sources"] if (one["uri"], one["suite"]) == key))
        packages.append(Package(name, architecture, version, sha256, size, path, names[key], roles.get(name, "")))
    return System(dict(answer["versions"]), sources, tuple(sorted(packages)))


def _plain(uri: str) -> str:
    """Return a URI without a password."""
    return re.sub(r"://[^/@]*@", "://", uri)


def _joined(uri: str, path: str = "") -> str:
    """Return the URI of a file in a form in which equal ones are equal."""
    return re.sub(r"(?<![:/])/(?:\.?/)+", "/", f"{_plain(uri)}/{path}" if path else _plain(uri))


def _names(sources: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Return {(URI, suite): name} of sources: the role, or the suite, with a number where that is taken."""
    names: dict[tuple[str, str], str] = {}
    for source in sorted(sources, key=lambda one: (one["role"], one["number"], one["uri"], one["suite"])):
        flat = not source["suite"].strip("./")
        name = source["role"] or (source["codename"] if flat else source["suite"])
        name = base = re.sub(r"[^0-9A-Za-z._-]+", "-", name).strip("-.") or "distribution"
        number = 1
        while name in names.values():
            number += 1
            name = f"{base}-{number}"
        names[source["uri"], source["suite"]] = name
    return names


def _source(found: Mapping[str, Any]) -> Source:
    date = email.utils.parsedate_to_datetime(re.sub(r"\b(UTC|Z)$", "+0000", found["date"]))
    time = date.astimezone(timezone.utc)
    return Source(
        _plain(found["uri"]).rstrip("/"),
        found["suite"],
        tuple(sorted(set(found["components"]))),
        found["key"],
        time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        found["sha256"],
        time.strftime("%Y%m%dT%H%M%SZ") if found["origin"] in DISTRIBUTIONS else "",
    )


# ---- Comparing -----------------------------------------------------------------------------------


def changes(old: System | None, new: System) -> list[dict[str, str | None]]:
    """Return the packages that differ, those of the sets first, as [{role, subject, from, to}]."""
    before = {package.name: package for package in old.packages} if old else {}
    after = {package.name: package for package in new.packages}
    result = []
    for name in sorted({*before, *after}, key=lambda name: (not _has_role(name, before, after), name)):
        was, now = before.get(name), after.get(name)
        if was and now and (was.version, was.sha256) != (now.version, now.sha256):
            rebuilt = was.version == now.version
            result.append(_change(now, was.version, f"{now.version}, other bits" if rebuilt else now.version))
        elif now and not was:
            result.append(_change(now, None, now.version))
        elif was and not now:
            result.append(_change(was, was.version, None))
    return result


def _change(package: Package, before: str | None, after: str | None) -> dict[str, str | None]:
    return {"role": package.role, "subject": package.name, "from": before, "to": after}


def _has_role(name: str, *packages: Mapping[str, Package]) -> bool:
    return any(name in found and found[name].role for found in packages)


def unfit(locked: System, sets: Sets, answer: Mapping[str, Any]) -> list[str]:
    """Return why a part of the lock does not fit the inventory's sets, or the repositories: a line each.

    answer: that of the module apt_resolution for known, the packages of the lock.
    """
    lines = []
    for one in sets:
        for package in one["packages"]:
            name, version, has = package["name"], package["version"], locked.pins.get(package["name"])
            leads = name in _LEADERS.get(one["role"], (name,))
            if has is None:
                lines.append(f"{name}: the inventory says {version}, and the lock was made without it")
            elif one["channel"] and leads and not in_channel(has, one["channel"]):
                lines.append(f"{name}: the lock has {has}, which is not in {one['role']}_channel {one['channel']}")
            elif not one["channel"] and version != has:
                lines.append(f"{name}: the lock was made for {has}, the inventory says {version}")
    declared = _pins(sets)
    lines += [f"{name}: it is in the lock, and not in the inventory" for name in locked.pins if name not in declared]
    found: dict[tuple[str, str], list[str]] = {}
    for stanza in Packages.iter_paragraphs(answer["known"], use_apt_pkg=False):
        found.setdefault((stanza["Package"], stanza["Version"]), []).append(stanza.get("SHA256", ""))
    for package in locked.packages:
        hashes = found.get((package.name, package.version), [])
        if not hashes:
            lines.append(f"{package.name} {package.version}: the repository does not have it any more")
        elif package.sha256 not in hashes:
            lines.append(f"{package.name} {package.version}: the repository has other bits, SHA-256 {hashes[0]}")
    signers = {(_plain(one["uri"]).rstrip("/"), one["suite"]): one["key"] for one in answer["sources"]}
    for name, source in sorted(locked.sources.items()):
        key = signers.get((source.uri, source.suite))
        if key not in (None, source.key):
            lines.append(f"{name}: signed by {key}, and the lock has {source.key}")
    return lines


def below_floors(locked: System) -> list[str]:
    """Return the packages of a lock that lack a known security fix, a line each."""
    fixes = ((package, missing_fix(package.name, package.version)) for package in locked.packages)
    return [f"{package.name} {package.version} lacks the fix of {fix}" for package, fix in fixes if fix]


def kept(old: Lock, new: Lock, all_asked: bool) -> Lock:
    """Return the lock to write: what was resolved, and of the old one what was not asked for in this run."""
    return Lock({**({} if all_asked else old.systems), **new.systems})
