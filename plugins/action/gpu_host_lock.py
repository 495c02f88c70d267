# SPDX-License-Identifier: MIT
"""The mark that keeps two runs from working on one host at once."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_command, run_mark

_POLL = 2.0  # seconds


class ActionModule(ActionBase):
    """Claim the host for this run, or release it."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return a result that changed nothing; fail where another run holds the host for longer than wait."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        if self._task.check_mode:
            return result
        arguments = self._task.args
        # Ansible's directory of this run is named as no other one is.
        me = run_mark.mark(Path(constants.DEFAULT_LOCAL_TMP).name, os.getppid(), _account(), socket.gethostname())
        if arguments["state"] == "released":
            self._ask("release", me)
            return result
        deadline = time.monotonic() + int(arguments.get("wait") or 0)
        replaced = ""
        while True:
            said = self._ask("claim", me, replaced)
            if said[:1] == ["claimed"]:
                return result
            if said[:1] != ["held"]:
                return {**result, "failed": True, "msg": f"the host cannot be marked: {' '.join(said) or 'no answer'}"}
            other = run_mark.read(said[2] if len(said) > 2 else "")
            if run_mark.is_stale(other, session_open=said[1] == "open"):
                replaced = other["run"]
            elif time.monotonic() > deadline:
                return {**result, "failed": True, "msg": run_mark.sentence(other, time.time())}
            else:
                time.sleep(_POLL)

    def _ask(self, what: str, me: dict[str, Any], replaced: str = "") -> list[str]:
        script = Path(self._find_needle("files", self._task.args["script"])).read_text(encoding="utf-8")
        words = ["sh", "-c", script, "gpuprov-lock", what, me["run"], replaced, json.dumps(me)]
        answer = host_command.execute(self, words)
        if answer["rc"] != 0:
            return str(answer["stderr"]).strip().splitlines()
        return run_mark.answer(str(answer["stdout"]))


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
