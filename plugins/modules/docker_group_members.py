#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_group_members
short_description: Make users members of the docker group
description:
  - Adds users to a group, creating the group where it is missing. Nobody is taken out of it.
  - Accounts from directory services count. Each is added by the name that the host's name service answers, whatever
    spelling was asked for (case, short name, C(DOMAIN\\user)). An account that does not exist is an error instead of
    being created, and so is a new member of a group that is not in /etc/group.
  - Works in check mode on a host that has no such group yet.
  - A warning names those who have to log in again.
author: gpuprov contributors
options:
  group:
    description: The group.
    type: str
    default: docker
  users:
    description: The users that should be its members.
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    description: Predicts without touching the host.
    support: full
  diff_mode:
    description: Shows the members before and after.
    support: full
"""

EXAMPLES = r"""
- name: Let alice use docker
  gpuprov.gpuprov.docker_group_members:
    users: [alice]
"""

RETURN = r"""
changes:
  description: What was changed, or in check mode would be.
  returned: success
  type: list
  elements: dict
added:
  description: Users that became members and must log in again for it to take effect.
  returned: success
  type: list
  elements: str
"""

import grp
import pwd

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.group_members import (
    GroupError,
    decide,
)


def read_account(name):
    """Return (the name that the name service answers, primary group) of an account, or (None, None)."""
    try:
        account = pwd.getpwnam(name)
    except KeyError:
        return None, None
    return account.pw_name, account.pw_gid


def is_local(name):
    """Return whether a group is in /etc/group, which is the only place that gpasswd changes."""
    with open("/etc/group", "rb") as lines:
        return any(line.startswith(name.encode("utf-8") + b":") for line in lines)


def read_group(name, accounts):
    """Return {exists, local, members} of a group; of those asked for, a member by primary group counts."""
    try:
        group = grp.getgrnam(name)
    except KeyError:
        return {"exists": False, "local": False, "members": []}
    primary = [canonical for canonical, gid in accounts if gid == group.gr_gid]
    return {"exists": True, "local": is_local(name), "members": sorted(set(group.gr_mem) | set(primary))}


def main():
    module = AnsibleModule(
        argument_spec={
            "group": {"type": "str", "default": "docker"},
            "users": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    accounts = {user: read_account(user) for user in wanted["users"]}
    before = read_group(wanted["group"], accounts.values())
    try:
        changes = decide(
            wanted, {wanted["group"]: before}, {user: canonical for user, (canonical, _gid) in accounts.items()}
        )
    except GroupError as error:
        module.fail_json(msg=str(error))

    added = [change["to"] for change in changes]
    if changes and not module.check_mode:
        if not before["exists"]:
            module.run_command(["groupadd", "--system", wanted["group"]], check_rc=True)
        for user in added:
            # gpasswd, unlike usermod, takes users of directory services too.
            module.run_command(["gpasswd", "--add", user, wanted["group"]], check_rc=True)
        if added:
            module.warn("%s: log in again for the group %s to take effect" % (", ".join(added), wanted["group"]))
    module.exit_json(
        changed=bool(changes),
        changes=changes,
        added=added,
        diff={
            "before": "\n".join(before["members"]) + "\n",
            "after": "\n".join(sorted(set(before["members"]) | set(added))) + "\n",
        },
    )


if __name__ == "__main__":
    main()
