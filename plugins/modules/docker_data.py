#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_data
short_description: Find and remove the data of dockerd and containerd
description:
  - Asks for the directories rather than assuming them, from docker's info, the flags of dockerd, C(daemon.json)
    and containerd's configuration.
  - Removes the engines' data there and in the default directories. A link's target is emptied and the link goes; a
    mount point is emptied and stays; files of others stay, and are named.
author: gpuprov contributors (!UNKNOWN)
extends_documentation_fragment: [gpuprov.gpuprov.lock]
options:
  state:
    description: V(query) names the directories; V(absent) removes the data in them.
    type: str
    choices: [query, absent]
    default: query
  roots:
    description: More directories, by the engine that keeps its data there, as O(state=query) named them before.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Predicts without touching the host.
    support: full
  diff_mode:
    description: Shows no differences.
    support: none
"""

EXAMPLES = r"""
- name: Find where the engine keeps its data
  gpuprov.gpuprov.docker_data:
  register: data
"""

RETURN = r"""
roots:
  description: The directories, by engine.
  returned: success
  type: dict
changes:
  description: What was removed, or in check mode would be.
  returned: success
  type: list
  elements: dict
docker_data_left:
  description: What is left of the data, one sentence for each.
  returned: success
  type: list
  elements: str
"""

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import concern_module
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import docker_data


def main():
    concern_module.run(docker_data)


if __name__ == "__main__":
    main()
