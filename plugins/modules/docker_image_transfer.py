#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_image_transfer
short_description: One step of bringing an image to hosts
description:
  - C(reach) logs in to a host, and reads what it has where that is to be known before C(fetch);
    C(describe) finds out what an image consists of, C(fetch) brings the layers that some host lacks to the
    controller, C(load) from there to a host, C(tidy) removes them there.
    The role docker_image_transfer runs them in this order.
  - C(save) writes an archive of an image, and its checksum beside it.
  - The hosts need a Python; that may be 2.7 or 3.5.
author: gpuprov contributors
options:
  step:
    description: The step.
    type: str
    choices: [reach, describe, fetch, load, tidy, save]
    required: true
  name:
    description: The image, NAME:TAG; for C(reach), C(describe) and C(save).
    type: str
    default: ""
  from:
    description: C(local), a host of the inventory, or an archive; for all steps but C(load) and C(tidy).
    type: str
    default: local
  archive:
    description: An archive in place of C(from).
    type: path
    default: ""
  compression:
    description: >-
      How layers travel; C(auto) is zstd where the source, the controller and the host have it, else C(none). For
      C(describe), C(fetch), C(load) and C(save).
    type: str
    choices: [auto, gzip, none]
    default: auto
  image:
    description: What C(describe) returned; for C(fetch), C(load) and C(tidy).
    type: dict
  hosts:
    description: Name of the variable in which each host has what C(reach) returned; for C(fetch).
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

- name: Load the image
  gpuprov.gpuprov.docker_image_transfer:
    step: load
    image: "{{ described.image }}"
"""

RETURN = r"""
image:
  description: What an image consists of.
  returned: describe
  type: dict
reading:
  description: What a host has of images, where the source may ask for a password.
  returned: reach, at times
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
