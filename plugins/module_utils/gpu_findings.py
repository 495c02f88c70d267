# SPDX-License-Identifier: MIT
"""What is wrong with a host's GPUs, their driver, and what hands them to containers. Pure functions.

Shapes of ``found``: see roles/gpu_host_probe/README.md; of a finding: see finding.py.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import posixpath
import re

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import gpu_containers, gpu_report
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.finding import SEVERITIES, finding

# The findings that say that there is no driver, each for another reason.
WITHOUT_DRIVER = ("no-driver", "nouveau", "secure-boot", "module-not-built", "module-not-loaded")
_MODES = (None, "auto", "cdi", "csv", "jit-cdi", "legacy", "wsl")
_DRIVER_PACKAGE = re.compile(
    r"^nvidia-(driver(-\d+)?(-server|-open|-server-open)?|dkms-\d+.*|kernel(-open)?-dkms|headless-\d+.*|\d{3})$"
)


def findings(found, stack, driver="required"):
    """Return the findings of a host's GPUs.

    stack is nvidia_docker_stack, driver gpu_host_probe_driver: required or optional. Where no
    stack is wanted nothing is worse than info.
    """
    result = _findings(found, stack)
    if driver == "optional":
        result = [_lowered(one, "warning") if one["name"] in WITHOUT_DRIVER else one for one in result]
    if stack == "none":
        result = [_lowered(one, "info") for one in result]
    return result


def stopping(gpu_findings):
    """Return the sentences, of what was found, in whose face provisioning makes no sense.

    Without a driver nothing that a container is to do with a GPU can be done or proven; all else
    leaves something to provision.
    """
    return [
        "%(message)s. Cure: %(cure)s; or set gpu_host_probe_driver: optional" % one
        for one in gpu_findings
        if one["name"] in WITHOUT_DRIVER and one["severity"] == "error"
    ]


def has_gpu(found):
    """Return whether a host has a GPU of NVIDIA's, as far as can be seen, for itself."""
    gpu = found["gpu"]
    return bool(_own(gpu) or gpu["gpus"] or gpu["devices"] or gpu["smi"] or gpu["driver_version"])


def is_loaded(gpu):
    """Return whether NVIDIA's driver is in the kernel."""
    return bool(gpu["driver_version"] or "nvidia" in gpu["modules"])


def library_versions(gpu):
    """Return the sorted versions of the libraries that programs open; of others only where the loader knows none."""
    for use in ("loader", "linked"):
        versions = {library["version"] for library in gpu["libraries"] if library["use"] == use}
        if versions:
            return sorted(version for version in versions if version)
    return []


def lost_at_reload(found):
    """Return why running containers lose their GPU at `systemctl daemon-reload`, or "" where they keep it."""
    return gpu_containers.lost_at_reload(found) if found["gpu"]["devices"] else ""


def flag_lost_at_reload(found):
    """Return why those that were started with `docker run --gpus` alone do, where the others keep it; else ""."""
    if not found["gpu"]["devices"] or not found["docker"]["info"] or lost_at_reload(found):
        return ""
    return gpu_containers.flag_lost_at_reload(found)


def _findings(found, stack):
    gpu = found["gpu"]
    if not has_gpu(found):
        return [] if stack == "none" else [_no_gpu(gpu, stack)]
    result = []
    loaded = is_loaded(gpu)
    if not loaded:
        result += _without_driver(found)
    else:
        result += _of_driver(found)
        result += _of_mig(gpu)
    result += _of_cdi(gpu)
    result += _of_toolkit(found) if stack != "none" else []
    return result


def _no_gpu(gpu, stack):
    where = "on the PCI bus" if gpu["pci_bus"] else "here, where no PCI bus is to be seen"
    return finding(
        "no-gpu",
        "warning",
        "no GPU of NVIDIA's %s, and %s is wanted" % (where, stack),
        "a card that fell off the bus looks the same as one that was never there",
        "nvidia_docker_stack=none in the inventory, if none is meant to be there; else lspci -d 10de:",
    )


def _without_driver(found):
    gpu = found["gpu"]
    count = describe(gpu)
    held = [device["slot"] for device in gpu["pci"] if device["driver"] == "nouveau"]
    module = gpu["module_file"]
    packages = [
        "%s %s" % (name, package["version"])
        for name, package in sorted(found["apt"]["packages"].items())
        if _DRIVER_PACKAGE.match(name) and package["status"][1:2] in ("i", "F", "U")
    ]
    result = []
    if held or "nouveau" in gpu["modules"]:
        result.append(
            finding(
                "nouveau",
                "error",
                "nouveau is loaded%s, and keeps NVIDIA's driver out" % (" for %s" % ", ".join(held) if held else ""),
                "no container gets a GPU with it: CUDA needs NVIDIA's driver",
                "printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' > /etc/modprobe.d/nouveau.conf; "
                "update-initramfs -u; reboot",
            )
        )
    if module and gpu["secure_boot"]:
        signed = "signed by %s, whom the kernel may not trust" % module["signer"] if module["signer"] else "not signed"
        result.append(
            finding(
                "secure-boot",
                "error",
                "Secure Boot is on, and the module nvidia %s is %s; it is not loaded" % (module["version"], signed),
                "no container gets a GPU: the kernel takes no module whose key it does not trust",
                "mokutil --import %s; reboot, and enrol the key in the firmware's menu"
                # Where the DKMS packages of each keep the key that they sign with.
                % ("/var/lib/shim-signed/mok/MOK.der" if found["os"]["id"] == "ubuntu" else "/var/lib/dkms/mok.pub"),
            )
        )
    elif module and not result:
        result.append(
            finding(
                "module-not-loaded",
                "error",
                "%s, and the module nvidia %s is there but not loaded" % (count, module["version"]),
                "no container gets a GPU until it is",
                "modprobe nvidia; if that fails: journalctl -k --grep 'nvidia|NVRM'",
            )
        )
    elif not module and packages:
        result.append(
            finding(
                "module-not-built",
                "error",
                "%s is installed, and has no module for the running kernel %s" % (", ".join(packages), found["kernel"]),
                "no container gets a GPU; this is what a kernel update without its headers leaves",
                _build_module(packages, found["kernel"]),
            )
        )
    elif not module:
        result.insert(
            0,
            finding(
                "no-driver",
                "error",
                "%s and no driver" % count,
                "no container gets a GPU, and drivers are not gpuprov's to install",
                _install_driver(found["os"]),
            ),
        )
    return result


def _build_module(packages, kernel):
    """The command that brings the module of an installed driver: by DKMS, or Ubuntu's package of signed modules."""
    branches = [re.match(r"nvidia-(?:driver|headless(?:-no-dkms)?)-(\d\S*) ", package) for package in packages]
    if any(branches) and not any("dkms" in package.partition(" ")[0].replace("no-dkms", "") for package in packages):
        branch = next(match.group(1) for match in branches if match)
        return "apt-get install -y linux-modules-nvidia-%s-%s && modprobe nvidia" % (branch, kernel)
    return "apt-get install -y dkms linux-headers-%s && dkms autoinstall && modprobe nvidia" % kernel


def _install_driver(system):
    if system["id"] == "ubuntu":
        verb = "autoinstall" if system["version_id"] in ("16.04", "18.04") else "install --gpgpu"
        return "apt-get install -y ubuntu-drivers-common && ubuntu-drivers %s && reboot" % verb
    return "apt-get install -y linux-headers-$(uname -r) nvidia-driver && reboot (from contrib and non-free)"


def _of_driver(found):
    gpu = found["gpu"]
    loaded = gpu["driver_version"] or gpu["modules"].get("nvidia") or "of an unknown version"
    versions = library_versions(gpu)
    # nvidia-smi names only its library's series.
    mismatch = re.search(r"version mismatch.*?(?:NVML library version: *([\d.]+))?$", gpu["smi_error"])
    wrong = [version for version in versions if version != loaded]
    names = {library["name"] for library in gpu["libraries"] if library["use"] != "other"}
    missing = [name for name in ("libcuda", "libnvidia-ml") if name not in names]
    result = []
    if wrong or (mismatch and not versions):
        result.append(
            finding(
                "driver-mismatch",
                "error",
                "the driver that is loaded is %s, its libraries are %s"
                % (loaded, " and ".join(wrong or [mismatch.group(1) or "of another version"])),
                "what starts now gets no GPU; what runs since before runs on",
                "reboot",
            )
        )
    elif missing:
        series = loaded.partition(".")[0]
        result.append(
            finding(
                "no-libraries",
                "error",
                "the driver %s is loaded, and %s nowhere to be found" % (loaded, _are(missing)),
                "containers get these files from the host, and no GPU without them",
                "apt-get install -y libnvidia-compute-%s" % series
                if found["os"]["id"] == "ubuntu"
                else "apt-get install -y libcuda1 libnvidia-ml1",
            )
        )
    elif not any(library["use"] == "loader" for library in gpu["libraries"]):
        path = next(library["path"] for library in gpu["libraries"] if library["use"] == "linked")
        place = posixpath.dirname(path)
        result.append(
            finding(
                "libraries-hidden",
                "warning",
                "the driver's libraries lie in %s, where the loader does not look" % place,
                "programs find them only with LD_LIBRARY_PATH, and NVIDIA's tools may give containers none",
                "echo %s > /etc/ld.so.conf.d/nvidia.conf && ldconfig" % place,
            )
        )
    held = [device["slot"] for device in gpu["pci"] if device["driver"] == "nouveau"]
    if held:
        result.append(
            finding(
                "nouveau",
                "error",
                "nouveau has %s, and keeps NVIDIA's driver out" % ", ".join(held),
                "no container gets these GPUs: CUDA needs NVIDIA's driver",
                "printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' > /etc/modprobe.d/nouveau.conf; "
                "update-initramfs -u; reboot",
            )
        )
    result += _of_gpus(found, explained=bool(wrong or mismatch or missing))
    return result


def _of_gpus(found, explained):
    gpu, result = found["gpu"], []
    if gpu["smi_path"] and not gpu["smi"] and not explained:
        result.append(
            finding(
                "smi-fails",
                "error",
                "nvidia-smi fails: %s" % (gpu["smi_error"][:200] or "no answer within 10 s"),
                "the driver is loaded and does not answer for its GPUs",
                "journalctl -k --grep 'NVRM|Xid'; a reboot, where that names no other cause",
            )
        )
    elif not gpu["smi_path"] and not explained:
        result.append(
            finding(
                "no-nvidia-smi",
                "info",
                "there is no nvidia-smi",
                "containers that ask for the utilities get none, and nothing here tells of the GPUs' state",
                "apt-get install -y nvidia-utils-%s" % (gpu["driver_version"] or "").partition(".")[0]
                if found["os"]["id"] == "ubuntu"
                else "apt-get install -y nvidia-smi",
            )
        )
    known = {one["slot"] for one in gpu["gpus"]}
    lost = [device["slot"] for device in _own(gpu) if device["slot"] not in known and device["driver"] != "nouveau"]
    # In a container the driver may tell of a part of them alone.
    if lost and known and "" not in known and found["init"] == "systemd":
        result.append(
            finding(
                "gpu-lost",
                "error",
                "of %d GPUs on the PCI bus the driver does not know %s" % (len(_own(gpu)), ", ".join(lost)),
                "a card that failed, fell off the bus, or is switched off in the driver",
                "journalctl -k --grep 'NVRM|Xid'; then power the host off and on",
            )
        )
    numbers = [one["minor"] for one in gpu["gpus"] if one["minor"] is not None]
    wanted = {"/dev/nvidiactl"} | {"/dev/nvidia%d" % number for number in numbers}
    for spec in gpu["cdi"]:
        wanted |= {path for path in spec["nodes"] if re.match(r"/dev/nvidia(\d+|ctl|-uvm|-uvm-tools|-modeset)\Z", path)}
    absent = sorted(wanted - {node["path"] for node in gpu["nodes"]})
    if absent and numbers:
        result.append(
            finding(
                "no-device-nodes",
                "warning",
                "%s missing" % _are(absent),
                "containers are given these devices, and do not start without them",
                "nvidia-modprobe -u %s" % " ".join("-c %d" % number for number in sorted(numbers)),
            )
        )
    if any(one["persistence"] is False for one in gpu["gpus"]) and not gpu["persistenced"]:
        result.append(
            finding(
                "no-persistence",
                "info",
                "persistence is off",
                "the GPU is set up anew for each program that finds it unused, which takes seconds",
                "systemctl enable --now nvidia-persistenced, or nvidia-smi -pm 1",
            )
        )
    return result


def _of_mig(gpu):
    result = []
    pending = [one for one in gpu["gpus"] if one["mig_pending"] is not None and one["mig"] != one["mig_pending"]]
    if pending:
        result.append(
            finding(
                "mig-pending",
                "warning",
                "MIG is to be switched %s on %s, and waits for a reset"
                % ("on" if pending[0]["mig_pending"] else "off", ", ".join(_name(one) for one in pending)),
                "containers see the GPU as it was",
                "nvidia-smi --gpu-reset -i %s, while nothing uses it; or reboot"
                % ",".join(one["slot"] for one in pending),
            )
        )
    parted = {device["gpu"] for device in gpu["mig_devices"]}
    empty = [one for one in gpu["gpus"] if one["mig"] and one["uuid"] not in parted]
    if empty:
        result.append(
            finding(
                "mig-without-devices",
                "warning",
                "MIG is on, and %s parted into no devices" % _are([_name(one) for one in empty]),
                "CUDA sees no device there, neither the whole GPU nor a part of it",
                "nvidia-smi mig -lgip; nvidia-smi mig -i %s -cgi PROFILE -C; or off: nvidia-smi -i %s -mig 0"
                % ((",".join(one["slot"] for one in empty),) * 2),
            )
        )
    return result


def _of_cdi(gpu):
    result = []
    # The major number of nvidia-uvm is another one at each boot.
    numbers = {node["path"]: node["number"] for node in gpu["nodes"]}
    mig = {device["uuid"] for device in gpu["mig_devices"]}
    for spec in gpu["cdi"]:
        if not (spec["kind"].startswith("nvidia.com/") or "nvidia" in posixpath.basename(spec["path"])):
            continue
        cure = "nvidia-ctk cdi generate --output=%s" % spec["path"]
        if spec["error"]:
            result.append(
                finding(
                    "cdi-invalid",
                    "error",
                    "%s is no CDI specification: %s" % (spec["path"], spec["error"]),
                    "a container that asks for one of its devices does not start",
                    cure,
                )
            )
            continue
        known = {one["uuid"] for one in gpu["gpus"]} | {device["uuid"] for device in gpu["mig_devices"]}
        moved = sorted(path for path, number in spec["nodes"].items() if number and numbers.get(path, number) != number)
        gone = [name for name in spec["devices"] if re.match(r"(GPU|MIG)-", name) and known and name not in known]
        if spec["driver_version"] and gpu["driver_version"] and spec["driver_version"] != gpu["driver_version"]:
            reason = "was made for driver %s, and %s is loaded" % (spec["driver_version"], gpu["driver_version"])
        elif moved:
            path = moved[0]
            reason = "has %s as %s, and it is %s since a reboot" % (path, spec["nodes"][path], numbers[path])
        elif any(name.startswith(("GPU-", "MIG-")) for name in spec["devices"]) and mig - set(spec["devices"]):
            reason = "does not name %s" % _some(sorted(mig - set(spec["devices"])))
        elif gone:
            reason = "names %s, which %s not here" % (_some(gone), "is" if len(gone) == 1 else "are")
        else:
            continue
        result.append(
            finding(
                "cdi-stale",
                "error",
                "%s %s" % (spec["path"], reason),
                "a container that asks for its devices is given files that are no more, and does not start",
                cure,
            )
        )
    return result


def _of_toolkit(found):
    gpu, result = found["gpu"], []
    toolkit = gpu["toolkit"] or {"mode": None, "no_cgroups": None}
    path = gpu_report.TOOLKIT_CONFIG
    if toolkit["mode"] not in _MODES:
        result.append(
            finding(
                "toolkit-mode",
                "error",
                "the toolkit's mode is %s, which there is not" % toolkit["mode"][:40],
                "NVIDIA's runtime refuses to start any container",
                "nvidia-ctk config --config-file %s --in-place --set nvidia-container-runtime.mode=auto" % path,
            )
        )
    valid = [spec for spec in gpu["cdi"] if spec["kind"].startswith("nvidia.com/") and not spec["error"]]
    if toolkit["mode"] == "cdi" and is_loaded(gpu) and not valid:
        result.append(
            finding(
                "no-cdi",
                "error",
                "the toolkit's mode is cdi, and there is no CDI specification of NVIDIA's",
                "a container that asks for a GPU does not start",
                "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
            )
        )
    if toolkit["no_cgroups"]:
        result.append(
            finding(
                "no-cgroups",
                "warning",
                "no-cgroups = true in %s" % path,
                "that is for rootless engines: here containers are given a GPU that they may not open",
                "nvidia-ctk config --config-file %s --in-place --set nvidia-container-cli.no-cgroups=false" % path,
            )
        )
    reason = lost_at_reload(found)
    if reason:
        result.append(
            finding(
                "gpu-lost-at-reload",
                "warning",
                reason,
                "a systemctl daemon-reload takes the GPU away from containers that run",
                "gpuprov provision, which has the toolkit give GPUs by CDI and makes the links that are missing",
            )
        )
    of_flag = flag_lost_at_reload(found)
    if of_flag:
        result.append(
            finding(
                "gpus-flag-lost-at-reload",
                "info",
                of_flag,
                "a systemctl daemon-reload takes the GPU away from containers that were started with --gpus alone",
                gpu_containers.FLAG_CURE,
            )
        )
    if gpu_containers.flag_is_refused(found):
        result.append(
            finding(
                "gpus-flag-refused",
                "warning",
                "the toolkit's mode is cdi, and its hook refuses what this engine asks for with --gpus",
                "docker run --gpus does not start; --runtime=nvidia does",
                "nvidia-ctk config --config-file %s --in-place --set "
                "nvidia-container-runtime-hook.skip-mode-detection=true" % path,
            )
        )
    return result


# ---- words


def describe(gpu):
    """Return how many GPUs a host has, and which, as words: ``8 GPUs (NVIDIA H100 80GB HBM3)``."""
    models = [one["model"] for one in gpu["gpus"] if one["model"]] or [
        device["name"] or "%s:%s" % (device["vendor"], device["device"]) for device in _own(gpu)
    ]
    number = len(models) or len(gpu["devices"])
    kinds = sorted(set(models))
    named = kinds[0] if len(kinds) == 1 else ", ".join("%d %s" % (models.count(kind), kind) for kind in kinds)
    return "%d GPU%s%s" % (number, "" if number == 1 else "s", " (%s)" % named if named else "")


def _own(gpu):
    """The devices on the bus less those that are handed on to virtual machines."""
    return [device for device in gpu["pci"] if device["driver"] != "vfio-pci"]


def _name(one):
    return one["slot"] or one["uuid"]


def _some(names):
    return names[0] if len(names) == 1 else "%s and %d more" % (names[0], len(names) - 1)


def _are(names):
    return "%s %s" % (", ".join(names), "is" if len(names) == 1 else "are")


def _lowered(one, severity):
    return dict(one, severity=max(one["severity"], severity, key=SEVERITIES.index))
