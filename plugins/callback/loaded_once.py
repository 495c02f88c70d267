# SPDX-License-Identifier: MIT
"""Loads once what each of Ansible's processes would load again."""

from __future__ import annotations

import gc
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible.plugins.loader import become_loader, connection_loader, filter_loader, shell_loader, test_loader
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.role_options import ROLES_DIRECTORY, load_variables

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
        """Load the files of Ansible's filters and tests, and what a login over ssh takes."""
        # The first one that is asked for brings all of them.
        filter_loader.get("ansible.builtin.bool")
        test_loader.get("ansible.builtin.match")
        for loader, name in ((connection_loader, "ssh"), (become_loader, "sudo"), (shell_loader, "sh")):
            loader.get(name, class_only=True)
        for kind in ("vars", "defaults"):
            for path in ROLES_DIRECTORY.glob(f"*/{kind}/main.yml"):
                load_variables(playbook.get_loader(), path)
        # https://docs.python.org/3/library/gc.html#gc.freeze
        gc.freeze()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Leave to the system what is in memory when all is done."""
        gc.freeze()
