#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_daemon_config
short_description: Change dockerd's configuration without breaking dockerd
description:
  - Lays O(options) over what C(/etc/docker/daemon.json) says. Keys that nobody named stay. A file
    that is equal in meaning already is left as it is, to the byte.
  - Refuses, before anything is written, a file that is not JSON, a symbolic link that leads out
    of C(/etc/docker), a key that is a flag of dockerd too, a value dockerd could not read, and a
    restart that O(restart) does not allow.
  - Validates with C(dockerd --validate) where the installed dockerd has it, keeps a backup, writes
    atomically, reloads where a reload is enough and restarts where not, and confirms with
    C(docker info). If that fails, the old file comes back and the daemon with it.
  - Where dockerd is not installed or not running, only the file is written.
author: gpuprov contributors
options:
  options:
    description: Keys of daemon.json; objects are merged, V(null) takes a key away.
    type: dict
    required: true
  path:
    description: The file.
    type: path
    default: /etc/docker/daemon.json
  mode:
    description: The file's mode, as four octal digits; empty keeps what it has.
    type: str
    default: "0644"
  follow_symlink:
    description: Write through a symbolic link that leads out of C(/etc/docker).
    type: bool
    default: false
  restart:
    description:
      - When dockerd may be restarted. V(when-idle) means without running containers, or with
        live-restore in effect.
    type: str
    choices: [when-idle, always, never]
    default: when-idle
  backups:
    description: How many backups of the file to keep.
    type: int
    default: 5
  remove_empty:
    description: Remove the file where the last of its keys was taken away.
    type: bool
    default: false
  timeout:
    description: Seconds to wait for dockerd to answer after a reload or a restart.
    type: int
    default: 60
attributes:
  check_mode:
    description: Predicts without touching the host.
    support: full
  diff_mode:
    description: Shows the file before and after, without credentials in URLs.
    support: full
"""

EXAMPLES = r"""
- name: Pull through the mirror of this site
  gpuprov.gpuprov.docker_daemon_config:
    options:
      registry-mirrors: [https://mirror.example.com]
"""

RETURN = r"""
changes:
  description: What was changed, or in check mode would be.
  returned: success
  type: list
  elements: dict
backup:
  description: The backup of the file as it was.
  returned: when a file was replaced
  type: str
"""

import base64
import glob
import json
import os
import re
import tempfile
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import daemon_json, dockerd
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact, redacted

SERVICE = "docker.service"
TIMED_OUT = 124  # timeout(1)'s status


class DaemonError(Exception):
    """dockerd did not take the configuration over; the message says why, for people."""


def read_config(path):
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


class Docker:
    """dockerd and its service on this host."""

    def __init__(self, module):
        self.module = module

    def _run(self, *words):
        if not self.module.get_bin_path(words[0]):
            return 127, "", "%s is not installed" % words[0]
        return self.module.run_command(list(words), environ_update={"LC_ALL": "C"})

    def service(self):
        """Return (service, exec_start) in the shapes that the probe reports."""
        if not os.path.isdir("/run/systemd/system"):
            return {"load": "not-found", "active": "inactive", "state_changed": None}, []
        names = "LoadState,ActiveState,StateChangeTimestampMonotonic,FragmentPath,DropInPaths"
        out = self._run("systemctl", "show", "--property", names, SERVICE)[1]
        values = dict(line.partition("=")[::2] for line in out.splitlines())
        since = None
        if int(values.get("StateChangeTimestampMonotonic") or 0):
            with open("/proc/uptime") as handle:
                booted = time.time() - float(handle.read().split()[0])
            since = int(booted + int(values["StateChangeTimestampMonotonic"]) / 1e6)
        exec_start = []
        for path in [values.get("FragmentPath") or ""] + (values.get("DropInPaths") or "").split():
            if os.path.isfile(path):
                exec_start += self._exec_start(path)
        service = {
            "load": values.get("LoadState"),
            "active": values.get("ActiveState"),
            "state_changed": since,
        }
        return service, exec_start

    @staticmethod
    def _exec_start(path):
        lines = []
        with open(path) as handle:
            for line in handle.read().replace("\\\n", " ").splitlines():
                key, _equals, value = line.strip().partition("=")
                if key.strip() == "ExecStart":
                    lines.append({"file": path, "line": value.strip()})
        return lines

    def info(self):
        """Return (docker info as an object or None, what was said instead of it)."""
        info = dockerd.ask("/info")
        if info:
            return info, ""
        code, out, err = self._run("docker", "info", "--format", "{{json .}}")
        try:
            info = json.loads(out) if out.strip() else None
        except ValueError:
            return None, "docker info did not answer in JSON"
        # Without a daemon, newer clients answer with their own half and say why under ServerErrors.
        if not info or code or info.get("ServerErrors") or not info.get("ServerVersion"):
            return None, (err or "; ".join((info or {}).get("ServerErrors") or [])).strip()
        return info, ""

    def running(self):
        """Return [{id, name, image}] of the running containers."""
        containers = dockerd.running()
        if containers is not None:
            return containers
        out = self._run("docker", "ps", "--no-trunc", "--format", "{{.ID}}\t{{.Names}}\t{{.Image}}")[1]
        rows = [line.split("\t") for line in out.splitlines() if line.count("\t") == 2]
        return [dict(zip(("id", "name", "image"), row)) for row in rows]

    def found(self, path):
        """Return this host's half of the decision, in the shape of the probe's ``docker``."""
        service, exec_start = self.service()
        active = service["active"] in ("active", "reloading")
        return {
            "config": read_config(path),
            "service": service,
            "exec_start": exec_start,
            "info": self.info()[0] if active else None,
            "running": self.running() if active else [],
            "clock": int(time.time()),
        }

    def validate(self, old_text, text):
        """Raise DaemonError where the installed dockerd says that it would not take the text.

        Before 23 dockerd does not say so; then keys that are new are compared with those that it knows.
        """
        handle, path = tempfile.mkstemp(prefix="gpuprov-", suffix=".json")
        try:
            with os.fdopen(handle, "wb") as candidate:
                candidate.write(text)
            code, out, err = self._run("dockerd", "--validate", "--config-file", path)
        finally:
            os.unlink(path)
        if "unknown flag: --validate" in err:
            before = daemon_json.parse(old_text, "daemon.json") if old_text.strip() else {}
            unknown = daemon_json.unknown_keys(before, daemon_json.parse(text, "daemon.json"))
            if unknown:
                raise DaemonError("the installed dockerd has no such key in daemon.json: %s" % ", ".join(unknown))
        elif code and code != 127:
            raise DaemonError(
                "dockerd refuses the new daemon.json: %s" % (err or out).replace(path, "daemon.json").strip()
            )

    def reload(self):
        code, _out, err = self._bounded("reload")
        if code:
            raise DaemonError("dockerd could not be reloaded: %s" % err)

    def restart(self):
        begun = int(time.time())
        self._run("systemctl", "reset-failed", *dockerd.COUNTING_UNITS)
        code, _out, err = self._bounded("restart")
        if code == TIMED_OUT:
            raise DaemonError("dockerd did not start: %s" % err)
        if code:
            raise DaemonError("dockerd did not start: %s" % (self.journal(begun) or err))

    def _bounded(self, verb):
        """Have systemd do it, within the module's timeout: its own for dockerd is none."""
        limit = self.module.params["timeout"]
        code, out, err = self._run("timeout", str(limit), "systemctl", verb, SERVICE)
        return code, out, "it is not up after %d s" % limit if code == TIMED_OUT else err.strip()

    def journal(self, since):
        """Return dockerd's last complaints since a time in epoch seconds, as one line."""
        words = ["journalctl", "--unit", SERVICE, "--since", "@%d" % since, "--no-pager", "--output", "cat"]
        lines = [
            line
            for line in self._run(*words)[1].splitlines()
            if re.search("level=(fatal|error)|failed to|unable to", line) and "level=warning" not in line
        ]
        return redact("; ".join(lines[-3:]))

    def confirm(self, config, timeout):
        """Wait until dockerd answers and shows config in effect; return the keys that are not."""
        begun = time.time()
        deadline = begun + timeout
        settled = begun + min(timeout, 5)
        while True:
            info, said = self.info()
            missing = daemon_json.not_in_effect(config, info) if info else None
            if missing == []:
                return []
            now = time.time()
            if missing and now > settled:
                return missing
            if now > deadline:
                why = self.journal(int(begun)) or said
                raise DaemonError("dockerd does not answer %d s after: %s" % (timeout, why))
            time.sleep(0.2)


def write(path, text, mode, owner):
    """Replace a file atomically: a reader finds the old one or the new one, whole."""
    directory = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(prefix=".daemon.json.", dir=directory)
    try:
        with os.fdopen(handle, "wb") as replacement:
            replacement.write(text)
            replacement.flush()
            os.fchmod(replacement.fileno(), int(mode, 8))
            os.fchown(replacement.fileno(), owner[0], owner[1])
            os.fsync(replacement.fileno())
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def back_up(path, keep):
    """Copy the file beside itself under the time's name; return the copy's path. Prunes old ones."""
    if not os.path.exists(path):
        return None
    backup = "%s.gpuprov-%s" % (path, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
    with open(path, "rb") as handle:
        text = handle.read()
    status = os.stat(path)
    write(backup, text, "%04o" % (status.st_mode & 0o7777), (status.st_uid, status.st_gid))
    for old in sorted(glob.glob("%s.gpuprov-*" % glob_escape(path)))[: -max(keep, 1)]:
        os.unlink(old)
    return backup


def glob_escape(path):
    return "".join("[%s]" % letter if letter in "*?[" else letter for letter in path)


def apply(module, docker, found, changes, text, config):
    """Write, have dockerd take it over, confirm, and on failure go back. Returns the backup's path."""
    params = module.params
    path = os.path.realpath(params["path"])
    old = found["config"]
    disruption = daemon_json.worst(change["disruption"] for change in changes)
    mode = params["mode"] or old["mode"] or "0644"
    owner = (old.get("uid", 0), old.get("gid", 0))
    if not os.path.isdir(os.path.dirname(path)):
        os.makedirs(os.path.dirname(path), 0o755)
    backup = None
    if text is not None:
        backup = back_up(path, params["backups"])
        if params["remove_empty"] and not config and old["kind"] == "file":
            os.unlink(path)
        else:
            write(path, text, mode, owner)
    elif any(change["subject"] == "daemon.json mode" for change in changes):
        os.chmod(path, int(mode, 8))
    if disruption == "none":
        return backup
    before = {container["id"] for container in found["running"]}
    try:
        if disruption == "reload":
            docker.reload()
            missing = docker.confirm(config, params["timeout"])
            if missing:
                refusal = daemon_json.restart_refusal(
                    params["restart"],
                    [
                        {"role": daemon_json.ROLE, "subject": "daemon.json", "to": key, "disruption": "restart"}
                        for key in missing
                    ],
                    found,
                )
                if refusal:
                    raise DaemonError("a reload did not bring %s into effect; %s" % (", ".join(missing), refusal))
                disruption = "restart"
        if disruption == "restart":
            docker.restart()
            missing = docker.confirm(config, params["timeout"])
            if missing:
                raise DaemonError("dockerd runs, yet docker info does not show %s in effect" % ", ".join(missing))
        stopped = before - {container["id"] for container in docker.running()}
        if stopped and (disruption == "reload" or (found["info"] or {}).get("LiveRestoreEnabled")):
            raise DaemonError("%d containers that ran before do not run any more" % len(stopped))
    except DaemonError as error:
        roll_back(module, docker, old, text, path, disruption, str(error))
    return backup


def roll_back(module, docker, old, text, path, disruption, why):
    """Put the old file back, bring dockerd back with it, and fail with what went wrong."""
    if text is None:
        module.fail_json(msg=why)
    if old["kind"] == "absent":
        os.unlink(path)
    else:
        write(path, base64.b64decode(old["data"]), old["mode"], (old["uid"], old["gid"]))
    try:
        # A reload that was refused left the daemon running: the old file is taken over the same way.
        if disruption == "reload" and docker.service()[0]["active"] == "active":
            docker.reload()
        else:
            docker.restart()
        docker.confirm({}, module.params["timeout"])
    except DaemonError as error:
        module.fail_json(msg="%s. The old daemon.json is back, yet dockerd is not: %s" % (why, error))
    module.fail_json(msg="%s. The old daemon.json is back, and dockerd runs with it" % why)


def main():
    module = AnsibleModule(
        argument_spec={
            "options": {"type": "dict", "required": True, "no_log": True},
            "path": {"type": "path", "default": "/etc/docker/daemon.json"},
            "mode": {"type": "str", "default": "0644"},
            "follow_symlink": {"type": "bool", "default": False},
            "restart": {
                "type": "str",
                "choices": ["when-idle", "always", "never"],
                "default": "when-idle",
            },
            "backups": {"type": "int", "default": 5},
            "remove_empty": {"type": "bool", "default": False},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    params = dict(module.params)
    # no_log keeps options out of the host's journal. What is told is redacted: it needs no other mask.
    module.no_log_values.clear()
    module.params["options"] = redacted(params["options"])
    docker = Docker(module)
    found = docker.found(params["path"])
    try:
        changes, text = daemon_json.decide(params, found)
    except daemon_json.DaemonJsonError as error:
        module.fail_json(msg=str(error))
    refusal = daemon_json.cdi_refusal(params["options"], found["info"]) or daemon_json.restart_refusal(
        params["restart"], changes, found
    )
    if refusal:
        module.fail_json(msg=refusal)

    old_text = base64.b64decode(found["config"]["data"] or "")
    new_text = old_text if text is None else text
    result = {
        "changed": bool(changes),
        "changes": changes,
        "diff": {
            "before_header": params["path"],
            "after_header": params["path"],
            "before": redact(old_text.decode("utf-8", "replace")),
            "after": redact(new_text.decode("utf-8", "replace")),
        },
    }
    if changes and not module.check_mode:
        try:
            if text is not None:
                docker.validate(old_text, text)
            config = daemon_json.parse(new_text, params["path"])
            backup = apply(module, docker, found, changes, text, config)
        except DaemonError as error:
            module.fail_json(msg=str(error))
        except (IOError, OSError) as error:
            module.fail_json(msg="daemon.json could not be written: %s; it is as it was" % error)
        if backup:
            result["backup"] = backup
    module.exit_json(**result)


if __name__ == "__main__":
    main()
