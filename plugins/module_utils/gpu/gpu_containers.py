# SPDX-License-Identifier: MIT
"""Decide what gives containers their GPUs and keeps them there: the toolkit's mode, links in /dev/char, CDI.

Pure functions, shared by the module nvidia_toolkit_config (on the host) and by the plan (on the controller, from what
the probe reported). Shapes of ``found``: see roles/gpu_host_probe/README.md.

A container loses its GPU at a ``systemctl daemon-reload`` where systemd was not told of the device:
systemd sets the devices of a container's scope anew, to those that it knows of. dockerd's systemd
cgroup driver tells it of the devices in the container's own configuration. There are none of NVIDIA's
in the toolkit's legacy mode, whose hook gives the devices behind systemd's back; and runc 1.1.3 to
1.1.6 leave out devices without a link in /dev/char, which NVIDIA's driver does not make. systemd
before 240 needs the link, too. For ``docker run --gpus`` the engine calls that hook in every mode of the
toolkit's, unless it has a CDI specification and is 29.2 or newer, or NVIDIA's runtime is the one that starts the
container: that takes the hook out, except in the legacy mode. Sources: nvidia-container-toolkit, issue 48, and
internal/modifier/hook_remover.go; runc's CHANGELOG, 1.1.7; moby, daemon/devices_nvidia_linux.go.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import re

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

ROLE = "nvidia_docker"
MODE, LINKS, SPEC, REFRESH = "toolkit mode", "links in /dev/char", "CDI specification", "CDI refresh"
HOOK = "hook of the toolkit"
SUBJECTS = (MODE, HOOK, LINKS, SPEC, REFRESH)
KIND = "nvidia.com/gpu"
SPEC_PATH = "/var/run/cdi/nvidia.yaml"
LINKS_RULE = "71-gpuprov-nvidia-dev-char.rules"
# NVIDIA's own, of the toolkit's package since 1.18; before that ours.
NVIDIA_REFRESH, OWN_REFRESH = "nvidia-cdi-refresh", "gpuprov-cdi-refresh"

# The first version that gives devices in the container's own configuration unless told otherwise.
_JIT_CDI = (1, 18)
_RUNC_NEEDS_LINKS = ((1, 1, 3), (1, 1, 7))
# With a systemd before 240.
_OLD_SYSTEMD = ("xenial", "bionic")


def version_of(text):
    """Return the numbers that a version begins with, such as (1, 19, 1), or None."""
    match = re.match(r"^(?:\d+:)?v?(\d+(?:\.\d+)*)", str(text or ""))
    return tuple(int(number) for number in match.group(1).split(".")) if match else None


def decide(wanted, found):
    """Return the changes that give containers their GPUs as wanted, and let them keep them.

    wanted: {stack, version, cdi, mode}; found: the probe's. Raises HostError.
    """
    if wanted["stack"] != "toolkit":
        if wanted["cdi"] and wanted["stack"] != "none":
            raise HostError(
                "nvidia_docker_cdi is true, and %s has no CDI: it takes nvidia_docker_stack: toolkit" % wanted["stack"]
            )
        return []
    version = version_of(wanted["version"])
    gpu = found["gpu"]
    changes = []
    mode, had = _wanted_mode(wanted["mode"], version, found), toolkit_mode(gpu)
    if mode:
        changes.append(_change(MODE, had, mode))
    if (mode or had) == "cdi" and not (gpu["toolkit"] or {}).get("any_mode"):
        changes.append(_change(HOOK, "refuses docker run --gpus", "gives GPUs in the mode cdi, too"))
    if needs_links(found) and gpu["nodes"]:
        unlinked = unlinked_nodes(gpu)
        if unlinked:
            changes.append(_change(LINKS, None, " ".join(unlinked)))
        elif LINKS_RULE not in gpu["kept"]:
            changes.append(_change(LINKS, "until the next start", "by a udev rule"))
    in_use = wanted["cdi"] or (mode or had) == "cdi"
    if in_use:
        refresh = refresh_of(wanted["version"])
        if found["init"] == "systemd" and refresh + ".path" not in gpu["kept"]:
            changes.append(_change(REFRESH, None, refresh + ".path"))
    if gpu["driver_version"] and (in_use or gpus_by_cdi(found)):
        stale = stale_spec(gpu)
        # `docker run --gpus` works without a specification, and fails with a stale one.
        if stale or (in_use and stale is not None):
            changes.append(_change(SPEC, stale or None, "driver %s" % gpu["driver_version"]))
    return changes


def gpus_by_cdi(found):
    """Return whether `docker run --gpus` takes GPUs from a CDI specification where there is one.

    Source: moby, daemon/devices_nvidia_linux.go: since 29.2, where CDI is on and nvidia-cdi-hook is installed, which
    comes with the toolkit.
    """
    info = found["docker"]["info"] or {}
    return (version_of(info.get("ServerVersion")) or ()) >= (29, 2) and bool(info.get("CDISpecDirs"))


def _change(subject, before, after):
    return {"role": ROLE, "subject": subject, "from": before, "to": after, "disruption": "none"}


def refresh_of(version):
    """Return the name of the units that keep the specification fresh with a version of the toolkit."""
    return NVIDIA_REFRESH if (version_of(version) or ()) >= _JIT_CDI else OWN_REFRESH


def toolkit_mode(gpu):
    """Return the toolkit's mode."""
    toolkit = gpu["toolkit"] or {}
    return toolkit.get("mode") or "auto"


def _wanted_mode(asked, version, found):
    """Return the mode to set, or None where the present one is right."""
    had = toolkit_mode(found["gpu"])
    if asked:
        return asked if asked != had else None
    if cgroup_driver(found) == "cgroupfs" or in_configuration(had, version):
        return None
    return "auto" if version >= _JIT_CDI else "cdi"


def in_configuration(mode, version):
    """Return whether a mode of a version of the toolkit puts devices into the container's own configuration."""
    if mode == "auto":
        return version is not None and version >= _JIT_CDI
    return mode != "legacy"


def cgroup_driver(found):
    """Return dockerd's cgroup driver, or None where dockerd does not run."""
    return (found["docker"]["info"] or {}).get("CgroupDriver")


def needs_links(found):
    """Return whether containers lose their GPUs at a daemon-reload unless the devices have links in /dev/char."""
    if cgroup_driver(found) != "systemd":
        return False
    if found["os"]["codename"] in _OLD_SYSTEMD:
        return True
    runc = version_of(((found["docker"]["info"] or {}).get("RuncCommit") or {}).get("ID"))
    # Of an engine that does not say its runc's version, what helps every version is asked for.
    return runc is None or len(runc) < 2 or _RUNC_NEEDS_LINKS[0] <= runc < _RUNC_NEEDS_LINKS[1]


def unlinked_nodes(gpu):
    """Return the paths of device nodes without a link in /dev/char."""
    # Those under nvidia-caps are for MIG's administration.
    return [node["path"] for node in gpu["nodes"] if not node["linked"] and "/nvidia-caps/" not in node["path"]]


def stale_spec(gpu):
    """Return None where the CDI specification is right, else what is there instead: words, or "" for nothing.

    gpu: the probe's. What lies in /var/run/cdi goes before what lies in /etc/cdi.
    """
    specs = [spec for spec in gpu["cdi"] if spec["kind"] == KIND or (spec["error"] and "nvidia" in spec["path"])]
    specs = [spec for spec in specs if spec["path"].startswith("/var/run/")] or specs
    if not specs:
        return ""
    for spec in specs:
        if spec["error"]:
            return "%s is invalid: %s" % (spec["path"], spec["error"])
        if spec["driver_version"] != gpu["driver_version"]:
            return "driver %s" % (spec["driver_version"] or "unknown")
    # The numbers of some devices are given out anew at every boot.
    numbers = {node["path"]: node["number"] for node in gpu["nodes"]}
    moved = {
        path
        for spec in specs
        for path, number in spec["nodes"].items()
        if number not in (None, numbers.get(path, number))
    }
    if moved:
        return "other numbers of %s" % " ".join(sorted(moved))
    devices = {name for spec in specs for name in spec["devices"]}
    wanted = {one["uuid"] for one in gpu["mig_devices"]}
    wanted.update(one["uuid"] for one in gpu["gpus"] or [] if one["uuid"] and not one["mig"])
    named = {name for name in devices if name.startswith(("GPU-", "MIG-"))}
    # One that names devices by their numbers alone says nothing of which they are.
    if named and wanted - named:
        return "without %s" % " ".join(sorted(wanted - named))
    gone = named - wanted - {one["uuid"] for one in gpu["gpus"] or []}
    if wanted and gone:
        return "with %s, which is not here" % " ".join(sorted(gone))
    return None if "all" in devices else "without the device all"
