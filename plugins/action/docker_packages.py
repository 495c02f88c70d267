# SPDX-License-Identifier: MIT
"""Run the module docker_packages, with local package files that the host needs."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_pipe, package_files, run_owner
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import host_bundle


class ActionModule(ActionBase):
    """Send the files first, and run the module with the lock of this run."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = {**self._task.args, "lock": run_owner.lock(self, task_vars or {})}
        sets = arguments.get("sets") or []
        sends = not self._task.check_mode and not arguments.get("sources_only")
        task_vars = task_vars or {}
        with package_files.sent(self, sets if sends else []) as complete:
            if sends:
                arguments["sets"] = complete
            step = {"concern": "packages", "params": arguments}
            try:
                with host_bundle.sent(self, [step] if _installs(sets) else [], [], task_vars) as (steps, _archives):
                    arguments = steps[0]["params"] if steps else arguments
                    return {**result, **self._execute_module(module_args=arguments, task_vars=task_vars)}
            except host_pipe.Stopped:
                return {**result, "skipped": True}
            except host_bundle.PROBLEMS as error:
                return {**result, "failed": True, "msg": str(error)}


def _installs(sets: list[dict[str, Any]]) -> bool:
    return any(one.get("packages") or one.get("source") for one in sets)
