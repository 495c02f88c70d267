# SPDX-License-Identifier: MIT
"""Return the packages that a host's variables declare, for the lock."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import host_planning

_UNSUPPORTED = ("operating system", "architecture")


class ActionModule(ActionBase):
    """Return the package sets of a host that was probed, as the inventory declares them."""

    TRANSFERS_FILES = False
    _VALID_ARGS: frozenset[str] = frozenset()

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return pins: kind, [codename, architecture], and the sets."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        facts = task_vars.get("ansible_facts") or {}
        if "gpu_host_plan" not in facts:
            return {**result, "failed": True, "msg": "nothing was planned: the role gpu_host_probe comes before"}
        problems = [one for one in facts["gpu_host_plan"]["problems"] if one["name"] in _UNSUPPORTED]
        # A lock that is there says nothing about what the inventory wants.
        desired = host_planning.desired(self, {**task_vars, "gpuprov_lock": ""})
        problems += desired.problems
        if problems:
            return {**result, "failed": True, "msg": host_planning.sentences(problems)}
        sets = [
            {
                "role": role,
                "packages": desired.wanted[role]["packages"],
                "install_recommends": desired.wanted[role]["install_recommends"],
                "source": desired.wanted[role]["source"] or None,
                "channel": self._channel(desired.options[role]),
                "proxy": desired.options[role]["proxy"],
            }
            for role in ("docker_ce", "nvidia_docker")
        ]
        found = facts["gpu_host_probe"]
        pins = {
            "kind": [found["os"]["codename"], found["architecture"]],
            "sets": [one for one in sets if one["packages"]],
        }
        # URLs of sources may hold passwords.
        return ansible_compat.without_display({**result, "pins": pins})

    @staticmethod
    def _channel(options: dict[str, Any]) -> str:
        # nvidia-docker2 goes with one exact version of the engine.
        return "" if options.get("stack") == "nvidia-docker2" else str(options["channel"])
