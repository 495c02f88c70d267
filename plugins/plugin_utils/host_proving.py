# SPDX-License-Identifier: MIT
"""Proof of a host: the command that runs containers there, and what its answer and a fresh plan say together."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import gpu_containers, host_proof
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import role_options


def command(
    found: dict[str, Any], plan: dict[str, Any], options: dict[str, Any], containers: str, engine: str
) -> list[str] | None:
    """Return the command that proves what containers have, or None where nothing is to be proven by them.

    options are those of the role gpu_host_verify; containers one of host_plan.PROOFS; engine is the version that runs
    them.
    """
    if containers == "none":
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
        "all" if gpu_containers.has_flag(engine) else "",
        (files / "gpu_check.py").read_text(encoding="utf-8"),
        " ".join(python["path"] for python in found["pythons"]),
    ]


def result(
    found: dict[str, Any], plan: dict[str, Any], options: dict[str, Any], containers: str | None
) -> dict[str, Any]:
    """Return {gpu_host_verify: {ok, checks}} and, where a check failed, a failure with one line for each.

    found and plan are of after the changes; containers is what the command of the proof printed.
    """
    checks = host_proof.state_checks(found, plan)
    if found["docker"]["info"]:
        if _with_gpu(found, plan, options):
            checks.append(host_proof.lasting_check(found))
        if containers is not None:
            try:
                checks += host_proof.container_checks(containers, found["gpu"])
            except host_proof.ProofError as error:
                checks.append({"name": "containers", "ok": False, "detail": str(error)})
    failed = [f"{check['name']}: {check['detail']}" for check in checks if not check["ok"]]
    verified = {"gpu_host_verify": {"ok": not failed, "checks": checks}}
    return {**verified, "failed": True, "msg": "\n".join(failed)} if failed else verified


def _with_gpu(found: dict[str, Any], plan: dict[str, Any], options: dict[str, Any]) -> bool:
    return bool(options["gpu"] and plan["wanted"]["stack"] != "none" and host_proof.expects_gpu(found))
