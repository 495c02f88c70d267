# SPDX-License-Identifier: MIT
"""Decide who must become a member of a group, and make them that. Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import grp
import pwd
import re

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

ROLE = "docker_group"
# The arguments of apply, as a module declares them.
ARGUMENTS = {
    "group": {"type": "str", "default": "docker"},
    "users": {"type": "list", "elements": "str", "required": True},
}

# Directory services hand out upper case, dots, spaces, "DOMAIN\\user", "user@domain" and letters of any language, so
# the name service decides what a name is. These are in no account's name (AD forbids them too), or mean something
# to /etc/group, NIS and the programs that are given the name.
_NEVER = re.compile(r"[\x00-\x1f\x7f:,;|=*?<>\"\[\](){}/]|^[-+ ]| \Z|^\Z")


def decide(wanted, groups, accounts):
    """Return the changes that make every wanted user a member of the group.

    wanted: {group, users}; groups: {name: {exists, local, members}}, local where the group is in /etc/group;
    accounts: {name: the name that the name service answers, or None}. Members are compared and added by the name
    that is answered: the system compares it with the names in /etc/group as it is.
    Raises HostError for names that cannot be, accounts that do not exist, and a group that cannot be changed here.
    """
    for name in wanted["users"]:
        if _NEVER.search(name):
            raise HostError("docker_group_users: %r is not a user name" % str(name))
    unknown = [name for name in wanted["users"] if not accounts.get(name)]
    if unknown:
        raise HostError(
            "docker_group_users: no account %s on this host; create it first or take it out of "
            "docker_group_users" % ", ".join(unknown)
        )
    for name in wanted["users"]:
        if _NEVER.search(accounts[name]):
            raise HostError(
                "docker_group_users: the name service of this host calls %s %r, which /etc/group cannot hold"
                % (name, str(accounts[name]))
            )
    name = wanted["group"]
    group = groups.get(name) or {"exists": False, "members": []}
    added = sorted({accounts[user] for user in wanted["users"]} - set(group["members"]))
    if added and group["exists"] and not group.get("local", True):
        raise HostError(
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


def apply(host, params):
    """Make the users members of the group; return {changed, changes, added, diff}. Raises HostError."""
    group, accounts = params["group"], {user: read_account(user) for user in params["users"]}
    before = read_group(group, accounts.values())
    changes = decide(params, {group: before}, {user: canonical for user, (canonical, _gid) in accounts.items()})
    added = [change["to"] for change in changes]
    if added and not host.check_mode:
        # gpasswd, unlike usermod, takes users of directory services too.
        commands = [] if before["exists"] else [["groupadd", "--system", group]]
        for words in commands + [["gpasswd", "--add", user, group] for user in added]:
            code, out, err = host.run_command(words)
            if code:
                raise HostError("%s: %s" % (" ".join(words), (err or out).strip() or "exit status %d" % code))
        host.warn("%s: log in again for the group %s to take effect" % (", ".join(added), group))
    return {
        "changed": bool(changes),
        "changes": changes,
        "added": added,
        "diff": {
            "before": "\n".join(before["members"]) + "\n",
            "after": "\n".join(sorted(set(before["members"]) | set(added))) + "\n",
        },
    }
