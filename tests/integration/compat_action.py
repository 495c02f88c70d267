"""An action plugin that calls each function of ansible_compat, for test_ansible_compat.py."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ansible
from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat

# What an ansible-core without undocumented API lacks.
MISSING = (
    "_get_remote_user", "_low_level_execute_command", "_is_pipelining_enabled", "_make_tmp_path", "_transfer_file",
    "_templar",
)  # fmt: skip


class ActionModule(ActionBase):
    """Write {name of a case: its result, or the error} to the file `out`."""

    _VALID_ARGS = frozenset(("out", "documented_only"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return a secret that no callback shows, and put the host into a group."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        out = Path(self._task.args["out"])
        self._variables = task_vars or {}
        self._place = out.parent
        self._shell, self._become = self._connection._shell, self._connection.become
        documented_only = self._task.args.get("documented_only")
        if self._connection.transport == "ssh":
            if documented_only:
                self._connection._build_command = None
            words = [word.decode() for word in ansible_compat.ssh_words(self, "echo it's me")]
            known = ("far.example", "2222", "someone", "Compression=no")
            seen = [name for name in known if any(name in word for word in words)]
            out.write_text(json.dumps({"ssh_words": [*seen, words[-1], ansible_compat.has_login_password(self)]}))
            return result
        if documented_only:
            for name in MISSING:
                setattr(self, name, None)
            self._connection._shell = None
            self._become = SimpleNamespace(success="BECOME-SUCCESS-key")
            vars(ansible)["constants"] = SimpleNamespace()
            # None makes an import fail, which the type of sys.modules does not declare.
            sys.modules["ansible.parsing.splitter"] = None  # type: ignore[assignment]
        found: dict[str, Any] = {}
        for name, case in CASES.items():
            try:
                found[name] = case(self)
            except Exception as error:
                found[name] = repr(error)
        self._connection._shell = self._shell  # Ansible itself needs it at the end
        out.write_text(json.dumps(found))
        ansible_compat.add_to_group(self, result, "added")
        return ansible_compat.without_display({**result, "secret": "hidden-from-callbacks"})

    def sent(self) -> str:
        """Return what a file that was sent to the host holds there, and whether its directory goes."""
        file = self._place / "sent"
        file.write_text("whole")
        with ansible_compat.temporary_directory(self) as directory:
            remote = ansible_compat.send_file(self, file, directory)
            found = ansible_compat.run_command(self, f"cat {remote}")["stdout"].strip()
        return found + (" left" if Path(directory).exists() else " gone")

    def failed_template(self) -> str:
        """Return the end of the reason why a template inside another one fails."""
        try:
            ansible_compat.render(self, self._variables["outer"], self._variables)
        except AnsibleError as error:
            return ansible_compat.cause(error)[-22:]
        return "no error"

    def read_variables(self) -> Any:
        """Return variables from a file, rendered, with one that is literal."""
        path = self._place / "variables.yml"
        path.write_text("one: 'a{{ 40 + 2 }}'\nmany: [{two: '{{ one }}'}]\n")
        variables: dict[str, Any] = {**ansible_compat.load_variables(path), "raw": ansible_compat.literal("{{.Name}}")}
        return [ansible_compat.render(self, variables[name], variables) for name in ("one", "many", "raw")]


CASES: dict[str, Callable[[ActionModule], Any]] = {
    "builtin_become": lambda action: ansible_compat.builtin_become("sudo").BecomeModule.name,
    "becomes": ansible_compat.becomes,
    "become_command": lambda action: "fake-sudo" in ansible_compat.become_command(action, "true"),
    "success_command": lambda action: ansible_compat.success_command(action._become, "true", action._shell).startswith(
        "/bin/sh -c 'echo BECOME-SUCCESS-"
    ),
    "run_command": lambda action: ansible_compat.run_command(action, "echo $BECAME $(cat)", b"fed")["stdout"].strip(),
    "run_command, no become": lambda action: [
        ansible_compat.run_command(action, "echo no $BECAME >&2; exit 3", become=False)[name]
        for name in ("rc", "stdout", "stderr")
    ],
    "uses_pipelining": ansible_compat.uses_pipelining,
    "send_file": ActionModule.sent,
    "render": lambda action: ansible_compat.render(action, action._variables["answer"], action._variables),
    "load_variables": ActionModule.read_variables,
    "cause": ActionModule.failed_template,
    "key_values": lambda action: ansible_compat.key_values("a=1 b='x y' other"),
    "interpreter_setting": lambda action: ansible_compat.interpreter_setting(),
    "run_directory": lambda action: bool(ansible_compat.run_directory()),
    "preload_plugins": lambda action: gc.get_freeze_count() > 1000,
}
