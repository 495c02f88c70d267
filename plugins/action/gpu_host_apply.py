# SPDX-License-Identifier: MIT
"""Apply the plan of a host in one process there, and prove the result."""

from __future__ import annotations

import base64
import zlib
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import (
    host_command,
    host_pipe,
    package_files,
    role_options,
    run_owner,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import (
    host_bundle,
    host_plan,
    host_planning,
    host_proof,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.probe import host_probe


class ActionModule(ActionBase):
    """Compute what the steps of the plan need, run the module, and judge what it found at the end."""

    TRANSFERS_FILES = False
    _VALID_ARGS: frozenset[str] = frozenset()

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return changes, steps, gpu_host_verify, and the facts of the host afterwards; fail as the module does."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        if host_pipe.must_end():
            # After the first Ctrl-C no host is begun.
            return {**result, "skipped": True}
        facts = task_vars.get("ansible_facts") or {}
        if "gpu_host_plan" not in facts:
            return {**result, "failed": True, "msg": "nothing was planned: the role gpu_host_probe comes before"}
        before, plan = facts["gpu_host_probe"], facts["gpu_host_plan"]
        resolver = role_options.resolver(self, task_vars)
        own = resolver.resolve("gpu_host_probe")
        desired = host_planning.desired(self, task_vars)
        options = desired.options["gpu_host_verify"]
        interpreter = host_command.interpreter(self, task_vars)
        probe = host_planning.question(resolver, own, interpreter)
        proof = host_planning.proof(plan, desired)
        engine = host_plan.with_coming_engine(desired.wanted, before)["docker"]["version"]
        containers = host_proof.command(before, plan, options, proof, engine)
        installs = any(step["part"] == "packages" for step in plan["steps"]) and not self._task.check_mode
        with package_files.sent(self, list(desired.wanted.values()) if installs else []) as sets:
            wants = desired._replace(wanted=dict(zip(desired.wanted, sets, strict=True))) if installs else desired
            images = host_proof.images(before, plan, options, proof)
            try:
                with host_bundle.sent(self, host_planning.steps(plan, wants), images, task_vars) as (steps, archives):
                    work = {"steps": steps, "images": archives, "probe": probe.words, "containers": containers}
                    words = {"work": work, "lock": run_owner.lock(self, task_vars)}
                    done = host_command.with_logins(
                        lambda: self._execute_module(module_args=words, task_vars=task_vars)
                    )
            except host_pipe.Stopped:
                return {**result, "skipped": True}
            except host_bundle.PROBLEMS as error:
                return {**result, "failed": True, "msg": str(error)}
        answers = [done.pop(name, None) for name in ("probe", "containers")]
        added = done.pop("added", None)
        result |= done
        if added:
            # This connection's account may not be in the group yet.
            self._connection.reset()
        if done.get("failed") or done.get("unreachable") or self._task.check_mode:
            return result
        probed, output = (answer and zlib.decompress(base64.b64decode(answer["stdout"])) for answer in answers)
        try:
            found = host_probe.read(probe, answers[0]["rc"], probed.decode("utf-8", "surrogateescape"))
        except host_probe.ProbeFailure as failure:
            return {**result, "failed": True, "msg": str(failure)}
        facts = host_planning.planned(self, own, probe.data_root, found, task_vars, interpreter).facts
        after = facts["gpu_host_plan"]
        # Not as facts: those stay in Ansible's main process, and no task reads them after this one.
        result |= {name: value for name, value in facts.items() if name.startswith("gpu_host_")}
        if after["problems"]:
            return {**result, "failed": True, "msg": host_planning.sentences(after["problems"])}
        text = None if output is None else output.decode("utf-8", "replace")
        return {**result, **host_proof.result(facts["gpu_host_probe"], after, options, text)}
