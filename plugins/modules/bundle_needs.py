#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: bundle_needs
short_description: Tell what a host needs of a bundle, and change nothing
description:
  - Has the host's own apt, with the indexes of a bundle and no other source, name what it would install, and verify
    these indexes' signatures.
  - Fails where the bundle lacks something, or apt would install what the lock does not name.
  - The actions of M(gpuprov.gpuprov.gpu_host_plan), M(gpuprov.gpuprov.gpu_host_apply) and
    M(gpuprov.gpuprov.docker_packages) run it where the variable C(gpuprov_bundle) is set.
author: gpuprov contributors (!UNKNOWN)
options:
  sets:
    description: The package sets, as in M(gpuprov.gpuprov.docker_packages).
    type: list
    elements: dict
    required: true
  indexes:
    description: Path on the host of an archive with the bundle's signed indexes and keys.
    type: str
    required: true
  bundle:
    description: The repositories in that archive, as in M(gpuprov.gpuprov.docker_packages).
    type: list
    elements: dict
    default: []
  locked:
    description: All packages that may be installed, as in M(gpuprov.gpuprov.docker_packages).
    type: dict
    default: {}
  lock_timeout:
    description: Seconds to wait for another apt or dpkg to finish.
    type: int
    default: 300
  images:
    description: Names of images to look for in the host's engine.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Changes nothing in any mode.
    support: full
"""

EXAMPLES = r"""
# Set gpuprov_bundle for the playbooks and roles of this collection; they run it.
"""

RETURN = r"""
files:
  description: apt's file name, size in bytes and SHA-256 of each package that the host lacks.
  returned: success
  type: list
  elements: list
images:
  description: Those of the images that the engine of the host lacks.
  returned: success
  type: list
  elements: str
free:
  description: Free bytes of the file system of C(/var/lib).
  returned: success
  type: int
"""

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import concern_module
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import bundle_needs
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact


def main():
    host, params = concern_module.start(bundle_needs.ARGUMENTS)
    try:
        host.exit_json(**bundle_needs.apply(host, params))
    except HostError as error:
        host.fail_json(msg=redact(str(error)))


if __name__ == "__main__":
    main()
