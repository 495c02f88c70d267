# SPDX-License-Identifier: MIT
"""Name the owner of the lock that a run holds on hosts."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat, role_options


def lock(action: ActionBase, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the argument ``lock`` of the modules that change a host. Raises AnsibleActionFail."""
    wait = ansible_compat.render(action, variables.get("gpuprov_wait", 0))
    try:
        seconds = role_options.convert("gpuprov_wait", role_options.PLAYBOOK_OPTIONS["gpuprov_wait"], wait)
    except role_options.OptionError as error:
        raise AnsibleActionFail(str(error)) from None
    owner = {"account": _account(), "machine": socket.gethostname(), "pid": os.getppid()}
    return {"owner": owner, "wait": seconds}


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
