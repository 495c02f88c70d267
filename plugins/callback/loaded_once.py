# SPDX-License-Identifier: MIT
"""Load plugins before Ansible forks."""

from __future__ import annotations

import gc
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.role_options import ROLES_DIRECTORY

DOCUMENTATION = r"""
name: loaded_once
type: aggregate
short_description: Makes each task cheaper for the controller
description:
  - Ansible starts a process for each task on each host, and each of them loads the plugins that it needs. What
    nearly all of them need is loaded before the first one starts, so that they have it from the beginning. Nor does
    each of them look through what is there by then for garbage.
  - The variables of the roles, which the plan of each host reads, are loaded in the same way.
  - C(gpuprov) enables it.
author: gpuprov contributors
"""


class CallbackModule(CallbackBase):
    """Loads plugins when a playbook starts."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "gpuprov.gpuprov.loaded_once"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Load Ansible's filters and tests, the plugins of a login over ssh, and the variables of our roles."""
        for kind in ("vars", "defaults"):
            for path in ROLES_DIRECTORY.glob(f"*/{kind}/main.yml"):
                ansible_compat.load_variables(path)
        ansible_compat.preload_plugins()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Skip garbage collection at exit: it costs 50 ms."""
        gc.freeze()
