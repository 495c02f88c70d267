# SPDX-License-Identifier: MIT
"""Reads a host in one round trip that changes nothing and needs no Python there."""

from __future__ import annotations

import re
import secrets
import shlex
import time
from pathlib import Path
from typing import Any

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
        r"must have a tty",
        "sudo asks for a terminal (requiretty): take that away for this account, or set ansible_pipelining=false",
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


class ProbeFailure(Exception):
    """The host could not be read; the message says why, for people."""


def probe(action: ActionBase, script: str, users: list[str], keyrings: list[str], timeout: int) -> dict[str, Any]:
    """Run the script on the action's host, become what the task becomes, and return what was found.

    script is a file of the role; timeout in seconds. Raises ProbeFailure, and AnsibleConnectionFailure
    for a host that cannot be reached.
    """
    text = Path(action._find_needle("files", script)).read_text(encoding="utf-8")
    nonce = secrets.token_hex(8)
    words = [f"user:{user}" for user in users if isinstance(user, str) and user]
    words += [f"keyring:{path}" for path in keyrings]
    command = ["timeout", str(timeout), "sh", "-c", text, "gpuprov-probe", nonce, *words]
    asked = int(time.time())
    try:
        answer = action._low_level_execute_command(shlex.join(command), sudoable=True)
    except AnsibleConnectionFailure as error:
        advice = why_not_root(str(error))
        if advice is None:
            raise
        raise ProbeFailure(advice) from error
    except AnsibleError as error:
        raise ProbeFailure(why_not_root(str(error)) or str(error)) from error
    try:
        found: dict[str, Any] = probe_report.parse_report(answer["stdout"], nonce)
    except probe_report.ProbeError as error:
        if answer["rc"] == 124:
            raise ProbeFailure(f"the host did not answer to the probe within {timeout} s") from error
        raise ProbeFailure(why_not_root(f"{answer['stdout']}\n{answer['stderr']}") or str(error)) from error
    # Its clock was read at some time in between.
    found["clock_skew"] = found["clock"] - min(max(found["clock"], asked), int(time.time()))
    if found["uid"] != 0:
        raise ProbeFailure(
            "the account is not root and did not become root: set ansible_become=true, or log in as root"
        )
    return found
