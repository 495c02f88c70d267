# SPDX-License-Identifier: MIT
"""Parse the probe's records of GPUs, their driver and what gives them to containers. Pure functions.

The records are documented at the head of roles/gpu_host_probe/files/probe.sh, the shape of the result in
roles/gpu_host_probe/README.md.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import gpu_report

_CDI = re.compile(r"^(/etc|/var/run)/cdi/[^/]+\.(yaml|json)$")


def parse(single: dict[str, str], every: dict[str, list[list[str]]], files: dict[str, Any]) -> dict[str, Any]:
    """Return ``found["gpu"]`` from the records of a probe and the files in its answer."""
    said = [fields[0] for fields in every.get("smi", [])]
    module_file, toolkit = every.get("module_file"), files.get(gpu_report.TOOLKIT_CONFIG)
    names = {fields[0]: fields[1] for fields in every.get("pci_name", [])}
    return {
        "pci_bus": "pci_bus" in single,
        "pci": [_device(fields, names) for fields in every.get("pci", [])],
        "gpus": gpu_report.gpus(every.get("gpu", []), [fields[0] for fields in every.get("smi_query", [])], said),
        "mig_devices": gpu_report.mig_devices(said),
        "driver_version": gpu_report.driver(single.get("driver", "")),
        "modules": {fields[0]: fields[1] for fields in every.get("module", [])},
        "module_file": dict(zip(("path", "version", "signer"), module_file[0], strict=False)) if module_file else None,
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
        "toolkit": gpu_report.toolkit(toolkit["data"]) if toolkit else None,
    }


def _device(fields: list[str], names: dict[str, str]) -> dict[str, str]:
    slot, vendor, device, driver = fields
    return {"slot": slot, "vendor": vendor, "device": device, "driver": driver, "name": names.get(device, "")}


def _node(fields: list[str]) -> dict[str, Any]:
    path, number, link = fields
    return {"path": path, "number": number, "linked": link == "linked"}


def _library(path: str, use: str) -> dict[str, str | None]:
    match = gpu_report.LIBRARY.search(path)
    if not match:
        raise ValueError(f"{path[:80]} is not a library of the driver")
    return {"name": match[1], "path": path, "version": match[2], "use": use}


def cdi_spec(path: str, data: bytes) -> dict[str, Any]:
    """Return {path, kind, devices, nodes, driver_version, error} of a CDI specification; error says what is wrong.

    nodes are the device nodes that containers get, {path: MAJOR:MINOR, or None for the host's own number};
    driver_version is that of the libraries that containers get.
    The form: https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
    """
    empty: dict[str, Any] = {"kind": "", "devices": [], "nodes": {}, "driver_version": None, "error": ""}
    result = {"path": path, **empty}
    text = data.decode("utf-8", "replace")
    try:
        spec = json.loads(text) if path.endswith(".json") else _yaml(text)
        if not isinstance(spec, dict):
            raise ValueError("it is not a mapping")
        for key, kind in (("cdiVersion", str), ("kind", str), ("devices", list)):
            if not isinstance(spec.get(key), kind):
                raise ValueError(f"it has no {key}")
        result["kind"] = spec["kind"]
        result["devices"] = [device["name"] for device in spec["devices"]]
        if not result["devices"]:
            raise ValueError("it names no devices")
        for edits in [spec, *spec["devices"]]:
            for node in (edits.get("containerEdits") or {}).get("deviceNodes") or []:
                number = f"{node['major']:d}:{node.get('minor') or 0:d}" if node.get("major") else None
                result["nodes"][node.get("hostPath") or node["path"]] = number
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        result["error"] = re.sub(r"[^ -~]+", " ", reason)
    versions = {match[2] for match in gpu_report.LIBRARY.finditer(text) if match[2]}
    result["driver_version"] = sorted(versions)[-1] if versions else None
    return result


def _yaml(text: str) -> Any:
    try:
        return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{where}{getattr(error, 'problem', None) or 'not YAML'}") from error
