#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: nvidia_toolkit_config
short_description: Have NVIDIA's container toolkit give containers their GPUs, and leave them there
description:
  - Sets the toolkit's mode, makes links in /dev/char, and generates a CDI specification that is kept fresh,
    as far as the versions on the host ask for it.
  - Does without C(systemctl daemon-reload), at which containers could lose their GPUs.
author: gpuprov contributors (!UNKNOWN)
extends_documentation_fragment: [gpuprov.gpuprov.lock]
options:
  stack:
    description: As nvidia_docker_stack; nothing is done for another one than C(toolkit).
    type: str
    required: true
  version:
    description: The toolkit's version.
    type: str
    required: true
  cdi:
    description: Generate a CDI specification, and have it refreshed.
    type: bool
    default: false
  state:
    description: C(absent) takes away what this module has written, and the specification.
    type: str
    choices: [present, absent]
    default: present
  mode:
    description: The mode of NVIDIA's runtime; empty changes it only where containers would lose their GPUs.
    type: str
    default: ""
attributes:
  check_mode:
    description: Predicts.
    support: full
"""

EXAMPLES = r"""
- name: Have the toolkit generate a CDI specification
  gpuprov.gpuprov.nvidia_toolkit_config:
    stack: toolkit
    version: 1.19.1-1
    cdi: true
"""

RETURN = r"""
changes:
  description: What was changed, in the shape of the plan's changes.
  returned: always
  type: list
"""

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import concern_module
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import nvidia_toolkit


def main():
    concern_module.run(nvidia_toolkit)


if __name__ == "__main__":
    main()
