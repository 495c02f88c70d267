# SPDX-License-Identifier: MIT
"""Reads a host in one round trip that changes nothing and needs no Python there."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import probe_report
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_command

# What setup calls the distributions.
_DISTRIBUTIONS = {"debian": "Debian", "ubuntu": "Ubuntu"}


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


def probe(
    action: ActionBase,
    script: str,
    users: list[str],
    keyrings: list[str],
    data_root: str | None,
    timeout: int,
    interpreter: str | None,
) -> dict[str, Any]:
    """Run the script on the action's host, become what the task becomes, and return what was found.

    script is a file of the role; timeout in seconds; data_root and interpreter are the data-root and the Python that
    the inventory names.
    Raises ProbeFailure, and AnsibleConnectionFailure
    for a host that cannot be reached.
    """
    text = Path(action._find_needle("files", script)).read_text(encoding="utf-8")
    nonce = secrets.token_hex(8)
    words = [f"user:{user}" for user in users if isinstance(user, str) and user]
    words += [f"keyring:{path}" for path in keyrings]
    if data_root:
        words.append(f"root:{data_root}")
    if interpreter:
        words.append(f"python:{interpreter}")
    command = ["timeout", str(timeout), "sh", "-c", text, "gpuprov-probe", nonce, *words]
    asked = int(time.time())
    try:
        answer = host_command.execute(action, command)
    except AnsibleActionFail as error:
        raise ProbeFailure(str(error)) from error
    try:
        found: dict[str, Any] = probe_report.parse_report(answer["stdout"], nonce)
    except probe_report.ProbeError as error:
        if answer["rc"] == 124:
            raise ProbeFailure(f"the host did not answer to the probe within {timeout} s") from error
        raise ProbeFailure(str(error)) from error
    # Its clock was read at some time in between.
    found["clock_skew"] = found["clock"] - min(max(found["clock"], asked), int(time.time()))
    if found["uid"] != 0:
        raise ProbeFailure(
            "the account is not root and did not become root: set ansible_become=true, or log in as root"
        )
    return found
