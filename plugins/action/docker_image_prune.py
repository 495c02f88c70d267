# SPDX-License-Identifier: MIT
"""Clean-up: decided here to be shown, and once more on the host before anything is removed."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import image_prune
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import requirements, run_owner
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import image_versions


class ActionModule(ActionBase):
    """Decide what goes, or remove what an earlier task decided."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("containers", "images", "all", "older_than", "keep", "only", "decided", "look"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return docker_image: with look the decision, otherwise what was removed and freed."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validation, arguments = self.validate_argument_spec(
            argument_spec={
                "containers": {"type": "bool", "default": False},
                "images": {"type": "bool", "default": False},
                "all": {"type": "bool", "default": False},
                "older_than": {"type": "str", "default": ""},
                "keep": {"type": "int", "default": 3},
                "only": {"type": "list", "elements": "str"},
                "decided": {"type": "dict"},
                "look": {"type": "bool", "default": False},
            }
        )
        try:
            rules = image_prune.rules(
                **{name: arguments[name] for name in ("containers", "images", "all", "older_than", "keep")}
            )
        except image_prune.PruneError as error:
            raise AnsibleActionFail(str(error)) from None
        if arguments["look"]:
            return {**result, **self._look(rules, arguments["only"], task_vars)}
        if not (arguments["decided"] or {}).get("basis"):
            raise AnsibleActionFail("nothing was decided: run it with look first, and register the result")
        decided, basis = arguments["decided"]["docker_image"], arguments["decided"]["basis"]
        going = [one["id"] for kind in ("containers", "images") for one in decided[kind]]
        if not going or self._task.check_mode:
            return {**result, "changed": bool(going), "docker_image": decided}
        done = self._execute_module(
            "gpuprov.gpuprov.docker_image_prune",
            {"rules": rules, "only": going, **basis, "lock": run_owner.lock(self, task_vars or {})},
            task_vars=task_vars,
        )
        if "docker_image" in done:
            done["docker_image"] = {**decided, **done["docker_image"]}
        return {**result, **done}

    def _look(self, rules: dict[str, Any], only: list[str] | None, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        found = self._execute_module(
            "gpuprov.gpuprov.docker_images", {"containers": True, "layers": True}, task_vars=task_vars
        )
        if found.get("failed") or found.get("unreachable"):
            return dict(found)
        images = found["docker_image"]["images"]
        tags: dict[str, list[str]] = {}
        for image in images:
            for name in image["tags"]:
                repository, _colon, tag = name.rpartition(":")
                tags.setdefault(repository, []).append(tag)
        requirements.need("semver", "semver")
        versions = {repository: image_versions.lines(of) for repository, of in tags.items()}
        decision = image_prune.decide(found["docker_image"], rules, versions, time.time())
        if only is not None:
            for kind in ("containers", "images"):
                decision[kind] = [one for one in decision[kind] if one["id"] in only]
        decision["bytes"] = image_prune.total(decision)
        basis = {"versions": versions, "seen": {one["id"]: one["tags"] for one in images}}
        return {"changed": False, "docker_image": decision, "basis": basis}
