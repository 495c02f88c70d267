# SPDX-License-Identifier: MIT
"""Compare and write dockerrun's files on a host: the launcher and its defaults. Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import hashlib
import os
import re

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_files
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

ROLE = "dockerrun"
LAUNCHER = "/usr/local/bin/dockerrun"
DEFAULTS = "/etc/gpuprov/dockerrun.conf"
# By these words in the first lines a file is told from one of somebody else's.
MARK = b"by gpuprov's role dockerrun"
# The arguments of apply, as a module declares them. launcher is the text of the file: too long for the journal.
ARGUMENTS = {
    "wanted": {"type": "dict", "required": True},
    "launcher": {"type": "str", "required": True, "no_log": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
}
_HEAD = "# Written by gpuprov's role dockerrun, from dockerrun_defaults: changes made here do not last.\n"
# What the launcher takes: an option of docker run, or which GPUs.
_LINE = re.compile(r"^(-[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*|GPU=[A-Za-z0-9][A-Za-z0-9:._/,-]*)\Z")


def entry(data, mode, uid, gid):
    """Return what is compared of a file: {sha256, mode, uid, gid, ours} of its bytes, octal mode and owner."""
    ours = any(MARK in line for line in data.split(b"\n", 3)[:3])
    return {"sha256": hashlib.sha256(data).hexdigest(), "mode": mode, "uid": uid, "gid": gid, "ours": ours}


def defaults_text(wanted):
    """Return the text of the file of defaults, or None where there must be none. Raises HostError."""
    for line in wanted["defaults"]:
        if not _LINE.match("%s" % line):
            raise HostError(
                "dockerrun_defaults: %r is neither an option of docker run in one line nor GPU=..." % str(line)
            )
    return _HEAD + "".join("%s\n" % line for line in wanted["defaults"]) if wanted["defaults"] else None


def decide(wanted, files):
    """Return the changes that dockerrun's files need.

    wanted: {install, sha256, defaults}, of which sha256 is the launcher's and defaults are lines;
    files: {path: entry} of those that the host has. A file of defaults that somebody else wrote stays
    where there are none to write. Raises HostError.
    """
    if not wanted["install"]:
        return []
    changes = _changes("dockerrun", LAUNCHER, wanted["sha256"], "0755", files.get(LAUNCHER))
    text = defaults_text(wanted)
    have = files.get(DEFAULTS)
    if text is not None:
        digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
        changes += _changes("dockerrun.conf", DEFAULTS, digest, "0644", have)
    elif have is not None and have["ours"]:
        changes.append(_change("dockerrun.conf", DEFAULTS, None))
    return changes


def leftovers(files):
    """Return the changes that take dockerrun away again: files of somebody else's stay."""
    subjects = (("dockerrun", LAUNCHER), ("dockerrun.conf", DEFAULTS))
    return [_change(subject, path, None) for subject, path in subjects if path in files and files[path]["ours"]]


def _changes(subject, path, digest, mode, have):
    if have is None:
        return [_change(subject, None, path)]
    if have["sha256"] != digest:
        return [_change(subject, "other content" if have["ours"] else "a file of somebody else's", path)]
    owner_and_mode = "%s:%s %s" % (have["uid"], have["gid"], have["mode"])
    if owner_and_mode != "0:0 %s" % mode:
        return [_change(subject, owner_and_mode, "0:0 %s" % mode)]
    return []


def _change(subject, before, after):
    return {"role": ROLE, "subject": subject, "from": before, "to": after, "disruption": "none"}


def apply(host, params):
    """Write what differs, or take it away; return {changed, changes}. Raises HostError.

    A file of somebody else's that is replaced is kept first, and stays where it would only go.
    """
    wanted, absent = params["wanted"], params["state"] == "absent"
    launcher = params["launcher"].encode("utf-8")
    if hashlib.sha256(launcher).hexdigest() != wanted["sha256"]:
        raise HostError("gpuprov is damaged: the digest of its dockerrun is wrong")
    defaults = defaults_text(wanted)
    if not (wanted["install"] or absent):
        return {"changed": False, "changes": []}
    try:
        files = {path: _found(path) for path in (LAUNCHER, DEFAULTS) if os.path.exists(path)}
        changes = leftovers(files) if absent else decide(wanted, files)
        for change in [] if host.check_mode else changes:
            path = LAUNCHER if change["subject"] == ROLE else DEFAULTS
            if change["to"] is None:
                os.unlink(path)
            else:
                if path in files and not files[path]["ours"]:
                    host_files.back_up(path)
                host_files.write(path, *((launcher, 0o755) if path == LAUNCHER else (defaults.encode("utf-8"), 0o644)))
        directory = os.path.dirname(DEFAULTS)
        if changes and not host.check_mode and os.path.isdir(directory) and not os.listdir(directory):
            os.rmdir(directory)
    except (IOError, OSError) as error:
        raise HostError("dockerrun cannot be written: %s" % error)
    return {"changed": bool(changes), "changes": changes}


def _found(path):
    """Return the entry of a file that is there. Raises HostError where it is something else."""
    if not os.path.isfile(path):
        raise HostError("%s is not a file: move it away" % path)
    status = host_files.status_of(path)
    return entry(host_files.read(path), "%04o" % status["mode"], status["uid"], status["gid"])
