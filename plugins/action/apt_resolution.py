# SPDX-License-Identifier: MIT
"""Resolve the package sets of all hosts of one release and architecture on the first of them."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import requirements, role_options
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import held, lock_file, resolved


class ActionModule(ActionBase):
    """Run the module where it must run, and make a part of the lock of its answer."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("pins",))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return system, for the action lock_write."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        requirements.need("python-debian", "debian.deb822")
        # Registered variables, not facts: a cache of facts would keep them, with passwords in URLs.
        every = {
            host: task_vars["hostvars"][host].get(self._task.args["pins"]) for host in task_vars["ansible_play_hosts"]
        }
        pins = {host: one["pins"] for host, one in every.items() if one and "pins" in one}
        kind = pins[task_vars["inventory_hostname"]]["kind"]
        of_kind = {host: one["sets"] for host, one in pins.items() if one["kind"] == kind}
        if next(iter(of_kind), None) != task_vars["inventory_hostname"]:
            return {**result, "skipped": True}
        try:
            sets = resolved.merged(of_kind)
            work = self._checked if self._task.check_mode else self._locked
            found = work(role_options.resolver(self, task_vars), (kind[0], kind[1]), sets)
        except (resolved.ResolutionError, lock_file.LockFileError) as error:
            return {**result, "failed": True, "msg": str(error)}
        if "lock" not in found:
            return {**result, **found, "failed": True}
        return {**result, "system": {"kind": kind, **found}}

    def _locked(self, resolver: Any, kind: tuple[str, str], sets: list[dict[str, Any]]) -> dict[str, Any]:
        """Resolve the sets, and compare the result with the lock that is there."""
        old = held.existing(resolver.lock_path()).systems.get(kind)
        wanted = resolved.asked(sets, old, bool(resolver.playbook_option("gpuprov_lock_upgrade")))
        answer = self._resolve({"sets": wanted}, resolver.variables)
        if "packages" not in answer:
            return answer
        system = resolved.system(answer, wanted)
        view = {"new": old is None, "changes": resolved.changes(old, system), "unfit": []}
        return self._found(kind, system, view)

    def _checked(self, resolver: Any, kind: tuple[str, str], sets: list[dict[str, Any]]) -> dict[str, Any]:
        """Compare the lock that is there with the sets and the repositories."""
        path = resolver.lock_path()
        system = held.system_of(lock_file.load(path), *kind, path)
        known = [f"{package.name}={package.version}" for package in system.packages]
        answer = self._resolve({"sets": sets, "known": known}, resolver.variables)
        if "known" not in answer:
            return answer
        view = {"new": False, "changes": [], "unfit": resolved.unfit(system, sets, answer)}
        return self._found(kind, system, view)

    @staticmethod
    def _found(kind: tuple[str, str], system: lock_file.System, view: dict[str, Any]) -> dict[str, Any]:
        floors = resolved.below_floors(system)
        view = {"name": " ".join(kind), "packages": len(system.packages), **view, "below_floors": floors}
        return {"lock": lock_file.dump(lock_file.Lock({kind: system})), "view": view}

    def _resolve(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        return dict(self._execute_module(module_args=arguments, task_vars=task_vars))
