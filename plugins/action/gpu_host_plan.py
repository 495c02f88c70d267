# SPDX-License-Identifier: MIT
"""The plan of one host: what its roles want, less what one read of the host finds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible import constants, release
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import (
    finding,
    gpu_findings,
    host_findings,
    host_plan,
    probe_report,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import (
    host_command,
    host_probe,
    role_options,
    shared_result,
)

# Roles that run after the plan, whose options are checked before anything is touched.
_LATER = ("gpu_host_lock", "gpu_host_verify")


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
        resolver = role_options.resolver(self, task_vars)
        own = resolver.resolve("gpu_host_probe")
        problems = resolver.problems + role_options.playbook_problems(
            {
                name: self._templar.template(task_vars[name])
                for name in role_options.PLAYBOOK_OPTIONS
                if name in task_vars
            }
        )
        if problems:
            return {**result, "failed": True, "msg": _sentences(problems)}
        interpreter = host_command.interpreter(self, task_vars)
        # What is wrong with them is said by the plan.
        users = resolver.option("docker_group", "users") or []
        root = (resolver.option("docker_daemon", "options") or {}).get("data-root")
        data_root = str(root) if isinstance(root, str) and root.startswith("/") else None
        try:
            found = host_probe.probe(
                self, arguments["script"], users, arguments["keyrings"], data_root, own["timeout"], interpreter
            )
        except host_probe.ProbeFailure as failure:
            return {**result, "failed": True, "msg": str(failure)}
        # Contents of files may be secret: they are compared here, and are in no fact that a callback would show.
        facts: dict[str, Any] = {
            **host_probe.standard_facts(found),
            "gpu_host_probe": probe_report.without_contents(found),
        }
        if not interpreter:
            python = probe_report.choose_python(found["pythons"], release.__version__)
            if python:
                facts["discovered_interpreter_python"] = python
        variables = {**task_vars, "ansible_facts": {**(task_vars.get("ansible_facts") or {}), **facts}}
        plan, of_gpu, policies = self._plan(own, found, data_root, variables)
        losing: dict[str, list[str]] = {}
        if host_plan.reloads_systemd(plan, found):
            answer = self._execute_module("gpuprov.gpuprov.gpu_scopes", {}, task_vars=variables)
            if "losing" not in answer:
                return {**result, **answer, "failed": True}
            losing = answer["losing"]
        plan["notes"] += host_plan.outlook(plan, found, losing, policies)
        facts["gpu_host_plan"] = plan
        facts["gpu_host_findings"] = finding.ordered(of_gpu + host_findings.findings(found, plan))
        # The proof that an earlier plan of this run asked for is due still, now that its changes are made.
        # A fact cache may hold the plan of another run.
        plan["run"] = Path(constants.DEFAULT_LOCAL_TMP).name
        earlier = (task_vars.get("ansible_facts") or {}).get("gpu_host_plan") or {}
        if earlier.get("run") == plan["run"]:
            plan["to_prove"] = max(plan["to_prove"], earlier["to_prove"], key=host_plan.PROOFS.index)
        result["ansible_facts"] = facts
        cannot = host_plan.cannot_provision(found, plan) if own["group_prefix"] else None
        if plan["problems"] and own["strict"]:
            result["failed"] = True
            result["msg"] = _sentences(plan["problems"])
        elif cannot:
            result["failed"] = True
            result["msg"] = cannot
        elif own["group_prefix"]:
            self._sort(own["group_prefix"] + ("pending" if plan["steps"] else "up_to_date"), result)
        return result

    def _sort(self, group: str, result: dict[str, Any]) -> None:
        """Put the host into a group, as ansible.builtin.group_by does in a task that costs as much as the plan."""
        if hasattr(self, "add_group"):  # ansible-core 2.21 and newer
            self.add_group(group, parent_group_names=["all"])
        else:
            result["add_group"], result["parent_groups"] = group, ["all"]

    def _plan(
        self, own: dict[str, Any], found: dict[str, Any], data_root: str | None, variables: dict[str, Any]
    ) -> tuple[dict[str, Any], list[dict[str, str]], dict[str, str]]:
        """Return the plan, what is wrong with the GPUs, and {role: when it may restart dockerd}.

        own are the options of the role gpu_host_probe.
        """
        free_mib = {f"/{place}": own[f"free_{place}_mib"] for place in ("var", "etc", "boot")}
        problems = host_plan.host_problems(found, release.__version__, free_mib, data_root)
        resolver = role_options.resolver(self, variables)
        roles = self._task.args["roles"]
        for role in roles:
            resolver.reveal(role)
        variables = resolver.variables
        unsupported = host_plan.release_problems(
            found,
            list(variables["__docker_ce_releases"]),
            list(variables["__docker_ce_architectures"].values()),
        )
        # The defaults are looked up by release: without one there is nothing to compute.
        wanted: dict[str, Any] = {}
        of_gpu: list[dict[str, str]] = []
        stack, cdi = "none", False
        policies: dict[str, str] = {}
        if unsupported:
            problems += unsupported
        else:
            names = [f"__{role}_wanted" for role in roles]
            names += [name for role in (*roles, *_LATER) for name in role_options.specification(role)]
            # An earlier task may have registered options of these roles: they are computed afresh.
            raw = {name: value for name, value in variables.items() if name not in {f"__{role}" for role in roles}}
            wanted, stack, cdi, policies, wrong = shared_result.shared(
                shared_result.inputs(names, raw), lambda: _wanted(resolver, roles)
            )
            problems += wrong
            if not wrong:
                of_gpu = gpu_findings.findings(found, stack, own["driver"])
        stopping = gpu_findings.stopping(of_gpu)
        problems += [{"name": host_plan.NO_DRIVER, "message": sentence} for sentence in stopping]
        notes = [
            {"name": one["name"], "message": f"{one['message']}; cure: {one['cure']}"}
            for one in of_gpu
            if one["severity"] != "info" and not stopping
        ]
        plan: dict[str, Any] = host_plan.plan(
            {} if problems else wanted, found, problems, full=own["full"], notes=notes
        )
        return {**plan, "wanted": {"stack": stack, "cdi": cdi}}, of_gpu, policies


def _wanted(
    resolver: role_options.Resolver, roles: list[str]
) -> tuple[dict[str, Any], str, bool, dict[str, str], list[dict[str, str]]]:
    """Return {role: its __<role>_wanted}, the stack, whether CDI is wanted, {role: its option restart}, problems."""
    # Looked up by many defaults: rendered once.
    for name in ("__docker_ce_release", "__nvidia_docker_release"):
        resolver.variables[name] = resolver.render(resolver.variables[name])
    options = {role: resolver.resolve(role) for role in (*roles, *_LATER)}
    if resolver.problems:
        return {}, "none", False, {}, resolver.problems
    try:
        wanted = {role: resolver.wanted(role) for role in roles}
    except role_options.OptionError as error:
        return {}, "none", False, {}, [{"name": "variables", "message": str(error)}]
    policies = {role: str(options[role]["restart"]) for role in roles if "restart" in options[role]}
    return wanted, options["nvidia_docker"]["stack"], options["docker_daemon"]["cdi"], policies, []


def _sentences(problems: list[dict[str, str]]) -> str:
    return "\n".join(dict.fromkeys(problem["message"] for problem in problems))
