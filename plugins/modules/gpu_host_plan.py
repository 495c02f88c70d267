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
author: gpuprov contributors
options:
  script:
    description: The script.
    type: path
    required: true
  users:
    description: Accounts to look for.
    type: list
    elements: str
    required: true
  keyrings:
    description: Keyrings of apt to read.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds that the host may take.
    type: int
    required: true
  roles:
    description: The roles to plan; their variables must be in the play.
    type: list
    elements: str
    required: true
  checked_roles:
    description: Other roles whose variables are to be checked.
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
  strict:
    description: Fail on a host that cannot be provisioned; otherwise only report its problems.
    type: bool
    default: true
  group_prefix:
    description:
      - Fails on a host with something pending and no systemd, as nothing can be applied there.
      - Puts the host into the group of this prefix and C(pending) or C(up_to_date), for plays that
        follow. No group where it is empty.
    type: str
    default: ""
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
    script: probe.sh
    users: [alice]
    keyrings: [/etc/apt/keyrings/docker.gpg]
    timeout: 60
    roles: [docker_ce, docker_daemon]
    checked_roles: []
    free_mib: {/var: 1024}
    full: false
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
