# SPDX-License-Identifier: MIT
"""Plan one host: compare what its roles want with what one read of the host finds."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat, host_command, role_options
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import (
    host_bundle,
    host_plan,
    host_planning,
    host_proof,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.probe import host_probe


class ActionModule(ActionBase):
    """Read the host in one round trip, and decide on the controller."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ansible_facts with gpu_host_probe, gpu_host_plan and gpu_host_findings; with a group prefix they are
        only facts where there is something to do.

        Where strict, fail with one line for each problem.
        """
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        resolver = role_options.resolver(self, task_vars)
        own = resolver.resolve("gpu_host_probe")
        if resolver.problems:
            return {**result, "failed": True, "msg": host_planning.sentences(resolver.problems)}
        interpreter = host_command.interpreter(self, task_vars)
        asked = host_planning.question(resolver, own, interpreter)
        try:
            found = host_probe.probe(self, asked)
        except host_probe.ProbeFailure as failure:
            return {**result, "failed": True, "msg": str(failure)}
        facts, desired = host_planning.planned(self, own, asked.data_root, found, task_vars, interpreter)
        plan = facts["gpu_host_plan"]
        losing: dict[str, list[str]] = {}
        if host_plan.reloads_systemd(plan, found):
            variables = {**task_vars, "ansible_facts": {**(task_vars.get("ansible_facts") or {}), **facts}}
            answer = self._execute_module("gpuprov.gpuprov.gpu_scopes", {}, task_vars=variables)
            if "losing" not in answer:
                return {**result, **answer, "failed": True}
            losing = answer["losing"]
        if plan["steps"] and not plan["problems"]:
            variables = {**task_vars, "ansible_facts": {**(task_vars.get("ansible_facts") or {}), **facts}}
            proof = host_planning.proof(plan, desired)
            images = host_proof.images(found, plan, desired.options["gpu_host_verify"], proof)
            try:
                plan["notes"] += host_bundle.notes(self, host_planning.steps(plan, desired), images, variables)
            except host_bundle.PROBLEMS as error:
                plan["problems"].append({"name": "bundle", "message": str(error)})
        policies = {role: str(of["restart"]) for role, of in desired.options.items() if "restart" in of}
        plan["notes"] += host_plan.outlook(plan, found, losing, policies)
        due = own["full"] or bool(plan["steps"])
        cannot = host_plan.cannot_provision(found) if own["group_prefix"] and due else None
        if due or not own["group_prefix"]:
            result["ansible_facts"] = facts
        else:
            # Provision has no more tasks for this host: its facts would stay in Ansible's main process for nothing.
            result |= {name: value for name, value in facts.items() if name.startswith("gpu_host_")}
        of_playbook = {name: task_vars[name] for name in role_options.PLAYBOOK_OPTIONS if name in task_vars}
        problems = role_options.playbook_problems(ansible_compat.render(self, of_playbook))
        problems += plan["problems"] if own["strict"] else []
        if problems:
            result["failed"] = True
            result["msg"] = host_planning.sentences(problems)
        elif cannot:
            result["failed"] = True
            result["msg"] = cannot
        elif own["group_prefix"]:
            group = "full" if own["full"] else "pending" if due else "up_to_date"
            # A task of ansible.builtin.group_by would cost as much as the plan.
            ansible_compat.add_to_group(self, result, own["group_prefix"] + group)
        return result
