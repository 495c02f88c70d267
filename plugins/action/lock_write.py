# SPDX-License-Identifier: MIT
"""Write the lock beside the inventory, of what one host of each release and architecture resolved."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import requirements, role_options
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import held, lock_file, resolved
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import fleet


class ActionModule(ActionBase):
    """Runs once for all hosts. In check mode, report whether the lock still fits."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("pins", "system"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return gpuprov_lock: {path, checked, systems, lines}."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        requirements.need("python-debian", "debian.deb822")
        arguments = self._task.args
        every = [task_vars["hostvars"][host] for host in task_vars["ansible_play_hosts_all"]]
        pins, systems = ([(host.get(arguments[name]) or {}).get(name) for host in every] for name in ("pins", "system"))
        kinds = {(one["kind"][0], one["kind"][1]) for one in pins if one}
        found = {(one["kind"][0], one["kind"][1]): one for one in systems if one}
        checked = self._task.check_mode
        missing = ", ".join(" ".join(kind) for kind in sorted(kinds - set(found)))
        if missing and not checked:
            return {**result, "failed": True, "msg": f"nothing was written: {missing} was not resolved"}
        parts = {kind: lock_file.parse(one["lock"]).systems[kind] for kind, one in found.items()}
        try:
            path = role_options.resolver(self, task_vars).lock_path()
            # What was not asked for in this run stays: hosts that --limit leaves out, or that are unreachable.
            whole = not task_vars.get("ansible_limit") and all(pins)
            lock = resolved.kept(held.existing(path), lock_file.Lock(parts), whole)
            text = lock_file.dump(lock)
            differs = not checked and not (path.is_file() and path.read_bytes() == text.encode())
            if differs:
                _replace(path, text)
        except (lock_file.LockFileError, OSError) as error:
            return {**result, "failed": True, "msg": f"the lock was not written: {error}"}
        views = [found[kind]["view"] for kind in sorted(found)]
        answer = {"path": str(path), "checked": checked, "systems": views}
        lines = fleet.lock_lines(answer)
        lines += [] if checked else [f"{path}: {'written' if differs else 'as before'}"]
        return {**result, "changed": differs, "gpuprov_lock": {**answer, "lines": lines}}


def _replace(path: Path, text: str) -> None:
    """Write a file at once or not at all; a link stays one."""
    target = Path(os.path.realpath(path))
    descriptor, new = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        umask = os.umask(0o022)
        os.umask(umask)
        os.chmod(new, target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~umask)
        os.replace(new, target)
    except BaseException:
        os.unlink(new)
        raise
