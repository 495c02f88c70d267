# SPDX-License-Identifier: MIT
"""What the probe says of GPUs, their driver and what hands them to containers. Pure functions, used on the controller.

The records are documented at the head of roles/gpu_host_probe/files/probe.sh, the shape of the result
in roles/gpu_host_probe/README.md.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import json
import re

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import toml_text

TOOLKIT_CONFIG = "/etc/nvidia-container-runtime/config.toml"
_CDI = re.compile(r"^(/etc|/var/run)/cdi/[^/]+\.(yaml|json)$")
LIBRARY = re.compile(r"/(libcuda|libnvidia-ml)\.so\.(\d+\.\d[\d.]*)?")


def gpu(single, every, files):
    """Return ``found["gpu"]`` of the records of a probe and the files in its answer."""
    said = [fields[0] for fields in every.get("smi", [])]
    module_file = every.get("module_file")
    names = {fields[0]: fields[1] for fields in every.get("pci_name", [])}
    return {
        "pci_bus": "pci_bus" in single,
        "pci": [_device(fields, names) for fields in every.get("pci", [])],
        "gpus": _gpus(every.get("gpu", []), [fields[0] for fields in every.get("smi_query", [])], said),
        "mig_devices": _mig_devices(said),
        "driver_version": driver(single.get("driver", "")),
        "modules": {fields[0]: fields[1] for fields in every.get("module", [])},
        "module_file": dict(zip(("path", "version", "signer"), module_file[0])) if module_file else None,
        "secure_boot": single["secure_boot"] == "1" if "secure_boot" in single else None,
        "libraries": [_library(*fields) for fields in every.get("library", [])],
        "devices": [fields[0] for fields in every.get("device", []) if re.search(r"/nvidia\d+$", fields[0])],
        "nodes": [_node(fields) for fields in every.get("device", [])],
        "persistenced": "persistenced" in single,
        "smi": [line for line in said if line.startswith("GPU ")],
        "smi_path": single.get("smi_path"),
        "smi_error": " ".join(line.strip() for line in said if not re.match(r"GPU |\s+MIG ", line)).strip(),
        "cdi": [cdi_spec(path, entry["data"]) for path, entry in sorted(files.items()) if _CDI.match(path)],
        "kept": [fields[0] for fields in every.get("kept", [])],
        "toolkit": toolkit(files[TOOLKIT_CONFIG]["data"]) if TOOLKIT_CONFIG in files else None,
    }


def _device(fields, names):
    slot, vendor, device, driver = fields
    return {"slot": slot, "vendor": vendor, "device": device, "driver": driver, "name": names.get(device, "")}


def _node(fields):
    path, number, link = fields
    return {"path": path, "number": number, "linked": link == "linked"}


def _library(path, use):
    match = LIBRARY.search(path)
    if not match:
        raise ValueError("%s is no library of the driver" % path[:80])
    return {"name": match.group(1), "path": path, "version": match.group(2), "use": use}


def _gpus(rows, queried, said):
    """One entry for each GPU that the driver knows, by all the ways in which it tells of them."""
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
    """Return (gpus, mig_devices) of the lines of ``nvidia-smi -L``, in the shapes of the probe's."""
    return _gpus([], [], said), _mig_devices(said)


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
    """A PCI address as the kernel writes it: nvidia-smi has eight digits before the first colon."""
    return re.sub(r"^0000(?=[0-9a-f]{4}:)", "", text.lower())


def _mig_devices(said):
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


def cdi_spec(path, data):
    """Return {path, kind, devices, nodes, driver_version, error} of a CDI specification; error says what is wrong.

    nodes are the device nodes that it takes from the host, {path: MAJOR:MINOR, or None for those of the host};
    driver_version is that of the libraries which it puts into containers.
    The form: https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
    """
    result = {"path": path, "kind": "", "devices": [], "nodes": {}, "driver_version": None, "error": ""}
    text = data.decode("utf-8", "replace")
    try:
        spec = json.loads(text) if path.endswith(".json") else _yaml(text)
        if not isinstance(spec, dict):
            raise ValueError("it is no mapping")
        for key, kind in (("cdiVersion", _TEXT), ("kind", _TEXT), ("devices", list)):
            if not isinstance(spec.get(key), kind):
                raise ValueError("it has no %s" % key)
        result["kind"] = spec["kind"]
        result["devices"] = [device["name"] for device in spec["devices"]]
        if not result["devices"]:
            raise ValueError("it names no devices")
        for edits in [spec] + spec["devices"]:
            for node in (edits.get("containerEdits") or {}).get("deviceNodes") or []:
                number = "%d:%d" % (node["major"], node.get("minor") or 0) if node.get("major") else None
                result["nodes"][node.get("hostPath") or node["path"]] = number
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        result["error"] = re.sub(r"[^ -~]+", " ", "it lacks %s" % error if isinstance(error, KeyError) else str(error))
    versions = {match.group(2) for match in LIBRARY.finditer(text) if match.group(2)}
    result["driver_version"] = sorted(versions)[-1] if versions else None
    return result


_TEXT = (str, type(b"".decode("ascii")))


def _yaml(text):
    import yaml  # on the controller only, where Ansible brings it along

    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "line %d: " % (mark.line + 1) if mark else ""
        raise ValueError("%s%s" % (where, getattr(error, "problem", None) or "no YAML"))


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
