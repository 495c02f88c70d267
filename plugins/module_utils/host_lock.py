# SPDX-License-Identifier: MIT
"""Lock a host for one run at a time, by a flock of the process that works there. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import contextlib
import fcntl
import json
import os
import select
import threading
import time

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

PATH = "/run/gpuprov.lock"
POLL = 0.5  # seconds
# Seconds to wait for a run whose controller has gone: it ends after the step that it is at.
ABANDONED = 900
# What every module takes that changes a host; the action gpu_host_locked gives it.
ARGUMENT = {"type": "dict", "default": {}}


def abandoned(timeout=0):
    """Return whether the reader of this process' answer is gone; timeout in ms, None waits until it is."""
    poll = select.poll()
    # Of a pipe or socket whose other end is closed this is told without being asked for.
    poll.register(1, 0)
    return bool(poll.poll(timeout))


class Lock(object):
    """The lock of this process."""

    def __init__(self, descriptor, owner):
        self._descriptor = descriptor
        self._owner = dict(owner, since=int(time.time()))
        self._write(self._owner)
        watch = threading.Thread(target=self._watch)
        watch.daemon = True
        watch.start()

    def _write(self, content):
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, json.dumps(content).encode("ascii") if content else b"")

    def _watch(self):
        abandoned(None)
        self._write(dict(self._owner, abandoned=True))

    def release(self):
        self._write(None)
        os.close(self._descriptor)


@contextlib.contextmanager
def held(host, lock):
    """Hold the lock as the argument ``lock`` of a module says, {owner: {account, machine, pid}, wait: seconds}.

    Yields the Lock, or None in check mode and for accounts other than root, which change nothing that it protects.
    Raises HostError that names the other run where one has it for longer than wait.
    """
    if host.check_mode or os.geteuid() != 0:
        yield None
        return
    taken = take(lock.get("owner") or {}, int(lock.get("wait") or 0))
    try:
        yield taken
    finally:
        taken.release()


def take(owner, wait):
    """Return the Lock once this process has it. Raises HostError."""
    descriptor = os.open(PATH, os.O_RDWR | os.O_CREAT, 0o600)
    begun = time.time()
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return Lock(descriptor, owner)
        except (IOError, OSError):
            other = _read(descriptor)
        # Between taking the lock and writing to it there is a moment.
        patience = max(wait, ABANDONED if other.get("abandoned") else 0 if other else 2)
        if time.time() - begun >= patience or abandoned():
            os.close(descriptor)
            raise HostError(sentence(other, time.time()))
        time.sleep(POLL)


def _read(descriptor):
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        return json.loads(os.read(descriptor, 4096).decode("utf-8"))
    except ValueError:
        return {}


def sentence(other, now):
    """Return who is at the host and since when; now in epoch seconds."""
    since = other.get("since") or now
    seconds = max(int(now - since), 0)
    return "%s on %s (process %s) has been at this host since %s, for %s; wait for that run with --wait, or stop it" % (
        other.get("account") or "somebody",
        other.get("machine") or "another machine",
        other.get("pid") or "unknown",
        time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(since)),
        "%d s" % seconds if seconds < 120 else "%d min" % (seconds // 60),
    )
