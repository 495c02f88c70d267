#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: gpu_host_plan
short_description: Plan what differs on a host from what the roles want
description:
  - Compares, on the controller, what the variables of the roles want with what
    M(gpuprov.gpuprov.gpu_host_probe) found. Nothing is sent to the host.
  - Fails, before anything is touched, on a host that cannot be provisioned, and on variables that
    do not fit the roles' argument specifications.
author: gpuprov contributors
options:
  roles:
    description: The roles to plan; their variables must be in the play.
    type: list
    elements: str
    required: true
  free_mib:
    description: MiB that must be free at each path.
    type: dict
    required: true
  full:
    description: Name every role as one to run, whether something is pending or not.
    type: bool
    required: true
attributes:
  action:
    description: Runs on the controller.
    support: full
  check_mode:
    description: Changes nothing in any mode.
    support: full
"""

EXAMPLES = r"""
- name: Plan
  gpuprov.gpuprov.gpu_host_plan:
    roles: [docker_ce, docker_daemon]
    free_mib: {/var: 1024}
    full: false
"""

RETURN = r"""
ansible_facts:
  description: C(gpu_host_plan) with format, changes, roles, joined, problems, disruption and running.
  returned: always
  type: dict
"""
