# SPDX-License-Identifier: MIT
"""Resolve package sets with the host's own apt, in a root of its own. Runs on hosts: Python 2.7 syntax.

The root has sources, lists and caches of its own and no installed package, so that the result does not depend on what
the host has, and nothing on the host changes.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import glob
import hashlib
import os
import re
import shutil
import tempfile

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import (
    apt_get,
    apt_sources,
    openpgp,
    package_set,
    source_files,
    transaction,
)
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_files import create, read

DISTRIBUTIONS = ("Debian", "Ubuntu")
# Where apt looks for keys if a source does not name any.
_TRUSTED = ("/etc/apt/trusted.gpg", "/etc/apt/trusted.gpg.d/*.gpg", "/etc/apt/trusted.gpg.d/*.asc")
# What an entry of the host must not bring along: apt would trust without a signature.
_DROPPED = re.compile(r"trusted$|allow-|lang|target|enabled$")
_CONFIGURATION = """\
#clear APT::Update;
#clear AptCli;
#clear APT::Architectures;
APT::Architectures "%(architecture)s";
APT::Default-Release "";
APT::Install-Recommends "%(recommends)s";
APT::Install-Suggests "false";
APT::Get::Always-Include-Phased-Updates "true";
Acquire::Languages "none";
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Dir::State "%(root)s/state";
Dir::State::status "%(root)s/status";
Dir::Cache "%(root)s/cache";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "%(root)s/sources";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "%(root)s/none";
"""
_TARGETS = "$(CREATED_BY)\t$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)\t$(ORIGIN)\t$(CODENAME)\t$(FILENAME)"


class Root(apt_get.Apt):
    """A root of apt in a temporary directory."""

    def __init__(self, host, sets, directory):
        apt_get.Apt.__init__(self, host, 0, sets[0]["proxy"] if sets else {})
        self.sets = sets
        self.directory = directory
        self.configuration = os.path.join(directory, "apt.conf")
        self.keys = source_files.Sources(self)
        self.own = {}  # {path of a source of ours: (role, number)}
        self.host_files = source_files.source_files()

    def wait_for_lock(self):
        """The locks of this root are nobody else's."""

    def installed(self, names):
        """Nothing is installed in this root."""
        return {}

    def write(self):
        """Write configuration, sources and keyrings; apt's own user must be able to read them."""
        os.chmod(self.directory, 0o755)
        for name in ("sources", "none", "state/lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(self.directory, name))
        recommends = any(one["install_recommends"] for one in self.sets)
        self.file("status", "")
        self.file(
            "apt.conf",
            _CONFIGURATION
            % {
                "architecture": self.architecture,
                "recommends": "true" if recommends else "false",
                "root": self.directory,
            },
        )
        ours = [one["source"] for one in self.sets if one["source"]]
        for source in ours:
            keyring = os.path.join(self.directory, source["name"] + ".gpg")
            with open(keyring, "wb") as handle:
                handle.write(self.keys.key_of(source))
            os.chmod(keyring, 0o644)
            name = os.path.basename(apt_sources.path_of(source))
            self.file("sources/" + name, apt_sources.render(dict(source, keyring=keyring)))
        for number, (_entry, text) in enumerate(self.host_entries(ours)):
            self.file("sources/host-%d.sources" % number, text)

    def file(self, name, text):
        path = os.path.join(self.directory, name)
        create(path, text.encode("latin-1"))
        os.chmod(path, 0o644)

    def host_entries(self, ours):
        """Return [({uri, suite, signed_by}, stanza)] of the host's sources of packages, except ours."""
        known = {apt_sources.normal_uri(uri, self.architecture) for source in ours for uri in source["uris"]}
        # Our own entries for another mirror, which provisioning replaces.
        keyrings = [source["keyring"] for source in ours]
        found = []
        for path, text in sorted(self.host_files.items()):
            for entry in apt_sources.entries(path, text):
                (types, suites, components), _architectures, signed_by, others = entry["meaning"]
                for uri in entry["uris"] if "deb" in types else []:
                    if apt_sources.normal_uri(uri, self.architecture) in known or signed_by in keyrings:
                        continue
                    for suite in suites:
                        suite = suite.replace("$(ARCH)", self.architecture)
                        lines = ["Types: deb", "URIs: " + uri, "Suites: " + suite]
                        lines += ["Components: " + " ".join(components)] if components else []
                        lines += ["Architectures: " + self.architecture]
                        lines += ["Signed-By: " + signed_by.replace("\n", "\n ")] if signed_by else []
                        lines += ["%s: %s" % item for item in others if not _DROPPED.match(item[0])]
                        found.append(({"uri": uri, "suite": suite, "signed_by": signed_by}, "\n".join(lines) + "\n"))
        return found

    # ---- what the repositories have

    def plain(self, uri):
        """Return the URI of a source as apt's lists have it: without credentials, variable and final slash."""
        return source_files.credentials(uri)[0].replace("$(ARCH)", self.architecture).rstrip("/")

    def read_repositories(self):
        """Read all repositories; return their sources. Raises HostError where one of ours cannot be read."""
        code, out, err = self.apt_get("-q", "update")
        sources = self.sources()
        ours = {uri: one for one in self.sets if one["source"] for uri in one["source"]["uris"]}
        read_now = {source["uri"].rstrip("/") for source in sources}
        for uri in sorted(ours):
            plain = self.plain(uri)
            if plain not in read_now:
                said = [line for line in re.sub(r"(?m)^(Err:.*)\n +", r"\1: ", out + err).splitlines() if plain in line]
                said = [line for line in said if re.match(r"(E|W|Err)[: ]", line)] or err.splitlines() or [str(code)]
                raise HostError("apt cannot use %s: %s" % (plain, "; ".join(said[-2:])))
        # Without a source of ours, the site's own sources have the packages.
        managed = all(one["source"] for one in self.sets if one["packages"])
        if managed:
            sources = [one for one in sources if one["role"] or one["origin"] in DISTRIBUTIONS]
        if managed and not any(one["origin"] in DISTRIBUTIONS for one in sources):
            said = [line for line in (out + err).splitlines() if re.match(r"(E|W|Err)[: ]", line)]
            raise HostError(
                "no source of Debian or Ubuntu can be read from /etc/apt: %s"
                % ("; ".join(said[-2:]) or "there is none in sources.list and sources.list.d")
            )
        self.keep_only(sources)
        return sources

    def sources(self):
        """Return a dictionary for each repository that was read."""
        rows = self.run("apt-get", "indextargets", "--format", _TARGETS)[1].splitlines()
        targets = [row.split("\t") for row in rows]
        targets = [[("" if cell.startswith("$(") else cell) for cell in row] for row in targets if row[0] == "Packages"]
        lists = os.path.join(self.directory, "state/lists")
        releases = glob.glob(lists + "/*_InRelease") + glob.glob(lists + "/*_Release")
        found = {}
        for _target, uri, suite, component, origin, codename, path in targets:
            mine = [name for name in releases if path.startswith(re.sub("(In)?Release$", "", name))]
            if not mine or not (os.path.exists(path) or glob.glob(path + ".*")):
                continue
            key = (uri, suite)
            if key not in found:
                release = max(mine, key=len)
                found[key] = dict(self.release_of(uri, suite, release), origin=origin, codename=codename, components=[])
            if component:
                found[key]["components"].append(component)
        return [found[key] for key in sorted(found)]

    def release_of(self, uri, suite, path):
        data = read(path)
        signed = read(path + ".gpg") if os.path.exists(path + ".gpg") else data
        for one in self.sets:
            plain = [self.plain(of_source) for of_source in (one["source"] or {"uris": []})["uris"]]
            if uri.rstrip("/") in plain:
                # Its keyring has this one key, with which apt verified the file.
                key = openpgp.normal(one["source"]["key_fingerprint"])
                role, number = one["role"], plain.index(uri.rstrip("/"))
                break
        else:
            role, number, key = "", 0, self.signer(uri, suite, signed)
        date = re.search(b"(?m)^Date: *(.+?)\\s*$", data)
        return {
            "uri": uri,
            "suite": suite or "/",
            "role": role,
            "number": number,
            "key": key,
            "date": date.group(1).decode("latin-1") if date else "",
            "sha256": hashlib.sha256(data).hexdigest(),
        }

    def signer(self, uri, suite, signed):
        """Return the fingerprint of the primary key with which apt verified a repository of the host, or ""."""
        for entry, _text in self.host_entries([]):
            if self.plain(entry["uri"]) == uri.rstrip("/") and entry["suite"] == (suite or "/"):
                keyrings = self.keyrings(entry["signed_by"])
                try:
                    return (openpgp.signers(signed, keyrings) + [""])[0]
                except (openpgp.KeyringError, IndexError):
                    return ""
        return ""

    @staticmethod
    def keyrings(signed_by):
        """Return the keyrings (bytes) that a Signed-By names."""
        if "-----BEGIN" in signed_by:
            return ["\n".join("" if line == "." else line for line in signed_by.splitlines()).strip().encode("latin-1")]
        paths = [word for word in re.split(r"[,\s]+", signed_by) if word.startswith("/")]
        paths = paths or [path for pattern in _TRUSTED for path in sorted(glob.glob(pattern))]
        return [data for data in (read(path) for path in paths if os.path.isfile(path)) if data]

    def keep_only(self, sources):
        """Remove the entries of the host that are not among sources: their packages are nobody's business here."""
        kept = {(source["uri"].rstrip("/"), source["suite"]) for source in sources}
        for number, (entry, _text) in enumerate(
            self.host_entries([one["source"] for one in self.sets if one["source"]])
        ):
            if (self.plain(entry["uri"]), entry["suite"]) not in kept:
                os.unlink(os.path.join(self.directory, "sources/host-%d.sources" % number))

    # ---- packages

    def chosen(self, one):
        """Return {name: version} of a set: the declared version, or the newest in a package's channel.

        Packages that were declared with one version get one version.
        """
        result = {}
        for package in one["packages"]:
            channel = package.get("channel")
            if channel is None:
                result[package["name"]] = package["version"]
                continue
            together = [
                other["name"]
                for other in one["packages"]
                if (other["version"], other.get("channel")) == (package["version"], channel)
            ]
            common = [self.versions(name) for name in together]
            versions = [version for version in common[0] if all(version in other for other in common)]
            fitting = [version for version in versions if package_set.in_channel(version, channel)]
            if not fitting:
                raise HostError(
                    "no version of %s is in the channel %s; the repository has %s"
                    % (", ".join(together), channel or "of any version", ", ".join(versions[:10]) or "none")
                )
            result[package["name"]] = fitting[0]
        return result

    def closure(self, words):
        """Return [(URI, file name, size, SHA-256)] of all that an empty system would download for these packages."""
        options = ["-y", "-q", "--print-uris", "-o", "Acquire::ForceHash=SHA256"]
        code, out, err = self.apt_get(*(options + ["install"] + words))
        if code and re.search("was not found|Unable to locate|no installation candidate", out + err):
            transaction.Transaction(self, self.keys, self.sets).check_versions(words, [])
        if code:
            said = re.sub(r"\s+", " ", (out + err).split("unmet dependencies:")[-1]).strip()
            raise HostError("apt cannot resolve the sets: %s" % said[-500:])
        return apt_get.printed_uris(out)


def apply(host, params):
    """Return {changed, sources, packages, stanzas, versions}. Raises HostError.

    packages: [[URI, file name, size, SHA-256]]; stanzas: those of apt's verified index for them, as text; versions:
    {package of a set: version}; known: the stanzas of params' ``known``, ["name=version"], as far as they are there.
    """
    apt_get.prepare_process()
    directory = tempfile.mkdtemp(prefix="gpuprov-apt-", dir="/var/tmp")
    try:
        root = Root(host, params["sets"], directory)
        root.write()
        sources = root.read_repositories()
        result = {"changed": False, "sources": sources, "known": ""}
        if params["known"]:
            # A version that is not there any more makes apt-cache fail, and still show the others.
            result["known"] = root.run("apt-cache", "show", *params["known"])[1]
            return result
        result["versions"] = {}
        for one in params["sets"]:
            result["versions"].update(root.chosen(one))
        words = ["%s=%s" % item for item in sorted(result["versions"].items())]
        found = root.closure(words) if words else []
        names = ["%s=%s" % apt_get.parsed_file_name(row[1])[:2] for row in found]
        shown = root.run("apt-cache", "show", *names)[1] if names else ""
        return dict(result, packages=found, stanzas=shown)
    except (IOError, OSError) as error:
        raise HostError("apt's temporary root could not be written: %s" % error)
    finally:
        shutil.rmtree(directory)
