# SPDX-License-Identifier: MIT
"""Read, back up and atomically replace files of a host. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import os
import tempfile
import time

BACKUPS = "/var/backups/gpuprov"


def read(path):
    with open(path, "rb") as handle:
        return handle.read()


def create(path, data):
    """Write a new file that root alone can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
        handle.write(data)


def status_of(path):
    """Return {mode, uid, gid} of a file, or None where there is none."""
    if not os.path.exists(path):
        return None
    status = os.stat(path)
    return {"mode": status.st_mode & 0o7777, "uid": status.st_uid, "gid": status.st_gid}


def write(path, data, mode=0o644, uid=0, gid=0):
    """Replace a file, or a symbolic link, atomically: a reader finds the old one or the new one, whole."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        os.makedirs(directory)
        os.chmod(directory, 0o755)
    handle, temporary = tempfile.mkstemp(prefix=".gpuprov-", dir=directory)
    try:
        with os.fdopen(handle, "wb") as replacement:
            replacement.write(data)
            replacement.flush()
            os.fchown(replacement.fileno(), uid, gid)
            os.fchmod(replacement.fileno(), mode)
            os.fsync(replacement.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def back_up(path):
    """Copy a file to a directory that no program reads, with its permissions; return the path of the copy."""
    if not os.path.isdir(BACKUPS):
        os.makedirs(BACKUPS)
    os.chmod(BACKUPS, 0o700)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    copy = os.path.join(BACKUPS, "%s.%s" % (os.path.basename(path), stamp))
    number = 0
    while os.path.exists(copy + (".%d" % number if number else "")):
        number += 1
    copy += ".%d" % number if number else ""
    create(copy, read(path))
    status = status_of(path)
    os.chown(copy, status["uid"], status["gid"])
    os.chmod(copy, status["mode"])
    return copy
