# SPDX-License-Identifier: MIT
"""Load plugins before Ansible forks."""

from __future__ import annotations

DOCUMENTATION = r"""
name: preload
type: aggregate
short_description: Loads once what each task needs on the controller
description:
  - Ansible starts a process for each task on each host, and each process loads the plugins that it needs. This
    callback loads the plugins that nearly all tasks need, and the variables and argument specifications of the roles,
    before the first process starts, and excludes them from garbage collection.
  - On Linux it lets the timers of Ansible's processes be up to 5 ms late. While all forks are busy, Ansible looks for a
    free one every 0.1 ms, which costs half a core.
  - C(gpuprov) enables it.
author: gpuprov contributors (!UNKNOWN)
"""

import contextlib
import gc
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.role_options import ROLES_DIRECTORY, specification

# Nanoseconds.
TIMER_SLACK = 5_000_000


def allow_late_timers() -> None:
    """Let sleeps of this process and its children end up to TIMER_SLACK later than asked, where the system can do that.

    https://man7.org/linux/man-pages/man5/proc_pid_timerslack_ns.5.html
    """
    with contextlib.suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text(str(TIMER_SLACK), encoding="ascii")


class CallbackModule(CallbackBase):
    """Load plugins when a playbook starts."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "gpuprov.gpuprov.preload"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """Load Ansible's filters and tests, the plugins of a login, and the variables and options of our roles."""
        for kind in ("vars", "defaults"):
            for path in ROLES_DIRECTORY.glob(f"*/{kind}/main.yml"):
                ansible_compat.load_variables(path)
        for role in ROLES_DIRECTORY.glob("*/meta/argument_specs.yml"):
            specification(role.parents[1].name)
        allow_late_timers()
        ansible_compat.preload_plugins()

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Skip garbage collection at exit: it costs 50 ms."""
        gc.freeze()
