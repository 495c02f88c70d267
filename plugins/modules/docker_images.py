#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_images
short_description: List a host's images, and what uses them
description:
  - Asks dockerd at its socket, in an API that engines from 18.09 to 29 answer, with either image store.
author: gpuprov contributors (!UNKNOWN)
options:
  containers:
    description: List the containers too.
    type: bool
    default: false
  layers:
    description: List the layers of each image with their bytes.
    type: bool
    default: false
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
"""

EXAMPLES = r"""
- name: List the images
  gpuprov.gpuprov.docker_images:
  register: found
"""

RETURN = r"""
docker_image:
  description:
    - The engine's version, the image store, the images, and the containers where asked for.
    - An image's C(content) is equal for equal images in either store, where its ID is not.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import dockerd
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import host_images


def main():
    module = AnsibleModule(
        argument_spec={
            "containers": {"type": "bool", "default": False},
            "layers": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        found = host_images.read(module.params["containers"], module.params["layers"])
    except dockerd.DockerdError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, docker_image=found)


if __name__ == "__main__":
    main()
