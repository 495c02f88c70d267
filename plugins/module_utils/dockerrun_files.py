# SPDX-License-Identifier: MIT
"""Which of dockerrun's files on a host differ from what is wanted: the launcher and its defaults. Pure functions.

Python 2.7 syntax, like its neighbours; used on the controller.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import hashlib
import re

ROLE = "dockerrun"
LAUNCHER = "/usr/local/bin/dockerrun"
DEFAULTS = "/etc/gpuprov/dockerrun.conf"
# By these words in the first lines a file is told from one of somebody else's: write.sh looks for them too.
MARK = b"by gpuprov's role dockerrun"
_HEAD = "# Written by gpuprov's role dockerrun, from dockerrun_defaults: changes made here do not last.\n"
# What the launcher takes: an option of docker run, or which GPUs.
_LINE = re.compile(r"^(-[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*|GPU=[A-Za-z0-9][A-Za-z0-9:._/,-]*)\Z")


class DockerrunError(ValueError):
    """The wanted defaults cannot be; the message says why, for people."""


def entry(data, mode, uid, gid):
    """Return what is compared of a file: {sha256, mode, uid, gid, ours} of its bytes, octal mode and owner."""
    ours = any(MARK in line for line in data.split(b"\n", 3)[:3])
    return {"sha256": hashlib.sha256(data).hexdigest(), "mode": mode, "uid": uid, "gid": gid, "ours": ours}


def defaults_text(wanted):
    """Return the text of the file of defaults, or None where there is to be none. Raises DockerrunError."""
    for line in wanted["defaults"]:
        if not _LINE.match("%s" % line):
            raise DockerrunError(
                "dockerrun_defaults: %r is neither an option of docker run in one line nor GPU=..." % str(line)
            )
    return _HEAD + "".join("%s\n" % line for line in wanted["defaults"]) if wanted["defaults"] else None


def decide(wanted, files):
    """Return the changes that dockerrun's files need.

    wanted: {install, sha256, defaults}, of which sha256 is the launcher's and defaults are lines;
    files: {path: entry} of those that the host has. A file of defaults that somebody else wrote stays
    where there are none to write. Raises DockerrunError.
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
