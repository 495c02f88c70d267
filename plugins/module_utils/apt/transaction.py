# SPDX-License-Identifier: MIT
"""Install and remove packages in one transaction of apt, held to a lock. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import os
import re
import shutil
import tempfile

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import package_set
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.apt_get import (
    ENVIRONMENT,
    parsed_file_name,
    printed_uris,
    sha256,
)
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_files import create, read

# Keep configuration files that an administrator changed, and do not ask.
DPKG_OPTIONS = ["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]
# Where files of packages lie while apt installs them: its user _apt cannot read root's own directories.
PACKAGES = "/var/lib/gpuprov/packages"
ARCHIVES = "/var/cache/apt/archives"
PREFERENCES = "/etc/apt/preferences"
# Below 1000: what is installed is not downgraded for it. Source: apt_preferences(5).
_PREFERENCE = "Package: %s\nPin: version %s\nPin-Priority: 990\n\n"


class LockRefusal(HostError):
    """apt would install what the lock does not name; nothing was installed."""


class Transaction:
    """The one apt-get for some package sets. sources reads apt's sources; locked: see packages.ARGUMENTS."""

    def __init__(self, apt, sources, sets, locked=None):
        self.apt = apt
        self.sources = sources
        self.sets = sets
        # {name: [version, SHA-256]} of all that may be installed, or nothing without a lock.
        self.locked = locked or {}
        self.scratch = None

    def words(self, packages):
        """Return the words of the one apt-get that makes the packages right, or none."""
        words = []
        for one in self.sets:
            for package in one["packages"]:
                have = packages.get(package["name"])
                if not package_set.is_installed(have) or have["version"] != package["version"]:
                    words.append(word_of(package))
            for name in one["remove"]:
                if package_set.is_present(packages.get(name)):
                    words.append(name + "-")
        if not words:
            return []
        # What is right already is named too, so that apt does not move it to suit the others.
        for one in self.sets:
            for package in one["packages"]:
                if word_of(package) not in words:
                    words.append("%s=%s" % (package["name"], package["version"]))
        return words

    def check(self, packages):
        """Raise HostError where no repository has the versions, or the lock does not name what apt would install."""
        words = self.words(packages)
        if words:
            self.check_versions(words, [])
        if words and self.locked:
            code, said = self.hold_to_lock(self.install_options(), words)
            if code and "unmet dependencies" in said:
                self.sources.update(None)
                self.hold_to_lock(self.install_options(), words)

    def place_files(self, packages):
        """Put the files of packages that are not right yet where apt can read them. Raises HostError."""
        self.remove_files()
        for package in [package for one in self.sets for package in one["packages"] if package.get("file")]:
            have = packages.get(package["name"])
            if package_set.is_installed(have) and have["version"] == package["version"]:
                continue
            if not package["file"].get("sent"):
                raise HostError("%s changed during the run: run it again" % package["name"])
            if not os.path.isdir(PACKAGES):
                os.makedirs(PACKAGES)
                for directory in (os.path.dirname(PACKAGES), PACKAGES):
                    os.chmod(directory, 0o755)
            path = word_of(package)
            shutil.copyfile(package["file"]["sent"], path)
            os.chmod(path, 0o644)
            if sha256(path) != package["file"]["sha256"]:
                raise HostError("%s changed on its way to the host: run it again" % package["file"]["path"])

    def remove_files(self):
        if os.path.isdir(PACKAGES):
            shutil.rmtree(PACKAGES)

    def unpacked_in_part(self, packages):
        """Return the words of the apt-get that unpacks packages again of which dpkg demands that.

        apt takes their version for installed. Those of another version it unpacks in any case.
        """
        return [
            word_of(package)
            for one in self.sets
            for package in one["packages"]
            for have in [packages.get(package["name"])]
            if have and have["status"][2:3] == "R" and have["version"] == package["version"]
        ]

    def install(self, words, unread, *more):
        """Install and remove the packages that words name, in one transaction that removes nothing else.

        unread are the sources whose lists were not read in this run, more are further options. apt decides
        before it touches anything, so what it refuses is looked into afterwards, and costs nothing where it does not.
        """
        options = self.install_options() + list(more)
        if any(word.endswith("-") for word in words):
            self.check_versions(words, unread)
            self.simulate(options, words)
        else:
            options.append("--no-remove")
        code, said = self.attempt(options, words)
        if code and re.search("was not found|Unable to locate", said):
            self.check_versions(words, unread)
            code, said = self.attempt(options, words)
        if code and re.search("Hash Sum mismatch|File has unexpected size|Failed to fetch", said):
            # The repository moved on after its lists were read, or a download was cut off.
            self.sources.update([one["source"] for one in self.sets if one["source"]] or None)
            code, said = self.attempt(options, words)
        if code and "unmet dependencies" in said:
            # A host that never read its distribution's lists cannot satisfy any dependency.
            self.sources.update(None)
            code, said = self.attempt(options, words)
        if code and re.search("unmet dependencies|need to be removed", said):
            self.simulate([option for option in options if option != "--no-remove"], words)
        if code:
            lines = [line for line in said.splitlines() if re.match(r"(E:|dpkg: error|Err:| subprocess)", line.strip())]
            raise HostError("apt could not install the set: %s" % ("; ".join(lines[-4:]) or said.strip()[-300:]))

    def install_options(self):
        options = ["-y", "-q", "--allow-downgrades", "--allow-change-held-packages"] + DPKG_OPTIONS
        if not any(one["install_recommends"] for one in self.sets):
            options.append("--no-install-recommends")
        return options + (["-o", "Dir::Etc::Preferences=" + self.preferences()] if self.locked else [])

    def preferences(self):
        """Return the path of preferences with which apt takes the locked version of what is not installed yet."""
        if not self.scratch:
            self.scratch = tempfile.mkdtemp(prefix="gpuprov-lock-")
            os.makedirs(os.path.join(self.scratch, "archives", "partial"))
            text = "".join(_PREFERENCE % (name, self.locked[name][0]) for name in sorted(self.locked)).encode("ascii")
            own = read(PREFERENCES) if os.path.isfile(PREFERENCES) else b""
            create(os.path.join(self.scratch, "preferences"), text + own)
        return os.path.join(self.scratch, "preferences")

    def close(self):
        """Remove the files that were made for apt's calls."""
        if self.scratch:
            shutil.rmtree(self.scratch)

    def hold_to_lock(self, options, words):
        """Raise LockRefusal where apt would install what the lock does not name, to the hash of its verified index.

        Return (exit status, output) of the apt-get that was asked.
        """
        code, said, files = self.named(options, words)
        for _uri, name, _size, digest in files:
            path = os.path.join(ARCHIVES, name)
            if os.path.isfile(path) and sha256(path) != digest:
                os.unlink(path)
        return code, said

    def named(self, options, words):
        """Return (exit status, output, files of printed_uris) of what apt would need to install words under a lock.

        Raises LockRefusal.
        """
        self.refuse([given_file(package, self.apt.architecture) for one in self.sets for package in one["packages"]])
        # Nothing is in that directory, so apt names all files. It compares those in its own by their size alone.
        archives = os.path.join(self.scratch, "archives")
        more = ["--print-uris", "-o", "Dir::Cache::Archives=" + archives, "-o", "Acquire::ForceHash=SHA256"]
        code, out, err = self.apt.apt_get(*(options + more + ["install"] + words))
        files = [] if code else printed_uris(out)
        self.refuse(files)
        return code, out + err, files

    def refuse(self, files):
        """Raise LockRefusal where files of printed_uris, or None, are not those of the lock."""
        wrong = [unlocked(self.locked, self.apt.architecture, one) for one in files if one]
        wrong = [text for text in wrong if text]
        if wrong:
            others = " and %d more" % (len(wrong) - 5) if len(wrong) > 5 else ""
            raise LockRefusal("refused, nothing was installed: %s%s" % ("; ".join(wrong[:5]), others))

    def attempt(self, options, words):
        if self.locked:
            code, said = self.hold_to_lock(options, words)
            if code:
                return code, said
        code, out, err = self.apt.apt_get(*(options + ["install"] + words))
        return code, out + err

    def simulate(self, options, words):
        """Raise HostError where apt could not install words, or only by removing what is not among them."""
        code, out, err = self.apt.apt_get(*(options + ["--simulate", "install"] + words))
        if code and "unmet dependencies" in out + err:
            self.apt.apt_get("-q", "update")
            code, out, err = self.apt.apt_get(*(options + ["--simulate", "install"] + words))
        if code:
            text = re.sub(r"\s+", " ", (out + err).split("unmet dependencies:")[-1]).strip()
            raise HostError("the set cannot be installed here: %s" % text[-500:])
        allowed = {word[:-1] for word in words if word.endswith("-")}
        extra = [line.split()[1] for line in out.splitlines() if line.startswith("Remv ")]
        extra = [name for name in extra if name not in allowed]
        if extra:
            raise HostError(
                "apt would have to remove %s as well; remove it yourself, or name it in docker_ce_remove_packages"
                % ", ".join(extra)
            )

    def check_versions(self, words, sources):
        """Raise HostError for a version that no repository has, naming those that it has."""
        missing = self.missing(words)
        if missing and sources:
            self.sources.update(sources)
            missing = self.missing(words)
        if missing:
            name, version = missing[0]
            have = ", ".join(self.apt.versions(name)[:10]) or "no version of it"
            raise HostError("%s %s is not in %s; it has %s" % (name, version, self.sources.places(self.sets), have))

    def missing(self, words):
        pairs = [word.split("=", 1) for word in words if "=" in word]
        known = {}
        _code, out, err = self.apt.run("apt-cache", "madison", *[name for name, _version in pairs])
        malformed = [line for line in err.splitlines() if re.match("E: .*(Malformed|list of sources)", line)]
        if malformed:
            raise HostError("apt cannot read its sources: %s" % malformed[0])
        for line in out.splitlines():
            fields = [field.strip() for field in line.split("|")]
            if len(fields) > 1:
                known.setdefault(fields[0], set()).add(fields[1])
        unknown = [(name, version) for name, version in pairs if version not in known.get(name, ())]
        installed = self.apt.installed([name for name, _version in unknown])
        return [(name, version) for name, version in unknown if (installed.get(name) or {}).get("version") != version]

    def hold(self):
        found = self.apt.installed([package["name"] for one in self.sets for package in one["packages"]])
        lines = [
            "%s %s" % (package["name"], "hold" if one["hold"] else "install")
            for one in self.sets
            for package in one["packages"]
            if found[package["name"]]["hold"] != bool(one["hold"])
        ]
        if lines:
            self.apt.wait_for_lock()
            # What apt-mark does too, after it has read all of apt's lists.
            data = "\n".join(lines) + "\n"
            code, _out, err = self.apt.host.run_command(
                ["dpkg", "--set-selections"], data=data, environ_update=ENVIRONMENT
            )
            if code:
                raise HostError("dpkg could not hold the packages: %s" % err.strip())


def word_of(package):
    """Return the word by which apt-get installs a package: its file, or its name and version."""
    if package.get("file"):
        return os.path.join(PACKAGES, package["name"] + ".deb")
    return "%s=%s" % (package["name"], package["version"])


def given_file(package, architecture):
    """Return a package of a set whose file was given by hand in the shape of printed_uris, or None for another one."""
    if not package.get("file"):
        return None
    name = "%s_%s_%s.deb" % (package["name"], package["version"], architecture)
    return package["file"]["path"], name, 0, package["file"]["sha256"]


def unlocked(locked, native, printed):
    """Return why a file of printed_uris must not be installed under a lock, or None."""
    _uri, file_name, _size, digest = printed
    name, version, architecture = parsed_file_name(file_name)
    if name not in locked or architecture not in (native, "all"):
        return "%s %s is not in the lock: add it with gpuprov lock" % (name, version)
    if version != locked[name][0]:
        return "apt would install %s %s, and the lock has %s: see gpuprov lock --check" % (
            name,
            version,
            locked[name][0],
        )
    if digest != locked[name][1]:
        return "%s %s is not the file that was locked: it has SHA-256 %s, the lock has %s" % (
            name,
            version,
            digest or "(none)",
            locked[name][1],
        )
    return None
