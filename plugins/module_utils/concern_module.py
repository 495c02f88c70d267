# SPDX-License-Identifier: MIT
"""Run a concern of a host as an Ansible module of its own. Runs on hosts: Python 2.7 syntax.

A concern is a file of this directory with ARGUMENTS, an argument specification, and apply(host, params). host is an
AnsibleModule; a concern uses its run_command, get_bin_path, warn, check_mode and _diff. apply returns a module's
result, at least {changed, changes}, or raises HostError.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_lock
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError


def start(arguments):
    """Return an AnsibleModule and its parameters, which may be secret: they are not in module.params."""
    module = AnsibleModule(argument_spec=dict(arguments, lock=host_lock.ARGUMENT), supports_check_mode=True)
    # no_log keeps secret arguments out of the host's journal. Concerns redact their results: no mask is needed.
    module.no_log_values.clear()
    params, module.params = module.params, {}
    return module, params


def run(concern):
    """Run a concern under the host's lock, and end as its module."""
    host, params = start(concern.ARGUMENTS)
    try:
        with host_lock.held(host, params["lock"]):
            result = concern.apply(host, params)
    except HostError as error:
        host.fail_json(msg=str(error))
    host.exit_json(**result)
