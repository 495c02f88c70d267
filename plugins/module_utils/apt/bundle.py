# SPDX-License-Identifier: MIT
"""Have apt install from a bundle on this host, and from nothing else. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import os
import re
import shutil
import tempfile

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import openpgp, source_files
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_files import create, read

# Where a bundle's files lie while a run uses them: apt's user _apt cannot read root's own directories.
DIRECTORY = "/var/lib/gpuprov/bundle"
# The lists, caches and sources are not the host's, so that neither disturbs the other. What follows a reading of the
# host's own lists, such as a mirror of them, must not follow this one.
_CONFIGURATION = """\
#clear APT::Update;
APT::Default-Release "";
Acquire::Languages "none";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Dir::State::lists "%(root)s/lists";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "%(root)s/sources";
"""
# The bundle is as old as its lock, which has the hash of all that is installed.
_STANZA = """\
Types: deb
URIs: file:%(path)s
Suites: %(suite)s
%(components)sArchitectures: %(architecture)s
Signed-By: %(path)s/key.gpg
Check-Valid-Until: no
By-Hash: no

"""


class Sources(source_files.Sources):
    """The sources of this host, whose keys and packages come from a bundle.

    sources: [{path, suite, components}], path below directory.
    """

    def __init__(self, apt, sources, directory=DIRECTORY):
        source_files.Sources.__init__(self, apt)
        self.keys = [os.path.join(directory, source["path"], "key.gpg") for source in sources]
        self.root = tempfile.mkdtemp(prefix="gpuprov-bundle-", dir="/var/tmp")
        os.chmod(self.root, 0o755)
        os.makedirs(os.path.join(self.root, "lists", "partial"))
        os.mkdir(os.path.join(self.root, "sources"))
        text = ""
        for source in sources:
            components = "Components: %s\n" % " ".join(source["components"]) if source["components"] else ""
            place = {"path": os.path.join(directory, source["path"]), "suite": source["suite"]}
            text += _STANZA % dict(place, components=components, architecture=apt.architecture)
        self.apt.configuration = os.path.join(self.root, "apt.conf")
        for path, content in (("apt.conf", _CONFIGURATION % {"root": self.root}), ("sources/bundle.sources", text)):
            create(os.path.join(self.root, path), content.encode("ascii"))
            os.chmod(os.path.join(self.root, path), 0o644)

    def close(self):
        shutil.rmtree(self.root)

    def update(self, sources):
        """Have apt read the bundle. Raises HostError where it cannot be read or trusted."""
        code, out, err = self.apt.apt_get("-q", "update")
        said = [line for line in (out + err).splitlines() if re.match(r"(E|Err|W)[: ]", line)]
        if code or any(re.search(r"Failed to fetch|GPG error|not signed|^E", line) for line in said):
            raise HostError("apt cannot use the bundle: %s" % ("; ".join(said[-3:]) or "exit status %d" % code))

    def key_of(self, source):
        for path in self.keys:
            try:
                return openpgp.only(read(path), source["key_fingerprint"])
            except (openpgp.KeyringError, IOError, OSError):
                continue
        raise HostError("the bundle has no key %s, of the source %s" % (source["key_fingerprint"], source["name"]))

    @staticmethod
    def places(_sets):
        return "the bundle"
