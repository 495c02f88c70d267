# SPDX-License-Identifier: MIT
"""Parse what nvidia-smi, the driver and NVIDIA's toolkit say of a host's GPUs. Pure functions.

The shapes of the results are in roles/gpu_host_probe/README.md.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import re

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import toml_text

TOOLKIT_CONFIG = "/etc/nvidia-container-runtime/config.toml"
LIBRARY = re.compile(r"/(libcuda|libnvidia-ml)\.so\.(\d+\.\d[\d.]*)?")


def gpus(rows, queried, said):
    """Return an entry for each GPU that the driver knows.

    rows are (slot, minor, UUID, model) of /proc, queried the lines of ``nvidia-smi --query-gpu``, said those of
    ``nvidia-smi -L``.
    """
    found = {}
    for slot, minor, uuid, model in rows:
        found[_slot(slot)] = _one(_slot(slot), uuid if "?" not in uuid else "", model, minor)
    for line in queried:
        values = [value.strip() for value in line.split(",")]
        # A name may hold a comma, and comes last. Without MIG there are two fields less.
        if len(values) > 5 and (values[3] in _SWITCH):
            slot, uuid, persistence, mig, pending = values[:5]
            model = ", ".join(values[5:])
        elif len(values) > 3:
            slot, uuid, persistence = values[:3]
            mig = pending = "[N/A]"
            model = ", ".join(values[3:])
        else:
            continue
        entry = found.setdefault(_slot(slot), _one(_slot(slot), uuid, model, ""))
        entry.update(
            uuid=uuid or entry["uuid"],
            model=model or entry["model"],
            persistence=_SWITCH.get(persistence),
            mig=_SWITCH.get(mig),
            mig_pending=_SWITCH.get(pending),
        )
    if not found:
        for line in said:
            match = re.match(r"GPU (\d+): (.*) \(UUID: (\S+)\)", line)
            if match:
                found[match.group(1).zfill(4)] = _one("", match.group(3), match.group(2), match.group(1))
    return [found[key] for key in sorted(found)]


_SWITCH = {"Enabled": True, "Disabled": False, "[N/A]": None, "[Not Supported]": None, "N/A": None}


def listed(said):
    """Return (gpus, mig_devices) from the lines of ``nvidia-smi -L``."""
    return gpus([], [], said), mig_devices(said)


def _one(slot, uuid, model, minor):
    return {
        "slot": slot,
        "minor": int(minor) if minor.isdigit() else None,
        "uuid": uuid,
        "model": model,
        "persistence": None,
        "mig": None,
        "mig_pending": None,
    }


def _slot(text):
    """Return a PCI address as the kernel writes it: nvidia-smi has eight digits before the first colon."""
    return re.sub(r"^0000(?=[0-9a-f]{4}:)", "", text.lower())


def mig_devices(said):
    """Return the MIG devices from the lines of ``nvidia-smi -L``."""
    devices, parent = [], ""
    for line in said:
        match = re.match(r"GPU \d+: .*\(UUID: (\S+)\)", line)
        if match:
            parent = match.group(1)
        match = re.match(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (\S+)\)", line)
        if match:
            devices.append({"gpu": parent, "profile": match.group(1), "uuid": match.group(2)})
    return devices


def driver(line):
    """Return the version that the first line of /proc/driver/nvidia/version names, or None."""
    match = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", line)
    return match.group(1) if match else None


def toolkit(data):
    """Return {mode, no_cgroups, any_mode} of NVIDIA's config.toml: what it sets, None where that is the default."""
    values = toml_text.values(data)
    no_cgroups = values.get("nvidia-container-cli.no-cgroups")
    any_mode = values.get("nvidia-container-runtime-hook.skip-mode-detection")
    return {
        "mode": values.get("nvidia-container-runtime.mode"),
        "no_cgroups": no_cgroups == "true" if no_cgroups is not None else None,
        "any_mode": any_mode == "true" if any_mode is not None else None,
    }
