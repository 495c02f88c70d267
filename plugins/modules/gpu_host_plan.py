#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: gpu_host_plan
short_description: Read a host in one round trip, and plan what differs from what the roles want
description:
  - Runs a POSIX shell script on the host that changes nothing and needs no Python there, and reads
    its answer on the controller.
  - Compares, on the controller, what the variables of the roles want with what was found.
  - Fails, before anything is touched, on a host that cannot be provisioned, and on variables that
    do not fit the roles' argument specifications; unless it is only to report.
author: gpuprov contributors (!UNKNOWN)
attributes:
  action:
    description: Compares on the controller.
    support: full
  check_mode:
    description: Changes nothing in any mode.
    support: full
"""

EXAMPLES = r"""
- name: Probe and plan
  gpuprov.gpuprov.gpu_host_plan:
"""

RETURN = r"""
ansible_facts:
  description:
    - C(gpu_host_probe) with what was found, C(gpu_host_plan) with what differs and C(gpu_host_findings)
      with what is wrong (their shapes are in roles/gpu_host_probe/README.md), the few facts of
      M(ansible.builtin.setup) that the roles use, and the Python to use on the host.
  returned: always
  type: dict
"""
