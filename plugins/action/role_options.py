# SPDX-License-Identifier: MIT
"""Convert and check the options of a role: the first task of every entry point."""

from __future__ import annotations

import re
import shlex
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat, host_command, role_options

# As the probe finds it: roles/gpu_host_probe/files/probe.sh.
_LOGIN_USER = 'printf "gpuprov-login-user %s\\n" "${SUDO_USER:-${DOAS_USER:-${LOGNAME:-}}}"'
_SUBSETS = ["!all", "!min", "distribution", "platform"]


class ActionModule(ActionBase):
    """Convert and check the options of a role, and that modules can become another account. Touches nothing."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("role", "entry_point", "facts", "login_user"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return options; fail with one line for each wrong value."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self._task.args
        facts = task_vars.get("ansible_facts") or {}
        if "gpu_host_probe" not in facts:  # the probe became root
            host_command.check_become(self)
        if any(name not in facts for name in arguments.get("facts") or []):
            gathered = self._execute_module(
                module_name="ansible.builtin.setup", module_args={"gather_subset": _SUBSETS}, task_vars=task_vars
            )
            if gathered.get("failed") or gathered.get("unreachable"):
                return {**result, **gathered}
            result["ansible_facts"] = gathered["ansible_facts"]
            new = {name.removeprefix("ansible_"): value for name, value in gathered["ansible_facts"].items()}
            facts = {**facts, **new}
        if arguments.get("login_user") and "gpu_host_probe" not in facts:
            facts = {**facts, "gpu_host_probe": {"login_user": self._login_user()}}
        task_vars = {**task_vars, "ansible_facts": facts}
        resolver = role_options.resolver(self, task_vars)
        options = resolver.resolve(arguments["role"], arguments.get("entry_point", "main"))
        if resolver.problems:
            message = "\n".join(problem["message"] for problem in resolver.problems)
            return {**result, "failed": True, "msg": message}
        # Options may hold passwords, of a proxy for example: callbacks do not show them.
        locked = resolver.locked(arguments["role"])
        return ansible_compat.without_display({**result, "changed": False, "options": options, "locked": locked})

    def _login_user(self) -> str:
        """Return the account that logged in, "" for root, and where the host does not say."""
        answer = ansible_compat.run_command(self, shlex.join(["sh", "-c", _LOGIN_USER]))
        found = re.search(r"^gpuprov-login-user (\S+)$", str(answer["stdout"]).replace("\r", ""), re.MULTILINE)
        return found[1] if found and found[1] != "root" else ""
