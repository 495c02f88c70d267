#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_image_transfer
short_description: One step of bringing an image to hosts
description:
  - C(describe) finds out what an image consists of, C(load) brings it to a host, C(tidy) forgets what was kept for
    that on the controller. Where the source asks for a password, C(reading) says what a host has, and C(fetch) brings
    the layers that some host lacks to the controller, before C(load). The role docker_image_transfer runs them.
  - C(save) writes an archive of an image, and its checksum beside it.
  - Works on the controller; the hosts need a Python, that may be 2.7 or 3.5. In check mode it says what would travel.
author: gpuprov contributors
options:
  step:
    description: The step.
    type: str
    choices: [describe, reading, fetch, load, tidy, save]
    required: true
  name:
    description: The image, NAME:TAG; for C(describe) and C(save).
    type: str
    default: ""
  from:
    description: C(local), a host of the inventory, or an archive.
    type: str
    default: local
  archive:
    description: An archive in place of C(from).
    type: path
    default: ""
  compression:
    description: How layers travel, see the role.
    type: str
    choices: [auto, gzip, none]
    default: auto
  image:
    description: What C(describe) returned, for the other steps.
    type: dict
  hosts:
    description: Name of the variable in which each host has what C(reading) returned; for C(fetch).
    type: str
  file:
    description: The archive that C(save) writes; its name says how it is packed.
    type: path
"""

EXAMPLES = r"""
- name: Describe the image
  gpuprov.gpuprov.docker_image_transfer:
    step: describe
    name: train:1.9.1
  register: described
  run_once: true
"""

RETURN = r"""
image:
  description: What an image consists of.
  returned: describe
  type: dict
docker_image:
  description: The image's ID and names, and how many layers and bytes were sent, or the archive that was written.
  returned: load and save
  type: dict
"""
