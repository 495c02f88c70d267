# SPDX-License-Identifier: MIT
"""The plan of one host: what its roles want, less what the probe found. Nothing is sent to the host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible import release
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_plan, probe_report

_OPTIONS: dict[Path, dict[str, Any]] = {}


def options_of(roles_directory: Path, role: str) -> dict[str, Any]:
    """Return the options that a role's argument_specs name, in the form that validation takes."""
    path = roles_directory / role / "meta" / "argument_specs.yml"
    if path not in _OPTIONS:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        specs = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)
        _OPTIONS[path] = {
            name: {key: value for key, value in option.items() if key not in ("description", "default")}
            for name, option in specs["argument_specs"]["main"]["options"].items()
        }
    return _OPTIONS[path]


class ActionModule(ActionBase):
    """Compare, on the controller, what the roles want with what the probe found."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ansible_facts.gpu_host_plan; fail with one line for each problem."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        roles = self._task.args["roles"]
        found = task_vars["ansible_facts"]["gpu_host_probe"]

        problems = host_plan.host_problems(
            found,
            release.__version__,
            {path: int(mib) for path, mib in self._task.args["free_mib"].items()},
        )
        # The defaults are looked up by release: without one there is nothing to validate.
        problems += self._release_problems(found, task_vars) or self._variable_problems(
            Path(task_vars["role_path"]).parent, roles, task_vars
        )
        wanted = {}
        if not problems:
            try:
                wanted = {role: self._templar.template(task_vars[f"__{role}_wanted"]) for role in roles}
            except AnsibleError as error:
                problems = [{"name": "variables", "message": f"the variables cannot be read: {error}"}]
        plan = host_plan.plan(wanted, found, problems, full=bool(self._task.args["full"]))
        result["ansible_facts"] = {"gpu_host_plan": plan}
        result["gpu_host_probe"] = probe_report.without_contents(found)
        if plan["problems"]:
            result["failed"] = True
            result["msg"] = "\n".join(problem["message"] for problem in plan["problems"])
        return result

    @staticmethod
    def _release_problems(found: dict[str, Any], task_vars: dict[str, Any]) -> list[dict[str, str]]:
        return host_plan.release_problems(
            found,
            list(task_vars["__docker_ce_releases"]),
            list(task_vars["__docker_ce_architectures"].values()),
        )

    def _variable_problems(
        self, roles_directory: Path, roles: list[str], task_vars: dict[str, Any]
    ) -> list[dict[str, str]]:
        problems, unreadable = [], []
        for role in roles:
            options = options_of(roles_directory, role)
            values: dict[str, Any] = {}
            for name in options:
                if name not in task_vars:
                    continue
                try:
                    values[name] = self._templar.template(task_vars[name])
                except AnsibleError as error:
                    unreadable.append({"name": name, "message": f"{name} cannot be read: {error}"})
            outcome = ArgumentSpecValidator(options).validate(values)
            problems += [{"name": role, "message": message} for message in outcome.error_messages]
        # What cannot be read is mostly the consequence of a value that is wrong.
        return problems or unreadable
