#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_group_members
short_description: Make users members of the docker group
description:
  - Adds users to a group, creating the group where it is missing. Nobody is taken out of it.
  - Accounts from directory services count. Each is added by the name that the host's name service answers, whatever
    spelling was asked for (case, short name, C(DOMAIN\\user)). An account that does not exist is an error instead of
    being created, and so is a new member of a group that is not in /etc/group.
  - Works in check mode on a host that has no such group yet.
  - A warning names those who have to log in again.
author: gpuprov contributors (!UNKNOWN)
extends_documentation_fragment: [gpuprov.gpuprov.lock]
options:
  group:
    description: The group.
    type: str
    default: docker
  users:
    description: The users that should be its members.
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    description: Predicts without touching the host.
    support: full
  diff_mode:
    description: Shows the members before and after.
    support: full
"""

EXAMPLES = r"""
- name: Let alice use docker
  gpuprov.gpuprov.docker_group_members:
    users: [alice]
"""

RETURN = r"""
changes:
  description: What was changed, or in check mode would be.
  returned: success
  type: list
  elements: dict
added:
  description: Users that became members and must log in again for it to take effect.
  returned: success
  type: list
  elements: str
"""

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import concern_module
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import group_members


def main():
    concern_module.run(group_members)


if __name__ == "__main__":
    main()
