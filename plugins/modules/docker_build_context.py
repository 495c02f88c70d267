#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_build_context
short_description: Keep a copy of a build context on a host
description:
  - Returns which files of a context are missing or different on the host, and, given an archive of those, updates the
    copy.
  - Part of M(gpuprov.gpuprov.docker_image_build), which sends the files.
author: gpuprov contributors (!UNKNOWN)
extends_documentation_fragment: [gpuprov.gpuprov.lock]
options:
  directory:
    description: The copy.
    type: path
    required: true
  manifest:
    description: A file on the host that lists the context, as compressed JSON.
    type: path
    required: true
  archive:
    description: A file on the host with the missing files; without it nothing is changed.
    type: path
  lasting_days:
    description: Other copies that were not used for so many days are removed.
    type: int
    default: 30
attributes:
  check_mode:
    description: Reports what would be sent.
    support: full
"""

EXAMPLES = r"""
- name: Compare the context with the host's copy
  gpuprov.gpuprov.docker_build_context:
    directory: /var/cache/gpuprov/build/train-0123456789ab
    manifest: /tmp/manifest.json.gz
"""

RETURN = r"""
lacking:
  description: The numbers, in the manifest, of the files to send.
  returned: success
  type: list
  elements: int
differs:
  description: Whether the copy differs from the context.
  returned: success
  type: bool
"""

import errno
import gzip
import hashlib
import json
import os
import shutil
import stat
import sys
import tarfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_lock
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

# Beside the copy: size, time and digest of its files, so that unchanged files are not read again.
STATE = ".state.json"


class ContextError(Exception):
    """The copy cannot be updated; the message is one line."""


def native(text):
    """Return a path of the manifest in this Python's type for file names, in any locale."""
    encoded = text.encode("utf-8")
    return encoded if isinstance("", bytes) else encoded.decode(sys.getfilesystemencoding(), "surrogateescape")


def kind_of(mode):
    for test, kind in ((stat.S_ISREG, "f"), (stat.S_ISDIR, "d"), (stat.S_ISLNK, "l")):
        if test(mode):
            return kind
    return "other"


def present(directory):
    """Return {path: stat} of the copy."""
    found = {}
    for parent, directories, files in os.walk(directory):
        for name in directories + files:
            path = os.path.join(parent, name)
            found[os.path.relpath(path, directory)] = os.lstat(path)
    return found


def read_state(path):
    """Return {path: [size, mtime, SHA-256]} of the last update; empty where it is not readable."""
    try:
        with open(path) as handle:
            return json.load(handle)
    except (IOError, OSError, ValueError):
        return {}


def compare(directory, entries, state):
    """Return the numbers of files to send, the paths to create or change, and the paths to remove."""
    found_paths = present(directory)
    lacking, changed = [], []
    for number, (name, kind, mode, mtime, size, detail) in enumerate(entries):
        path = native(name)
        found = found_paths.pop(path, None)
        if found is None or kind_of(found.st_mode) != kind:
            changed.append(path)
            if kind == "f":
                lacking.append(number)
            continue
        if kind == "f" and not has_content(found, state.get(name), size, detail):
            lacking.append(number)
            changed.append(path)
        elif kind == "l":
            if os.readlink(os.path.join(directory, path)) != native(detail):
                changed.append(path)
        elif stat.S_IMODE(found.st_mode) != mode or (kind == "f" and int(found.st_mtime) != mtime):
            changed.append(path)
    return lacking, changed, sorted(found_paths)


def has_content(found, known, size, detail):
    """Return whether a file is unchanged since the last update, and has the digest detail."""
    return known == [found.st_size, int(found.st_mtime), detail] and found.st_size == size


def remove(path):
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
        return
    try:
        os.unlink(path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def apply(directory, entries, archive, changed, surplus):
    """Make the copy equal entries. Surplus paths and changed links are removed first, so that no link is followed."""
    for path in surplus:
        remove(os.path.join(directory, path))
    kinds = {native(entry[0]): entry[1] for entry in entries}
    for path in changed:
        full = os.path.join(directory, path)
        # A file is replaced by renaming, a directory is kept; links and other kinds are created again.
        if os.path.lexists(full) and (kinds[path] == "l" or kind_of(os.lstat(full).st_mode) != kinds[path]):
            remove(full)
    for name, kind, _mode, _mtime, _size, detail in entries:
        full = os.path.join(directory, native(name))
        if kind == "d" and not os.path.isdir(full):
            os.mkdir(full, 0o700)
        elif kind == "l" and not os.path.islink(full):
            os.symlink(native(detail), full)
    with tarfile.open(archive) as tar:
        # Members are named by their number in the manifest.
        for member in tar:
            entry = entries[int(member.name)]
            write(os.path.join(directory, native(entry[0])), tar.extractfile(member), entry)
    for name, kind, mode, mtime, _size, _detail in reversed(entries):
        full = os.path.join(directory, native(name))
        if kind != "l":
            os.chmod(full, mode)
        if kind == "f":
            os.utime(full, (mtime, mtime))


def write(full, stream, entry):
    """Write one file. Raises ContextError where its digest differs from the manifest."""
    digest = hashlib.sha256()
    temporary = full + ".gpuprov-new"
    with open(temporary, "wb") as handle:
        while True:
            part = stream.read(1 << 20)
            if not part:
                break
            digest.update(part)
            handle.write(part)
    if digest.hexdigest() != entry[5]:
        os.unlink(temporary)
        raise ContextError("%s changed while it was sent: build again" % entry[0])
    os.rename(temporary, full)


def remove_old(directory, days):
    """Remove other copies of contexts that were not used for so many days."""
    parent = os.path.dirname(directory)
    for name in os.listdir(parent):
        path = os.path.join(parent, name)
        state = os.path.join(path, STATE)
        # Only directories of this module have a state.
        if path != directory and os.path.isfile(state) and time.time() - os.stat(state).st_mtime > days * 86400:
            shutil.rmtree(path, ignore_errors=True)


def main():
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "manifest": {"type": "path", "required": True},
            "archive": {"type": "path"},
            "lasting_days": {"type": "int", "default": 30},
            "lock": host_lock.ARGUMENT,
        },
        supports_check_mode=True,
    )
    params = module.params
    place = params["directory"]
    copy, state_path = os.path.join(place, "context"), os.path.join(place, STATE)
    try:
        with gzip.open(params["manifest"]) as stream:
            entries = json.loads(stream.read().decode("utf-8"))
        lacking, changed, surplus = compare(copy, entries, read_state(state_path))
        differs = bool(changed or surplus) or not os.path.isdir(copy)
        if params["archive"] is not None and not module.check_mode:
            with host_lock.held(module, params["lock"]):
                if not os.path.isdir(copy):
                    os.makedirs(copy, 0o700)
                    os.chmod(place, 0o700)
                # After a killed update the state would not match the files.
                remove(state_path)
                apply(copy, entries, params["archive"], changed, surplus)
                state = {entry[0]: [entry[4], entry[3], entry[5]] for entry in entries if entry[1] == "f"}
                with open(state_path, "w") as handle:
                    json.dump(state, handle)
                remove_old(place, params["lasting_days"])
        elif os.path.isfile(state_path) and not module.check_mode:
            os.utime(state_path, None)
    except (ContextError, HostError) as error:
        module.fail_json(msg=str(error))
    except (IOError, OSError) as error:
        module.fail_json(msg="the build context cannot be kept at %s: %s" % (place, error))
    module.exit_json(changed=False, lacking=lacking, differs=differs)


if __name__ == "__main__":
    main()
