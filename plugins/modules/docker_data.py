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
author: gpuprov contributors
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

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import docker_data, docker_service, dockerd


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["query", "absent"], "default": "query"},
            "roots": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    service, exec_start = docker_service.Service(module, 60).state()
    info = dockerd.ask("/info") if service["active"] == "active" else None
    roots = dict(docker_data.found(docker_service.read_config(), exec_start, info))
    paths = set(roots.values()) | set(module.params["roots"].values())
    paths |= {docker_data.DOCKER, docker_data.CONTAINERD}
    held = sorted(path for path in paths if docker_data.holds_data(path))
    if module.params["state"] == "query":
        left = ["%s: images, containers and volumes" % path for path in held]
        module.exit_json(changed=False, roots=roots, docker_data_left=left)
    changes = [
        {"role": "docker_ce", "subject": "data", "from": path, "to": None, "disruption": "none"} for path in held
    ]
    left = []
    if not module.check_mode:
        try:
            for path in sorted(paths):
                left += docker_data.purge(path)
        except (IOError, OSError) as error:
            module.fail_json(msg="the data could not be removed: %s" % error)
    module.exit_json(changed=bool(changes), roots=roots, changes=changes, docker_data_left=left)


if __name__ == "__main__":
    main()
