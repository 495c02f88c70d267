# SPDX-License-Identifier: MIT
"""Decide who must become a member of a group. Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import re

ROLE = "docker_group"

# Directory services hand out upper case, dots, spaces, "DOMAIN\\user", "user@domain" and letters of any language, so
# the name service decides what a name is. These are in no account's name (AD forbids them too), or mean something
# to /etc/group, NIS and the programs that are given the name.
_NEVER = re.compile(r"[\x00-\x1f\x7f:,;|=*?<>\"\[\](){}/]|^[-+ ]| \Z|^\Z")


class GroupError(ValueError):
    """The wanted members cannot be; the message says why, for people."""


def decide(wanted, groups, accounts):
    """Return the changes that make every wanted user a member of the group.

    wanted: {group, users}; groups: {name: {exists, local, members}}, local where the group is in /etc/group;
    accounts: {name: the name that the name service answers, or None}. Members are compared and added by the name
    that is answered: the system compares it with the names in /etc/group as it is.
    Raises GroupError for names that cannot be, accounts that do not exist, and a group that cannot be changed here.
    """
    for name in wanted["users"]:
        if _NEVER.search(name):
            raise GroupError("docker_group_users: %r is not a user name" % str(name))
    unknown = [name for name in wanted["users"] if not accounts.get(name)]
    if unknown:
        raise GroupError(
            "docker_group_users: no account %s on this host; create it first or take it out of "
            "docker_group_users" % ", ".join(unknown)
        )
    for name in wanted["users"]:
        if _NEVER.search(accounts[name]):
            raise GroupError(
                "docker_group_users: the name service of this host calls %s %r, which /etc/group cannot hold"
                % (name, str(accounts[name]))
            )
    name = wanted["group"]
    group = groups.get(name) or {"exists": False, "members": []}
    added = sorted({accounts[user] for user in wanted["users"]} - set(group["members"]))
    if added and group["exists"] and not group.get("local", True):
        raise GroupError(
            "docker_group_users: the group %s of this host comes from a directory service and is not in /etc/group, so "
            "it cannot be changed here: make %s a member in the directory, or take the name out of docker_group_users"
            % (name, ", ".join(added))
        )
    return [_change(name, None, user) for user in added]


def _change(group, before, after):
    return {
        "role": ROLE,
        "subject": "%s group" % group,
        "from": before,
        "to": after,
        "disruption": "none",
    }
