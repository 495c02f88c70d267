# SPDX-License-Identifier: MIT
"""Find what is wrong with a host's GPUs, their driver, and what gives them to containers. Pure functions.

Shapes of ``found``: see roles/gpu_host_probe/README.md; of a finding: see finding.py.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import gpu_report
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import gpu_reload
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan.finding import SEVERITIES, Finding, finding

# The findings for a missing driver, by reason.
WITHOUT_DRIVER = ("no-driver", "nouveau", "secure-boot", "module-not-built", "module-not-loaded")
_MODES = (None, "auto", "cdi", "csv", "jit-cdi", "legacy", "wsl")
_DRIVER_PACKAGE = re.compile(
    r"^nvidia-(driver(-\d+)?(-server|-open|-server-open)?|dkms-\d+.*|kernel(-open)?-dkms|headless-\d+.*|\d{3})$"
)


def findings(found: dict[str, Any], stack: str, driver: str = "required") -> list[Finding]:
    """Return the findings of a host's GPUs.

    stack is nvidia_docker_stack, driver gpu_host_probe_driver: required or optional. With the stack none every
    finding is info.
    """
    result = list(_findings(found, stack))
    if driver == "optional":
        result = [_lowered(one, "warning") if one["name"] in WITHOUT_DRIVER else one for one in result]
    if stack == "none":
        result = [_lowered(one, "info") for one in result]
    return result


def stopping(gpu_findings: list[Finding]) -> list[str]:
    """Return a sentence for each finding that rules out provisioning: without a driver no container gets a GPU."""
    return [
        f"{one['message']}. Cure: {one['cure']}; or set gpu_host_probe_driver: optional"
        for one in gpu_findings
        if one["name"] in WITHOUT_DRIVER and one["severity"] == "error"
    ]


def has_gpu(found: dict[str, Any]) -> bool:
    """Return whether a host has an NVIDIA GPU that it does not pass to a virtual machine."""
    gpu = found["gpu"]
    return bool(_own(gpu) or gpu["gpus"] or gpu["devices"] or gpu["smi"] or gpu["driver_version"])


def is_loaded(gpu: dict[str, Any]) -> bool:
    """Return whether NVIDIA's driver is in the kernel."""
    return bool(gpu["driver_version"] or "nvidia" in gpu["modules"])


def library_versions(gpu: dict[str, Any]) -> list[str]:
    """Return the sorted versions of the driver's libraries: those that the loader knows, else those with links."""
    for use in ("loader", "linked"):
        versions = {library["version"] for library in gpu["libraries"] if library["use"] == use}
        if versions:
            return sorted(version for version in versions if version)
    return []


def lost_at_reload(found: dict[str, Any]) -> str:
    """Return why running containers lose their GPU at `systemctl daemon-reload`, or "" where they keep it."""
    return gpu_reload.lost_at_reload(found) if found["gpu"]["devices"] else ""


def flag_lost_at_reload(found: dict[str, Any]) -> str:
    """Return why only containers started with `docker run --gpus` lose their GPU then, or "" where they keep it."""
    if not found["gpu"]["devices"] or not found["docker"]["info"] or lost_at_reload(found):
        return ""
    return gpu_reload.flag_lost_at_reload(found)


def _findings(found: dict[str, Any], stack: str) -> Iterator[Finding]:
    gpu = found["gpu"]
    if has_gpu(found):
        if is_loaded(gpu):
            yield from _of_driver(found)
            yield from _of_mig(gpu)
        else:
            yield from _without_driver(found)
        yield from _of_cdi(gpu)
        if stack != "none":
            yield from _of_toolkit(found)
    elif stack != "none":
        where = "on the PCI bus" if gpu["pci_bus"] else "here, where no PCI bus is visible"
        yield finding("no-gpu", f"no NVIDIA GPU {where}, and {stack} is wanted")


def _without_driver(found: dict[str, Any]) -> Iterator[Finding]:
    gpu = found["gpu"]
    count = describe(gpu)
    held = [device["slot"] for device in gpu["pci"] if device["driver"] == "nouveau"]
    module = gpu["module_file"]
    packages = [
        f"{name} {package['version']}"
        for name, package in sorted(found["apt"]["packages"].items())
        if _DRIVER_PACKAGE.match(name) and package["status"][1:2] in ("i", "F", "U")
    ]
    if not (module or packages):
        yield finding("no-driver", f"{count} and no driver", cure=_install_driver(found["os"]))
    nouveau = held or "nouveau" in gpu["modules"]
    if nouveau:
        where = f" for {', '.join(held)}" if held else ""
        yield finding("nouveau", f"nouveau is loaded{where}, and keeps NVIDIA's driver out")
    if module and gpu["secure_boot"]:
        # Where the DKMS packages of each keep the key that they sign with.
        key = "/var/lib/shim-signed/mok/MOK.der" if found["os"]["id"] == "ubuntu" else "/var/lib/dkms/mok.pub"
        signed = f"signed by {module['signer']}, which the kernel may not trust" if module["signer"] else "not signed"
        yield finding(
            "secure-boot",
            f"Secure Boot is on, and the module nvidia {module['version']} is {signed}; it is not loaded",
            cure=f"mokutil --import {key}; reboot, and enrol the key in the firmware's menu",
        )
    elif module and not nouveau:
        yield finding(
            "module-not-loaded", f"{count}, and the module nvidia {module['version']} is installed but not loaded"
        )
    elif not module and packages:
        yield finding(
            "module-not-built",
            f"{', '.join(packages)} is installed, and has no module for the running kernel {found['kernel']}",
            cure=_build_module(packages, found["kernel"]),
        )


def _build_module(packages: list[str], kernel: str) -> str:
    """Return the command that builds an installed driver's module, or installs Ubuntu's package of signed modules."""
    branches = [re.match(r"nvidia-(?:driver|headless(?:-no-dkms)?)-(\d\S*) ", package) for package in packages]
    if any(branches) and not any("dkms" in package.partition(" ")[0].replace("no-dkms", "") for package in packages):
        branch = next(match.group(1) for match in branches if match)
        return f"apt-get install -y linux-modules-nvidia-{branch}-{kernel} && modprobe nvidia"
    return f"apt-get install -y dkms linux-headers-{kernel} && dkms autoinstall && modprobe nvidia"


def _install_driver(system: dict[str, str]) -> str:
    if system["id"] == "ubuntu":
        verb = "autoinstall" if system["version_id"] in ("16.04", "18.04") else "install --gpgpu"
        return f"apt-get install -y ubuntu-drivers-common && ubuntu-drivers {verb} && reboot"
    return "apt-get install -y linux-headers-$(uname -r) nvidia-driver && reboot (from contrib and non-free)"


def _of_driver(found: dict[str, Any]) -> Iterator[Finding]:
    gpu = found["gpu"]
    loaded = gpu["driver_version"] or gpu["modules"].get("nvidia") or "of an unknown version"
    versions = library_versions(gpu)
    # nvidia-smi names only the series of its library.
    mismatch = re.search(r"version mismatch.*?(?:NVML library version: *([\d.]+))?$", gpu["smi_error"])
    wrong = [version for version in versions if version != loaded]
    names = {library["name"] for library in gpu["libraries"] if library["use"] != "other"}
    missing = [name for name in ("libcuda", "libnvidia-ml") if name not in names]
    if wrong or (mismatch and not versions):
        series = (mismatch and mismatch.group(1)) or "of another version"
        yield finding(
            "driver-mismatch",
            f"the driver that is loaded is {loaded}, its libraries are {' and '.join(wrong) or series}",
        )
    elif missing:
        series = loaded.partition(".")[0]
        yield finding(
            "no-libraries",
            f"the driver {loaded} is loaded, and {_are(missing)} missing",
            cure=f"apt-get install -y libnvidia-compute-{series}"
            if found["os"]["id"] == "ubuntu"
            else "apt-get install -y libcuda1 libnvidia-ml1",
        )
    elif not any(library["use"] == "loader" for library in gpu["libraries"]):
        linked = [library["path"] for library in gpu["libraries"] if library["use"] == "linked"]
        place = posixpath.dirname(linked[0])
        yield finding(
            "libraries-hidden",
            f"the driver's libraries are in {place}, where the loader does not look",
            cure=f"echo {place} > /etc/ld.so.conf.d/nvidia.conf && ldconfig",
        )
    held = [device["slot"] for device in gpu["pci"] if device["driver"] == "nouveau"]
    if held:
        yield finding("nouveau", f"nouveau has {', '.join(held)}, and keeps NVIDIA's driver out")
    yield from _of_gpus(found, explained=bool(wrong or mismatch or missing))


def _of_gpus(found: dict[str, Any], explained: bool) -> Iterator[Finding]:
    gpu = found["gpu"]
    if gpu["smi_path"] and not gpu["smi"] and not explained:
        yield finding("smi-fails", f"nvidia-smi fails: {gpu['smi_error'][:200] or 'no answer within 10 s'}")
    elif not gpu["smi_path"] and not explained:
        yield finding(
            "no-nvidia-smi",
            "there is no nvidia-smi",
            cure=f"apt-get install -y nvidia-utils-{(gpu['driver_version'] or '').partition('.')[0]}"
            if found["os"]["id"] == "ubuntu"
            else "apt-get install -y nvidia-smi",
        )
    known = {one["slot"] for one in gpu["gpus"]}
    lost = [device["slot"] for device in _own(gpu) if device["slot"] not in known and device["driver"] != "nouveau"]
    # In a container the driver may name only some of them.
    if lost and known and "" not in known and found["init"] == "systemd":
        yield finding("gpu-lost", f"the driver does not know {', '.join(lost)} of {len(_own(gpu))} GPUs on the PCI bus")
    numbers = [one["minor"] for one in gpu["gpus"] if one["minor"] is not None]
    wanted = {"/dev/nvidiactl"} | {f"/dev/nvidia{number}" for number in numbers}
    for spec in gpu["cdi"]:
        wanted |= {path for path in spec["nodes"] if re.match(r"/dev/nvidia(\d+|ctl|-uvm|-uvm-tools|-modeset)\Z", path)}
    absent = sorted(wanted - {node["path"] for node in gpu["nodes"]})
    if absent and numbers:
        yield finding(
            "no-device-nodes",
            f"{_are(absent)} missing",
            cure=f"nvidia-modprobe -u {' '.join(f'-c {number}' for number in sorted(numbers))}",
        )
    if any(one["persistence"] is False for one in gpu["gpus"]) and not gpu["persistenced"]:
        yield finding("no-persistence", "persistence is off")


def _of_mig(gpu: dict[str, Any]) -> Iterator[Finding]:
    pending = [one for one in gpu["gpus"] if one["mig_pending"] is not None and one["mig"] != one["mig_pending"]]
    if pending:
        mode, slots = "on" if pending[0]["mig_pending"] else "off", ",".join(one["slot"] for one in pending)
        yield finding(
            "mig-pending",
            f"MIG is switched {mode} on {', '.join(_name(one) for one in pending)} only after a reset",
            cure=f"nvidia-smi --gpu-reset -i {slots}, while nothing uses it; or reboot",
        )
    parted = {device["gpu"] for device in gpu["mig_devices"]}
    empty = [one for one in gpu["gpus"] if one["mig"] and one["uuid"] not in parted]
    if empty:
        slots = ",".join(one["slot"] for one in empty)
        yield finding(
            "mig-without-devices",
            f"MIG is on, and {_are([_name(one) for one in empty])} without MIG devices",
            cure=f"nvidia-smi mig -lgip; nvidia-smi mig -i {slots} -cgi PROFILE -C; or off: nvidia-smi -i {slots} "
            "-mig 0",
        )


def _of_cdi(gpu: dict[str, Any]) -> Iterator[Finding]:
    # The major number of nvidia-uvm changes at each boot.
    numbers = {node["path"]: node["number"] for node in gpu["nodes"]}
    mig = {device["uuid"] for device in gpu["mig_devices"]}
    for spec in gpu["cdi"]:
        if not (spec["kind"].startswith("nvidia.com/") or "nvidia" in posixpath.basename(spec["path"])):
            continue
        cure = f"nvidia-ctk cdi generate --output={spec['path']}"
        if spec["error"]:
            yield finding("cdi-invalid", f"{spec['path']} is not a CDI specification: {spec['error']}", cure=cure)
            continue
        known = {one["uuid"] for one in gpu["gpus"]} | {device["uuid"] for device in gpu["mig_devices"]}
        moved = sorted(path for path, number in spec["nodes"].items() if number and numbers.get(path, number) != number)
        gone = [name for name in spec["devices"] if re.match(r"(GPU|MIG)-", name) and known and name not in known]
        if spec["driver_version"] and gpu["driver_version"] and spec["driver_version"] != gpu["driver_version"]:
            reason = f"was made for driver {spec['driver_version']}, and {gpu['driver_version']} is loaded"
        elif moved:
            path = moved[0]
            reason = f"has {path} as {spec['nodes'][path]}, and it is {numbers[path]} since a reboot"
        elif any(name.startswith(("GPU-", "MIG-")) for name in spec["devices"]) and mig - set(spec["devices"]):
            reason = f"does not name {_some(sorted(mig - set(spec['devices'])))}"
        elif gone:
            reason = f"names {_some(gone)}, which {'is' if len(gone) == 1 else 'are'} not here"
        else:
            continue
        yield finding("cdi-stale", f"{spec['path']} {reason}", cure=cure)


def _of_toolkit(found: dict[str, Any]) -> Iterator[Finding]:
    gpu = found["gpu"]
    toolkit = gpu["toolkit"] or {"mode": None, "no_cgroups": None}
    path = gpu_report.TOOLKIT_CONFIG
    if toolkit["mode"] not in _MODES:
        yield finding(
            "toolkit-mode",
            f"the toolkit's mode is {toolkit['mode'][:40]}, which does not exist",
        )
    valid = [spec for spec in gpu["cdi"] if spec["kind"].startswith("nvidia.com/") and not spec["error"]]
    if toolkit["mode"] == "cdi" and is_loaded(gpu) and not valid:
        yield finding("no-cdi", "the toolkit's mode is cdi, and there is no CDI specification from NVIDIA")
    if toolkit["no_cgroups"]:
        yield finding(
            "no-cgroups",
            f"no-cgroups = true in {path}",
        )
    reason = lost_at_reload(found)
    if reason:
        yield finding("gpu-lost-at-reload", reason)
    of_flag = flag_lost_at_reload(found)
    if of_flag:
        yield finding("gpus-flag-lost-at-reload", of_flag, cure=gpu_reload.FLAG_CURE)
    if gpu_reload.flag_is_refused(found):
        yield finding(
            "gpus-flag-refused",
            "the toolkit's mode is cdi, and its hook refuses what this engine asks for with --gpus",
        )


# ---- words


def describe(gpu: dict[str, Any]) -> str:
    """Return how many GPUs a host has, and which, e.g. ``8 GPUs (NVIDIA H100 80GB HBM3)``."""
    models = [one["model"] for one in gpu["gpus"] if one["model"]] or [
        device["name"] or f"{device['vendor']}:{device['device']}" for device in _own(gpu)
    ]
    number = len(models) or len(gpu["devices"])
    kinds = sorted(set(models))
    named = kinds[0] if len(kinds) == 1 else ", ".join(f"{models.count(kind)} {kind}" for kind in kinds)
    return f"{number} GPU{'' if number == 1 else 's'}{f' ({named})' if named else ''}"


def _own(gpu: dict[str, Any]) -> list[dict[str, str]]:
    """Return the devices on the bus without those that are passed to virtual machines."""
    return [device for device in gpu["pci"] if device["driver"] != "vfio-pci"]


def _name(one: dict[str, Any]) -> str:
    return one["slot"] or one["uuid"]


def _some(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _are(names: list[str]) -> str:
    return f"{', '.join(names)} {'is' if len(names) == 1 else 'are'}"


def _lowered(one: Finding, severity: str) -> Finding:
    return {**one, "severity": max(one["severity"], severity, key=SEVERITIES.index)}
