#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_image_transfer
short_description: One step of bringing an image to hosts
description:
  - C(describe) finds out what an image consists of, C(read) which of that a host lacks, C(fetch) brings the
    layers that some host lacks to the controller, C(load) from there to a host, C(tidy) removes them there.
    The role docker_image_transfer runs them in this order.
  - C(save) writes an archive of an image, and its checksum beside it.
  - The hosts need a Python; that may be 2.7 or 3.5.
author: gpuprov contributors
options:
  step:
    description: The step.
    type: str
    choices: [describe, read, fetch, load, tidy, save]
    required: true
  name:
    description: The image, NAME:TAG; for C(describe) and C(save).
    type: str
    default: ""
  from:
    description: C(local), a host of the inventory, or an archive; for C(describe), C(fetch) and C(save).
    type: str
    default: local
  archive:
    description: An archive in place of C(from).
    type: path
    default: ""
  image:
    description: What C(describe) returned; for all other steps but C(save).
    type: dict
  hosts:
    description: Name of the variable in which each host has what C(read) returned; for C(fetch).
    type: str
  file:
    description: The archive that C(save) writes; its name says how it is packed.
    type: path
attributes:
  action:
    description: Does most of its work on the controller.
    support: full
  check_mode:
    description: Reads, and says what would travel.
    support: full
"""

EXAMPLES = r"""
- name: Describe the image
  gpuprov.gpuprov.docker_image_transfer:
    step: describe
    name: train:1.9.1
  register: described
  run_once: true

- name: See what the host has
  gpuprov.gpuprov.docker_image_transfer:
    step: read
    image: "{{ described.image }}"
"""

RETURN = r"""
image:
  description: What an image consists of.
  returned: describe
  type: dict
host:
  description: What a host lacks of it, and in which form it takes that.
  returned: read
  type: dict
fetched:
  description: How many layers came to the controller.
  returned: fetch
  type: int
docker_image:
  description: The image's ID and names, and how many layers and bytes were sent, or the archive that was written.
  returned: load and save
  type: dict
"""
