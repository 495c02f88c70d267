# SPDX-License-Identifier: MIT
"""Change dockerd's configuration without breaking dockerd. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import base64
import glob
import json
import os
import tempfile
import time

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_files
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import (
    daemon_json,
    daemon_keys,
    daemon_proxy,
    docker_service,
    dockerd,
)
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact

# The arguments of apply, as a module declares them.
ARGUMENTS = {
    "options": {"type": "dict", "required": True, "no_log": True},
    "proxy": {"type": "dict", "default": {}, "no_log": True},
    "engine": {"type": "str", "default": ""},
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
    "disruption": {"type": "str", "choices": ["none", "reload", "restart"], "default": "restart"},
    "validate": {"type": "bool", "default": True},
    "timeout": {"type": "int", "default": 60},
}


class Docker(docker_service.Service):
    """dockerd and its service on this host."""

    def info(self):
        """Return (docker info as an object or None, what was said instead of it)."""
        info = dockerd.ask("/info")
        if info:
            return info, ""
        code, out, err = self.run("docker", "info", "--format", "{{json .}}")
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
        out = self.run("docker", "ps", "--no-trunc", "--format", "{{.ID}}\t{{.Names}}\t{{.Image}}")[1]
        rows = [line.split("\t") for line in out.splitlines() if line.count("\t") == 2]
        return [dict(zip(("id", "name", "image"), row)) for row in rows]

    def version(self):
        """Return the version of the installed dockerd, or "" where there is none."""
        out = self.run("dockerd", "--version")[1]
        return out.partition("ersion ")[2].partition(",")[0].strip()

    def found(self, params):
        """Return this host's half of the decision, in the shape of the probe's ``docker``."""
        service, exec_start = self.state()
        active = service["active"] in ("active", "reloading")
        info = self.info()[0] if active else None
        version = (info or {}).get("ServerVersion") or (self.version() if params["validate"] else "")
        if params["engine"] and (self.host.check_mode or not params["validate"] or not version):
            version = params["engine"]
        return {
            "config": docker_service.read_config(params["path"]),
            "proxy_files": docker_service.read_files(daemon_proxy.MODES),
            "service": service,
            "exec_start": exec_start,
            "info": info,
            "version": version,
            "running": self.running() if active else [],
            "pending": docker_service.pending(),
            # A plan that spoke of no restart knew of nothing that needs one.
            "hook_unseen": params["disruption"] == "restart" and docker_service.hook_unseen(service),
            "clock": int(time.time()),
        }

    def validate(self, text, version):
        """Raise HostError where the installed dockerd says that it would not take the text; before 23 it cannot.

        version: the engine's, as a tuple, () where it is unknown.
        """
        if version and version < (23,):
            return
        handle, path = tempfile.mkstemp(prefix="gpuprov-", suffix=".json")
        try:
            with os.fdopen(handle, "wb") as candidate:
                candidate.write(text)
            code, out, err = self.run("dockerd", "--validate", "--config-file", path)
        finally:
            os.unlink(path)
        if code and code != 127 and "unknown flag: --validate" not in err:
            said = redact(err or out).replace(path, "daemon.json").strip()
            raise HostError("dockerd refuses the new daemon.json: %s" % said)

    def confirm(self, options, config, timeout):
        """Wait until dockerd answers and shows the options in config in effect.

        Return the keys that it shows in effect, and those that it shows not to be.
        """
        begun = time.time()
        deadline = begun + timeout
        settled = begun + min(timeout, 5)
        while True:
            info, said = self.info()
            shown, missing = daemon_json.judged(options, config, info) if info else (set(), None)
            now = time.time()
            if missing == set() or (missing and now > settled):
                return shown, sorted(missing)
            if now > deadline:
                why = self.complaints(int(begun)) or said
                raise HostError("dockerd does not answer %d s after: %s" % (timeout, why))
            time.sleep(0.2)


def back_up(path, keep):
    """Copy the file beside itself under the time's name; return the copy's path. Prunes old ones."""
    if not os.path.exists(path):
        return None
    backup = "%s.gpuprov-%s" % (path, time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
    with open(path, "rb") as handle:
        text = handle.read()
    status = os.stat(path)
    mode = int(daemon_json.mode_of("%o" % (status.st_mode & 0o7777), text), 8)
    host_files.write(backup, text, mode, status.st_uid, status.st_gid)
    for old in sorted(glob.glob("%s.gpuprov-*" % glob_escape(path)))[: -max(keep, 1)]:
        os.unlink(old)
    return backup


def difference(path, before, after):
    """Return a file's part of Ansible's diff, without secrets."""
    return {
        "before_header": path,
        "after_header": path,
        "before": redact(before or ""),
        "after": redact(after or ""),
    }


def glob_escape(path):
    return "".join("[%s]" % letter if letter in "*?[" else letter for letter in path)


def change(docker, params, found, changes, text, config, files):
    """Write daemon.json, make dockerd take it over, confirm, and restore it on failure. Return the backup's path.

    text: what daemon.json must have, None to keep it; files: those of the proxy, as daemon_proxy.differing has them.
    """
    path = os.path.realpath(params["path"])
    old = found["config"]
    disruption = daemon_json.worst(one["disruption"] for one in changes)
    new_text = base64.b64decode(old["data"] or "") if text is None else text
    mode = daemon_json.mode_of(params["mode"], new_text) or old["mode"] or "0644"
    version = daemon_json.engine_version(found)
    unit_read = daemon_proxy.DROP_IN in files or (
        disruption == "restart" and found["service"].get("needs_daemon_reload")
    )
    if unit_read and found["service"]["load"] != "not-found":
        docker.keep_gpus("the proxy is not set", force=params["restart"] == "always")
    backup, waiting = None, docker.unread()
    proxied = any(one["subject"] == daemon_proxy.SUBJECT for one in changes)
    if text is not None or proxied:
        # The first files of several that dockerd has not read are those to go back to.
        first = waiting["old"] if waiting else old
        first_files = (waiting or {}).get("files") or {
            path: found["proxy_files"].get(path) for path in daemon_proxy.MODES
        }
        unread = daemon_json.changed_keys(daemon_json.parse(base64.b64decode(first["data"] or ""), path), config)
        unread += ["proxies"] if proxied and "proxies" not in unread else []
        docker_service.set_pending(found["service"]["main_pid"], unread, first, path, first_files)
    for name, content in files.items():
        docker_service.put(name, None if content is None else content.encode("ascii"), daemon_proxy.MODES[name])
    if text is not None:
        backup = back_up(path, params["backups"])
        if params["remove_empty"] and not config and old["kind"] == "file":
            os.unlink(path)
        else:
            host_files.write(path, text, int(mode, 8), old.get("uid", 0), old.get("gid", 0))
    elif any(one["subject"] == "daemon.json mode" for one in changes):
        os.chmod(path, int(mode, 8))
    if unit_read and found["service"]["load"] != "not-found":
        docker.run("systemctl", "daemon-reload")
    if disruption == "none":
        return backup
    before = {container["id"] for container in found["running"]}
    survive = daemon_json.survives_restart(changes, found)
    keys = daemon_json.changed_keys(daemon_json.parse(base64.b64decode(old["data"] or ""), path), config)
    options = daemon_proxy.with_proxy(daemon_keys.converted(params["options"]), params["proxy"], version)
    options, config = [daemon_json.in_effect_with(params["proxy"], version, one) for one in (options, config)]
    try:
        if disruption == "reload":
            begun = int(time.time())
            docker.reload()
            shown, missing = docker.confirm(options, config, params["timeout"])
            anew = shown - daemon_json.judged(options, config, found["info"] or {})[0]
            refused = ""
            # Keys that dockerd shows anew it took over with the whole file. Of others only its journal tells.
            if not keys or not anew.issuperset(keys):
                refused = docker.complaints(
                    begun, "unable to configure the Docker daemon|configuration validation|Error re(configur|load)ing"
                )
            if (missing or refused) and params["restart"] != "always":
                raise HostError(
                    "dockerd did not take %s over at a reload%s. A restart would, and was not planned: set "
                    "docker_daemon_restart: always for one"
                    % (", ".join(missing) or "daemon.json", ": %s" % refused if refused else "")
                )
            if missing or refused:
                disruption = "restart"
        if disruption == "restart":
            docker.restart()
            _shown, missing = docker.confirm(options, config, params["timeout"])
            if missing:
                raise HostError("dockerd runs, yet docker info does not show %s in effect" % ", ".join(missing))
        stopped = before - {container["id"] for container in docker.running()}
        if stopped and (disruption == "reload" or survive):
            raise HostError("%d containers that ran before do not run any more" % len(stopped))
    except HostError as error:
        if text is None and not proxied and not waiting:
            raise
        roll_back(docker, params["timeout"], disruption, str(error))
    docker_service.settle()
    return backup


def roll_back(docker, timeout, disruption, why):
    """Put the old file back, bring dockerd back with it, and fail with what went wrong."""
    try:
        # A reload that was refused left the daemon running: the old file is taken over the same way.
        docker.go_back(reload=disruption == "reload")
        docker.confirm({}, {}, timeout)
    except HostError as error:
        raise HostError("%s. The old daemon.json is back, yet dockerd is not: %s" % (why, error))
    raise HostError("%s. The old daemon.json is back, and dockerd runs with it" % why)


def apply(host, params):
    """Write daemon.json and make dockerd take it over; return {changed, changes, diff, backup}.

    Raises HostError; dockerd runs then as it did before.
    """
    docker = Docker(host, params["timeout"])
    found = docker.found(params)
    changes, text = daemon_json.decide(params, found)
    refusal = daemon_json.cdi_refusal(params["options"], found["info"]) or daemon_json.restart_refusal(
        params["restart"], changes, found
    )
    needed = daemon_json.worst(one["disruption"] for one in changes)
    if daemon_json.worst([needed, params["disruption"]]) != params["disruption"] and params["restart"] != "always":
        refusal = (
            "a %s of dockerd is needed now (%s), and the plan said %s: the host changed in between. Run it again"
            % (
                needed,
                ", ".join(one["to"] or one["subject"] for one in changes if one["disruption"] == needed),
                params["disruption"],
            )
        )
    if refusal:
        raise HostError(refusal)

    files = daemon_proxy.differing(params["proxy"], daemon_json.engine_version(found), found["proxy_files"])
    old_text = base64.b64decode(found["config"]["data"] or "")
    new_text = old_text if text is None else text
    result = {
        "changed": bool(changes),
        "changes": changes,
        "diff": [difference(params["path"], old_text.decode("utf-8", "replace"), new_text.decode("utf-8", "replace"))]
        + [
            difference(name, daemon_proxy.content(found["proxy_files"], name), content)
            for name, content in sorted(files.items())
        ],
    }
    if changes and not host.check_mode:
        try:
            if text is not None and params["validate"]:
                docker.validate(text, daemon_json.engine_version(found))
            config = daemon_json.parse(new_text, params["path"])
            backup = change(docker, params, found, changes, text, config, files)
        except (IOError, OSError) as error:
            raise HostError("daemon.json could not be written: %s; it is as it was" % error)
        if backup:
            result["backup"] = backup
    return result
