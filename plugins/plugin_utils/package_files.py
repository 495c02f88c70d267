# SPDX-License-Identifier: MIT
"""Check local package files (.deb) of a set, and send those that a host lacks."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat, deb

_Packages = list[dict[str, Any]]


class PackageFileError(AnsibleError):
    """A file cannot be installed; the message names it, and is one line for people."""


def _read(path: Path) -> deb.Control:
    try:
        return deb.read(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise PackageFileError(f"the package file {path} cannot be used: {reason}") from None


def chosen(packages: _Packages, paths: Iterable[str], architecture: str) -> _Packages:
    """Return the packages of a set that have a version, [{name, version}], with ``file`` where a path has it.

    packages: [{name, version, pin}]; a version other than the pin is one that somebody set, and a file must have it. A
    file replaces a pin. Raises PackageFileError for a file that is not of the set.
    """
    found: dict[str, tuple[Path, str]] = {}
    for text in paths:
        path = Path(text).expanduser()
        if not path.is_absolute():
            raise PackageFileError(f"the package file {path} has no absolute path")
        one = _read(path)
        wanted = next((package for package in packages if package["name"] == one.name), None)
        if wanted is None:
            names = ", ".join(package["name"] for package in packages)
            raise PackageFileError(f"the package file {path} is {one.name}, which is none of {names}")
        if one.architecture not in (architecture, "all"):
            raise PackageFileError(f"the package file {path} is for {one.architecture}, and the host is {architecture}")
        if wanted["version"] not in (one.version, wanted["pin"]):
            raise PackageFileError(
                f"the package file {path} has version {one.version} of {one.name}, and {wanted['version']} is wanted"
            )
        if one.name in found:
            raise PackageFileError(f"the package files {found[one.name][0]} and {path} are both {one.name}")
        found[one.name] = path, one.version
    result = []
    for package in packages:
        name = package["name"]
        if name in found:
            path, version = found[name]
            file = {"path": str(path), "size": path.stat().st_size, "sha256": deb.sha256(path)}
            result.append({"name": name, "version": version, "file": file})
        elif package["version"]:
            result.append({"name": name, "version": package["version"]})
    return result


def note(packages: _Packages, changes: _Packages) -> list[dict[str, str]]:
    """Return the note of a plan that says which of the set's packages come from files of this computer."""
    subjects = {change["subject"] for change in changes}
    files = [package["file"] for package in packages if "file" in package and package["name"] in subjects]
    if not files:
        return []
    names = ", ".join(Path(file["path"]).name for file in files)
    mib = sum(file["size"] for file in files) / 2**20
    return [{"name": "package-files", "message": f"installed from files of this computer ({mib:.1f} MiB): {names}"}]


@contextlib.contextmanager
def sent(action: ActionBase, sets: _Packages) -> Iterator[_Packages]:
    """Send the files of package sets that the action's host needs; yield the sets with where these are.

    The files are gone at the end.
    """
    packages = [package for one in sets for package in one.get("packages") or [] if "file" in package]
    needed = _needed(action, packages)
    if not needed:
        yield sets
        return
    with ansible_compat.temporary_directory(action) as directory:
        places = {}
        for package in needed:
            path = Path(package["file"]["path"])
            places[package["name"]] = ansible_compat.send_file(action, path, directory, f"{package['name']}.deb")
        yield [_with_places(one, places) for one in sets]


def _with_places(one: dict[str, Any], places: dict[str, str]) -> dict[str, Any]:
    packages = [
        {**package, "file": {**package["file"], "sent": places[package["name"]]}}
        if package["name"] in places
        else package
        for package in one.get("packages") or []
    ]
    return {**one, "packages": packages} if packages else one


def _needed(action: ActionBase, packages: _Packages) -> _Packages:
    """Return the packages that are not installed on the action's host as they are wanted."""
    if not packages:
        return []
    form = "${Package} ${Version} ${db:Status-Abbrev}|\\n"
    words = ["dpkg-query", "--show", "--showformat", form, *(package["name"] for package in packages)]
    # It fails for names that it does not know, and still shows the others.
    lines = str(ansible_compat.run_command(action, shlex.join(words))["stdout"]).splitlines()
    right = [f"{package['name']} {package['version']} " for package in packages]
    installed = {line.split()[0] for line in lines if line.startswith(tuple(right)) and re.search(r" .i \|\s*$", line)}
    return [package for package in packages if package["name"] not in installed]
