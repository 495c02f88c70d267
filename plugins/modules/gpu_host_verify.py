#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: gpu_host_verify
short_description: Prove that a host is as wanted and runs containers
description:
  - Judges the answers of M(gpuprov.gpuprov.gpu_host_probe) and M(gpuprov.gpuprov.gpu_host_plan),
    then runs containers on the host in one round trip. Needs no Python there.
author: gpuprov contributors
options:
  script:
    description: The script that runs the containers.
    type: path
    required: true
  image:
    description: The image to run.
    type: str
    required: true
  containers:
    description: >-
      What containers are to prove: nothing, that the image runs, or that one sees the GPUs that the
      host sees as well.
    type: str
    choices: [none, image, gpu]
    required: true
  timeout:
    description: Seconds that one container may take.
    type: int
    required: true
attributes:
  check_mode:
    description: Starts and removes containers of its own in any mode.
    support: full
"""

EXAMPLES = r"""
- name: Verify
  gpuprov.gpuprov.gpu_host_verify:
    script: containers.sh
    image: hello-world
    containers: gpu
    timeout: 120
"""

RETURN = r"""
gpu_host_verify:
  description: C(ok), and C(checks) with name, ok and detail of each.
  returned: always
  type: dict
"""
