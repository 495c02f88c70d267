# SPDX-License-Identifier: MIT
"""Decide the changes that a package set needs: source, keyring, exact versions, holds, packages to remove.

Pure functions, shared by the module docker_packages (on the host) and by the plan (on the
controller, from what the probe reported). Python 2.7 syntax.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import base64
import re

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import apt_sources, openpgp
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact

# A change of one of these restarts dockerd, or the containers' shims' parent.
ENGINE = ("docker-ce", "containerd.io")
# From this version on, maintainer scripts of the package have systemd read its units again. Those of ENGINE always do.
_RELOADS_SYSTEMD = {"nvidia-container-toolkit-base": (1, 18)}
# Engines under their distributions' and earlier names.
LEGACY_ENGINES = ("docker", "docker-engine", "docker.io", "containerd", "lxc-docker")

# Debian Policy 5.6.1 and 5.6.12: nothing in these is an option, a wildcard or shell syntax.
_NAME = re.compile(r"^[a-z0-9][a-z0-9+.-]+\Z")
_VERSION = re.compile(r"^[0-9A-Za-z][0-9A-Za-z.+:~-]*\Z")
_URL = re.compile(r"^(https?|file)://[^\s\[\]\"'`\\<>]+\Z")
_PATH = re.compile(r"^/[^\s\"'`\\<>*?\[\]]*\Z")
_FINGERPRINT = re.compile(r"^([0-9A-F]{40}|[0-9A-F]{64})\Z")


def check(wanted):
    """Raise HostError where a name, version, URL or fingerprint is none."""
    role = wanted["role"]
    for package in wanted["packages"]:
        if not _NAME.match(package["name"]):
            raise HostError("%s: %r is not a package name" % (role, str(package["name"])))
        if not _VERSION.match(str(package["version"])):
            raise HostError("%s: %r is not a version of %s" % (role, str(package["version"]), package["name"]))
    for name in wanted["remove"]:
        if not _NAME.match(name):
            raise HostError("%s: %r is not a package name" % (role, str(name)))
    source = wanted.get("source")
    if source:
        for uri in source["uris"]:
            if not _URL.match(uri):
                raise HostError("%s: %r is not the URL of a repository" % (role, redact(str(uri))))
        if not _URL.match(source["key_url"]) and not _PATH.match(source["key_url"]):
            raise HostError("%s: %r is neither a URL nor a path of a key" % (role, redact(str(source["key_url"]))))
        if not _FINGERPRINT.match(openpgp.normal(str(source["key_fingerprint"]))):
            raise HostError(
                "%s: %r is not a fingerprint: 40 hexadecimal digits" % (role, str(source["key_fingerprint"]))
            )


def decide(wanted, apt, architecture):
    """Return the changes that a set needs.

    wanted: a package set (roles/docker_ce/vars/main.yml); apt: the probe's ``apt`` object;
    architecture: dpkg's word. Raises HostError.
    """
    check(wanted)
    changes = []
    source = wanted.get("source")
    if source:
        changes += _keyring_changes(wanted["role"], source, apt["keyrings"])
        changes += _source_changes(wanted["role"], source, apt, architecture)
    changes += _forgotten_changes(wanted, apt)
    packages = apt["packages"]
    engine_installed = any(is_present(packages.get(name)) for name in ENGINE + LEGACY_ENGINES)
    for package in wanted["packages"]:
        changes += _package_changes(wanted, package, packages.get(package["name"]), engine_installed)
    for name in wanted["remove"]:
        if is_present(packages.get(name)):
            version = packages[name]["version"]
            disruption = "restart" if name in LEGACY_ENGINES else _disruption(name, [version], engine_installed)
            changes.append(_change(wanted["role"], name, version, None, disruption))
    return changes


def is_present(package):
    """Return whether a package of the probe is on the host: any state but none and config-files."""
    return package is not None and package["status"][1:2] not in ("", "n", "c")


def is_installed(package):
    """Return whether a package of the probe is installed in full."""
    return package is not None and package["status"][1:2] == "i" and package["status"][2:3] not in ("R",)


def _disruption(name, versions, engine_installed):
    """Return the disruption of changing a package between versions, on a host whose engine may run containers."""
    if not engine_installed:
        return "none"
    if name in ENGINE:
        return "restart"
    if name in _RELOADS_SYSTEMD and any(_numbers(version) >= _RELOADS_SYSTEMD[name] for version in versions):
        return "daemon-reload"
    return "none"


def _numbers(version):
    match = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match.group(1).split(".")) if match else ()


def in_channel(version, channel):
    """Return whether a version is in a channel: 5:29.7.2-1~debian.12~bookworm is in "29", "29.7", "29.7.2" and ""."""
    upstream = version.partition(":")[2] if ":" in version else version
    return not channel or re.match(re.escape(channel) + r"([^0-9]|\Z)", upstream) is not None


def _package_changes(wanted, package, have, engine_installed):
    role, name, version = wanted["role"], package["name"], package["version"]
    versions = [version] + ([have["version"]] if is_present(have) else [])
    disruption = _disruption(name, versions, engine_installed)
    if not is_present(have):
        return [_change(role, name, None, version, disruption)]
    changes = []
    if not is_installed(have):
        changes.append(_change(role, name, "%s, half installed" % have["version"], version, disruption))
    elif have["version"] != version:
        changes.append(_change(role, name, have["version"], version, disruption))
    if wanted["hold"] and not have["hold"]:
        changes.append(_change(role, "%s hold" % name, "not held", "held", "none"))
    elif not wanted["hold"] and have["hold"]:
        changes.append(_change(role, "%s hold" % name, "held", "not held", "none"))
    return changes


def _keyring_changes(role, source, keyrings):
    subject = "keyring %s" % source["name"]
    have = keyrings.get(source["keyring"])
    wanted = openpgp.normal(source["key_fingerprint"])
    if have is None:
        return [_change(role, subject, None, wanted, "none")]
    try:
        names = [name for name, _data in openpgp.certificates(base64.b64decode(have["data"]))]
    except openpgp.KeyringError:
        names = ["no key"]
    if names != [wanted]:
        return [_change(role, subject, ", ".join(names), wanted, "none")]
    owner_and_mode = "%s:%s %s" % (have["uid"], have["gid"], have["mode"])
    if owner_and_mode != "0:0 0644":
        return [_change(role, subject, owner_and_mode, "0:0 0644", "none")]
    return []


def _source_changes(role, source, apt, architecture):
    files, links = apt["source_files"], apt.get("source_links") or {}
    subject = "apt source %s" % source["name"]
    right, foreign = apt_sources.judge(source, files, architecture)
    ours = apt_sources.path_of(source)
    others = ", ".join(_named(path, text, links) for path, text in sorted(foreign.items()))
    if not right:
        content = "other content" if ours in files else ""
        if ours in files and ours in links:
            content = "other content of %s" % links[ours]
        before = ", also in ".join(part for part in (content, others) if part) or None
        return [_change(role, subject, before, redact(" ".join(source["uris"])), "none")]
    if foreign:
        return [_change(role, subject, "also in %s" % others, "only in %s" % ours, "none")]
    return []


def _forgotten_changes(wanted, apt):
    """Return the changes that take a source away which a set no longer has."""
    source = wanted.get("source_gone")
    if not source:
        return []
    changed, unneeded = apt_sources.forgotten(source, apt["source_files"])
    changes = [
        _change(wanted["role"], "apt source %s" % source["name"], "in %s" % path, None, "none")
        for path in sorted(changed)
    ]
    if unneeded and source["keyring"] in apt["keyrings"]:
        changes.append(_change(wanted["role"], "keyring %s" % source["name"], source["keyring"], None, "none"))
    return changes


def _named(path, text, links):
    """Return the name of a file that changes, and what becomes of it."""
    if path in links:
        return "%s (a link to %s)" % (path, links[path])
    return path if apt_sources.stays(path, text) else "%s (goes)" % path


def _change(role, subject, before, after, disruption):
    return {"role": role, "subject": subject, "from": before, "to": after, "disruption": disruption}
