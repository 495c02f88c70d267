#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_service
short_description: Have dockerd run now and at boot
description:
  - Unmasks, enables and starts C(docker.service) and its socket, whatever systemd has counted against them.
  - Where dockerd does not start, says why in its own words. Where C(daemon.json) was written for this start by
    M(gpuprov.gpuprov.docker_daemon_config), the file as it was comes back, so that no host is left with a dockerd
    that cannot start because of it.
author: gpuprov contributors (!UNKNOWN)
extends_documentation_fragment: [gpuprov.gpuprov.lock]
options:
  timeout:
    description: Seconds that dockerd may take to start.
    type: int
    default: 120
attributes:
  check_mode:
    description: Predicts without touching the host.
    support: full
  diff_mode:
    description: Shows no differences.
    support: none
"""

EXAMPLES = r"""
- name: Have dockerd run
  gpuprov.gpuprov.docker_service:
"""

RETURN = r"""
changes:
  description: What was changed, or in check mode would be.
  returned: success
  type: list
  elements: dict
"""

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import concern_module
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import docker_service


def main():
    concern_module.run(docker_service)


if __name__ == "__main__":
    main()
