# SPDX-License-Identifier: MIT
"""Run a concern of a host as an Ansible module of its own. Runs on hosts: Python 2.7 syntax.

A concern is a module of this directory with ARGUMENTS, an argument specification, and apply(host, params). host is an
AnsibleModule, of which it uses run_command, get_bin_path, warn, check_mode and _diff. The result is a module's, at
least {changed, changes}; what goes wrong is a HostError.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_lock
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError


def started(arguments):
    """Return (an AnsibleModule, its parameters). They may be secret: the host's journal and results have none."""
    module = AnsibleModule(argument_spec=dict(arguments, lock=host_lock.ARGUMENT), supports_check_mode=True)
    # no_log keeps secret arguments out of the host's journal. Results are redacted already: they need no other mask.
    module.no_log_values.clear()
    params, module.params = module.params, {}
    return module, params


def module(concern):
    """Be the module of a concern."""
    host, params = started(concern.ARGUMENTS)
    try:
        with host_lock.held(host, params["lock"]):
            result = concern.apply(host, params)
    except HostError as error:
        host.fail_json(msg=str(error))
    host.exit_json(**result)
