# SPDX-License-Identifier: MIT
"""Find containers that would lose their GPUs at a ``systemctl daemon-reload``. Runs on hosts: Python 2.7 syntax.

At a daemon-reload systemd gives each scope only the devices in its DeviceAllow. Devices that NVIDIA's hook gave
(legacy mode), or that runc left out for lack of a link in /dev/char, are not in it: the container loses them.
``systemctl set-property --runtime`` tells systemd of them, which works for a container that already runs, whatever
the mode, the runc and the cgroup version; a container that has lost its devices gets them back by it. Sources:
systemd.resource-control(5), DeviceAllow= and DevicePolicy=; nvidia-container-toolkit, issue 48.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import glob
import json
import os
import re

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import dockerd

DEVICES = ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm*", "nvidia-modeset", "nvidia-caps/*")
# The unit of a container under dockerd's systemd cgroup driver.
SCOPE = "docker-%s.scope"
_CGROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")
_BUNDLES = ("/run/containerd/*/*/%s/config.json", "/run/docker/containerd/daemon/*/*/%s/config.json")


def scopes(text):
    """Parse what ``systemctl show`` says of units into [{unit, cgroup, open, allow}].

    allow has the paths of devices that may be read and written; open says that all devices may be.
    """
    found = []
    for block in re.split(r"\n[ \t]*\n", text):
        values, allow = {}, []
        for line in block.splitlines():
            name, _equals, value = line.partition("=")
            if name == "DeviceAllow" and value:
                allow.append(value.split())
            else:
                values[name] = value
        if values.get("Id") and values.get("ControlGroup"):
            found.append(
                {
                    "unit": values["Id"],
                    "cgroup": values["ControlGroup"],
                    "open": values.get("DevicePolicy", "auto") == "auto" and not allow,
                    "allow": [words[0] for words in allow if "r" in words[-1] and "w" in words[-1]],
                }
            )
    return found


def unknown(scope, given, nodes, linked=None):
    """Return the devices given to a scope that systemd would take away, as sorted numbers ``MAJOR:MINOR``.

    given: numbers that the container has; nodes: {path on the host: number}; linked: the numbers that have a link in
    /dev/char, where this systemd needs one (before version 240), else None.
    """
    if scope["open"]:
        return []
    known = set()
    for entry in scope["allow"]:
        if entry == "char-*" or entry.startswith("char-nvidia"):
            return []
        if entry in nodes:
            known.add(nodes[entry])
        elif entry.startswith("/dev/char/"):
            number = entry[len("/dev/char/") :]
            if linked is None or number in linked:
                known.add(number)
    return sorted(set(given) - known)


def fate(subjects, losing, untold, running, policy):
    """Return {kept, lost, refusal} where subjects, if any, have systemd read its units again.

    losing: what Host.losing() returned; untold: the units among them whose devices systemd is not told of; running:
    [{id, name}]; policy is docker_ce_restart. kept and lost are names of containers; refusal says why the subjects
    must not change, or is None.
    """
    if not subjects:
        return {"kept": [], "lost": [], "refusal": None}
    names = {SCOPE % one["id"]: one["name"] for one in running or []}
    kept = sorted(names.get(unit, unit) for unit in losing if unit not in untold)
    lost = sorted(names.get(unit, unit) for unit in untold)
    refusal = None
    if lost and policy != "always":
        refusal = (
            "%s would have systemd read its units again, at which running containers lose their GPU: %s. Stop them, "
            "or set docker_ce_restart: always" % (", ".join(sorted(set(subjects))), ", ".join(lost))
        )
    return {"kept": kept, "lost": lost, "refusal": refusal}


def untellable(losing):
    """Return the units in what Host.losing() returned whose devices systemd cannot be told of."""
    return [unit for unit, paths in losing.items() if not paths]


def mounted(mountinfo):
    """Return the paths under /dev at which a process has a mount of its own, of its /proc/PID/mountinfo."""
    points = [line.split()[4] for line in mountinfo.splitlines() if len(line.split()) > 4]
    return {point for point in points if point.startswith("/dev/nvidia")}


def configured(text):
    """Return the numbers of the devices in an OCI configuration."""
    try:
        devices = (json.loads(text).get("linux") or {}).get("devices") or []
        return {"%d:%d" % (device.get("major", 0), device.get("minor", 0)) for device in devices}
    except (ValueError, AttributeError, TypeError):
        return set()


class Host(object):
    """The containers of this host; run(*words) returns (status, stdout, stderr)."""

    def __init__(self, run):
        self.run = run

    def losing(self):
        """Return {unit: paths of its devices on the host} of the containers that a daemon-reload takes GPUs from."""
        nodes = _nodes("/dev")
        if not nodes or not os.path.isdir("/run/systemd/system"):
            return {}
        words = ["systemctl", "show", "*.scope", "--property", "Id,ControlGroup,DevicePolicy,DeviceAllow"]
        status, out, _err = self.run(*words)
        if status:
            # Nothing is known of any of them.
            running = dockerd.running() if dockerd.shims() else []
            return {"every container": []} if running is None else {SCOPE % one["id"]: [] for one in running}
        linked = self._linked(nodes)
        paths = {number: path for path, number in nodes.items()}
        result = {}
        for scope in scopes(out):
            process = _process(scope["cgroup"])
            given = _given(scope["unit"], process) if process else set()
            lost = unknown(scope, given & set(paths), nodes, linked)
            if lost:
                result[scope["unit"]] = [paths[number] for number in lost]
        return result

    def keep(self, losing=None):
        """Tell systemd of the GPUs of running containers; return what it did not learn, in the shape of losing()."""
        losing = self.losing() if losing is None else losing
        for unit, paths in sorted(losing.items()):
            if paths:
                self.run(
                    "systemctl", "set-property", "--runtime", unit, *["DeviceAllow=%s rw" % path for path in paths]
                )
        return self.losing() if losing else {}

    def _linked(self, nodes):
        match = re.search(r"\d+", self.run("systemctl", "--version")[1])
        if match and int(match.group(0)) >= 240:
            return None
        return {number for number in nodes.values() if os.path.exists("/dev/char/" + number)}


def _nodes(directory):
    found = {}
    for pattern in DEVICES:
        for path in sorted(glob.glob("%s/%s" % (directory, pattern))):
            try:
                device = os.stat(path).st_rdev
            except (IOError, OSError):
                continue
            if device:
                found["/dev" + path[len(directory) :]] = "%d:%d" % (os.major(device), os.minor(device))
    return found


def _text(path):
    try:
        with open(path) as handle:
            return handle.read()
    except (IOError, OSError):
        return ""


def _process(cgroup):
    """Return the number of a process in a cgroup or below it, or None."""
    for root in _CGROUPS:
        for directory, _inner, _files in os.walk(root + cgroup):
            # Under cgroup v2 a directory of threads cannot be read.
            words = _text(os.path.join(directory, "cgroup.procs")).split()
            if words:
                return words[0]
    return None


def _given(unit, process):
    """Return the numbers of the GPU devices that a container may use, not only has nodes of.

    What the kernel allows it does not matter: after a daemon-reload that is what systemd knows of.
    """
    # NVIDIA's hook mounts the nodes; all others are in the configuration. One that a container made is neither.
    points = mounted(_text("/proc/%s/mountinfo" % process))
    match = re.search(r"[0-9a-f]{64}", unit)
    bundles = [path for form in _BUNDLES for path in glob.glob(form % match.group(0))] if match else []
    numbers = {number for path in bundles for number in configured(_text(path))}
    nodes = _nodes("/proc/%s/root/dev" % process)
    return {number for path, number in nodes.items() if path in points or number in numbers}
