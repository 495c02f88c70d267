#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: apt_resolution
short_description: Resolve package sets with the host's own apt, and change nothing
description:
  - Makes a temporary root for apt with sources, lists and caches of its own and no installed package. Its sources are
    those of Debian and Ubuntu that the host has, and those of the sets.
  - Has apt name every file that it would download there. Signatures are verified as always.
  - Runs on one host of each release and architecture, the first that is reached; the others are skipped.
  - Needs the Python package python-debian on the controller.
author: gpuprov contributors (!UNKNOWN)
options:
  pins:
    description: Name of the variable in which all hosts registered the result of M(gpuprov.gpuprov.lock_pins).
    type: str
    required: true
attributes:
  action:
    description: Parses the indexes on the controller.
    support: full
  check_mode:
    description: Changes nothing in any mode.
    support: full
"""

EXAMPLES = r"""
- name: Resolve the pins
  gpuprov.gpuprov.apt_resolution:
    pins: declared
  register: resolved
"""

RETURN = r"""
system:
  description: C(kind), and what was found, for M(gpuprov.gpuprov.lock_write).
  returned: on the hosts that resolved
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import resolution
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact


def main():
    host = AnsibleModule(
        argument_spec={
            "sets": {"type": "list", "elements": "dict", "required": True, "no_log": True},
            "known": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    # URLs of sources and the proxy may hold passwords: the module's result must not repeat its parameters.
    host.no_log_values.clear()
    params, host.params = host.params, {}
    try:
        host.exit_json(**resolution.apply(host, params))
    except HostError as error:
        host.fail_json(msg=redact(str(error)))


if __name__ == "__main__":
    main()
