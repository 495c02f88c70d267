#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_image_transfer
short_description: Run one step of an image transfer
description:
  - Part of the role docker_image_transfer, which runs the steps. Hosts need Python 2.7 or newer.
  - In check mode it reports what would be sent.
author: gpuprov contributors (!UNKNOWN)
options:
  step:
    description:
      - C(describe) reads what the image consists of, C(load) loads it on a host, C(clean) removes its layers from the
        controller. Where the source needs a password, C(survey) reads which layers a host lacks, and C(fetch) fetches
        them, before C(load). C(save) writes an archive and its checksum.
    type: str
    choices: [describe, survey, fetch, load, clean, save]
    required: true
  name:
    description: The image, NAME:TAG; for C(describe) and C(save).
    type: str
    default: ""
  from:
    description: C(local), a host of the inventory, or an archive.
    type: str
    default: local
  compression:
    description: How layers are compressed, see the role.
    type: str
    choices: [auto, gzip, none]
    default: auto
  image:
    description: The result of C(describe), for the other steps.
    type: dict
  lacking:
    description: Digests of the layers that hosts lack, as C(survey) returns them; for C(fetch).
    type: list
    elements: str
  file:
    description: The archive that C(save) writes, compressed by its name.
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
  description: The image's ID and names, and the number of layers and bytes sent, or the archive.
  returned: load and save
  type: dict
"""
