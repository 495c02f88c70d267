# SPDX-License-Identifier: MIT
"""End a run between two tasks, so that no task is cut off."""

from __future__ import annotations

DOCUMENTATION = r"""
name: stop_between_tasks
type: aggregate
short_description: Ends a run between two tasks
description:
  - Where the file exists that the environment variable E(GPUPROV_STOP) names, the run ends before its
    next task as if it were interrupted then, once the tasks in flight are complete on every host.
  - C(gpuprov) enables it, and makes the file at the first Ctrl-C.
author: gpuprov contributors (!UNKNOWN)
"""

import os
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat


class CallbackModule(CallbackBase):
    """Look for the file before each task."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "gpuprov.gpuprov.stop_between_tasks"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """End the run where the file exists."""
        stop = os.environ.get("GPUPROV_STOP")
        if stop and os.path.exists(stop):
            ansible_compat.end_run()
