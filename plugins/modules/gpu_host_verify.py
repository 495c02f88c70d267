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
  program:
    description: The Python program that looks for the GPUs in a container.
    type: path
    required: true
  gpu_image:
    description: The image that it runs in; empty makes one of the host's own Python and libraries.
    type: str
    default: ""
  cdi_device:
    description: The CDI device that a container is to get as well, such as C(nvidia.com/gpu=all).
    type: str
    default: ""
  image:
    description: The image to run.
    type: str
    required: true
  gpu:
    description: Prove what is promised of GPUs, on a host that has one.
    type: bool
    required: true
  containers:
    description: >-
      What containers are to prove: nothing, that the image runs, or that they have of the GPUs what
      they ask for as well, and compute right with them.
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
    program: gpu_check.py
    image: hello-world
    gpu: true
    containers: gpu
    timeout: 120
"""

RETURN = r"""
gpu_host_verify:
  description: C(ok), and C(checks) with name, ok and detail of each.
  returned: always
  type: dict
"""
