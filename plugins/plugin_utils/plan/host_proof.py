# SPDX-License-Identifier: MIT
"""Prove a host: the command that runs containers there, and checks with a verdict. Pure functions.

Shapes of ``found`` and ``plan``: see roles/gpu_host_probe/README.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import gpu_containers
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import role_options
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import gpu_reload, host_plan

_Check = dict[str, Any]  # {name, ok, detail}
_Gpus = tuple[set[str], set[str]]  # UUIDs of GPUs, and of MIG devices


class ProofError(ValueError):
    """The host's answer to the container checks cannot be read."""


def command(
    found: dict[str, Any], plan: dict[str, Any], options: dict[str, Any], containers: str, engine: str
) -> list[str] | None:
    """Return the command that proves what containers can do, or None where they prove nothing.

    options are those of the role gpu_host_verify; containers is one of host_plan.PROOFS; engine is the version that
    runs the containers.
    """
    if containers == "none" or host_plan.to_prove(plan["left_out"]) != "none":
        return None
    files = role_options.ROLES_DIRECTORY / "gpu_host_verify/files"
    return [
        "sh",
        "-c",
        (files / "containers.sh").read_text(encoding="utf-8"),
        "gpuprov-verify",
        options["image"],
        "gpu" if containers == "gpu" and _with_gpu(found, plan, options) else "no-gpu",
        str(options["timeout"]),
        options["gpu_image"],
        "nvidia.com/gpu=all" if plan["wanted"]["cdi"] else "",
        "0" if gpu_reload.has_flag(engine) else "",
        # A network namespace of its own costs as much as the rest of the container's start.
        "none" if options["gpu_image"] or _remaps(found, plan) else "host",
        (files / "gpu_check.py").read_text(encoding="utf-8"),
        " ".join(python["path"] for python in found["pythons"]),
        (files / "gpu_containers.py").read_text(encoding="utf-8"),
    ]


def images(found: dict[str, Any], plan: dict[str, Any], options: dict[str, Any], containers: str) -> list[str]:
    """Return the names of the images that the command runs, with the same parameters."""
    if containers == "none" or host_plan.to_prove(plan["left_out"]) != "none":
        return []
    gpu = containers == "gpu" and _with_gpu(found, plan, options)
    return [str(options["image"]), *([str(options["gpu_image"])] if gpu and options["gpu_image"] else [])]


def result(
    found: dict[str, Any], plan: dict[str, Any], options: dict[str, Any], containers: str | None
) -> dict[str, Any]:
    """Return {gpu_host_verify: {ok, checks}} and, where a check failed, a failure with one line for each.

    found and plan are from after the changes; containers is what the command of the proof printed.
    """
    checks = state_checks(found, plan)
    if found["docker"]["info"]:
        if _with_gpu(found, plan, options) and not plan["left_out"]:
            ok, detail = gpu_reload.lasting(found)
            checks.append(_check("GPU stays after daemon-reload", ok, detail))
        if containers is not None:
            try:
                checks += container_checks(containers, found["gpu"])
            except ProofError as error:
                checks.append(_check("containers", False, str(error)))
    failed = [f"{check['name']}: {check['detail']}" for check in checks if not check["ok"]]
    verified = {"gpu_host_verify": {"ok": not failed, "checks": checks}}
    return {**verified, "failed": True, "msg": "\n".join(failed)} if failed else verified


def _with_gpu(found: dict[str, Any], plan: dict[str, Any], options: dict[str, Any]) -> bool:
    """Return whether containers must see a GPU: the stack is wanted, and a GPU's driver answers on the host."""
    gpu = found["gpu"]
    return bool(options["gpu"] and plan["wanted"]["stack"] != "none" and (gpu["devices"] or gpu.get("smi")))


def _remaps(found: dict[str, Any], plan: dict[str, Any]) -> bool:
    """Return whether dockerd maps, or will map, users of containers to others: then it refuses the host's network."""
    for change in plan["changes"]:
        if change["subject"] == "userns-remap":
            return change["to"] is not None
    options = (found["docker"]["info"] or {}).get("SecurityOptions") or []
    return any(option.startswith("name=userns") for option in options)


def state_checks(found: dict[str, Any], plan: dict[str, Any]) -> list[_Check]:
    """Return the checks of a probe: the plan of a proven host is empty.

    Nothing is promised of what the tags of the run leave out.
    """
    docker = found["docker"]
    info = docker["info"] or {}
    packages = found["apt"]["packages"]
    mirrors = (info.get("RegistryConfig") or {}).get("Mirrors") or []
    details = {
        "pinned packages": "docker-ce " + (packages.get("docker-ce") or {}).get("version", "is not installed"),
        "docker runs, at boot too": _service(found),
        "daemon.json in effect": "mirrors {}; runtimes {}".format(
            redact(" ".join(mirrors)) or "none", " ".join(sorted(info.get("Runtimes") or {})) or "unknown"
        ),
        "GPU for containers": gpu_setup(found["gpu"]),
        "docker group": " ".join((found["groups"].get("docker") or {}).get("members") or []) or "nobody",
        "dockerrun": " ".join(sorted(found["dockerrun"])) or "not installed",
    }
    left_out = {_check_of(change) for change in plan["left_out"]}
    checks = []
    for name, right in details.items():
        if name in left_out:
            continue
        wrong = [change for change in plan["changes"] if _check_of(change) == name]
        if right is not None or wrong:
            checks.append(_check(name, not wrong, "; ".join(_sentence(change) for change in wrong) or right))
    if not info and not left_out & {"pinned packages", "docker runs, at boot too"}:
        checks.append(_check("docker answers", False, redact(docker["info_error"]) or "no answer"))
    return checks


def gpu_setup(gpu: dict[str, Any]) -> str | None:
    """Describe what gives containers their GPUs, or return None without a toolkit."""
    if not gpu.get("toolkit"):
        return None
    words = f"toolkit mode {gpu['toolkit'].get('mode') or 'auto'}"
    specs = [spec["path"] for spec in gpu["cdi"] if spec["kind"] == gpu_containers.KIND]
    return words + (f"; CDI specification {' '.join(specs)}" if specs else "")


def _service(found: dict[str, Any]) -> str:
    docker = found["docker"]
    if found["init"] == "systemd":
        return f"{docker['service']['active']}, {docker['service']['enabled']}"
    runs = f"process {docker['process']['pid']}" if docker["process"] else "does not run"
    return f"{runs}; there is no systemd that would start it at boot"


def _check_of(change: dict[str, Any]) -> str:
    if change["subject"] in gpu_containers.SUBJECTS:
        return "GPU for containers"
    if change["subject"] == "docker.service":
        return "docker runs, at boot too"
    return {
        "docker_daemon": "daemon.json in effect",
        "docker_group": "docker group",
        "dockerrun": "dockerrun",
    }.get(change["role"], "pinned packages")


def _sentence(change: dict[str, Any]) -> str:
    if change["from"] is None:
        return f"{change['subject']}: {change['to']} is missing"
    if change["to"] is None:
        return f"{change['subject']}: {change['from']} must go"
    return f"{change['subject']}: {change['from']}, wanted {change['to']}"


def container_checks(output: str, gpu: dict[str, Any]) -> list[_Check]:
    """Compare what containers saw, as containers.sh printed it, with the probe's gpu.

    Raises ProofError for output that is not containers.sh's.
    """
    checks: list[_Check] = []
    steps = 0
    for line in output.splitlines():
        parts = line.split("\t")
        if len(parts) != 3 or parts[1] not in ("ok", "failed"):
            continue
        steps += 1
        name, good, said = parts[0], parts[1] == "ok", parts[2].strip()
        if name not in _LOOKS:
            checks.append(_check(_TITLES.get(name, name), good, said))
            continue
        title, judge = _LOOKS[name]
        seen = _seen(said) if good else None
        if seen is None:
            checks.append(_check(title, False, _flag_cure(said) or said[:600] or "the container said nothing"))
        else:
            checks += judge(title, seen, _host_gpus(gpu))
    if not steps:
        raise ProofError(f"the host did not answer to the container checks: {output.strip()[:200]}")
    return checks


def _flag_cure(said: str) -> str:
    """Explain docker's error about --gpus, with its cure; "" where the error needs none."""
    return next((sentence for words, sentence in sorted(_FLAG_CURES.items()) if words in said), "")


def _check(name: str, ok: bool, detail: str | None) -> _Check:
    return {"name": name, "ok": ok, "detail": detail}


def _seen(said: str) -> dict[str, Any] | None:
    """Parse what gpu_check.py printed; None for anything else."""
    try:
        seen = ast.literal_eval(said)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return seen if isinstance(seen, dict) and {"nodes", "nvml", "cuda"} <= set(seen) else None


def _host_gpus(gpu: dict[str, Any]) -> _Gpus:
    """Return the host's GPUs, as its driver and nvidia-smi name them."""
    uuids = {one["uuid"] for one in gpu.get("gpus") or [] if one["uuid"]}
    for line in gpu.get("smi") or []:
        uuids.update(re.findall(r"\(UUID: (GPU-[^)]+)\)", line))
    return uuids, {one["uuid"] for one in gpu.get("mig_devices") or []}


def _visible(seen: dict[str, Any]) -> _Gpus:
    """Return the GPUs in a container: by NVML, or by CUDA where NVML is missing."""
    gpus = seen["nvml"]["gpus"]
    if seen["nvml"]["error"] is None:
        return {one["uuid"] for one in gpus}, {uuid for one in gpus for uuid in one["mig"]}
    return {f"GPU-{device['uuid']}" for device in seen["cuda"]["devices"] if device["uuid"]}, set()


def _all_checks(title: str, seen: dict[str, Any], host: _Gpus) -> list[_Check]:
    """Check the container that asks for every GPU."""
    visible, mig = _visible(seen)
    if not visible:
        why = seen["nvml"]["error"] or seen["cuda"]["error"] or "neither NVML nor CUDA shows one"
        nodes = " ".join(seen["nodes"]) or "none"
        return [_check(title, False, f"it sees no GPU: {why} (device nodes: {nodes})")]
    differences = _differences(visible, host[0], "GPUs") + _differences(mig, host[1], "MIG devices")
    return [
        _check(title, not differences, "; ".join(differences) or " ".join(sorted(visible | mig))),
        _cuda_check(seen["cuda"], visible, mig),
        _arithmetic_check(seen["cuda"]["devices"]),
    ]


def _differences(visible: set[str], host: set[str], what: str) -> list[str]:
    # A host without nvidia-smi may not name its GPUs.
    if not host:
        return []
    sentences = []
    if host - visible:
        sentences.append(f"{what} of the host that a container does not see: {' '.join(sorted(host - visible))}")
    if visible - host:
        sentences.append(f"{what} in a container that the host does not have: {' '.join(sorted(visible - host))}")
    return sentences


def _cuda_check(cuda: dict[str, Any], visible: set[str], mig: set[str]) -> _Check:
    title = "CUDA starts in a container"
    if cuda["error"]:
        return _check(title, False, cuda["error"])
    devices = cuda["devices"]
    known = {uuid.partition("-")[2] for uuid in visible | mig}
    strangers = [device["uuid"] for device in devices if device["uuid"] and device["uuid"] not in known]
    # CUDA gives a process one MIG device.
    wanted = len(visible) if not mig else 1
    detail = f"CUDA {cuda['version'] // 1000}.{cuda['version'] % 1000 // 10}, {len(devices)} of {wanted} devices"
    if strangers:
        detail += f"; not among what NVML shows: {' '.join(strangers)}"
    return _check(title, len(devices) >= wanted and not strangers, detail)


def _arithmetic_check(devices: list[dict[str, Any]]) -> _Check:
    title = "GPU computes right"
    wrong = [f"{_device(one)}: {one['error']}" for one in devices if one["error"] and not one["busy"]]
    busy = [f"{_device(one)} was not tried: a job has it ({one['error']})" for one in devices if one["busy"]]
    right = [_device(one) for one in devices if not one["error"]]
    return _check(title, not wrong and bool(devices), "; ".join(wrong + busy + right) or "CUDA shows no device")


def _device(device: dict[str, Any]) -> str:
    return f"{device['name']} {device['uuid']}" if device["uuid"] else device["name"]


def _one_checks(title: str, seen: dict[str, Any], _host: _Gpus) -> list[_Check]:
    visible = _visible(seen)[0]
    good = len(visible) == 1 and len(seen["nodes"]) == 1
    detail = " ".join(sorted(visible) or seen["nodes"]) or seen["nvml"]["error"] or "none"
    return [_check(title, good, detail if good else f"it sees {detail}")]


def _none_checks(title: str, seen: dict[str, Any], _host: _Gpus) -> list[_Check]:
    there = sorted(_visible(seen)[0]) or seen["nodes"]
    return [_check(title, not there, f"it sees {' '.join(there)}" if there else "it sees none")]


def _flag_checks(title: str, seen: dict[str, Any], host: _Gpus) -> list[_Check]:
    """Check the container that asks for one GPU with --gpus."""
    asked = tuple(of_host & of_container or of_host for of_host, of_container in zip(host, _visible(seen), strict=True))
    return [*_one_checks(_ONE, seen, host), *_every_checks(title, seen, (asked[0], asked[1]))]


def _every_checks(title: str, seen: dict[str, Any], host: _Gpus) -> list[_Check]:
    visible, mig = _visible(seen)
    differences = _differences(visible, host[0], "GPUs") + _differences(mig, host[1], "MIG devices")
    if not visible:
        differences = [f"it sees no GPU: {seen['nvml']['error'] or seen['cuda']['error']}"]
    elif seen["cuda"]["error"]:
        differences.append(seen["cuda"]["error"])
    return [_check(title, not differences, "; ".join(differences) or " ".join(sorted(visible | mig)))]


_ONE = "one GPU where one is asked for"
# The steps of containers.sh that look for GPUs: {step: (the check's name, the function that judges)}.
_LOOKS: dict[str, tuple[str, Callable[[str, dict[str, Any], _Gpus], list[_Check]]]] = {
    "all": ("container sees the GPU", _all_checks),
    "one": (_ONE, _one_checks),
    "none": ("no GPU where none is asked for", _none_checks),
    "gpus": ("GPU with --gpus", _flag_checks),
    "cdi": ("GPU by CDI", _every_checks),
}
# Errors of docker, runc and NVIDIA's hook about --gpus, with their cures.
_FLAG_CURES = {
    "could not select device driver": (
        "docker run --gpus is refused: dockerd found no nvidia-container-runtime-hook on its PATH when it started. "
        "The package nvidia-container-toolkit has it: where that is installed, systemctl restart docker (which ends "
        "containers without live-restore); else gpuprov provision, and then that"
    ),
    'nvidia-container-runtime-hook": executable file not found': (
        "docker run --gpus is refused: nvidia-container-runtime-hook was removed after dockerd started: "
        "apt-get install --reinstall nvidia-container-toolkit"
    ),
    "invoking the NVIDIA Container Runtime Hook directly": (
        "NVIDIA's hook refuses docker run --gpus: the hook does not support the toolkit's mode; "
        "gpuprov provision sets skip-mode-detection = true of nvidia-container-runtime-hook"
    ),
}
_TITLES = {"image": "container sees the GPU"}
