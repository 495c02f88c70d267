# SPDX-License-Identifier: MIT
"""dockerrun's files on a host, written in one round trip that needs no Python there."""

from __future__ import annotations

import base64
import gzip
import hashlib
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import dockerrun_files
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_command


class ActionModule(ActionBase):
    """Compare the files on the host with what is wanted, and write those that differ."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return changes: those that were made or, in check mode, would be."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self._task.args
        wanted = arguments["wanted"]
        absent = arguments.get("state") == "absent"
        launcher = self._file(arguments["launcher"])
        if hashlib.sha256(launcher).hexdigest() != wanted["sha256"]:
            return {**result, "failed": True, "msg": "gpuprov is damaged: its own dockerrun is not what it is to be"}
        try:
            defaults = dockerrun_files.defaults_text(wanted)
        except dockerrun_files.DockerrunError as error:
            return {**result, "failed": True, "msg": str(error)}
        if not (wanted["install"] or absent):
            return {**result, "changes": []}
        words = ["read" if self._task.check_mode else "write"]
        words += _words(dockerrun_files.LAUNCHER, "0755", None if absent else launcher)
        words += _words(dockerrun_files.DEFAULTS, "0644", None if absent or not defaults else defaults.encode())
        script = self._file(arguments["script"]).decode()
        answer = host_command.execute(self, ["sh", "-c", script, "gpuprov-dockerrun", *words])
        if answer["rc"] != 0:
            said = f"{answer['stderr']}\n{answer['stdout']}".strip().splitlines()
            return {**result, "failed": True, "msg": f"dockerrun cannot be written: {said[0] if said else 'no answer'}"}
        files = _files(answer["stdout"])
        changes = dockerrun_files.leftovers(files) if absent else dockerrun_files.decide(wanted, files)
        return {**result, "changed": bool(changes), "changes": changes}

    def _file(self, name: str) -> bytes:
        return Path(self._find_needle("files", name)).read_bytes()


def _words(path: str, mode: str, data: bytes | None) -> list[str]:
    """Return what write.sh is told of one file."""
    if data is None:
        return [path, mode, "-", ""]
    text = base64.b64encode(gzip.compress(data, mtime=0)).decode("ascii")
    return [path, mode, hashlib.sha256(data).hexdigest(), text]


def _files(text: str) -> dict[str, dict[str, Any]]:
    """Return what write.sh said of the files that were there, as dockerrun_files compares it."""
    files = {}
    for line in text.splitlines():
        fields = line.split("\t")
        if len(fields) == 6:
            path, digest, mode, uid, gid, whose = fields
            files[path] = {"sha256": digest, "mode": mode, "uid": int(uid), "gid": int(gid), "ours": whose == "ours"}
    return files
