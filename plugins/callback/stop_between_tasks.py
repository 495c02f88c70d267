# SPDX-License-Identifier: MIT
"""Ends a run between two tasks, so that no task is cut off."""

from __future__ import annotations

import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: stop_between_tasks
type: aggregate
short_description: Ends a run between two tasks
description:
  - Where the file exists that the environment variable E(GPUPROV_STOP) names, the run ends before its
    next task as if it were interrupted then, once the tasks in flight are complete on every host.
  - C(gpuprov) enables it, and makes the file at the first Ctrl-C.
author: gpuprov contributors
"""


class CallbackModule(CallbackBase):
    """Looks for the file whenever a task is about to start."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "gpuprov.gpuprov.stop_between_tasks"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Raise KeyboardInterrupt where the run is to end."""
        stop = os.environ.get("GPUPROV_STOP")
        if stop and os.path.exists(stop):
            raise KeyboardInterrupt
