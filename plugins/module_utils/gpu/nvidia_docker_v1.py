# SPDX-License-Identifier: MIT
"""Clean up after nvidia-docker v1, by the script of the role nvidia_docker. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

# changes: what the plan says of it.
ARGUMENTS = {
    "script": {"type": "str", "required": True},
    "remove_containers": {"type": "bool", "required": True},
    "changes": {"type": "list", "elements": "dict", "required": True},
}


def apply(host, params):
    """Run the script; return {changed, changes}. Raises HostError."""
    words = ["remove-containers" if params["remove_containers"] else "keep-containers"]
    words.append("look" if host.check_mode else "act")
    code, out, err = host.run_command(["sh", "-c", params["script"], "gpuprov-v1"] + words)
    if code:
        raise HostError((err or out).strip() or "the script ended with status %d" % code)
    changed = "removed" in out
    return {"changed": changed, "changes": params["changes"] if changed else []}
