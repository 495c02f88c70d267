# SPDX-License-Identifier: MIT
"""The option of every module that changes a host."""

from __future__ import annotations


class ModuleDocFragment:
    """Documentation of the option lock."""

    DOCUMENTATION = r"""
options:
  lock:
    description:
      - Who is at work on the host (C(owner), with C(account), C(machine) and C(pid)), for others to read, and
        the seconds to wait for another run (C(wait)). The module's action plugin sets it, by the variable
        C(gpuprov_wait).
    type: dict
    default: {}
"""
