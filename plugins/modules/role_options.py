#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: role_options
short_description: Convert and check the options of a role
description:
  - Reads the variables that the role's C(meta/argument_specs.yml) names, renders them, converts them to the
    types that it gives, and fails with one line for each that does not fit. Text that an inventory in INI form,
    C(-e name=value) or a template gives is converted too, with JSON for lists and dictionaries.
  - Where C(private_role_vars) or a dynamic include hides the defaults of another role of the play, they are read
    from its files.
author: gpuprov contributors (!UNKNOWN)
options:
  role:
    description: The role of this collection.
    type: str
    required: true
  entry_point:
    description: The entry point in the argument specification.
    type: str
    default: main
  facts:
    description: Facts that the role's defaults need; they are gathered where they are missing.
    type: list
    elements: str
    default: []
  login_user:
    description: Ask the host which account logged in, for a default that needs it, where no probe has.
    type: bool
    default: false
attributes:
  check_mode:
    description: Changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Check the options
  gpuprov.gpuprov.role_options:
    role: docker_ce
  register: __docker_ce
"""

RETURN = r"""
options:
  description: The options, named without the role's prefix.
  returned: success
  type: dict
locked:
  description: The packages of the inventory's lock, by name, each a list of version and SHA-256; empty without one.
  returned: success
  type: dict
"""
