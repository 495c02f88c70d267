#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: apt_pinned_sets
short_description: Install sets of exactly pinned packages in one transaction
description:
  - Writes the sets' apt sources and keyrings, removes what must be absent, installs every package
    of the sets at its exact version (downgrades included), all in one transaction, and holds them.
  - A repository's key is trusted only if its fingerprint is the wanted one. Other entries with the
    same URI are replaced, whatever their file is called; files as they were are kept in
    C(/var/backups/gpuprov).
  - Where apt would remove anything else, the module names it and stops. Nothing is ever purged.
  - Where dockerd ran before a transaction that fails, it is started again.
  - A host on which nothing differs is left alone, without asking the network.
author: gpuprov contributors
options:
  sets:
    description:
      - The package sets, each with C(role), C(packages) (name and version), C(hold),
        C(install_recommends), C(remove) and C(source), which may be empty.
    type: list
    elements: dict
    required: true
  lock_timeout:
    description: Seconds to wait for another apt or dpkg to finish.
    type: int
    default: 300
  service:
    description:
      - A unit of systemd whose state is to be returned.
    type: str
  restart:
    description:
      - Whether packages may be changed that restart dockerd. With C(when-idle) not while containers
        run, unless live-restore keeps them; with C(when-empty) not while any container runs; with C(never) not at
        all. Decided before apt starts.
    type: str
    choices: [when-idle, always, never, when-empty]
    default: when-idle
attributes:
  check_mode:
    description: Predicts without touching the host or the network.
    support: full
  diff_mode:
    description: Shows the apt sources before and after.
    support: full
"""

EXAMPLES = r"""
- name: Install one pinned package
  gpuprov.gpuprov.apt_pinned_sets:
    sets:
      - role: docker_ce
        packages: [{name: docker-ce-cli, version: "5:29.7.2-1~debian.12~bookworm"}]
        hold: true
        install_recommends: false
        remove: [docker.io]
        source: null
"""

RETURN = r"""
changes:
  description: What was changed, or in check mode would be.
  returned: success
  type: list
  elements: dict
service:
  description: The C(load), C(active) and C(enabled) state of the unit, as it is at the end.
  returned: success
  type: dict
"""

import base64
import glob
import os
import re
import shutil
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import (
    apt_sources,
    daemon_json,
    dockerd,
    openpgp,
    package_set,
)
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact, redacted

BACKUPS = "/var/backups/gpuprov"
UNIT = "docker.service"
ENVIRONMENT = {
    "LC_ALL": "C",
    "DEBIAN_FRONTEND": "noninteractive",
    "NEEDRESTART_SUSPEND": "1",
    "APT_LISTCHANGES_FRONTEND": "none",
}
OPTIONS = [
    "-o",
    "Acquire::Retries=3",
    "-o",
    "Acquire::http::Timeout=60",
    "-o",
    "Acquire::https::Timeout=60",
    # Whatever the host's own configuration says: what nobody signed is not installed.
    "-o",
    "Acquire::AllowInsecureRepositories=false",
    "-o",
    "Acquire::AllowDowngradeToInsecureRepositories=false",
    "-o",
    "APT::Get::AllowUnauthenticated=false",
]
# Configuration files that an administrator changed stay, without a question that nobody answers.
DPKG_OPTIONS = ["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]
LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
)


class AptError(Exception):
    """The sets could not be installed; the message says why, for people."""


class Apt:
    """apt and dpkg on this host."""

    def __init__(self, module, sets):
        self.module = module
        self.sets = sets
        # What the sources and keyrings were: {path: content, or None for a file that was not there}.
        self.before = {}
        self.architecture = self.run("dpkg", "--print-architecture")[1].strip()

    def run(self, *words):
        """Return (exit status, stdout, stderr)."""
        return self.module.run_command(list(words), environ_update=ENVIRONMENT)

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
        files = {}
        paths = glob.glob(apt_sources.DIRECTORY + "/*.list") + glob.glob(apt_sources.DIRECTORY + "/*.sources")
        for path in ["/etc/apt/sources.list"] + paths:
            if os.path.isfile(path):
                files[path] = read(path).decode("utf-8", "replace")
        keyrings = {}
        for one in self.sets:
            path = one["source"]["keyring"] if one["source"] else ""
            if path and os.path.isfile(path):
                status = os.stat(path)
                keyrings[path] = {
                    "mode": "%04o" % (status.st_mode & 0o7777),
                    "uid": status.st_uid,
                    "gid": status.st_gid,
                    "data": base64.b64encode(read(path)).decode("ascii"),
                }
        return {"packages": packages, "source_files": files, "keyrings": keyrings}

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
                raise AptError("the key cannot be read: %s" % error)
        # Slow to import, and needed on a first run only.
        from ansible.module_utils.urls import open_url

        why = None
        for attempt in range(3):
            try:
                answer = open_url(url, timeout=30, follow_redirects="all", http_agent="gpuprov")
                if url.startswith("https:") and not answer.geturl().startswith("https:"):
                    raise AptError("%s redirects to %s, which is not HTTPS: refusing the key" % (url, answer.geturl()))
                return answer.read()
            except AptError:
                raise
            except Exception as error:  # urllib raises a dozen kinds, of which all mean the same here
                why = error
                time.sleep(attempt)
        raise AptError("the key at %s cannot be fetched: %s" % (url, why))

    def write_keyring(self, source):
        try:
            keyring = openpgp.only(self.fetch_key(source["key_url"]), source["key_fingerprint"])
        except openpgp.KeyringError as error:
            raise AptError("the key at %s is not trusted: %s" % (source["key_url"], error))
        self.replace(source["keyring"], keyring)

    def write_source(self, source, files):
        right, foreign = apt_sources.judge(source, files, self.architecture)
        for path, text in sorted(foreign.items()):
            back_up(path)
            self.replace(path, text.encode("utf-8") if text.strip() else None)
        path = apt_sources.path_of(source)
        if not right:
            if os.path.exists(path):
                back_up(path)
            self.replace(path, apt_sources.render(source).encode("utf-8"))

    def write_sources(self, sources, subjects):
        """Write the sources and keyrings that are among the changes' subjects; return those read afresh."""
        stale = []
        for source in sources:
            keyring = "keyring %s" % source["name"] in subjects
            entry = "apt source %s" % source["name"] in subjects
            if keyring:
                self.write_keyring(source)
            if entry:
                self.write_source(source, self.found()["source_files"])
            if keyring or entry:
                stale.append(source)
        if stale:
            self.update(stale)
        return stale

    def replace(self, path, data):
        """Write a file, or remove it where data is None, and remember what it was."""
        self.before.setdefault(path, read(path) if os.path.exists(path) else None)
        if data is None:
            os.unlink(path)
        else:
            write(path, data)

    def put_back(self):
        """Make sources and keyrings what they were."""
        for path, data in self.before.items():
            if data is not None:
                write(path, data)
            elif os.path.exists(path):
                os.unlink(path)

    def update(self, sources):
        """Have apt read the given sources; raise AptError where one cannot be read or trusted.

        None reads the host's own, as far as they can be read.
        """
        if sources is None:
            self.apt_get("-q", "update")
            return
        directory = tempfile.mkdtemp(prefix="gpuprov-sources-")
        try:
            os.chmod(directory, 0o755)  # apt reads as its own user
            for source in sources:
                path = apt_sources.path_of(source)
                shutil.copy(path, directory)
                os.chmod(os.path.join(directory, os.path.basename(path)), 0o644)
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
        # What is wrong with an "Err:" stands in the next line.
        text = re.sub(r"(?m)^(Err:.*)\n +", r"\1: ", out + err)
        said = [line for line in text.splitlines() if re.match(r"(E|W|Err)[: ]", line)]
        bad = [
            line
            for line in said
            if not line.startswith("W: ") or re.search(r"Failed to fetch|GPG error|not signed", line)
        ]
        if code or bad:
            uris = " ".join(uri for source in sources for uri in source["uris"])
            raise AptError(
                "apt cannot use %s: %s" % (uris, "; ".join(bad[-3:] or said[-3:]) or "exit status %d" % code)
            )

    # ---- packages

    def apt_get(self, *words):
        """Run apt-get once nobody else holds its locks."""
        self.wait_for_lock()
        return self.run("apt-get", *(OPTIONS + list(words)))

    def wait_for_lock(self):
        deadline = time.time() + self.module.params["lock_timeout"]
        while True:
            holder = lock_holder()
            if not holder:
                return
            if time.time() > deadline:
                raise AptError(
                    "%s has held apt's lock for %d s; wait for it, or raise the lock timeout"
                    % (holder, self.module.params["lock_timeout"])
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
                    words.append("%s=%s" % (package["name"], package["version"]))
            for name in one["remove"]:
                if package_set.is_present(found["packages"].get(name)):
                    words.append(name + "-")
        if not words:
            return []
        # What is right already is named too, so that apt does not move it to suit the others.
        for one in self.sets:
            for package in one["packages"]:
                word = "%s=%s" % (package["name"], package["version"])
                if word not in words:
                    words.append(word)
        return words

    def install(self, words, unread):
        """Bring the packages to what words say, in one transaction that removes nothing else.

        unread are the sources whose lists were not read in this run. apt decides before it touches
        anything, so what it refuses is looked into afterwards, and costs nothing where it does not.
        """
        options = ["-y", "-q", "--allow-downgrades", "--allow-change-held-packages"] + DPKG_OPTIONS
        if not any(one["install_recommends"] for one in self.sets):
            options.append("--no-install-recommends")
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
            raise AptError("apt could not install the set: %s" % ("; ".join(lines[-4:]) or said.strip()[-300:]))

    def attempt(self, options, words):
        code, out, err = self.apt_get(*(options + ["install"] + words))
        return code, out + err

    def simulate(self, options, words):
        """Raise AptError where apt could not install words, or only by removing what is not among them."""
        code, out, err = self.apt_get(*(options + ["--simulate", "install"] + words))
        if code and "unmet dependencies" in out + err:
            self.apt_get("-q", "update")
            code, out, err = self.apt_get(*(options + ["--simulate", "install"] + words))
        if code:
            text = re.sub(r"\s+", " ", (out + err).split("unmet dependencies:")[-1]).strip()
            raise AptError("the set cannot be installed here: %s" % text[-500:])
        allowed = {word[:-1] for word in words if word.endswith("-")}
        extra = [line.split()[1] for line in out.splitlines() if line.startswith("Remv ")]
        extra = [name for name in extra if name not in allowed]
        if extra:
            raise AptError(
                "apt would have to remove %s as well; remove it yourself, or name it in docker_ce_remove_packages"
                % ", ".join(extra)
            )

    def check_versions(self, words, sources):
        """Raise AptError for a version that no repository has, naming those that it has."""
        missing = self.missing(words)
        if missing and sources:
            self.update(sources)
            missing = self.missing(words)
        if missing:
            name, version = missing[0]
            uris = " ".join(uri for one in self.sets if one["source"] for uri in one["source"]["uris"])
            have = ", ".join(self.has(name)[:10]) or "no version of it"
            raise AptError("%s %s is not in %s; it has %s" % (name, version, uris or "apt's sources", have))

    def missing(self, words):
        pairs = [word.split("=", 1) for word in words if "=" in word]
        known = {}
        for line in self.run("apt-cache", "madison", *[name for name, _version in pairs])[1].splitlines():
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
            code, _out, err = self.module.run_command(
                ["dpkg", "--set-selections"], data=data, environ_update=ENVIRONMENT
            )
            if code:
                raise AptError("dpkg could not hold the packages: %s" % err.strip())

    def apply(self, found):
        if any(os.listdir(path) for path in ("/var/lib/dpkg/updates",) if os.path.isdir(path)) or any(
            package["status"][1:2] in "UFHW" for package in found["packages"].values()
        ):
            self.wait_for_lock()
            self.run("dpkg", "--force-confdef", "--force-confold", "--configure", "-a")
            found = self.found()
        changes = self.decide(found)
        sources = [one["source"] for one in self.sets if one["source"]]
        try:
            stale = self.write_sources(sources, [change["subject"] for change in changes])
        except AptError:
            # A source that cannot be used would be in the way of every other apt.
            self.put_back()
            raise
        words = self.transaction(found)
        if words:
            self.install(words, [source for source in sources if source not in stale])
        self.hold()
        left = self.decide(self.found())
        if left:
            what = ", ".join("%s is %s" % (change["subject"], change["from"] or "missing") for change in left)
            raise AptError("apt ran, and yet not everything is as wanted: %s" % what)


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


def read(path):
    with open(path, "rb") as handle:
        return handle.read()


def write(path, data):
    """Replace a file atomically: root's, 0644, in a directory that apt's user can read."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        os.makedirs(directory)
        os.chmod(directory, 0o755)
    handle, temporary = tempfile.mkstemp(prefix=".gpuprov-", dir=directory)
    try:
        with os.fdopen(handle, "wb") as replacement:
            replacement.write(data)
            os.fchmod(replacement.fileno(), 0o644)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def back_up(path):
    """Copy a file to where no program looks for sources."""
    if not os.path.isdir(BACKUPS):
        os.makedirs(BACKUPS)
        os.chmod(BACKUPS, 0o700)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    shutil.copy2(path, os.path.join(BACKUPS, "%s.%s" % (os.path.basename(path), stamp)))


def source_diff(apt, found):
    """Return the sources before and after, as text."""
    before, after = {}, {}
    for one in apt.sets:
        if one["source"]:
            right, foreign = apt_sources.judge(one["source"], found["source_files"], apt.architecture)
            path = apt_sources.path_of(one["source"])
            if not right:
                before[path] = found["source_files"].get(path, "")
                after[path] = apt_sources.render(one["source"])
            for path, text in foreign.items():
                before[path], after[path] = found["source_files"][path], text
    return [
        {"before_header": path, "after_header": path, "before": redact(before[path]), "after": redact(after[path])}
        for path in sorted(before)
    ]


def service_state(module, unit):
    """Return {load, active, enabled} of a unit of systemd, or None where none was asked for or there is no systemd."""
    systemctl = module.get_bin_path("systemctl")
    if not unit or not systemctl:
        return None
    words = [systemctl, "show", "--property", "LoadState,ActiveState,UnitFileState", unit]
    properties = dict(line.split("=", 1) for line in module.run_command(words)[1].splitlines() if "=" in line)
    names = (("load", "LoadState"), ("active", "ActiveState"), ("enabled", "UnitFileState"))
    return {key: properties.get(name, "") for key, name in names}


def restart_refusal(module, changes, engine):
    """Return why packages must not restart dockerd now, or None where they may or do not."""
    if module.params["restart"] == "when-empty":
        return removal_refusal() if changes else None
    if daemon_json.worst(change["disruption"] for change in changes) != "restart":
        return None
    if not engine or engine["active"] not in ("active", "reloading"):
        return daemon_json.restart_refusal(module.params["restart"], changes, {})
    found = {"running": running_containers(), "info": dockerd.ask("/info")}
    return daemon_json.restart_refusal(module.params["restart"], changes, found)


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


def bring_back(module, before):
    """Start dockerd again if it ran before a transaction that failed; return what to add to the message."""
    if not before or before["active"] != "active" or service_state(module, UNIT)["active"] == "active":
        return ""
    module.run_command(["systemctl", "reset-failed"] + list(dockerd.COUNTING_UNITS))
    module.run_command(["systemctl", "start", UNIT])
    return ". That stopped dockerd, which %s" % (
        "runs again" if service_state(module, UNIT)["active"] == "active" else "does not start any more",
    )


def main():
    module = AnsibleModule(
        argument_spec={
            "sets": {"type": "list", "elements": "dict", "required": True, "no_log": True},
            "restart": {
                "type": "str",
                "choices": ["when-idle", "always", "never", "when-empty"],
                "default": "when-idle",
            },
            "lock_timeout": {"type": "int", "default": 300},
            "service": {"type": "str"},
        },
        supports_check_mode=True,
    )
    # no_log keeps URLs with passwords out of the host's journal. What is told is redacted already.
    module.no_log_values.clear()
    apt = Apt(module, module.params["sets"])
    module.params["sets"] = redacted(module.params["sets"])
    engine = service_state(module, UNIT)
    try:
        found = apt.found()
        changes = apt.decide(found)
        diff = source_diff(apt, found) if module._diff else []
        # Before anything is touched: what apt begins cannot be taken back.
        refusal = restart_refusal(module, changes, engine)
        if refusal:
            raise AptError(refusal)
        if changes and not module.check_mode:
            apt.apply(found)
    except (AptError, package_set.PackageSetError) as error:
        module.fail_json(msg=redact(str(error)) + bring_back(module, engine))
    except (IOError, OSError) as error:
        module.fail_json(msg="a file could not be written: %s%s" % (error, bring_back(module, engine)))
    service = service_state(module, module.params["service"])
    module.exit_json(changed=bool(changes), changes=changes, diff=diff, service=service)


if __name__ == "__main__":
    main()
