#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: lock_write
short_description: Write the lock beside the inventory
description:
  - Works on the controller alone, after M(gpuprov.gpuprov.apt_resolution), once for all hosts. Needs the Python package
    python-debian.
  - Writes nothing where a release and architecture could not be resolved. What the lock has for others stays where
    C(--limit) left hosts out, or hosts were not reached.
author: gpuprov contributors (!UNKNOWN)
options:
  pins:
    description: Name of the variable in which all hosts registered the result of M(gpuprov.gpuprov.lock_pins).
    type: str
    required: true
  system:
    description: Name of the variable in which all hosts registered the result of M(gpuprov.gpuprov.apt_resolution).
    type: str
    required: true
attributes:
  action:
    description: Works on the controller.
    support: full
  check_mode:
    description: Reports whether the lock fits the inventory and the repositories.
    support: full
"""

EXAMPLES = r"""
- name: Write the lock
  gpuprov.gpuprov.lock_write:
    pins: declared
    system: resolved
  run_once: true
"""

RETURN = r"""
gpuprov_lock:
  description: C(path), C(checked), C(systems) with what changed or does not fit, and C(lines) for people.
  returned: success
  type: dict
"""
