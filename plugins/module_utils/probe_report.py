# SPDX-License-Identifier: MIT
"""Reads what roles/gpu_host_probe/files/probe.sh prints. Pure functions, used on the controller.

The format of the text is documented at the head of that script, the shape of the result in
roles/gpu_host_probe/README.md.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import base64
import binascii
import gzip
import io
import json
import re
import tarfile
import zlib

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import (
    daemon_json,
    docker_data,
    dockerd_flags,
    dockerrun_files,
    gpu_report,
)
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redacted

FORMAT = 1

# Pythons that an ansible-core manages on hosts: {core: (lowest and highest 3.x, and whether 2.7)}.
# Source: docs.ansible.com, "Releases and maintenance", ansible-core support matrix.
_MANAGED = {
    (2, 16): (6, 12, True),
    (2, 17): (7, 12, False),
    (2, 18): (8, 13, False),
    (2, 19): (8, 13, False),
    (2, 20): (9, 14, False),
    (2, 21): (9, 14, False),
}


class ProbeError(ValueError):
    """The host's answer cannot be used; the message says why, for people."""


def manageable(core_version, python_version):
    """Return whether an ansible-core manages hosts with a Python, both given as "2.21.5" and the like."""
    core = tuple(int(part) for part in core_version.split(".")[:2])
    lowest, highest, with_python2 = _MANAGED[min(max(core, min(_MANAGED)), max(_MANAGED))]
    match = re.match(r"^(\d+)\.(\d+)", python_version)
    if not match:
        return False
    major, minor = int(match.group(1)), int(match.group(2))
    if core > max(_MANAGED):
        highest = 99
    return (major == 3 and lowest <= minor <= highest) or (with_python2 and (major, minor) == (2, 7))


def choose_python(pythons, core_version):
    """Return the path of the first Python of the probe that an ansible-core manages, or None."""
    for python in pythons:
        if manageable(core_version, python["version"]):
            return python["path"]
    return None


def parse_report(text, nonce):
    """Return ``found`` of the text that a host answered to a probe with this nonce.

    Raises ProbeError for an answer that is missing, cut off, garbled or of another format.
    """
    records = _records(text, nonce)
    single = {key: fields[0] for key, fields in records if fields}
    every = {}
    for key, fields in records:
        every.setdefault(key, []).append(fields)
    if "uid" not in single or "clock" not in single:
        raise ProbeError("the host's answer to the probe lacks what every host has")
    files = _files(single.get("files", ""))
    try:
        return _found(single, every, files)
    except ProbeError:
        raise
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise ProbeError("the host's answer to the probe is garbled: %s" % error)


def _found(single, every, files):
    accounts = {fields[0]: fields[1] or None for fields in every.get("account", [])}
    return {
        "format": FORMAT,
        "os": _os(files),
        "architecture": _architecture(single.get("machine", ""), every.get("package", [])),
        "machine": single.get("machine", ""),
        "kernel": single.get("kernel", ""),
        "uid": _number(single["uid"]),
        "login_user": single.get("login_user") or None,
        "interpreter": _interpreter(every.get("interpreter", [])),
        "pythons": [{"path": fields[0], "version": fields[1]} for fields in every.get("python", [])],
        "init": single.get("init", "other"),
        "system_state": single.get("system_state", ""),
        "failed_units": [fields[0] for fields in every.get("failed_unit", []) if fields[0]],
        "reboot_required": single["reboot_required"].split() if "reboot_required" in single else None,
        "clock": _number(single["clock"]),
        "clock_skew": None,
        "disk": {fields[0]: _space(fields[1]) for fields in every.get("space", [])},
        "apt": dict(_apt(every, files), interrupted="dpkg_interrupted" in single),
        "docker": _docker(single, every, files),
        "dockerrun": {
            path: dockerrun_files.entry(*[files[path][key] for key in ("data", "mode", "uid", "gid")])
            for path in (dockerrun_files.LAUNCHER, dockerrun_files.DEFAULTS)
            if path in files
        },
        "groups": _groups(every.get("group", []), [accounts[fields[0]] for fields in every.get("primary_member", [])]),
        "accounts": accounts,
        "gpu": gpu_report.gpu(single, every, files),
    }


# What of docker's info people and other programs are told.
_INFO = (
    "ServerVersion",
    "Driver",
    "DockerRootDir",
    "DefaultRuntime",
    "Runtimes",
    "LoggingDriver",
    "LiveRestoreEnabled",
    "CgroupDriver",
    "CgroupVersion",
    "CDISpecDirs",
    "RuncCommit",
    "SecurityOptions",
    "Containers",
    "Images",
)


def without_contents(found):
    """Return ``found`` without the contents of files, with redacted text and the main parts of docker's info."""
    docker, apt = found["docker"], found["apt"]
    keyrings = {path: _without_data(keyring) for path, keyring in apt["keyrings"].items()}
    info = docker["info"]
    if info:
        registry = info.get("RegistryConfig") or {}
        info = dict(
            {key: info.get(key) for key in _INFO},
            RegistryConfig={key: registry.get(key) for key in ("Mirrors", "InsecureRegistryCIDRs")},
        )
    return redacted(
        dict(
            found,
            apt=dict(apt, keyrings=keyrings, source_files=sorted(apt["source_files"])),
            docker=dict(docker, config=_without_data(docker["config"]), info=info, pending=bool(docker["pending"])),
        )
    )


def _without_data(entry):
    return {key: value for key, value in entry.items() if key != "data"}


def _records(text, nonce):
    lines = text.replace("\r\n", "\n").split("\n")
    heads = [
        number for number, line in enumerate(lines) if re.match(r"^gpuprov-probe \S+ %s$" % re.escape(nonce), line)
    ]
    if not heads:
        first = next((line.strip() for line in lines if line.strip()), "")
        shown = re.sub(r"[^ -~]", "?", first)[:200]
        raise ProbeError("the host did not answer to the probe%s" % (": it said %s" % shown if shown else ""))
    version = lines[heads[0]].split()[1]
    if version != str(FORMAT):
        raise ProbeError(
            "the host answered to the probe in format %s; this gpuprov reads format %d" % (version[:20], FORMAT)
        )
    records = []
    for line in lines[heads[0] + 1 :]:
        if line.startswith("gpuprov-probe-end "):
            if line != "gpuprov-probe-end %s %d" % (nonce, len(records)):
                raise ProbeError("the host's answer to the probe is garbled: its count does not fit")
            return records
        fields = line.split("\t")
        records.append((fields[0], [_field(field) for field in fields[1:]]))
    whole = sum(1 for record in records if record[0])
    raise ProbeError("the host's answer to the probe is cut off after %d records" % whole)


def _field(field):
    if field.startswith("="):
        return field[1:]
    if field.startswith("!"):
        try:
            return base64.b64decode(field[1:].encode("ascii"), validate=True).decode("utf-8", "replace")
        except (binascii.Error, UnicodeEncodeError):
            pass
    raise ProbeError("the host's answer to the probe is garbled: %s" % re.sub(r"[^ -~]", "?", field)[:80])


def _number(text):
    try:
        return int(text)
    except ValueError:
        raise ProbeError("the host's answer to the probe is garbled: %s is no number" % text[:40])


def _files(text):
    """{path: {mode, uid, gid, mtime, data}} of the archive in the answer."""
    if not text:
        return {}
    files = {}
    try:
        data = gzip.GzipFile(fileobj=io.BytesIO(base64.b64decode(text))).read()
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                if member.isfile():
                    files["/" + member.name.lstrip("/")] = {
                        "mode": "%04o" % (member.mode & 0o7777),
                        "uid": member.uid,
                        "gid": member.gid,
                        "mtime": int(member.mtime),
                        "data": archive.extractfile(member).read(),
                    }
    except (binascii.Error, IOError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise ProbeError("the host's files cannot be read from its answer to the probe: %s" % error)
    return files


def _text(files, path):
    return files[path]["data"].decode("utf-8", "replace") if path in files else ""


def _os(files):
    values = {}
    for line in _text(files, "/etc/os-release").splitlines():
        name, _equals, value = line.partition("=")
        values[name.strip()] = value.strip().strip("\"'")
    return {
        "id": values.get("ID", ""),
        "version_id": values.get("VERSION_ID", ""),
        "codename": values.get("VERSION_CODENAME") or values.get("UBUNTU_CODENAME", ""),
        "pretty": values.get("PRETTY_NAME", ""),
        "debian_version": _text(files, "/etc/debian_version").strip(),
    }


def _architecture(machine, packages):
    for fields in packages:
        if fields[0] == "dpkg":
            return fields[3]
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _space(text):
    blocks, size, inodes_free, inodes = text.split()
    # File systems without a fixed number of inodes report none at all.
    return {
        "free_kb": int(blocks) * int(size) // 1024,
        "free_inodes": int(inodes_free) if int(inodes) else None,
    }


def _apt(every, files):
    packages = {}
    for name, version, status, _ in every.get("package", []):
        if version:
            packages[name] = {
                "version": version,
                "status": status.strip(),
                "hold": status.startswith("h"),
            }
    lock = every.get("lock")
    return {
        "version": packages.get("apt", {}).get("version", "") if "apt_get" in every else "",
        "packages": packages,
        "source_files": {
            path: entry["data"].decode("utf-8", "replace")
            for path, entry in files.items()
            if path.startswith("/etc/apt/sources.list")
        },
        "source_links": {fields[0]: fields[1] for fields in every.get("source_link", [])},
        "keyrings": {
            path: dict(entry, data=base64.b64encode(entry["data"]).decode("ascii"))
            for path, entry in files.items()
            if path.endswith((".gpg", ".asc")) and "keyrings/" in path
        },
        "lock_holder": "%s (process %s)" % (lock[0][1], lock[0][0]) if lock else None,
        "broken": {fields[0]: fields[1] for fields in every.get("broken", [])},
    }


def _docker(single, every, files):
    service = dict(fields[0].partition("=")[::2] for fields in every.get("service", []))
    info, running, error = _answers(single, every)
    path = "/etc/docker/daemon.json"
    config = dict(
        {
            "path": path,
            "kind": single.get("config_kind", "absent"),
            "target": single.get("config_target"),
        },
        mode=None,
        uid=None,
        gid=None,
        mtime=None,
        data="",
    )
    if path in files:
        config.update(files[path], data=base64.b64encode(files[path]["data"]).decode("ascii"))
    process = _process(every.get("dockerd", []))
    paths = [service.get("FragmentPath") or ""] + (service.get("DropInPaths") or "").split()
    units = [(unit, _text(files, unit)) for unit in paths if unit]
    texts = {path: _text(files, path) for path in dockerd_flags.environment_paths(units)}
    start = dockerd_flags.exec_start(units, texts, process["command"] if process else "")
    return {
        "config": config,
        "exec_start": start,
        "version": (info or {}).get("ServerVersion") or single.get("dockerd_version", ""),
        "pending": _json(_text(files, daemon_json.PENDING)),
        "roots": _roots(every.get("root", []), start),
        "units": {fields[0]: fields[1] for fields in every.get("unit", [])},
        "service": {
            "load": service.get("LoadState", ""),
            "active": service.get("ActiveState", ""),
            "sub": service.get("SubState", ""),
            "enabled": service.get("UnitFileState", ""),
            "main_pid": int(service.get("MainPID") or 0),
            "state_changed": _since(service, single),
            "needs_daemon_reload": service.get("NeedDaemonReload") == "yes",
        },
        "process": process,
        "info": info,
        "info_error": error,
        "running": running,
        "snap": single.get("snap") == "yes",
        "v1_volumes": [fields[0] for fields in every.get("volume", [])],
    }


def _process(rows):
    """The running dockerd, or None."""
    return {"pid": _number(rows[0][0]), "command": rows[0][1].strip()} if rows else None


def _answers(single, every):
    """(docker info, running containers, what was said instead) of the API's or the client's answer."""
    text = single.get("info", "")
    lines = [line for line in text.splitlines() if line.strip()]
    error = single.get("info_error", "")
    if not lines:
        return None, [], error
    try:
        info = json.loads(lines[0])
        if single.get("info_from") == "api":
            rows = json.loads(lines[1])
            running = [{"id": row["Id"], "name": row["Names"][0].lstrip("/"), "image": row["Image"]} for row in rows]
        else:
            rows = [
                json.loads(line) for fields in every.get("ps", []) for line in fields[0].splitlines() if line.strip()
            ]
            running = [{"id": row["ID"], "name": row["Names"], "image": row["Image"]} for row in rows]
    except (ValueError, KeyError, IndexError, TypeError):
        return None, [], error or re.sub(r"[^ -~]", "?", lines[-1])[:300]
    if not isinstance(info, dict) or not info.get("ServerVersion"):
        errors = info.get("ServerErrors") if isinstance(info, dict) else None
        return None, [], error or "; ".join(errors or ["dockerd does not answer"])
    return info, running, error


def _since(service, single):
    """When the unit last changed its state, as epoch seconds: systemd counts from boot."""
    since = int(service.get("StateChangeTimestampMonotonic") or 0)
    if not since:
        return None
    return int(int(single["clock"]) - float(single.get("uptime", "0")) + since / 1e6)


def _json(text):
    """The object of a JSON text, or None."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _roots(rows, start):
    """{docker, containerd: where it keeps its data}; dockerd's without the directory that userns-remap adds."""
    roots = {fields[0]: fields[1] for fields in rows}
    flag = dockerd_flags.value(start, "data-root")
    if flag:
        roots["docker"] = flag
    if "docker" in roots:
        roots["docker"] = docker_data.without_user(roots["docker"])
    return roots


def _interpreter(rows):
    """Return the Python that the inventory names; version is None where it does not run."""
    return {"path": rows[0][0], "version": rows[0][1] or None} if rows else None


def _groups(rows, primary_members):
    groups = {}
    for fields in rows:
        parts = fields[0].split(":")
        if len(parts) == 4:
            members = [name for name in parts[3].split(",") if name] + primary_members
            groups[parts[0]] = {
                "exists": True,
                "local": fields[1] == "local",
                "gid": _number(parts[2]),
                "members": members,
            }
    return groups
