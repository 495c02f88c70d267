# SPDX-License-Identifier: MIT
"""Write down which hosts a run is for, before its first task."""

from __future__ import annotations

DOCUMENTATION = r"""
name: play_hosts
type: aggregate
short_description: Writes the hosts of a playbook's first play to a file
description:
  - Writes a line for each host of the first play to the file that the environment variable E(GPUPROV_HOSTS) names, so
    that progress can count hosts whose turn has not come, and a run that ends early knows them.
  - C(gpuprov) enables it.
author: gpuprov contributors (!UNKNOWN)
"""

import os
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat


class CallbackModule(CallbackBase):
    """Write the file when the first play starts."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "gpuprov.gpuprov.play_hosts"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Write the names of the hosts, unless an earlier play did."""
        path = os.environ.get("GPUPROV_HOSTS")
        if path and not os.path.exists(path):
            Path(path).write_text("".join(f"{name}\n" for name in ansible_compat.play_hosts(play)), encoding="utf-8")
