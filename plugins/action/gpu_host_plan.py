# SPDX-License-Identifier: MIT
"""The plan of one host: what its roles want, less what one read of the host finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from ansible import release
from ansible.errors import AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import (
    finding,
    gpu_findings,
    host_findings,
    host_plan,
    probe_report,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_probe, shared_result

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
    """Read the host in one round trip, and compare what the roles want with what was found, on the controller."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ansible_facts with gpu_host_probe, gpu_host_plan and gpu_host_findings.

        Where strict, fail with one line for each problem.
        """
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self._task.args
        users = arguments["users"]
        try:
            found = host_probe.probe(
                self,
                arguments["script"],
                users.split(",") if isinstance(users, str) else users,
                arguments["keyrings"],
                int(arguments["timeout"]),
            )
        except host_probe.ProbeFailure as failure:
            return {**result, "failed": True, "msg": str(failure)}
        # Contents of files may be secret: they are compared here, and are in no fact that a callback would show.
        facts: dict[str, Any] = {
            **host_probe.standard_facts(found),
            "gpu_host_probe": probe_report.without_contents(found),
        }
        if "ansible_python_interpreter" not in task_vars:
            python = probe_report.choose_python(found["pythons"], release.__version__)
            if python:
                facts["discovered_interpreter_python"] = python
        variables = {**task_vars, "ansible_facts": {**(task_vars.get("ansible_facts") or {}), **facts}}
        plan, of_gpu = self._plan(found, variables)
        facts["gpu_host_plan"] = plan
        facts["gpu_host_findings"] = finding.ordered(of_gpu + host_findings.findings(found, plan))
        # The proof that an earlier plan of this run asked for is due still, now that its changes are made.
        earlier = (task_vars.get("ansible_facts") or {}).get("gpu_host_plan") or plan
        plan["to_prove"] = max(plan["to_prove"], earlier["to_prove"], key=host_plan.PROOFS.index)
        result["ansible_facts"] = facts
        cannot = host_plan.cannot_provision(found, plan) if arguments["group_prefix"] else None
        if plan["problems"] and arguments["strict"]:
            result["failed"] = True
            result["msg"] = "\n".join(problem["message"] for problem in plan["problems"])
        elif cannot:
            result["failed"] = True
            result["msg"] = cannot
        elif arguments["group_prefix"]:
            self._sort(arguments["group_prefix"] + ("pending" if plan["steps"] else "up_to_date"), result)
        return result

    def _sort(self, group: str, result: dict[str, Any]) -> None:
        """Put the host into a group, as ansible.builtin.group_by does in a task that costs as much as the plan."""
        if hasattr(self, "add_group"):  # ansible-core 2.21 and newer
            self.add_group(group, parent_group_names=["all"])
        else:
            result["add_group"], result["parent_groups"] = group, ["all"]

    def _plan(self, found: dict[str, Any], variables: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, str]]]:
        """Return the plan, and what is wrong with the GPUs."""
        arguments = self._task.args
        roles = arguments["roles"]
        problems = host_plan.host_problems(
            found, release.__version__, {path: int(mib) for path, mib in arguments["free_mib"].items()}
        )
        unsupported = host_plan.release_problems(
            found,
            list(variables["__docker_ce_releases"]),
            list(variables["__docker_ce_architectures"].values()),
        )
        # The defaults are looked up by release: without one there is nothing to compute.
        wanted: dict[str, Any] = {}
        of_gpu: list[dict[str, str]] = []
        if unsupported:
            problems += unsupported
        else:
            directory = Path(variables["role_path"]).parent
            self._templar.available_variables = variables
            checked = [*arguments["checked_roles"], *roles]
            names = [f"__{role}_wanted" for role in roles]
            names += [name for role in checked for name in options_of(directory, role)]
            wanted, wrong = shared_result.shared(
                shared_result.inputs(names, variables),
                lambda: self._wanted(directory, roles, checked, variables),
            )
            problems += wrong
            if not wrong:
                of_gpu = gpu_findings.findings(found, wanted["stack"], wanted["driver"])
        stopping = gpu_findings.stopping(of_gpu)
        problems += [{"name": host_plan.NO_DRIVER, "message": sentence} for sentence in stopping]
        notes = [
            {"name": one["name"], "message": f"{one['message']}; cure: {one['cure']}"}
            for one in of_gpu
            if one["severity"] != "info" and not stopping
        ]
        plan: dict[str, Any] = host_plan.plan(
            {} if problems else wanted, found, problems, full=bool(arguments["full"]), notes=notes
        )
        return plan, of_gpu

    def _wanted(
        self, directory: Path, roles: list[str], checked: list[str], variables: dict[str, Any]
    ) -> tuple[dict[str, Any], list[dict[str, str]]]:
        """Return {role: its __<role>_wanted} with the stack and the driver wanted, and what is wrong with options."""
        problems = self._resolve(directory, checked, variables)
        if problems:
            return {}, problems
        try:
            wanted = {role: self._templar.template(variables[f"__{role}_wanted"]) for role in roles}
        except AnsibleError as error:
            return {}, [{"name": "variables", "message": f"the variables cannot be read: {error}"}]
        return {
            **wanted,
            "stack": str(variables["nvidia_docker_stack"]),
            "driver": str(variables["gpu_host_probe_driver"]),
        }, []

    def _resolve(self, roles_directory: Path, roles: list[str], variables: dict[str, Any]) -> list[dict[str, str]]:
        """Put the values of the roles' options into variables, and return what is wrong with them.

        Values that are there already are not computed again wherever another variable names them.
        """
        for name in ("__docker_ce_release", "__nvidia_docker_release"):
            variables[name] = self._templar.template(variables[name])
        problems, unreadable = [], []
        for role in roles:
            options = options_of(roles_directory, role)
            values: dict[str, Any] = {}
            for name in options:
                if name not in variables:
                    continue
                try:
                    values[name] = variables[name] = self._templar.template(variables[name])
                except AnsibleError as error:
                    unreadable.append({"name": name, "message": f"{name} cannot be read: {error}"})
            outcome = ArgumentSpecValidator(options).validate(values)
            problems += [{"name": role, "message": message} for message in outcome.error_messages]
        # What cannot be read is mostly the consequence of a value that is wrong.
        return problems or unreadable
