#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: registry_cache_images
short_description: Fetch images into a pull-through cache
description:
  - Fetches the layers that a pull-through cache on the host lacks, each once, and has the cache fetch the manifests.
  - The cache is docker-registry, with its layers in a directory.
  - Before that, checks that docker-registry can use the upstream registry. Without names it only checks that.
author: gpuprov contributors (!UNKNOWN)
options:
  names:
    description: Images of Docker Hub, such as V(busybox:1.36).
    type: list
    elements: str
    default: []
  architectures:
    description: Architectures to fetch.
    type: list
    elements: str
    default: [amd64]
  cache:
    description: URL of the cache, at the host itself.
    type: str
  directory:
    description: Directory of the cached layers.
    type: path
  upstream:
    description: URL of the registry that is cached.
    type: str
    required: true
  username:
    description: Account at that registry.
    type: str
    default: ""
  password:
    description: Password of the account.
    type: str
    default: ""
  environment:
    description: Variables that name a proxy to the upstream registry.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Predicts without changing the cache.
    support: full
"""

EXAMPLES = r"""
- name: Fetch an image
  gpuprov.gpuprov.registry_cache_images:
    names: [busybox:1.36]
    cache: http://127.0.0.1:5000
    directory: /var/lib/docker-registry
    upstream: https://registry-1.docker.io
"""

RETURN = r"""
changes:
  description: What was fetched, or in check mode would be.
  returned: success
  type: list
  elements: str
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import registry_cache


def main():
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "default": []},
            "architectures": {"type": "list", "elements": "str", "default": ["amd64"]},
            "cache": {"type": "str"},
            "directory": {"type": "path"},
            "upstream": {"type": "str", "required": True},
            "username": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
            "environment": {"type": "dict", "default": {}, "no_log": True},
        },
        supports_check_mode=True,
    )
    # Not the task's environment: everybody on the host can read a command line.
    os.environ.update(module.params["environment"])
    try:
        registry_cache.check(module.params)
        lines = registry_cache.fetch(module.params, module.check_mode) if module.params["names"] else []
    except (HostError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(lines), changes=lines)


if __name__ == "__main__":
    main()
