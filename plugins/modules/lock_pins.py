#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: lock_pins
short_description: Tell which package sets a host's variables declare, for a lock
description:
  - Works on the controller alone, after M(gpuprov.gpuprov.gpu_host_plan).
author: gpuprov contributors (!UNKNOWN)
attributes:
  action:
    description: Works on the controller.
    support: full
  check_mode:
    description: Changes nothing in any mode.
    support: full
"""

EXAMPLES = r"""
- name: See what the inventory declares
  gpuprov.gpuprov.lock_pins:
  register: declared
"""

RETURN = r"""
pins:
  description: C(kind), a list of codename and architecture, and C(sets).
  returned: success
  type: dict
"""
