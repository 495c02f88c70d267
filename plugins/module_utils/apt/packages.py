# SPDX-License-Identifier: MIT
"""Install sets of exactly pinned packages with apt, in one transaction. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import base64
import fcntl
import glob
import hashlib
import os
import pwd
import re
import shutil
import tempfile
import termios
import time

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import apt_sources, openpgp, package_set
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_json, daemon_proxy, dockerd
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import gpu_scopes
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_files import (
    back_up,
    create,
    read,
    status_of,
    write,
)
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact

# The arguments of apply, as a module declares them.
ARGUMENTS = {
    "sets": {"type": "list", "elements": "dict", "required": True, "no_log": True},
    "restart": {"type": "str", "choices": ["when-idle", "always", "never", "when-empty"], "default": "when-idle"},
    "lock_timeout": {"type": "int", "default": 300},
    "sources_only": {"type": "bool", "default": False},
    "proxy": {"type": "dict", "default": {}, "no_log": True},
    "locked": {"type": "dict", "default": {}},
}
UNIT = "docker.service"
HELPER = "/usr/lib/apt/apt-helper"
# Nothing that apt and dpkg call may ask, show pages or restart services. Sources: debconf(7), apt-listchanges(1),
# apt-listbugs(1), needrestart(1) and its apt hook, ucf(1), sensible-pager(1).
ENVIRONMENT = {
    "LC_ALL": "C",
    "DEBIAN_FRONTEND": "noninteractive",
    "DEBCONF_NONINTERACTIVE_SEEN": "true",
    "APT_LISTBUGS_FRONTEND": "none",
    "APT_LISTCHANGES_FRONTEND": "none",
    "NEEDRESTART_SUSPEND": "1",
    "NEEDRESTART_MODE": "l",
    "UCF_FORCE_CONFFOLD": "1",
    "PAGER": "cat",
}
OPTIONS = [
    "-o",
    "Acquire::Retries=3",
    "-o",
    "Acquire::http::Timeout=60",
    "-o",
    "Acquire::https::Timeout=60",
    # Never install unsigned packages, whatever the host's configuration says.
    "-o",
    "Acquire::AllowInsecureRepositories=false",
    "-o",
    "Acquire::AllowDowngradeToInsecureRepositories=false",
    "-o",
    "APT::Get::AllowUnauthenticated=false",
]
# Keep configuration files that an administrator changed, and do not ask.
DPKG_OPTIONS = ["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]
# What the subjects of changes of keyrings and sources begin with.
SOURCE_SUBJECTS = ("keyring ", "apt source ")
# Where files of packages lie while apt installs them: its user _apt cannot read root's own directories.
PACKAGES = "/var/lib/gpuprov/packages"
LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
)
ARCHIVES = "/var/cache/apt/archives"
PREFERENCES = "/etc/apt/preferences"
# Below 1000: what is installed is not downgraded for it. Source: apt_preferences(5).
_PREFERENCE = "Package: %s\nPin: version %s\nPin-Priority: 990\n\n"
_PRINTED = re.compile(r"'([^']+)' (\S+) (\d+) (?:SHA256:([0-9a-f]{64}))?")


class LockRefusal(HostError):
    """apt would install what the lock does not name; nothing was installed."""


class Apt:
    """apt and dpkg on this host."""

    def __init__(self, host, sets, lock_timeout, proxy, locked=None):
        self.host = host
        self.sets = sets
        self.lock_timeout = lock_timeout
        # Not in a file, and not in an argument, which every account can see. What apt's own configuration says comes
        # first: apt.conf(5).
        self.environment = dict(ENVIRONMENT, **daemon_proxy.variables(proxy, lower=True))
        # {name: [version, SHA-256]} of all that may be installed, or nothing without a lock.
        self.locked = locked or {}
        self.scratch = None
        # What the sources and keyrings were: {path: (content, status)}, or None for a file that was not there.
        self.before = {}
        self.backups = []
        self.architecture = self.run("dpkg", "--print-architecture")[1].strip()

    def run(self, *words):
        """Return (exit status, stdout, stderr)."""
        return self.host.run_command(list(words), environ_update=self.environment)

    # ---- what is there

    def found(self):
        """Return this host's half of the decision, in the shape of the probe's ``apt``."""
        names = [package["name"] for one in self.sets for package in one["packages"]]
        names += [name for one in self.sets for name in one["remove"]]
        names += package_set.ENGINE + package_set.LEGACY_ENGINES
        form = "${Package}\t${Version}\t${db:Status-Abbrev}\n"
        packages = {}
        # dpkg-query fails for names it does not know, and still shows the others.
        for line in self.run("dpkg-query", "--show", "--showformat", form, *sorted(set(names)))[1].splitlines():
            name, version, status = line.split("\t")
            packages[name] = {
                "version": version,
                "status": status.strip(),
                "hold": status[:1] == "h",
            }
        files = source_files()
        links = {path: os.path.realpath(path) for path in files if os.path.realpath(path) != path}
        keyrings = {}
        for one in self.sets:
            source = one["source"] or one.get("source_gone")
            path = source["keyring"] if source else ""
            if path and os.path.isfile(path):
                status = os.stat(path)
                keyrings[path] = {
                    "mode": "%04o" % (status.st_mode & 0o7777),
                    "uid": status.st_uid,
                    "gid": status.st_gid,
                    "data": base64.b64encode(read(path)).decode("ascii"),
                }
        return {"packages": packages, "source_files": files, "source_links": links, "keyrings": keyrings}

    def decide(self, found):
        return [change for one in self.sets for change in package_set.decide(one, found, self.architecture)]

    # ---- sources

    def fetch_key(self, url):
        """Return the key at a URL or a path, in bytes."""
        path = url[len("file://") :] if url.startswith("file://") else url
        if path.startswith("/"):
            try:
                return read(path)
            except (IOError, OSError) as error:
                raise HostError("the key cannot be read: %s" % error)
        directory = tempfile.mkdtemp(prefix="gpuprov-key-")
        try:
            return self.download(url, directory)
        finally:
            shutil.rmtree(directory)

    def download(self, url, directory):
        """Return what a URL has, fetched as apt fetches: through its proxies, with its certificates."""
        options, secret, path = list(OPTIONS), os.path.join(directory, "auth.conf"), os.path.join(directory, "key")
        url, text = credentials(url)
        if text:
            # Not in an argument, which every account of the host can see.
            own = "/etc/apt/auth.conf"
            create(secret, (text + (read(own).decode("latin-1") if os.path.isfile(own) else "")).encode("latin-1"))
            options += ["-o", "Dir::Etc::netrc=" + secret]
        try:
            # apt's methods run as a user of their own.
            uid = pwd.getpwnam("_apt").pw_uid
            for name in [directory] + ([secret] if text else []):
                os.chown(name, uid, -1)
        except KeyError:
            pass
        code, out, err = self.run(*([HELPER] + options + ["download-file", url, path]))
        if code == 0 and os.path.isfile(path):
            return read(path)
        lines = [line.strip() for line in (err + out).splitlines() if "unsandboxed" not in line]
        # A warning may say why, such as a login that is not for this protocol.
        said = [line for line in lines if line.startswith("E:")][:1] + [
            line for line in lines if line.startswith("W:")
        ][:1]
        said = said or [line for line in lines if line] or ["exit status %d" % code]
        hint = "; install apt-transport-https" if "methods/https could not be found" in err else ""
        raise HostError(
            "the key at %s cannot be fetched, by apt and with its proxy: %s%s" % (url, "; ".join(said), hint)
        )

    def key_of(self, source):
        """Return the wanted key of a source, in bytes."""
        try:
            return openpgp.only(self.fetch_key(source["key_url"]), source["key_fingerprint"])
        except openpgp.KeyringError as error:
            raise HostError("the key at %s is not trusted: %s" % (source["key_url"], error))

    def write_source(self, source, files):
        _right, foreign = apt_sources.judge(source, files, self.architecture)
        for path, text in sorted(apt_sources.rewritten([source], files, self.architecture).items()):
            if path in files:
                self.backups.append(back_up(path))
            if text is None and path in foreign and os.path.islink(path):
                text = ""
            self.replace(path, None if text is None else encoded(text))

    def forget_sources(self):
        """Remove the sources that must go, and their keyrings where nothing else needs them."""
        for source in [one["source_gone"] for one in self.sets if one.get("source_gone")]:
            changed, unneeded = apt_sources.forgotten(source, self.found()["source_files"])
            self.check_links(changed)
            for path, text in sorted(changed.items()):
                if text is not None:
                    self.backups.append(back_up(path))
                self.replace(path, None if text is None else encoded(text))
            if unneeded and os.path.exists(source["keyring"]):
                os.unlink(source["keyring"])

    def check_links(self, paths):
        """Raise HostError where a file that must be rewritten is a link that cannot be followed safely."""
        for path in sorted(paths):
            if os.path.islink(path):
                why = unsafe(os.path.realpath(path))
                if why:
                    raise HostError(
                        "%s is a link to %s, %s: edit that file yourself, or replace the link by a file"
                        % (path, os.path.realpath(path), why)
                    )

    def write_sources(self, sources, subjects):
        """Write the sources and keyrings that are among the changes' subjects; return those read afresh."""
        stale = []
        entries = [source for source in sources if "apt source %s" % source["name"] in subjects]
        keyed = [source for source in sources if "keyring %s" % source["name"] in subjects]
        paths = list(apt_sources.rewritten(entries, self.found()["source_files"], self.architecture))
        self.check_links(paths + [source["keyring"] for source in keyed])
        # All keys first: one that cannot be had leaves the host as it is.
        keys = {source["name"]: self.key_of(source) for source in keyed}
        for source in sources:
            keyring = source["name"] in keys
            entry = "apt source %s" % source["name"] in subjects
            if keyring:
                self.remember(source["keyring"])
                write(os.path.realpath(source["keyring"]), keys[source["name"]])
            if entry:
                self.write_source(source, self.found()["source_files"])
            if keyring or entry:
                stale.append(source)
        if stale:
            self.update(stale)
        return stale

    def remember(self, path):
        if path not in self.before:
            self.before[path] = (read(path), status_of(path)) if os.path.exists(path) else None

    def replace(self, path, data):
        """Write a file, which keeps its mode and owner, or remove it where data is None, and remember what it was."""
        self.remember(path)
        if data is None:
            os.unlink(path)
        else:
            # One with a password in it is root's alone.
            mode = 0o600 if redact(data.decode("latin-1")) != data.decode("latin-1") else 0o644
            write(os.path.realpath(path), data, **(status_of(path) or {"mode": mode}))

    def put_back(self):
        """Make sources and keyrings what they were."""
        for path, before in self.before.items():
            if before:
                write(os.path.realpath(path), before[0], **before[1])
            elif os.path.exists(path):
                os.unlink(path)
        for path in self.backups:
            os.unlink(path)

    def update(self, sources):
        """Have apt read the given sources; raise HostError where one cannot be read or trusted.

        None reads the host's own, as far as they can be read.
        """
        if sources is None:
            self.apt_get("-q", "update")
            return
        directory = tempfile.mkdtemp(prefix="gpuprov-sources-")
        try:
            for source in sources:
                name = os.path.basename(apt_sources.path_of(source))
                create(os.path.join(directory, name), apt_sources.render(source).encode("utf-8"))
            code, out, err = self.apt_get(
                "-q",
                "update",
                "-o",
                "Dir::Etc::SourceList=/dev/null",
                "-o",
                "Dir::Etc::SourceParts=" + directory,
                "-o",
                "APT::Get::List-Cleanup=0",
            )
        finally:
            shutil.rmtree(directory)
        # apt 1.2 of 16.04 warns of a repository that it could not read, and exits with 0.
        # The reason of an "Err:" is in the next line.
        text = re.sub(r"(?m)^(Err:.*)\n +", r"\1: ", out + err)
        said = [line for line in text.splitlines() if re.match(r"(E|W|Err)[: ]", line)]
        bad = [
            line
            for line in said
            if not line.startswith("W: ") or re.search(r"Failed to fetch|GPG error|not signed", line)
        ]
        if code or bad:
            uris = " ".join(uri for source in sources for uri in source["uris"])
            raise HostError(
                "apt cannot use %s: %s" % (uris, "; ".join(bad[-3:] or said[-3:]) or "exit status %d" % code)
            )

    # ---- packages

    def apt_get(self, *words):
        """Run apt-get once its locks are free."""
        self.wait_for_lock()
        return self.run("apt-get", *(OPTIONS + list(words)))

    def wait_for_lock(self):
        deadline = time.time() + self.lock_timeout
        while True:
            holder = lock_holder()
            if not holder:
                return
            if time.time() > deadline:
                raise HostError(
                    "%s has held apt's lock for %d s; wait for it, or raise the lock timeout"
                    % (holder, self.lock_timeout)
                )
            time.sleep(1)

    def has(self, package):
        """Return the versions of a package that apt knows, newest first."""
        versions = []
        for line in self.run("apt-cache", "madison", package)[1].splitlines():
            fields = line.split("|")
            if len(fields) > 1 and fields[1].strip() not in versions:
                versions.append(fields[1].strip())
        return versions

    def transaction(self, found):
        """Return the words of the one apt-get that makes the packages right, or none."""
        words = []
        for one in self.sets:
            for package in one["packages"]:
                have = found["packages"].get(package["name"])
                if not package_set.is_installed(have) or have["version"] != package["version"]:
                    words.append(word_of(package))
            for name in one["remove"]:
                if package_set.is_present(found["packages"].get(name)):
                    words.append(name + "-")
        if not words:
            return []
        # What is right already is named too, so that apt does not move it to suit the others.
        for one in self.sets:
            for package in one["packages"]:
                if word_of(package) not in words:
                    words.append("%s=%s" % (package["name"], package["version"]))
        return words

    def place_files(self, found):
        """Put the files of packages that are not right yet where apt can read them. Raises HostError."""
        self.remove_files()
        for package in [package for one in self.sets for package in one["packages"] if package.get("file")]:
            have = found["packages"].get(package["name"])
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

    def unpacked_in_part(self, found):
        """Return the words of the apt-get that unpacks packages again of which dpkg demands that.

        apt takes their version for installed. Those of another version it unpacks in any case.
        """
        return [
            word_of(package)
            for one in self.sets
            for package in one["packages"]
            for have in [found["packages"].get(package["name"])]
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
            self.update([one["source"] for one in self.sets if one["source"]] or None)
            code, said = self.attempt(options, words)
        if code and "unmet dependencies" in said:
            # A host that never read its distribution's lists cannot satisfy any dependency.
            self.update(None)
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
        archives = os.path.join(self.scratch, "archives")
        self.refuse([given_file(package, self.architecture) for one in self.sets for package in one["packages"]])
        # Nothing is in that directory, so apt names all files. It compares those in its own by their size alone.
        more = ["--print-uris", "-o", "Dir::Cache::Archives=" + archives, "-o", "Acquire::ForceHash=SHA256"]
        code, out, err = self.apt_get(*(options + more + ["install"] + words))
        if code:
            return code, out + err
        files = printed_uris(out)
        self.refuse(files)
        for _uri, name, _size, digest in files:
            path = os.path.join(ARCHIVES, name)
            if os.path.isfile(path) and sha256(path) != digest:
                os.unlink(path)
        return code, out + err

    def refuse(self, files):
        """Raise LockRefusal where files of printed_uris, or None, are not those of the lock."""
        wrong = [unlocked(self.locked, self.architecture, one) for one in files if one]
        wrong = [text for text in wrong if text]
        if wrong:
            others = " and %d more" % (len(wrong) - 5) if len(wrong) > 5 else ""
            raise LockRefusal("refused, nothing was installed: %s%s" % ("; ".join(wrong[:5]), others))

    def attempt(self, options, words):
        if self.locked:
            code, said = self.hold_to_lock(options, words)
            if code:
                return code, said
        code, out, err = self.apt_get(*(options + ["install"] + words))
        return code, out + err

    def simulate(self, options, words):
        """Raise HostError where apt could not install words, or only by removing what is not among them."""
        code, out, err = self.apt_get(*(options + ["--simulate", "install"] + words))
        if code and "unmet dependencies" in out + err:
            self.apt_get("-q", "update")
            code, out, err = self.apt_get(*(options + ["--simulate", "install"] + words))
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
            self.update(sources)
            missing = self.missing(words)
        if missing:
            name, version = missing[0]
            uris = " ".join(uri for one in self.sets if one["source"] for uri in one["source"]["uris"])
            have = ", ".join(self.has(name)[:10]) or "no version of it"
            raise HostError("%s %s is not in %s; it has %s" % (name, version, uris or "apt's sources", have))

    def missing(self, words):
        pairs = [word.split("=", 1) for word in words if "=" in word]
        known = {}
        _code, out, err = self.run("apt-cache", "madison", *[name for name, _version in pairs])
        malformed = [line for line in err.splitlines() if re.match("E: .*(Malformed|list of sources)", line)]
        if malformed:
            raise HostError("apt cannot read its sources: %s" % malformed[0])
        for line in out.splitlines():
            fields = [field.strip() for field in line.split("|")]
            if len(fields) > 1:
                known.setdefault(fields[0], set()).add(fields[1])
        installed = self.found()["packages"]
        return [
            (name, version)
            for name, version in pairs
            if version not in known.get(name, ()) and (installed.get(name) or {}).get("version") != version
        ]

    def hold(self):
        found = self.found()["packages"]
        lines = [
            "%s %s" % (package["name"], "hold" if one["hold"] else "install")
            for one in self.sets
            for package in one["packages"]
            if found[package["name"]]["hold"] != bool(one["hold"])
        ]
        if lines:
            self.wait_for_lock()
            # What apt-mark does too, after it has read all of apt's lists.
            data = "\n".join(lines) + "\n"
            code, _out, err = self.host.run_command(["dpkg", "--set-selections"], data=data, environ_update=ENVIRONMENT)
            if code:
                raise HostError("dpkg could not hold the packages: %s" % err.strip())

    def apply_sources(self, found, changes, check=True):
        """Write keyrings and sources; return them as read again. On failure restore the old ones.

        check: see that the repositories have the wanted versions.
        """
        sources = [one["source"] for one in self.sets if one["source"]]
        try:
            stale = self.write_sources(sources, [change["subject"] for change in changes])
            words = self.transaction(found) if check else []
            if words:
                self.check_versions(words, [])
            if words and self.locked:
                code, said = self.hold_to_lock(self.install_options(), words)
                if code and "unmet dependencies" in said:
                    self.update(None)
                    self.hold_to_lock(self.install_options(), words)
            return stale
        except (HostError, IOError, OSError):
            # A source that cannot be used would be in the way of every other apt.
            self.put_back()
            raise

    def apply(self, found):
        if any(os.listdir(path) for path in ("/var/lib/dpkg/updates",) if os.path.isdir(path)) or any(
            package["status"][1:2] in "UFHW" for package in found["packages"].values()
        ):
            self.wait_for_lock()
            self.run("dpkg", "--force-confdef", "--force-confold", "--configure", "-a")
            found = self.found()
        # Before anything else changes: a file that cannot be used leaves the host as it is.
        self.place_files(found)
        changes = self.decide(found)
        sources = [one["source"] for one in self.sets if one["source"]]
        stale = self.apply_sources(found, changes, check=False)
        unread = [source for source in sources if source not in stale]
        try:
            reinstalled = self.unpacked_in_part(found)
            if reinstalled:
                self.install(reinstalled, unread, "--reinstall")
                found = self.found()
            words = self.transaction(found)
            if words:
                self.install(words, unread)
        except LockRefusal:
            self.put_back()
            raise
        self.forget_sources()
        self.hold()
        left = self.decide(self.found())
        if left:
            what = ", ".join("%s is %s" % (change["subject"], change["from"] or "missing") for change in left)
            raise HostError("apt ran, and yet not everything is as wanted: %s" % what)


def word_of(package):
    """Return the word by which apt-get installs a package: its file, or its name and version."""
    if package.get("file"):
        return os.path.join(PACKAGES, package["name"] + ".deb")
    return "%s=%s" % (package["name"], package["version"])


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def source_files():
    """Return {path: text} of apt's sources; texts keep every byte, whatever the encoding is."""
    paths = glob.glob(apt_sources.DIRECTORY + "/*.list") + glob.glob(apt_sources.DIRECTORY + "/*.sources")
    return {path: read(path).decode("latin-1") for path in [apt_sources.MAIN] + paths if os.path.isfile(path)}


def printed_uris(text):
    """Parse what apt-get --print-uris prints into [(URI, name of the file, size, SHA-256 or "")]."""
    matches = [_PRINTED.match(line) for line in text.splitlines()]
    return [(match.group(1), match.group(2), int(match.group(3)), match.group(4) or "") for match in matches if match]


def given_file(package, architecture):
    """Return a package of a set whose file was given by hand in the shape of printed_uris, or None for another one."""
    if not package.get("file"):
        return None
    name = "%s_%s_%s.deb" % (package["name"], package["version"], architecture)
    return package["file"]["path"], name, 0, package["file"]["sha256"]


def parsed_file_name(name):
    """Return (package, version, architecture) of the name that apt gives a file."""
    package, version, architecture = name.rsplit(".", 1)[0].split("_")
    return package, unquote(version), architecture


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


def lock_holder():
    """Return who holds one of apt's locks, as "NAME (process PID)", or None."""
    inodes = {}
    for path in LOCKS:
        if os.path.exists(path):
            inodes[str(os.stat(path).st_ino)] = path
    try:
        with open("/proc/locks") as handle:
            rows = [line.split() for line in handle]
    except (IOError, OSError):
        return None
    for row in rows:
        # 1: POSIX  ADVISORY  WRITE 1234 08:01:131077 0 EOF
        if len(row) < 6 or row[1] == "->" or row[5].rpartition(":")[2] not in inodes:
            continue
        path = inodes[row[5].rpartition(":")[2]]
        try:
            # The number of an inode says nothing without its file system.
            opened = [os.path.realpath(entry) for entry in glob.glob("/proc/%s/fd/*" % row[4])]
            if path in opened:
                with open("/proc/%s/comm" % row[4]) as handle:
                    return "%s (process %s)" % (handle.read().strip(), row[4])
        except (IOError, OSError):
            continue
    return None


def encoded(text):
    """Return the bytes of a file that was read as latin-1 and may have a URL of ours in it now."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8")


def unsafe(target):
    """Return why the target of a link must not be rewritten, or None where root alone decides what it is."""
    if not os.path.isfile(target):
        return "which is not a regular file"
    path = target
    while True:
        status = os.stat(path)
        if status.st_uid != 0 or status.st_mode & 0o022:
            return "which others than root can change (%s)" % path
        if path == "/":
            break
        path = os.path.dirname(path)
    return None if os.access(os.path.dirname(target), os.W_OK) else "which cannot be written to"


def credentials(url):
    """Return a URL without its user and password, and lines of apt's auth.conf(5) that have them, or ""."""
    match = re.match(r"(https?)://([^/@]+)@([^/]+)(.*)$", url)
    if not match:
        return url, ""
    scheme, user, host, path = match.groups()
    login, _colon, password = user.partition(":")
    words = "login %s password %s\n" % (unquote(login), unquote(password))
    # apt since 1.9 sends passwords over http only where the line says so; older ones do not know that form.
    lines = ["machine %s %s" % (name, words) for name in (host, "%s://%s" % (scheme, host))]
    return "%s://%s%s" % (scheme, host, path), "".join(lines)


def unquote(text):
    return re.sub("%([0-9A-Fa-f]{2})", lambda match: chr(int(match.group(1), 16)), text)


def source_diff(apt, found):
    """Return the sources before and after, as text."""
    files = found["source_files"]
    changed = apt_sources.rewritten([one["source"] for one in apt.sets if one["source"]], files, apt.architecture)
    return [
        {"before_header": path, "after_header": path, "before": shown(files.get(path)), "after": shown(changed[path])}
        for path in sorted(changed)
    ]


def shown(text):
    return redact(encoded(text or "").decode("utf-8", "replace"))


def engine_state(host):
    """Return systemd's state of dockerd, such as ``active``, or "" without systemd."""
    systemctl = host.get_bin_path("systemctl")
    words = [systemctl, "show", "--property", "ActiveState", UNIT]
    return host.run_command(words)[1].partition("=")[2].strip() if systemctl else ""


def restart_refusal(restart, changes, engine):
    """Return why packages must not restart dockerd now, or None where they may or do not."""
    if restart == "when-empty":
        return removal_refusal() if changes else None
    if daemon_json.worst(change["disruption"] for change in changes) != "restart":
        return None
    if engine not in ("active", "reloading"):
        return daemon_json.restart_refusal(restart, changes, {})
    found = {"running": running_containers(), "info": dockerd.ask("/info")}
    return daemon_json.restart_refusal(restart, changes, found)


def keep_gpus(host, restart, changes):
    """Keep the GPUs of running containers when packages have systemd read its units again.

    Returns what becomes of them, in the shape of gpu_scopes.fate.
    """
    subjects = [change["subject"] for change in changes if change["disruption"] != "none"]
    losing, untold = {}, {}
    if subjects:
        scopes = gpu_scopes.Host(lambda *words: host.run_command(list(words), environ_update=ENVIRONMENT))
        losing = scopes.losing()
        untold = gpu_scopes.untellable(losing) if host.check_mode else scopes.keep(losing)
    # Where dockerd does not run, asking its socket would start it.
    running = dockerd.running() if losing and dockerd.shims() else []
    return gpu_scopes.fate(subjects, losing, untold, running, restart)


def install(host, restart, apt, found, changes):
    """Install the sets, and give containers that started meanwhile the GPUs back that systemd took from them."""
    try:
        apt.apply(found)
    finally:
        apt.remove_files()
        lost = keep_gpus(host, restart, changes)["lost"]
        if lost:
            host.warn("these containers lost their GPU, start them again: %s" % ", ".join(lost))


def removal_refusal():
    """Return why the engine must not be removed now, or None where no container runs."""
    names = sorted(container["name"] for container in running_containers())
    if not names:
        return None
    return "Containers run: %s. Stop them, or set docker_ce_uninstall_running: true" % ", ".join(names)


def running_containers():
    """Return [{name}] of the running containers."""
    # Where dockerd does not run, asking its socket would start it; where it hangs, it does not name them.
    running = dockerd.running() if dockerd.shims() else []
    if running is None:
        running = [{"name": "container %d" % (number + 1)} for number in range(dockerd.shims())]
    return running


def bring_back(host, before):
    """Start dockerd again if it ran before a transaction that failed; return what to add to the message."""
    if before != "active" or engine_state(host) == "active":
        return ""
    host.run_command(["systemctl", "reset-failed"] + list(dockerd.COUNTING_UNITS))
    host.run_command(["systemctl", "start", UNIT])
    return ". That stopped dockerd, which %s" % (
        "runs again" if engine_state(host) == "active" else "does not start any more",
    )


def leave_terminal():
    """Give hooks and maintainer scripts nowhere to ask: neither standard input nor a controlling terminal."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    try:
        terminal = os.open("/dev/tty", os.O_RDWR)
    except (IOError, OSError):
        return
    try:
        fcntl.ioctl(terminal, termios.TIOCNOTTY)
    except (IOError, OSError):
        pass
    os.close(terminal)


def apply(host, params):
    """Apply keyrings, sources and packages; return {changed, changes, diff}. Raises HostError."""
    leave_terminal()
    apt = Apt(host, params["sets"], params["lock_timeout"], params["proxy"], params["locked"])
    engine = engine_state(host)
    try:
        found = apt.found()
        changes = apt.decide(found)
        diff = source_diff(apt, found) if host._diff else []
        # Before anything is touched: what apt begins cannot be taken back.
        if params["sources_only"]:
            changes = [change for change in changes if change["subject"].startswith(SOURCE_SUBJECTS)]
        refusal = (
            restart_refusal(params["restart"], changes, engine)
            or keep_gpus(host, params["restart"], changes)["refusal"]
        )
        if refusal:
            raise HostError(refusal)
        if not host.check_mode:
            if params["sources_only"] and (changes or params["locked"]):
                apt.apply_sources(found, changes)
            elif changes:
                install(host, params["restart"], apt, found, changes)
    except HostError as error:
        raise HostError(redact(str(error)) + bring_back(host, engine))
    except (IOError, OSError) as error:
        raise HostError("a file could not be written: %s%s" % (error, bring_back(host, engine)))
    finally:
        apt.close()
    return {"changed": bool(changes), "changes": changes, "diff": diff}
