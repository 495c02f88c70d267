# SPDX-License-Identifier: MIT
"""Run a module that changes a host, and tell it who owns the host's lock."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_command, run_owner


class ActionModule(ActionBase):
    """Run the module with the lock of this run. meta/runtime.yml names the modules."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = {**self._task.args, "lock": run_owner.lock(self, task_vars or {})}
        done = host_command.with_logins(lambda: self._execute_module(module_args=arguments, task_vars=task_vars))
        return {**result, **done}
