# SPDX-License-Identifier: MIT
"""Read and write apt's sources and keyrings on a host. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import base64
import glob
import os
import pwd
import re
import shutil
import tempfile

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import apt_sources, openpgp
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.apt_get import OPTIONS, unquote
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_files import (
    back_up,
    create,
    read,
    status_of,
    write,
)
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact

HELPER = "/usr/lib/apt/apt-helper"
LISTS = "/var/lib/apt/lists"
# For what is read without need: a host that the distribution's mirror does not answer must not wait for it long.
IMPATIENT = ["-o", "Acquire::Retries=0", "-o", "Acquire::http::Timeout=10", "-o", "Acquire::https::Timeout=10"]


class Sources:
    """Sources and keyrings of this host."""

    def __init__(self, apt):
        self.apt = apt
        # What the files were: {path: (content, status)}, or None for a file that was not there.
        self.before = {}
        self.backups = []

    @staticmethod
    def places(sets):
        """Return where the packages of sets come from, for people."""
        return " ".join(uri for one in sets if one["source"] for uri in one["source"]["uris"]) or "apt's sources"

    def close(self):
        """Remove the files that were made for apt's calls."""

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
        code, out, err = self.apt.run(*([HELPER] + options + ["download-file", url, path]))
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

    def write_one(self, source, files):
        _right, foreign = apt_sources.judge(source, files, self.apt.architecture)
        for path, text in sorted(apt_sources.rewritten([source], files, self.apt.architecture).items()):
            if path in files:
                self.backups.append(back_up(path))
            if text is None and path in foreign and os.path.islink(path):
                text = ""
            self.replace(path, None if text is None else encoded(text))

    def forget(self, sets):
        """Remove the sources that must go, and their keyrings where nothing else needs them."""
        for source in [one["source_gone"] for one in sets if one.get("source_gone")]:
            changed, unneeded = apt_sources.forgotten(source, source_files())
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

    def write(self, sources, subjects):
        """Write the sources and keyrings that are among the changes' subjects; return those read afresh."""
        stale = []
        entries = [source for source in sources if "apt source %s" % source["name"] in subjects]
        keyed = [source for source in sources if "keyring %s" % source["name"] in subjects]
        paths = list(apt_sources.rewritten(entries, source_files(), self.apt.architecture))
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
                self.write_one(source, source_files())
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
            self.apt.apt_get("-q", "update")
            return
        # A host that has read no list yet needs those of its distribution too, for dependencies: one reading does for
        # both. Where that fails, the given sources are read alone, and a transaction that lacks others reads them.
        if not glob.glob(LISTS + "/*_Packages*") and not refused(*self.apt.apt_get("-q", "update", *IMPATIENT)):
            return
        directory = tempfile.mkdtemp(prefix="gpuprov-sources-")
        try:
            for source in sources:
                name = os.path.basename(apt_sources.path_of(source))
                create(os.path.join(directory, name), apt_sources.render(source).encode("utf-8"))
            code, out, err = self.apt.apt_get(
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
        said = refused(code, out, err)
        if said:
            uris = " ".join(uri for source in sources for uri in source["uris"])
            raise HostError("apt cannot use %s: %s" % (uris, said))


def refused(code, out, err):
    """Return why an apt-get update did not read or trust all of its sources, or None where it did."""
    # apt 1.2 of 16.04 warns of a repository that it could not read, and exits with 0.
    # The reason of an "Err:" is in the next line.
    text = re.sub(r"(?m)^(Err:.*)\n +", r"\1: ", out + err)
    said = [line for line in text.splitlines() if re.match(r"(E|W|Err)[: ]", line)]
    bad = [
        line for line in said if not line.startswith("W: ") or re.search(r"Failed to fetch|GPG error|not signed", line)
    ]
    return "; ".join(bad[-3:] or said[-3:]) or "exit status %d" % code if code or bad else None


def source_files():
    """Return {path: text} of apt's sources; texts keep every byte, whatever the encoding is."""
    paths = glob.glob(apt_sources.DIRECTORY + "/*.list") + glob.glob(apt_sources.DIRECTORY + "/*.sources")
    return {path: read(path).decode("latin-1") for path in [apt_sources.MAIN] + paths if os.path.isfile(path)}


def keyrings(sets):
    """Return {path: {mode, uid, gid, data}} of the keyrings that package sets name, as far as they are there."""
    found = {}
    for one in sets:
        source = one["source"] or one.get("source_gone")
        path = source["keyring"] if source else ""
        if path and os.path.isfile(path):
            status = os.stat(path)
            found[path] = {
                "mode": "%04o" % (status.st_mode & 0o7777),
                "uid": status.st_uid,
                "gid": status.st_gid,
                "data": base64.b64encode(read(path)).decode("ascii"),
            }
    return found


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


def diff(sets, files, architecture):
    """Return the sources before and after, as text."""
    changed = apt_sources.rewritten([one["source"] for one in sets if one["source"]], files, architecture)
    return [
        {"before_header": path, "after_header": path, "before": shown(files.get(path)), "after": shown(changed[path])}
        for path in sorted(changed)
    ]


def shown(text):
    return redact(encoded(text or "").decode("utf-8", "replace"))
