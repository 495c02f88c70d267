# SPDX-License-Identifier: MIT
"""Reads a host in one round trip that changes nothing and needs no Python there."""

from __future__ import annotations

import re
import secrets
import shlex
from pathlib import Path
from typing import Any

from ansible import release
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import probe_report

# What setup calls the distributions.
_DISTRIBUTIONS = {"debian": "Debian", "ubuntu": "Ubuntu"}
_BECOME = (
    (
        r"(sudo|su|become)[^\n]*password is required|Missing \w+ password|a terminal is required",
        "sudo wants a password: give it with -K (--ask-become-pass), or allow the account passwordless sudo",
    ),
    (
        r"Incorrect \w+ password|Sorry, try again|incorrect password attempt",
        "sudo did not take the password given with -K",
    ),
    (
        r"not in the sudoers file|not allowed to execute",
        "the account may not use sudo: log in with one that may, or as root",
    ),
    (
        r"sudo: (command )?not found|sudo: No such file",
        "there is no sudo: log in as root, or set ansible_become_method",
    ),
)


def why_not_root(text: str) -> str | None:
    """Return what to do about a failure to become root, given what was said, or None for another failure."""
    for pattern, advice in _BECOME:
        if re.search(pattern, text, re.IGNORECASE):
            return advice
    return None


def standard_facts(found: dict[str, Any]) -> dict[str, str]:
    """Return the facts of ansible.builtin.setup that the roles use, from what the probe found."""
    system = found["os"]
    debian = system["id"] == "debian"
    return {
        "distribution": _DISTRIBUTIONS.get(system["id"], system["id"]),
        "distribution_version": (debian and system["debian_version"]) or system["version_id"],
        "distribution_major_version": system["version_id"].partition(".")[0],
        "distribution_release": system["codename"],
        "os_family": "Debian",
        "architecture": found["machine"],
        "service_mgr": found["init"],
    }


class ActionModule(ActionBase):
    """Run probe.sh on the host, read its answer, and set it as a fact."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return ansible_facts.gpu_host_probe and the standard facts; fail with one clear line."""
        task_vars = task_vars or {}
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = self._task.args
        users = arguments["users"]
        users = users.split(",") if isinstance(users, str) else users
        script = Path(self._find_needle("files", arguments["script"])).read_text(encoding="utf-8")
        nonce = secrets.token_hex(8)
        words = [f"user:{user}" for user in users if isinstance(user, str) and user]
        words += [f"keyring:{path}" for path in arguments["keyrings"]]
        command = [
            "timeout",
            str(int(arguments["timeout"])),
            "sh",
            "-c",
            script,
            "gpuprov-probe",
            nonce,
            *words,
        ]
        try:
            answer = self._low_level_execute_command(shlex.join(command), sudoable=True)
        except AnsibleConnectionFailure as error:
            advice = why_not_root(str(error))
            if advice is None:
                raise
            return {**result, "failed": True, "msg": advice}
        except AnsibleError as error:
            advice = why_not_root(str(error))
            return {**result, "failed": True, "msg": advice or str(error)}
        try:
            found = probe_report.parse_report(answer["stdout"], nonce)
        except probe_report.ProbeError as error:
            said = f"{answer['stdout']}\n{answer['stderr']}"
            advice = why_not_root(said)
            if answer["rc"] == 124:
                advice = f"the host did not answer to the probe within {arguments['timeout']} s"
            return {**result, "failed": True, "msg": advice or str(error)}
        if found["uid"] != 0:
            message = "the account is not root and did not become root: set ansible_become=true, or log in as root"
            return {**result, "failed": True, "msg": message}
        facts: dict[str, Any] = {**standard_facts(found), "gpu_host_probe": found}
        if "ansible_python_interpreter" not in task_vars:
            python = probe_report.choose_python(found["pythons"], release.__version__)
            if python:
                facts["discovered_interpreter_python"] = python
        result["ansible_facts"] = facts
        # Contents of files may be secret: no callback sees them, however verbose. The plan tells the rest.
        result["_ansible_no_log"] = True
        return result
