# SPDX-License-Identifier: MIT
"""Prove a host: a fresh probe whose plan is empty, and containers that run."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_command
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import host_bundle, host_proof


class ActionModule(ActionBase):
    """Judge the probe's answer, run the container checks in one round trip, and report both."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("options",))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return gpu_host_verify: {ok, checks}; fail with one line for each check that failed."""
        facts = (task_vars or {})["ansible_facts"]
        result: dict[str, Any] = super().run(tmp, task_vars)
        options, found, plan = self._task.args["options"], facts["gpu_host_probe"], facts["gpu_host_plan"]
        info = found["docker"]["info"] or {}
        words = host_proof.command(found, plan, options, options["containers"], info.get("ServerVersion", ""))
        images = host_proof.images(found, plan, options, options["containers"]) if info else []
        try:
            with host_bundle.sent(self, [], images, task_vars or {}) as (_steps, archives):
                for archive in archives:
                    host_command.execute(self, ["docker", "load", "--quiet", "--input", archive])
                answer = host_command.execute(self, words)["stdout"] if words and info else None
        except host_bundle.PROBLEMS as error:
            return {**result, "failed": True, "msg": str(error)}
        return {**result, **host_proof.result(found, plan, options, answer)}
