# SPDX-License-Identifier: MIT
"""Proof on the host: a fresh probe whose plan is empty, and containers that run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import gpu_containers, host_proof
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_command


class ActionModule(ActionBase):
    """Judge the probe's answer, run the container checks in one round trip, and report both."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return gpu_host_verify: {ok, checks}; fail with one line for each check that failed."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self._task.args
        found = task_vars["ansible_facts"]["gpu_host_probe"]
        checks = host_proof.state_checks(found, task_vars["ansible_facts"]["gpu_host_plan"])
        with_gpu = boolean(arguments["gpu"]) and host_proof.expects_gpu(found)
        if with_gpu and found["docker"]["info"]:
            checks.append(host_proof.lasting_check(found))
        if found["docker"]["info"] and arguments["containers"] != "none":
            words = [
                self._text(arguments["script"]),
                "gpuprov-verify",
                arguments["image"],
                "gpu" if with_gpu and arguments["containers"] == "gpu" else "no-gpu",
                str(int(arguments["timeout"])),
                arguments["gpu_image"],
                arguments["cdi_device"],
                "all" if gpu_containers.flag_gives(found) else "",
                self._text(arguments["program"]),
                " ".join(python["path"] for python in found["pythons"]),
            ]
            answer = host_command.execute(self, ["sh", "-c", *words])
            try:
                checks += host_proof.container_checks(answer["stdout"], found["gpu"])
            except host_proof.ProofError as error:
                checks.append({"name": "containers", "ok": False, "detail": str(error)})
        failed = [f"{check['name']}: {check['detail']}" for check in checks if not check["ok"]]
        result["gpu_host_verify"] = {"ok": not failed, "checks": checks}
        if failed:
            result["failed"] = True
            result["msg"] = "\n".join(failed)
        return result

    def _text(self, name: str) -> str:
        return Path(self._find_needle("files", name)).read_text(encoding="utf-8")
