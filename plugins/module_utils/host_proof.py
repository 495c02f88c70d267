# SPDX-License-Identifier: MIT
"""What verification promises of a host, as checks with a verdict. Pure functions.

Shapes of ``found`` and ``plan``: see roles/gpu_host_probe/README.md.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

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
        "docker runs, at boot too": "%s, %s" % (docker["service"]["active"], docker["service"]["enabled"]),
        "daemon.json in effect": "mirrors %s; runtimes %s"
        % (redact(" ".join(mirrors)) or "none", " ".join(sorted(info.get("Runtimes") or {})) or "unknown"),
        "docker group": " ".join((found["groups"].get("docker") or {}).get("members") or []) or "nobody",
        "dockerrun": " ".join(sorted(found["dockerrun"])) or "not installed",
    }
    checks = []
    for name in (
        "pinned packages",
        "docker runs, at boot too",
        "daemon.json in effect",
        "docker group",
        "dockerrun",
    ):
        wrong = [change for change in plan["changes"] if _check_of(change) == name]
        detail = "; ".join(_sentence(change) for change in wrong) or details[name]
        checks.append({"name": name, "ok": not wrong, "detail": detail})
    if not info:
        checks.append({"name": "docker answers", "ok": False, "detail": redact(docker["info_error"]) or "no answer"})
    return checks


def _check_of(change):
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


def container_checks(output, host_gpus):
    """Return [{name, ok, detail}] from what containers.sh printed.

    host_gpus are the host's own lines of ``nvidia-smi -L``, or empty where it has none to compare
    with. Raises ProofError for output that is not containers.sh's.
    """
    checks = []
    for line in output.splitlines():
        parts = line.split("\t")
        if len(parts) != 3 or parts[1] not in ("ok", "failed"):
            continue
        checks.append({"name": parts[0], "ok": parts[1] == "ok", "detail": parts[2].strip()})
    if not checks:
        raise ProofError("the host did not answer to the container checks: %s" % output.strip()[:200])
    for check in checks:
        if check["name"] == "container sees the GPU" and check["ok"]:
            unseen = [gpu for gpu in host_gpus if gpu not in check["detail"]]
            if unseen:
                check["ok"] = False
                check["detail"] = "not seen in a container: %s" % "; ".join(unseen)
    return checks
