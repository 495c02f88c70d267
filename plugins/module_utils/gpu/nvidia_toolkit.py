# SPDX-License-Identifier: MIT
"""Have NVIDIA's container toolkit give containers their GPUs. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import glob
import os
import re

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import dockerd
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import gpu_containers, gpu_report
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

# The arguments of apply, as a module declares them.
ARGUMENTS = {
    "stack": {"type": "str", "required": True},
    "version": {"type": "str", "required": True},
    "cdi": {"type": "bool", "default": False},
    "mode": {"type": "str", "default": ""},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}
UNITS = "/etc/systemd/system"
RULES = "/etc/udev/rules.d"
DRIVER = "/proc/driver/nvidia"
CTK = "/usr/bin/nvidia-ctk"
# Where drivers' libraries lie that the loader does not find.
LIBRARIES = ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib")

RULE = (
    """\
# Written by gpuprov. systemd takes devices without such links from running containers.
ACTION=="add", DEVPATH=="/bus/pci/drivers/nvidia", RUN+="%s system create-dev-char-symlinks --create-all"
"""
    % CTK
)
SERVICE = """\
# Written by gpuprov: what nvidia-cdi-refresh.service of a toolkit since 1.18 is.
[Unit]
Description=Generate the CDI specification of NVIDIA's GPUs

[Service]
Type=oneshot
# Between an update of the driver and the next start of the host there is nothing to generate it from.
ExecStart=/bin/sh -c 'nvidia-smi -L >/dev/null || exit 0; exec %s cdi generate --output=%s'

[Install]
WantedBy=multi-user.target
""" % (CTK, gpu_containers.SPEC_PATH)
PATH = """\
# Written by gpuprov: what nvidia-cdi-refresh.path of a toolkit since 1.18 is.
[Unit]
Description=Generate the CDI specification anew after an update of the driver or the toolkit

[Path]
PathChanged=/lib/modules/%%v/modules.dep
PathChanged=/proc/driver/nvidia/version
PathChanged=%s
%s
[Install]
WantedBy=multi-user.target
"""


NODE = re.compile(r"path: (/dev/\S+)\n\s+major: ([1-9]\d*)(?:\n\s+minor: (\d+))?")


def text_of(path):
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except (IOError, OSError):
        return b""


def spec(path):
    """Return a CDI specification in the probe's shape; read as text, for hosts have no YAML."""
    text = text_of(path).decode("utf-8", "replace")
    kind = re.search(r"^\s*\"?kind\"?: *\"?([^\s\",]+)", text, re.MULTILINE)
    head = re.split(r"^\"?containerEdits", text, flags=re.MULTILINE)[0]
    names = re.findall(r"\"?name\"?: *\"?([^\s\",]+)\"?,?$", head, re.MULTILINE)
    versions = {match.group(2) for match in gpu_report.LIBRARY.finditer(text) if match.group(2)}
    return {
        "path": path,
        "kind": kind.group(1) if kind else "",
        "devices": names,
        "nodes": {path: "%s:%s" % (major, minor or 0) for path, major, minor in NODE.findall(text)},
        "driver_version": sorted(versions)[-1] if versions else None,
        "error": "" if kind and names else "it is not a CDI specification",
    }


def nodes():
    result = []
    for pattern in ("nvidia[0-9]*", "nvidiactl", "nvidia-uvm*", "nvidia-modeset", "nvidia-caps/*"):
        for path in sorted(glob.glob("/dev/" + pattern)):
            device = os.stat(path).st_rdev
            number = "%d:%d" % (os.major(device), os.minor(device))
            result.append({"path": path, "number": number, "linked": os.path.exists("/dev/char/" + number)})
    return result


def kept():
    names = []
    for refresh in (gpu_containers.NVIDIA_REFRESH, gpu_containers.OWN_REFRESH):
        names += [
            os.path.basename(path)
            for path in glob.glob("%s/*.wants/%s.path" % (UNITS, refresh))
            if os.path.lexists(path)
        ]
    if os.path.exists(os.path.join(RULES, gpu_containers.LINKS_RULE)):
        names.append(gpu_containers.LINKS_RULE)
    return names


def gpus(host):
    """Return (GPUs, MIG devices) as nvidia-smi names them."""
    # Drivers from outside of the system bring theirs along.
    smi = host.get_bin_path("nvidia-smi", opt_dirs=["/usr/local/nvidia/bin"])
    if not smi:
        return [], []
    found_gpus, mig_devices = gpu_report.listed(host.run_command([smi, "-L"])[1].splitlines())
    # Older drivers do not know of MIG, and say so.
    said = host.run_command([smi, "--query-gpu=uuid,mig.mode.current", "--format=csv,noheader"])[1]
    for one in found_gpus:
        one["mig"] = "%s, Enabled" % one["uuid"] in said
    return found_gpus, mig_devices


def found(host):
    """Return this host's half of the decision, in the shape of the probe's."""
    version = text_of(DRIVER + "/version").decode("utf-8", "replace").splitlines()
    release = dict(
        line.partition("=")[::2] for line in text_of("/etc/os-release").decode("utf-8", "replace").splitlines()
    )
    config = text_of(gpu_report.TOOLKIT_CONFIG)
    found_gpus, mig_devices = gpus(host)
    return {
        "init": "systemd" if os.path.isdir("/run/systemd/system") else "other",
        "os": {"codename": release.get("VERSION_CODENAME", release.get("UBUNTU_CODENAME", "")).strip("\"'")},
        "docker": {"info": dockerd.ask("/info")},
        "gpu": {
            "toolkit": gpu_report.toolkit(config) if config else None,
            "nodes": nodes(),
            "kept": kept(),
            "driver_version": gpu_report.driver(version[0]) if version else None,
            "cdi": [
                spec(path)
                for directory in ("/etc/cdi", "/var/run/cdi")
                for path in sorted(glob.glob(directory + "/*.yaml") + glob.glob(directory + "/*.json"))
            ],
            "gpus": found_gpus,
            "mig_devices": mig_devices,
        },
    }


def write(path, text):
    if text_of(path) == text.encode("ascii"):
        return
    if not os.path.isdir(os.path.dirname(path)):
        os.makedirs(os.path.dirname(path), 0o755)
    with open(path + ".gpuprov", "wb") as handle:
        handle.write(text.encode("ascii"))
        os.fchmod(handle.fileno(), 0o644)
    os.rename(path + ".gpuprov", path)


class Toolkit:
    """The toolkit on this host."""

    def __init__(self, host):
        self.host = host

    def _run(self, *words):
        code, out, err = self.host.run_command(list(words), environ_update={"LC_ALL": "C"})
        if code:
            lines = [line for line in (err or out).splitlines() if line.strip()]
            raise HostError("%s: %s" % (" ".join(words), lines[-1] if lines else "exit status %d" % code))
        return out

    def set(self, option):
        self._run(CTK, "config", "--config-file", gpu_report.TOOLKIT_CONFIG, "--in-place", "--set", option)

    def link(self):
        write(os.path.join(RULES, gpu_containers.LINKS_RULE), RULE)
        self._run(CTK, "system", "create-dev-char-symlinks", "--create-all")

    def refresh(self, name):
        if name == gpu_containers.OWN_REFRESH:
            libraries = glob.glob("/usr/lib/*-linux-gnu")
            watched = "".join("PathChanged=%s/libcuda.so.1\n" % path for path in libraries)
            write("%s/%s.service" % (UNITS, name), SERVICE)
            write("%s/%s.path" % (UNITS, name), PATH % (CTK, watched))
        units = [name + ".path", name + ".service"]
        # Not "--now": enabling reloads systemd, and a daemon-reload is what containers lose GPUs at.
        self._run("systemctl", "--no-reload", "enable", *units)
        self._run("systemctl", "start", units[0])

    def remove(self, changes):
        for one in changes:
            if one["subject"] == gpu_containers.REFRESH:
                unit = os.path.basename(one["from"])
                self._run("systemctl", "stop", unit)
                self._run("systemctl", "--no-reload", "disable", unit)
            os.unlink(one["from"])

    def generate(self):
        words = ["--output=%s" % gpu_containers.SPEC_PATH]
        out = self.host.run_command(["ldconfig", "-p"])[1]
        if "libcuda.so.1 " not in out:
            words += ["--library-search-path=%s" % path for path in LIBRARIES if os.path.isdir(path)]
        self._run(CTK, "cdi", "generate", *words)


def leftovers(with_spec):
    """Return what goes with the toolkit, as changes."""
    own = [
        (gpu_containers.REFRESH, "%s/%s.path" % (UNITS, gpu_containers.OWN_REFRESH)),
        (gpu_containers.REFRESH, "%s/%s.service" % (UNITS, gpu_containers.OWN_REFRESH)),
        (gpu_containers.LINKS, os.path.join(RULES, gpu_containers.LINKS_RULE)),
    ]
    if with_spec:
        own.append((gpu_containers.SPEC, gpu_containers.SPEC_PATH))
    return [
        {"role": gpu_containers.ROLE, "subject": subject, "from": path, "to": None, "disruption": "none"}
        for subject, path in own
        if os.path.exists(path)
    ]


def change(toolkit, changes, version):
    """Make the changes."""
    for one in changes:
        if one["subject"] == gpu_containers.MODE:
            toolkit.set("nvidia-container-runtime.mode=%s" % one["to"])
        elif one["subject"] == gpu_containers.HOOK:
            toolkit.set("nvidia-container-runtime-hook.skip-mode-detection=true")
        elif one["subject"] == gpu_containers.LINKS:
            toolkit.link()
        elif one["subject"] == gpu_containers.REFRESH:
            toolkit.refresh(gpu_containers.refresh_of(version))
        else:
            toolkit.generate()


def apply(host, params):
    """Set mode, links and CDI specification, or remove them; return {changed, changes}. Raises HostError."""
    try:
        if params["state"] == "absent":
            changes = leftovers(params["cdi"])
            if changes and not host.check_mode:
                Toolkit(host).remove(changes)
            return {"changed": bool(changes), "changes": changes}
        changes = gpu_containers.decide(params, found(host))
        if changes and not host.check_mode:
            if not os.path.exists(CTK):
                raise HostError("there is no %s: is the toolkit installed?" % CTK)
            change(Toolkit(host), changes, params["version"])
            left = gpu_containers.decide(params, found(host))
            if left:
                raise HostError("%s did not become right: %s" % (left[0]["subject"], left[0]["from"] or "missing"))
    except (IOError, OSError) as error:
        raise HostError("a file could not be written: %s" % error)
    return {"changed": bool(changes), "changes": changes}
