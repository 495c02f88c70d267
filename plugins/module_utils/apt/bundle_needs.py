# SPDX-License-Identifier: MIT
"""Tell what this host needs of a bundle, and change nothing. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import functools
import os
import re
import shutil
import tarfile
import tempfile

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import bundle
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.apt_get import prepare_process, sha256
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.packages import Packages
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import dockerd
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_files import create

# The arguments of apply. indexes: an archive on this host; bundle: as in packages.ARGUMENTS; images: names.
ARGUMENTS = {
    "sets": {"type": "list", "elements": "dict", "required": True, "no_log": True},
    "locked": {"type": "dict", "default": {}},
    "lock_timeout": {"type": "int", "default": 300},
    "bundle": {"type": "list", "elements": "dict", "default": []},
    "indexes": {"type": "str", "required": True},
    "images": {"type": "list", "elements": "str", "default": []},
}


def apply(host, params):
    """Return {changed, files, images, free}: what is not here yet of the packages that apt would install.

    files: [[file name, size, SHA-256]]; images: those of params that the engine lacks; free: bytes.
    Raises HostError where the bundle lacks what the host would need.
    """
    prepare_process()
    directory = unpack(params["indexes"])
    try:
        sources = functools.partial(bundle.Sources, sources=params["bundle"], directory=directory)
        packages = Packages(host, params["sets"], params["lock_timeout"], {}, params["locked"], sources)
        try:
            files = needed(packages)
        finally:
            packages.close()
    except (IOError, OSError) as error:
        raise HostError("the bundle's indexes could not be read: %s" % error)
    finally:
        shutil.rmtree(directory)
    room = os.statvfs("/var/lib")
    return {
        "changed": False,
        "files": lacking(files),
        "images": images_lacking(params["images"]),
        "free": room.f_bavail * room.f_frsize,
    }


def needed(packages):
    """Return [(file name, size, SHA-256)] of the packages that apt would install."""
    found = packages.found()
    subjects = [change["subject"] for change in packages.decide(found)]
    packages.sources.update(None)
    for source in [one["source"] for one in packages.sets if one["source"]]:
        if "keyring %s" % source["name"] in subjects:
            packages.sources.key_of(source)
    transaction = packages.transaction
    options = transaction.install_options()
    again = transaction.unpacked_in_part(found["packages"])
    files = []
    for words, more in ((again, ["--reinstall"]), (transaction.words(found["packages"]), [])):
        if not words:
            continue
        transaction.check_versions(words, [])
        code, said, named = transaction.named(options + more, words)
        if code:
            text = re.sub(r"\s+", " ", said.split("unmet dependencies:")[-1]).strip()
            raise HostError("the bundle does not have what this host needs: %s" % text[-500:])
        files += named
    return sorted({(name, size, digest) for _uri, name, size, digest in files})


def unpack(indexes):
    """Unpack a bundle's indexes where apt can read them, and return that directory."""
    directory = tempfile.mkdtemp(prefix="gpuprov-bundle-", dir="/var/tmp")
    os.chmod(directory, 0o755)
    with tarfile.open(indexes) as archive:
        for member in archive:
            # The controller made it, of regular files below sources/.
            path = os.path.join(directory, member.name)
            if not os.path.isdir(os.path.dirname(path)):
                os.makedirs(os.path.dirname(path))
            create(path, archive.extractfile(member).read())
            os.chmod(path, 0o644)
    for parent, _directories, _files in os.walk(directory):
        os.chmod(parent, 0o755)
    return directory


def lacking(files):
    """Return those of [(file name, size, SHA-256)] that an earlier run has not left on this host."""
    sizes = {size for _name, size, _digest in files}
    here = [os.path.join(parent, name) for parent, _dirs, names in os.walk(bundle.DIRECTORY) for name in names]
    digests = {sha256(path) for path in here if os.path.getsize(path) in sizes}
    return [list(one) for one in files if one[2] not in digests]


def images_lacking(names):
    """Return which images this host's engine does not have."""
    # Where dockerd does not run, asking its socket would start it.
    runs = names and os.path.exists("/run/docker.pid") and dockerd.ask("/version")
    return [name for name in names if not runs or dockerd.request("GET", "/images/%s/json" % name)[0] != 200]
