#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: gpu_host_verify
short_description: Prove that a host is as wanted and runs containers
description:
  - Judges the answers of the role P(gpuprov.gpuprov.gpu_host_probe#role) and M(gpuprov.gpuprov.gpu_host_plan),
    then runs containers on the host in one round trip. Needs no Python there.
author: gpuprov contributors (!UNKNOWN)
options:
  options:
    description: The options of the role C(gpu_host_verify), by their names without the role's.
    type: dict
    required: true
attributes:
  check_mode:
    description: Starts and removes containers of its own in any mode.
    support: full
"""

EXAMPLES = r"""
- name: Verify
  gpuprov.gpuprov.gpu_host_verify:
    options: "{{ __gpu_host_verify.options }}"
"""

RETURN = r"""
gpu_host_verify:
  description: C(ok), and C(checks) with name, ok and detail of each.
  returned: always
  type: dict
"""
