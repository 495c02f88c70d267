# SPDX-License-Identifier: MIT
"""Read a host in one round trip that changes nothing and needs no Python there."""

from __future__ import annotations

import secrets
import time
from typing import Any, NamedTuple

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_command, role_options
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.probe import report

# The keyrings that the roles write.
KEYRINGS = [f"/etc/apt/keyrings/{name}.gpg" for name in ("docker", "nvidia-docker", "nvidia-container-toolkit")]
# The names of the distributions in ansible.builtin.setup's facts.
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


class Question(NamedTuple):
    """A probe's command, and what its answer is checked against."""

    words: list[str]
    nonce: str
    timeout: int  # seconds
    asked: int  # epoch seconds
    data_root: str | None


def question(users: list[str], data_root: str | None, timeout: int, interpreter: str | None) -> Question:
    """Return the command that reads a host; data_root and interpreter are those that the inventory names."""
    nonce = secrets.token_hex(8)
    words = [f"user:{user}" for user in users if isinstance(user, str) and user]
    words += [f"keyring:{path}" for path in KEYRINGS]
    if data_root:
        words.append(f"root:{data_root}")
    if interpreter:
        words.append(f"python:{interpreter}")
    script = (role_options.ROLES_DIRECTORY / "gpu_host_probe/files/probe.sh").read_text(encoding="utf-8")
    command = ["timeout", str(timeout), "sh", "-c", script, "gpuprov-probe", nonce, *words]
    return Question(command, nonce, timeout, int(time.time()), data_root)


def read(asked: Question, status: int, stdout: str) -> dict[str, Any]:
    """Return what was found, from a probe's exit status and output. Raises ProbeFailure."""
    try:
        found: dict[str, Any] = report.parse(stdout, asked.nonce)
    except report.ProbeError as error:
        if status == 124:
            raise ProbeFailure(f"the host did not answer to the probe within {asked.timeout} s") from error
        raise ProbeFailure(str(error)) from error
    # The host's clock was read at some time between the question and now.
    found["clock_skew"] = found["clock"] - min(max(found["clock"], asked.asked), int(time.time()))
    if found["uid"] != 0:
        raise ProbeFailure(
            "the account is not root and did not become root: set ansible_become=true, or log in as root"
        )
    return found


def probe(action: ActionBase, asked: Question) -> dict[str, Any]:
    """Read the action's host, as what the task becomes, and return what was found.

    Raises ProbeFailure, and AnsibleConnectionFailure for a host that cannot be reached.
    """
    try:
        answer = host_command.execute(action, asked.words)
    except AnsibleActionFail as error:
        raise ProbeFailure(str(error)) from error
    return read(asked, answer["rc"], answer["stdout"])
