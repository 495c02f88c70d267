# SPDX-License-Identifier: MIT
"""The action of every module that changes a host: it says for whom the module holds the host's lock."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import role_options, run_owner


class ActionModule(ActionBase):
    """Run the module with the lock of this run. meta/runtime.yml names the modules."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the module's result."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        try:
            lock = run_owner.lock(self, task_vars or {})
        except role_options.OptionError as error:
            return {**result, "failed": True, "msg": str(error)}
        return {**result, **self._execute_module(module_args={**self._task.args, "lock": lock}, task_vars=task_vars)}
