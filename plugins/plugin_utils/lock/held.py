# SPDX-License-Identifier: MIT
"""Hold the options of roles to the lock beside the inventory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.package_set import in_channel
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import lock_file

# {role: {stack or "": {option with a version: the package whose version it is}}}.
_VERSIONS: dict[str, dict[str, dict[str, str]]] = {
    "docker_ce": {
        "": {
            "version": "docker-ce",
            "containerd_version": "containerd.io",
            "buildx_version": "docker-buildx-plugin",
            "compose_version": "docker-compose-plugin",
        }
    },
    "nvidia_docker": {
        "toolkit": {"version": "nvidia-container-toolkit"},
        "nvidia-docker2": {
            "version": "nvidia-docker2",
            "runtime_version": "nvidia-container-runtime",
            "hook_version": "nvidia-container-runtime-hook",
        },
    },
}
ROLES = tuple(_VERSIONS)


def path_of(variables: Mapping[str, Any], named: str | None) -> Path | None:
    """Return where the lock of a host's inventory is, or would be; None where no lock is wanted, or can be.

    variables: those of a task; named: the variable gpuprov_lock, None where it is not set.
    """
    directory = variables.get("inventory_dir")
    if named == "" or (named is None and not directory):
        return None
    place = Path(directory or os.getcwd())
    sources = [os.path.realpath(source) for source in variables.get("ansible_inventory_sources") or []]
    if named is None and os.path.realpath(place) in sources:
        return lock_file.beside(place)
    return place / Path(named or lock_file.NAME).expanduser()


def text_of(path: Path | None, named: str | None) -> str | None:
    """Return the content of the lock, or None without one. Raises LockFileError, also where a named one is missing."""
    if path is None or (named is None and not path.exists()):
        return None
    return lock_file.read(path)


def existing(path: Path) -> lock_file.Lock:
    """Return the lock at a path, an empty one where there is none that can be read: it is written again."""
    try:
        return lock_file.load(path)
    except lock_file.LockFileError:
        return lock_file.Lock({})


def identity(path: Path | None, text: str | None) -> str:
    """Return a text that differs where another lock is used."""
    return "" if text is None else f"{path} {hashlib.sha256(text.encode()).hexdigest()}"


def system_of(lock: lock_file.Lock, codename: str, architecture: str, where: Path | str) -> lock_file.System:
    """Return what a lock has for a release and architecture. Raises LockFileError."""
    try:
        return lock.systems[codename, architecture]
    except KeyError:
        have = ", ".join(" ".join(kind) for kind in sorted(lock.systems)) or "nothing"
        raise lock_file.LockFileError(
            f"the lock {where} has nothing for {codename} {architecture} (it has {have}): add it with gpuprov lock"
        ) from None


def held(
    role: str, options: Mapping[str, Any], system: lock_file.System, where: Path | str
) -> tuple[dict[str, str], list[str]]:
    """Return ({option: the locked version}, problems) of a role's options under a lock.

    Under a channel the versions are the lock's; without one the inventory's must be the same.
    """
    versions, problems = {}, []
    channel = str(options.get("channel") or "")
    for option, package in _VERSIONS.get(role, {}).get(str(options.get("stack", "")), {}).items():
        declared, locked = options.get(option), system.pins.get(package)
        if not declared:
            continue
        if locked is None:
            problems.append(f"the lock {where} was made without {package}: run gpuprov lock")
        elif channel and options.get("stack") != "nvidia-docker2":
            versions[option] = locked
            if option == "version" and not in_channel(locked, channel):
                problems.append(
                    f"the lock {where} has {package} {locked}, which is not in {role}_channel {channel}: "
                    "run gpuprov lock --upgrade"
                )
        elif locked != declared:
            problems.append(
                f"the lock {where} was made for {package} {locked}, the inventory says {declared}: run gpuprov lock"
            )
    return versions, problems


def packages_of(system: lock_file.System) -> dict[str, list[str]]:
    """Return {package: [version, SHA-256]}, for the module docker_packages."""
    return {package.name: [package.version, package.sha256] for package in system.packages}
