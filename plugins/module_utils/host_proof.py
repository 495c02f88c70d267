# SPDX-License-Identifier: MIT
"""What verification promises of a host, as checks with a verdict. Pure functions.

Shapes of ``found`` and ``plan``: see roles/gpu_host_probe/README.md.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import json
import re

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import gpu_containers
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact


class ProofError(ValueError):
    """The host's answer to the container checks cannot be read."""


def expects_gpu(found):
    """Return whether the host has a GPU whose driver answers."""
    gpu = found["gpu"]
    return bool(gpu["devices"] or gpu.get("smi"))


def state_checks(found, plan):
    """Return [{name, ok, detail}] of what a probe proves: the plan of a proven host is empty."""
    docker = found["docker"]
    info = docker["info"] or {}
    packages = found["apt"]["packages"]
    mirrors = (info.get("RegistryConfig") or {}).get("Mirrors") or []
    details = {
        "pinned packages": "docker-ce " + (packages.get("docker-ce") or {}).get("version", "is not installed"),
        "docker runs, at boot too": _service(found),
        "daemon.json in effect": "mirrors %s; runtimes %s"
        % (redact(" ".join(mirrors)) or "none", " ".join(sorted(info.get("Runtimes") or {})) or "unknown"),
        "GPU for containers": gpu_setup(found["gpu"]),
        "docker group": " ".join((found["groups"].get("docker") or {}).get("members") or []) or "nobody",
        "dockerrun": " ".join(sorted(found["dockerrun"])) or "not installed",
    }
    checks = []
    for name in (
        "pinned packages",
        "docker runs, at boot too",
        "daemon.json in effect",
        "GPU for containers",
        "docker group",
        "dockerrun",
    ):
        wrong = [change for change in plan["changes"] if _check_of(change) == name]
        if details[name] is None and not wrong:
            continue
        detail = "; ".join(_sentence(change) for change in wrong) or details[name]
        checks.append({"name": name, "ok": not wrong, "detail": detail})
    if not info:
        checks.append({"name": "docker answers", "ok": False, "detail": redact(docker["info_error"]) or "no answer"})
    return checks


def gpu_setup(gpu):
    """Return in words what hands GPUs to containers, or None where nothing is configured to."""
    if not gpu.get("toolkit"):
        return None
    words = "toolkit mode %s" % (gpu["toolkit"].get("mode") or "auto")
    specs = [spec["path"] for spec in gpu["cdi"] if spec["kind"] == gpu_containers.KIND]
    return words + ("; CDI specification %s" % " ".join(specs) if specs else "")


def lasting_check(found):
    """Return the check of whether a running container keeps its GPU after a systemctl daemon-reload.

    It looks at what decides that, and does not reload: a host where it fails would lose GPUs then.
    """
    ok, detail = gpu_containers.lasting(found)
    return _check("GPU stays after daemon-reload", ok, detail)


def _service(found):
    docker = found["docker"]
    if found["init"] == "systemd":
        return "%s, %s" % (docker["service"]["active"], docker["service"]["enabled"])
    runs = "process %d" % docker["process"]["pid"] if docker["process"] else "does not run"
    return "%s; there is no systemd that would start it at boot" % runs


def _check_of(change):
    if change["subject"] in gpu_containers.SUBJECTS:
        return "GPU for containers"
    if change["subject"] == "docker.service":
        return "docker runs, at boot too"
    return {
        "docker_daemon": "daemon.json in effect",
        "docker_group": "docker group",
        "dockerrun": "dockerrun",
    }.get(change["role"], "pinned packages")


def _sentence(change):
    if change["from"] is None:
        return "%s: %s is missing" % (change["subject"], change["to"])
    if change["to"] is None:
        return "%s: %s is to go" % (change["subject"], change["from"])
    return "%s: %s, wanted %s" % (change["subject"], change["from"], change["to"])


def container_checks(output, gpu):
    """Return [{name, ok, detail}] from what containers.sh printed.

    gpu is the probe's: what containers see is compared with it. Raises ProofError for output that is
    not containers.sh's.
    """
    checks, steps = [], 0
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
        raise ProofError("the host did not answer to the container checks: %s" % output.strip()[:200])
    return checks


def _flag_cure(said):
    """Return an explanation of docker's error about --gpus, with its cure; "" where the error needs none."""
    return next((sentence for words, sentence in sorted(_FLAG_CURES.items()) if words in said), "")


def _check(name, ok, detail):
    return {"name": name, "ok": ok, "detail": detail}


def _seen(said):
    """What gpu_check.py printed, or None where that is something else."""
    try:
        seen = json.loads(said)
        return seen if isinstance(seen, dict) and {"nodes", "nvml", "cuda"} <= set(seen) else None
    except ValueError:
        return None


def _host_gpus(gpu):
    """(UUIDs of the host's GPUs, UUIDs of their MIG devices), as its driver and nvidia-smi name them."""
    uuids = {one["uuid"] for one in gpu.get("gpus") or [] if one["uuid"]}
    for line in gpu.get("smi") or []:
        uuids.update(re.findall(r"\(UUID: (GPU-[^)]+)\)", line))
    return uuids, {one["uuid"] for one in gpu.get("mig_devices") or []}


def _visible(seen):
    """(UUIDs of GPUs, of MIG devices) in a container: by NVML, or by CUDA where NVML is not there."""
    gpus = seen["nvml"]["gpus"]
    if seen["nvml"]["error"] is None:
        return {one["uuid"] for one in gpus}, {uuid for one in gpus for uuid in one["mig"]}
    return {"GPU-%s" % device["uuid"] for device in seen["cuda"]["devices"] if device["uuid"]}, set()


def _all_checks(title, seen, host):
    """Checks of the container that asks for every GPU."""
    visible, mig = _visible(seen)
    if not visible:
        why = seen["nvml"]["error"] or seen["cuda"]["error"] or "neither NVML nor CUDA shows one"
        nodes = " ".join(seen["nodes"]) or "none"
        return [_check(title, False, "it sees no GPU: %s (device nodes: %s)" % (why, nodes))]
    differences = _differences(visible, host[0], "GPUs") + _differences(mig, host[1], "MIG devices")
    return [
        _check(title, not differences, "; ".join(differences) or " ".join(sorted(visible | mig))),
        _cuda_check(seen["cuda"], visible, mig),
        _arithmetic_check(seen["cuda"]["devices"]),
    ]


def _differences(visible, host, what):
    # A host that does not name its GPUs, with nvidia-smi out of reach, has nothing to compare with.
    if not host:
        return []
    sentences = []
    if host - visible:
        sentences.append("%s of the host that a container does not see: %s" % (what, " ".join(sorted(host - visible))))
    if visible - host:
        sentences.append("%s in a container that the host does not have: %s" % (what, " ".join(sorted(visible - host))))
    return sentences


def _cuda_check(cuda, visible, mig):
    title = "CUDA starts in a container"
    if cuda["error"]:
        return _check(title, False, cuda["error"])
    devices = cuda["devices"]
    known = {uuid.partition("-")[2] for uuid in visible | mig}
    strangers = [device["uuid"] for device in devices if device["uuid"] and device["uuid"] not in known]
    # Of all MIG devices CUDA gives one to a process.
    wanted = len(visible) if not mig else 1
    detail = "CUDA %d.%d, %d of %d devices" % (
        cuda["version"] // 1000, cuda["version"] % 1000 // 10, len(devices), wanted
    )  # fmt: skip
    if strangers:
        detail += "; not among what NVML shows: %s" % " ".join(strangers)
    return _check(title, len(devices) >= wanted and not strangers, detail)


def _arithmetic_check(devices):
    title = "GPU computes right"
    wrong = ["%s: %s" % (_device(one), one["error"]) for one in devices if one["error"] and not one["busy"]]
    busy = ["%s was not tried: a job has it (%s)" % (_device(one), one["error"]) for one in devices if one["busy"]]
    right = [_device(one) for one in devices if not one["error"]]
    return _check(title, not wrong and bool(devices), "; ".join(wrong + busy + right) or "CUDA shows no device")


def _device(device):
    return "%s %s" % (device["name"], device["uuid"]) if device["uuid"] else device["name"]


def _one_checks(title, seen, _host):
    visible = _visible(seen)[0]
    good = len(visible) == 1 and len(seen["nodes"]) == 1
    detail = " ".join(sorted(visible) or seen["nodes"]) or seen["nvml"]["error"] or "none"
    return [_check(title, good, detail if good else "it sees %s" % detail)]


def _none_checks(title, seen, _host):
    there = sorted(_visible(seen)[0]) or seen["nodes"]
    return [_check(title, not there, "it sees %s" % " ".join(there) if there else "it sees none")]


def _every_checks(title, seen, host):
    visible, mig = _visible(seen)
    differences = _differences(visible, host[0], "GPUs") + _differences(mig, host[1], "MIG devices")
    if not visible:
        differences = ["it sees no GPU: %s" % (seen["nvml"]["error"] or seen["cuda"]["error"])]
    elif seen["cuda"]["error"]:
        differences.append(seen["cuda"]["error"])
    return [_check(title, not differences, "; ".join(differences) or " ".join(sorted(visible | mig)))]


# The looks of containers.sh: {name there: (name for people, what judges what was seen)}.
_LOOKS = {
    "all": ("container sees the GPU", _all_checks),
    "one": ("one GPU where one is asked for", _one_checks),
    "none": ("no GPU where none is asked for", _none_checks),
    "gpus": ("GPU with --gpus", _every_checks),
    "cdi": ("GPU by CDI", _every_checks),
}
# What docker, runc and NVIDIA's hook say of --gpus, and that in words for people.
_FLAG_CURES = {
    "could not select device driver": (
        "docker run --gpus is refused, for dockerd found no nvidia-container-runtime-hook on its PATH when it started. "
        "The package nvidia-container-toolkit has it: where that is installed, systemctl restart docker (which ends "
        "containers without live-restore); else gpuprov provision, and then that"
    ),
    'nvidia-container-runtime-hook": executable file not found': (
        "docker run --gpus is refused, for nvidia-container-runtime-hook is gone since dockerd started: "
        "apt-get install --reinstall nvidia-container-toolkit"
    ),
    "invoking the NVIDIA Container Runtime Hook directly": (
        "docker run --gpus is refused by NVIDIA's hook, for the toolkit's mode is not one of the hook's: "
        "gpuprov provision sets skip-mode-detection = true of nvidia-container-runtime-hook"
    ),
}
_TITLES = {"image": "container sees the GPU"}
