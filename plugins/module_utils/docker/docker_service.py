# SPDX-License-Identifier: MIT
"""Control docker.service and daemon.json of this host. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import base64
import json
import os
import re
import time

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_files
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_json, dockerd, dockerd_flags
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import gpu_scopes
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact

SERVICE = "docker.service"
CONFIG = "/etc/docker/daemon.json"
# docker.service requires the one and talks to the other.
NEEDED = ("docker.socket", "containerd.service")
TIMED_OUT = 124  # the exit status of timeout(1)
# The arguments of apply, as a module declares them.
ARGUMENTS = {"timeout": {"type": "int", "default": 120}}
HOOK = "/usr/bin/nvidia-container-runtime-hook"


def hook_unseen(service):
    """Return whether NVIDIA's hook, for which dockerd looks when it starts, came after that."""
    try:
        with open("/proc/%d/stat" % service["main_pid"]) as handle:
            ticks = int(handle.read().rpartition(")")[2].split()[19])
        booted = time.time() - _uptime()
        return os.stat(HOOK).st_ctime > booted + ticks / float(os.sysconf("SC_CLK_TCK"))
    except (IOError, OSError):
        return False


class Service(object):
    """docker.service."""

    def __init__(self, host, timeout):
        self.host = host
        self.timeout = timeout

    def run(self, *words):
        """Return (status, stdout, stderr) of a command; 127 where it is not installed."""
        if not self.host.get_bin_path(words[0]):
            return 127, "", "%s is not installed" % words[0]
        return self.host.run_command(list(words), environ_update={"LC_ALL": "C"})

    def state(self):
        """Return (service, exec_start) in the shapes that the probe reports."""
        if not os.path.isdir("/run/systemd/system"):
            return {"load": "not-found", "active": "inactive", "state_changed": None, "main_pid": 0}, []
        names = (
            "LoadState,ActiveState,UnitFileState,MainPID,StateChangeTimestampMonotonic,FragmentPath,DropInPaths,"
            "NeedDaemonReload"
        )
        out = self.run("systemctl", "show", "--property", names, SERVICE)[1]
        values = dict(line.partition("=")[::2] for line in out.splitlines())
        since = None
        if int(values.get("StateChangeTimestampMonotonic") or 0):
            booted = time.time() - _uptime()
            since = int(booted + int(values["StateChangeTimestampMonotonic"]) / 1e6)
        paths = [values.get("FragmentPath") or ""] + (values.get("DropInPaths") or "").split()
        units = [(path, _text(path)) for path in paths if os.path.isfile(path)]
        files = {path: _text(path) for path in dockerd_flags.environment_paths(units)}
        service = {
            "load": values.get("LoadState"),
            "active": values.get("ActiveState"),
            "enabled": values.get("UnitFileState"),
            "main_pid": int(values.get("MainPID") or 0),
            "state_changed": since,
            "needs_daemon_reload": values.get("NeedDaemonReload") == "yes",
        }
        return service, dockerd_flags.exec_start(units, files, _command())

    def unread(self):
        """Return what is pending where dockerd has not started since, or None."""
        waiting = pending()
        if not waiting:
            return None
        out = self.run("systemctl", "show", "--property", "ActiveEnterTimestampMonotonic", SERVICE)[1]
        started = int(out.partition("=")[2].strip() or 0) / 1e6
        return waiting if waiting["at"] > started else None

    def go_back(self, reload=False):
        """Put daemon.json back as it was before what is pending, and docker.service where it was.

        reload: the running dockerd takes the file over so; else it starts anew.
        """
        waiting = pending()
        restore(waiting["old"], waiting["path"])
        for path, entry in (waiting.get("files") or {}).items():
            put(path, base64.b64decode(entry["data"]) if entry else None, int(entry["mode"], 8) if entry else None)
        if self.state()[0]["needs_daemon_reload"]:
            self.run("systemctl", "daemon-reload")
        if not waiting["pid"]:
            self.run("systemctl", "stop", SERVICE)
            self.run("systemctl", "reset-failed", *dockerd.COUNTING_UNITS)
        elif reload and self.state()[0]["active"] == "active":
            self.reload()
        else:
            self.restart()
        settle()

    def unmask(self, unit):
        """Unmask a unit where it is masked; one that is not there does not matter."""
        if "=masked" in self.run("systemctl", "show", "--property", "LoadState", unit)[1]:
            # Which has systemd read its units again.
            gpu_scopes.Host(self.run).keep()
            self.run("systemctl", "unmask", unit)

    def keep_gpus(self, undone, force=False):
        """Keep the GPUs of running containers when systemd reads its units again; else raise HostError, unless forced.

        undone: what is not done then.
        """
        lost = gpu_scopes.Host(self.run).keep()
        if lost and not force:
            raise HostError(
                "%s: systemd would read its units again, and these containers would lose their GPUs: %s. "
                "Stop them first" % (undone, ", ".join(sorted(lost)))
            )

    def enable(self):
        """Have dockerd start at boot. systemd reads its units again, or it goes on to say that docker is disabled."""
        self.keep_gpus("docker.service is not enabled")
        code, out, err = self.run("systemctl", "enable", SERVICE)
        if code:
            raise HostError("docker.service cannot be enabled: %s" % (err or out).strip())

    def reload(self):
        """Have dockerd read daemon.json again."""
        code, err = self._bounded("reload")
        if code:
            raise HostError("dockerd could not be reloaded: %s" % err)

    def restart(self, verb="restart"):
        """Start or restart dockerd, whatever systemd has counted against it."""
        begun = int(time.time())
        for unit in NEEDED:
            self.unmask(unit)
        self.run("systemctl", "reset-failed", *dockerd.COUNTING_UNITS)
        code, err = self._bounded(verb)
        if code == TIMED_OUT:
            raise HostError("dockerd did not start: %s" % err)
        if code:
            said = self.complaints(begun)
            # On a busy host its last words may come after its end.
            for _turn in range(10):
                if not said:
                    time.sleep(0.3)
                    said = self.complaints(begun)
            raise HostError("dockerd did not start: %s" % (said or err).rstrip("."))

    def _bounded(self, verb):
        """Have systemd do it, within the timeout: its own for dockerd is none."""
        code, _out, err = self.run("timeout", str(self.timeout), "systemctl", verb, SERVICE)
        return code, "it is not up after %d s" % self.timeout if code == TIMED_OUT else err.strip()

    def complaints(self, since, pattern=r"level=(fatal|error)|^\S.*: "):
        """Return dockerd's last complaints since a time in epoch seconds, as one line.

        Of what it ends for, dockerd says no level.
        """
        words = ["journalctl", "--since", "@%d" % since, "--no-pager", "--output", "cat", "--unit", SERVICE]
        lines = []
        self.run("journalctl", "--sync")
        for line in self.run(*(words + ["_TRANSPORT=stdout"]))[1].splitlines():  # without what systemd says
            if re.search(pattern, line) and not re.search("level=(info|warning|debug)", line) and line not in lines:
                lines.append(line)
        return redact("; ".join(lines[-3:]))


def _text(path):
    try:
        with open(path, "rb") as handle:
            return handle.read().decode("utf-8", "replace")
    except (IOError, OSError):
        return ""


def _command():
    """Return the command line of the running dockerd, or ""."""
    pid = _text("/var/run/docker.pid").strip()
    if not pid.isdigit() or _text("/proc/%s/comm" % pid).strip() != "dockerd":
        return ""
    return _text("/proc/%s/cmdline" % pid).replace("\0", " ").strip()


def read_config(path=CONFIG):
    """Return the file in the shape of the probe's docker.config."""
    result = {
        "path": path,
        "kind": "absent",
        "target": None,
        "mode": None,
        "mtime": None,
        "data": "",
    }
    if not os.path.lexists(path):
        return result
    if os.path.islink(path):
        result["kind"], result["target"] = "symlink", os.readlink(path)
        if not os.path.exists(path):
            return result
    elif not os.path.isfile(path):
        result["kind"] = "other"
        return result
    else:
        result["kind"] = "file"
    status = os.stat(path)
    with open(path, "rb") as handle:
        data = handle.read()
    result.update(
        mode="%04o" % (status.st_mode & 0o7777),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime=int(status.st_mtime),
        data=base64.b64encode(data).decode("ascii"),
    )
    return result


def read_files(paths):
    """Return {path: {mode, uid, gid, data}} of those files that are there, in the shape of the probe's proxy_files."""
    return {
        path: {key: value for key, value in read_config(path).items() if key in ("mode", "uid", "gid", "data")}
        for path in paths
        if os.path.isfile(path)
    }


def put(path, data, mode):
    """Write a file of ours, or remove it and its directory where that is empty then."""
    if data is not None:
        host_files.write(path, data, mode)
        return
    if os.path.lexists(path):
        os.unlink(path)
        try:
            os.rmdir(os.path.dirname(path))
        except OSError:
            pass


def restore(old, path):
    """Put daemon.json back as it was read, or take it away where there was none."""
    if old["kind"] == "absent":
        if os.path.exists(path):
            os.unlink(path)
    else:
        host_files.write(path, base64.b64decode(old["data"]), int(old["mode"], 8), old["uid"], old["gid"])


def pending():
    """Return what an earlier run wrote and dockerd has not taken over yet, {pid, keys, old, path, at}, or None."""
    try:
        return json.loads(_text(daemon_json.PENDING))
    except ValueError:
        return None


def _uptime():
    return float(_text("/proc/uptime").split()[0])


def set_pending(pid, keys, old, path, files):
    """Record what dockerd must take over, before daemon.json and the files of its proxy are written.

    pid is the running dockerd's or 0; files are those of the proxy as they were, {path: entry or None}.
    """
    text = json.dumps({"pid": pid, "keys": keys, "old": old, "path": path, "files": files, "at": _uptime()})
    host_files.write(daemon_json.PENDING, text.encode("ascii"), 0o600)


def settle():
    """Forget what was pending: dockerd has taken it over, or the file is as it was."""
    if os.path.exists(daemon_json.PENDING):
        os.unlink(daemon_json.PENDING)


def changes_of(service):
    """Return what keeps docker.service from running now and at boot; service as the probe reports it."""
    changes = []
    if service["load"] == "masked":
        changes.append(_change("masked", "unmasked"))
    if service["active"] not in ("active", "reloading"):
        changes.append(_change(service["active"] or "inactive", "active"))
    if service["enabled"] != "enabled" and service["load"] != "masked":
        changes.append(_change(service["enabled"] or "disabled", "enabled"))
    return changes


def _change(before, after):
    return {"role": "docker_ce", "subject": SERVICE, "from": before, "to": after, "disruption": "none"}


def apply(host, params):
    """Have dockerd run now and at boot; return {changed, changes}. Raises HostError, with the old daemon.json back."""
    service = Service(host, params["timeout"])
    before = service.state()[0]
    changes = changes_of(before)
    if not host.check_mode:
        _start(service, before)
        left = changes_of(service.state()[0]) if changes else []
        if left:
            raise HostError("docker.service is %s and should be %s" % (left[0]["from"], left[0]["to"]))
    return {"changed": bool(changes), "changes": changes}


def _start(service, before):
    """Start dockerd; on failure restore the old daemon.json and raise HostError with dockerd's message."""
    if before["load"] == "masked":
        service.unmask(SERVICE)
    if before["enabled"] != "enabled":
        service.enable()
    waiting = service.unread()
    if before["active"] not in ("active", "reloading"):
        try:
            service.restart("start")
        except HostError as error:
            if not waiting:
                raise
            said = "The file %s is as it was before this run" % waiting["path"]
            said += ", there was none" if waiting["old"]["kind"] == "absent" else ""
            try:
                service.go_back()
            except HostError as second:
                said += ", yet dockerd does not start with it either: %s" % second
            raise HostError("%s. %s" % (error, said))
        waiting = service.unread()
    if not waiting:
        settle()
