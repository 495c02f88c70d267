# SPDX-License-Identifier: MIT
"""Who is to be a member of a group, and who is missing. Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import re

ROLE = "docker_group"

# What shadow's useradd and adduser accept at most (NAME_REGEX of Debian's adduser.conf(5),
# widened by the upper case and dots that directory services hand out), so that no name is
# an option or shell syntax.
_NAME = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,255}\$?\Z")


class GroupError(ValueError):
    """The wanted members cannot be; the message says why, for people."""


def decide(wanted, groups, users):
    """Return the changes that make every wanted user a member of the group.

    wanted: {group, users}; groups: {name: {exists, members}}; users: {name: account exists}.
    Names are compared whole. Raises GroupError for names that are no user names and for
    accounts that do not exist.
    """
    for name in wanted["users"]:
        if not _NAME.match(name):
            raise GroupError("docker_group_users: %r is not a user name" % str(name))
    missing = [name for name in wanted["users"] if not users.get(name)]
    if missing:
        raise GroupError(
            "docker_group_users: no account %s on this host; create it first or take it out of "
            "docker_group_users" % ", ".join(missing)
        )
    name = wanted["group"]
    group = groups.get(name) or {"exists": False, "members": []}
    changes = []
    for user in sorted(set(wanted["users"])):
        if user not in group["members"]:
            changes.append(_change(name, None, user))
    return changes


def _change(group, before, after):
    return {
        "role": ROLE,
        "subject": "%s group" % group,
        "from": before,
        "to": after,
        "disruption": "none",
    }
