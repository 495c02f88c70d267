# SPDX-License-Identifier: MIT
"""Ask and run apt and dpkg of a host. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import fcntl
import glob
import hashlib
import os
import re
import termios
import time

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_proxy
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

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
LOCKS = (
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/dpkg/lock",
    "/var/lib/apt/lists/lock",
    "/var/cache/apt/archives/lock",
)
_PRINTED = re.compile(r"'([^']+)' (\S+) (\d+) (?:SHA256:([0-9a-f]{64}))?")


class Apt:
    """apt and dpkg of this host. configuration is the path of a file for all calls of apt, None for the host's own."""

    configuration = None

    def __init__(self, host, lock_timeout, proxy):
        self.host = host
        self.lock_timeout = lock_timeout
        # Not in a file, and not in an argument, which every account can see. What apt's own configuration says comes
        # first: apt.conf(5).
        self.environment = dict(ENVIRONMENT, **daemon_proxy.variables(proxy, lower=True))
        self.architecture = self.run("dpkg", "--print-architecture")[1].strip()

    def run(self, *words):
        """Return (exit status, stdout, stderr)."""
        if self.configuration and words[0] in ("apt-get", "apt-cache"):
            words = words[:1] + ("-c", self.configuration) + words[1:]
        return self.host.run_command(list(words), environ_update=self.environment)

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
                    "%s has held apt's lock for %d s; wait for it, or raise docker_ce_lock_timeout"
                    % (holder, self.lock_timeout)
                )
            time.sleep(1)

    def versions(self, package):
        """Return the versions of a package that apt knows, newest first."""
        versions = []
        for line in self.run("apt-cache", "madison", package)[1].splitlines():
            fields = line.split("|")
            if len(fields) > 1 and fields[1].strip() not in versions:
                versions.append(fields[1].strip())
        return versions

    def installed(self, names):
        """Return {name: {version, status, hold}} of the packages that dpkg knows among names."""
        form = "${Package}\t${Version}\t${db:Status-Abbrev}\n"
        packages = {}
        if not names:
            return packages
        # dpkg-query fails for names it does not know, and still shows the others.
        for line in self.run("dpkg-query", "--show", "--showformat", form, *sorted(set(names)))[1].splitlines():
            name, version, status = line.split("\t")
            packages[name] = {
                "version": version,
                "status": status.strip(),
                "hold": status[:1] == "h",
            }
        return packages


def printed_uris(text):
    """Parse what apt-get --print-uris prints into [(URI, name of the file, size, SHA-256 or "")]."""
    matches = [_PRINTED.match(line) for line in text.splitlines()]
    return [(match.group(1), match.group(2), int(match.group(3)), match.group(4) or "") for match in matches if match]


def parsed_file_name(name):
    """Return (package, version, architecture) of the name that apt gives a file."""
    package, version, architecture = name.rsplit(".", 1)[0].split("_")
    return package, unquote(version), architecture


def unquote(text):
    return re.sub("%([0-9A-Fa-f]{2})", lambda match: chr(int(match.group(1), 16)), text)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        for block in iter(lambda: handle.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


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


def prepare_process():
    """Give hooks and maintainer scripts nowhere to ask: neither standard input nor a controlling terminal.

    What is written is readable for apt's own user, whatever root's umask is.
    """
    os.umask(0o022)
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
