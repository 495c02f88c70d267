#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: gpu_scopes
short_description: List running containers that would lose their GPUs when systemd reads its units again
description:
  - Compares the GPU devices that containers were given with those that systemd knows of.
  - Changes nothing. M(gpuprov.gpuprov.docker_packages) tells systemd of these devices before it runs apt.
author: gpuprov contributors (!UNKNOWN)
options: {}
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
"""

EXAMPLES = r"""
- name: List containers that a daemon-reload would take GPUs from
  gpuprov.gpuprov.gpu_scopes:
  register: found
"""

RETURN = r"""
losing:
  description: The devices of each unit of systemd that would lose them; empty where systemd does not answer.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import gpu_scopes


def main():
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    host = gpu_scopes.Host(lambda *words: module.run_command(list(words), environ_update={"LC_ALL": "C"}))
    module.exit_json(changed=False, losing=host.losing())


if __name__ == "__main__":
    main()
