#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: gpu_host_probe
short_description: Read a host in one round trip, changing nothing
description:
  - Runs a POSIX shell script on the host and reads its answer on the controller. The host needs no
    Python. Runs as it would without check mode, since it changes nothing.
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
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
"""

EXAMPLES = r"""
- name: Probe the host
  gpuprov.gpuprov.gpu_host_probe:
    script: probe.sh
    users: [alice]
    keyrings: [/etc/apt/keyrings/docker.gpg]
    timeout: 60
"""

RETURN = r"""
ansible_facts:
  description:
    - C(gpu_host_probe) with what was found (its shape is in roles/gpu_host_probe/README.md), the few
      facts of M(ansible.builtin.setup) that the roles use, and the Python to use on the host.
  returned: success
  type: dict
"""
