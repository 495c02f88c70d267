# SPDX-License-Identifier: MIT
"""Run the module docker_packages, with local package files that the host needs."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import package_files, run_owner


class ActionModule(ActionBase):
    """Send the files first, and run the module with the lock of this run."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = {**self._task.args, "lock": run_owner.lock(self, task_vars or {})}
        sets = arguments.get("sets") or []
        sends = not self._task.check_mode and not arguments.get("sources_only")
        with package_files.sent(self, sets if sends else []) as complete:
            if sends:
                arguments["sets"] = complete
            return {**result, **self._execute_module(module_args=arguments, task_vars=task_vars)}
