#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: gpu_host_lock
short_description: Mark a host as one that this run is at work on
description:
  - Leaves a mark on the host that keeps other runs away, or takes it away again. Needs no Python there.
  - The mark of a run that does not run any more is replaced.
author: gpuprov contributors
options:
  state:
    description: Whether this run is to hold the host.
    type: str
    choices: [claimed, released]
    required: true
  script:
    description: The script that keeps the mark.
    type: path
    required: true
  wait:
    description: Seconds to wait for another run.
    type: int
    default: 0
attributes:
  check_mode:
    description: Does nothing.
    support: full
"""

EXAMPLES = r"""
- name: Keep other runs away
  gpuprov.gpuprov.gpu_host_lock:
    state: claimed
    script: lock.sh
"""

RETURN = r""""""
