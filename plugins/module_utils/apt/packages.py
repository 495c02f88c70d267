# SPDX-License-Identifier: MIT
"""Install sets of exactly pinned packages with apt, in one transaction. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import functools
import os

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import bundle, package_set, source_files, transaction
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.apt_get import ENVIRONMENT, Apt, prepare_process
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_json, dockerd
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import gpu_scopes
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact

# The arguments of apply, as a module declares them.
ARGUMENTS = {
    "sets": {"type": "list", "elements": "dict", "required": True, "no_log": True},
    "restart": {"type": "str", "choices": ["when-idle", "always", "never", "when-empty"], "default": "when-idle"},
    "lock_timeout": {"type": "int", "default": 300},
    "sources_only": {"type": "bool", "default": False},
    "proxy": {"type": "dict", "default": {}, "no_log": True},
    "locked": {"type": "dict", "default": {}},
    # [{path, suite, components}] of a bundle in bundle.DIRECTORY, from which alone packages and keys come.
    "bundle": {"type": "list", "elements": "dict", "default": []},
}
UNIT = "docker.service"
# What the subjects of changes of keyrings and sources begin with.
SOURCE_SUBJECTS = ("keyring ", "apt source ")


class Packages:
    """The package sets of this host: what is there, and what makes them right."""

    def __init__(self, host, sets, lock_timeout, proxy, locked=None, sources=source_files.Sources):
        self.sets = sets
        self.apt = Apt(host, lock_timeout, proxy)
        self.sources = sources(self.apt)
        self.transaction = transaction.Transaction(self.apt, self.sources, sets, locked)

    def close(self):
        self.transaction.close()
        self.sources.close()

    def found(self):
        """Return this host's half of the decision, in the shape of the probe's ``apt``."""
        names = [package["name"] for one in self.sets for package in one["packages"]]
        names += [name for one in self.sets for name in one["remove"]]
        names += package_set.ENGINE + package_set.LEGACY_ENGINES
        files = source_files.source_files()
        links = {path: os.path.realpath(path) for path in files if os.path.realpath(path) != path}
        return {
            "packages": self.apt.installed(names),
            "source_files": files,
            "source_links": links,
            "keyrings": source_files.keyrings(self.sets),
        }

    def decide(self, found):
        return [change for one in self.sets for change in package_set.decide(one, found, self.apt.architecture)]

    def apply_sources(self, found, changes, check=True):
        """Write keyrings and sources; return them as read again. On failure restore the old ones.

        check: see that the repositories have the wanted versions.
        """
        sources = [one["source"] for one in self.sets if one["source"]]
        try:
            stale = self.sources.write(sources, [change["subject"] for change in changes])
            if check:
                self.transaction.check(found["packages"])
            return stale
        except (HostError, IOError, OSError):
            # A source that cannot be used would be in the way of every other apt.
            self.sources.put_back()
            raise

    def apply(self, found):
        if any(os.listdir(path) for path in ("/var/lib/dpkg/updates",) if os.path.isdir(path)) or any(
            package["status"][1:2] in "UFHW" for package in found["packages"].values()
        ):
            self.apt.wait_for_lock()
            self.apt.run("dpkg", "--force-confdef", "--force-confold", "--configure", "-a")
            found = self.found()
        # Before anything else changes: a file that cannot be used leaves the host as it is.
        self.transaction.place_files(found["packages"])
        changes = self.decide(found)
        sources = [one["source"] for one in self.sets if one["source"]]
        stale = self.apply_sources(found, changes, check=False)
        unread = [source for source in sources if source not in stale]
        try:
            reinstalled = self.transaction.unpacked_in_part(found["packages"])
            if reinstalled:
                self.transaction.install(reinstalled, unread, "--reinstall")
                found = self.found()
            words = self.transaction.words(found["packages"])
            if words:
                self.transaction.install(words, unread)
        except transaction.LockRefusal:
            self.sources.put_back()
            raise
        self.sources.forget(self.sets)
        self.transaction.hold()
        left = self.decide(self.found())
        if left:
            what = ", ".join("%s is %s" % (change["subject"], change["from"] or "missing") for change in left)
            raise HostError("apt ran, and yet not everything is as wanted: %s" % what)


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


def install(host, restart, packages, found, changes):
    """Install the sets, and give containers that started meanwhile the GPUs back that systemd took from them."""
    try:
        packages.apply(found)
    finally:
        packages.transaction.remove_files()
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


def apply(host, params):
    """Apply keyrings, sources and packages; return {changed, changes, diff}. Raises HostError."""
    prepare_process()
    carried = params["bundle"] and not host.check_mode
    sources = functools.partial(bundle.Sources, sources=params["bundle"]) if carried else source_files.Sources
    packages = Packages(host, params["sets"], params["lock_timeout"], params["proxy"], params["locked"], sources)
    # Sources alone stop no engine.
    engine = "" if params["sources_only"] else engine_state(host)
    try:
        if carried:
            packages.sources.update(None)
        found = packages.found()
        changes = packages.decide(found)
        diff = []
        if host._diff:
            diff = source_files.diff(packages.sets, found["source_files"], packages.apt.architecture)
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
                packages.apply_sources(found, changes)
            elif changes:
                install(host, params["restart"], packages, found, changes)
    except HostError as error:
        raise HostError(redact(str(error)) + bring_back(host, engine))
    except (IOError, OSError) as error:
        raise HostError("a file could not be written: %s%s" % (error, bring_back(host, engine)))
    finally:
        packages.close()
    return {"changed": bool(changes), "changes": changes, "diff": diff}
