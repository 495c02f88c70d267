# SPDX-License-Identifier: MIT
"""What a run tells the hosts of itself, for the lock that it holds there."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import role_options


def lock(action: ActionBase, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the argument ``lock`` of the modules that change a host. Raises AnsibleActionFail."""
    wait = action._templar.template(variables.get("gpuprov_wait", 0))
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
