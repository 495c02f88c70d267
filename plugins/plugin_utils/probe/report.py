# SPDX-License-Identifier: MIT
"""Parse what roles/gpu_host_probe/files/probe.sh prints. Pure functions.

The format of the text is documented at the head of that script, the shape of the result in
roles/gpu_host_probe/README.md.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import io
import json
import re
import tarfile
import zlib
from typing import Any, NamedTuple

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import (
    daemon_json,
    daemon_proxy,
    docker_data,
    dockerd_flags,
    dockerrun_files,
)
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redacted
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.probe import gpu

FORMAT = 1
_Rows = dict[str, list[list[str]]]  # {key: the fields of each record with this key}
_Files = dict[str, dict[str, Any]]  # {path: {mode, uid, gid, mtime, data}}

# The Pythons that an ansible-core manages on hosts: {core: (lowest 3.x, highest 3.x, whether 2.7)}.
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


def manageable(core_version: str, python_version: str) -> bool:
    """Return whether an ansible-core manages hosts with a Python, both given as "2.21.5" and the like."""
    match = re.match(r"(\d+)\.(\d+)", python_version)
    if not match:
        return False
    python, core = (int(match[1]), int(match[2])), tuple(int(part) for part in core_version.split(".")[:2])
    newest = max(_MANAGED)
    lowest, highest, with_python2 = _MANAGED[max((known for known in _MANAGED if known <= core), default=min(_MANAGED))]
    return (3, lowest) <= python <= (3, 99 if core > newest else highest) or (with_python2 and python == (2, 7))


def choose_python(pythons: list[dict[str, str]], core_version: str) -> str | None:
    """Return the path of the first Python of the probe that an ansible-core manages, or None."""
    return next((python["path"] for python in pythons if manageable(core_version, python["version"])), None)


def parse(text: str, nonce: str) -> dict[str, Any]:
    """Return ``found`` from a host's answer to the probe with this nonce.

    Raises ProbeError for an answer that is missing, cut off, garbled or of another format.
    """
    records = _records(text, nonce)
    single = {key: fields[0] for key, fields in records if fields}
    every: _Rows = {}
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
        raise ProbeError(f"the host's answer to the probe is garbled: {error}") from error


def _found(single: dict[str, str], every: _Rows, files: _Files) -> dict[str, Any]:
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
        "apt": {**_apt(every, files), "interrupted": "dpkg_interrupted" in single},
        "docker": _docker(single, every, files),
        "dockerrun": {
            path: dockerrun_files.entry(*[files[path][key] for key in ("data", "mode", "uid", "gid")])
            for path in (dockerrun_files.LAUNCHER, dockerrun_files.DEFAULTS)
            if path in files
        },
        "groups": _groups(every.get("group", []), [accounts[fields[0]] for fields in every.get("primary_member", [])]),
        "accounts": accounts,
        "gpu": gpu.parse(single, every, files),
    }


# The keys of docker's info that facts and results hold.
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


def without_contents(found: dict[str, Any]) -> dict[str, Any]:
    """Return ``found`` without the contents of files, with redacted text and the main parts of docker's info."""
    docker, apt = found["docker"], found["apt"]
    keyrings = {path: _without_data(keyring) for path, keyring in apt["keyrings"].items()}
    info = docker["info"]
    if info:
        registry = info.get("RegistryConfig") or {}
        info = {key: info.get(key) for key in _INFO}
        info["RegistryConfig"] = {key: registry.get(key) for key in ("Mirrors", "InsecureRegistryCIDRs")}
    proxy_files = {path: _without_data(entry) for path, entry in docker["proxy_files"].items()}
    config, pending = _without_data(docker["config"]), bool(docker["pending"])
    return redacted(
        {
            **found,
            "apt": {**apt, "keyrings": keyrings, "source_files": sorted(apt["source_files"])},
            "docker": {**docker, "config": config, "proxy_files": proxy_files, "info": info, "pending": pending},
        }
    )


def _without_data(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "data"}


def _records(text: str, nonce: str) -> list[tuple[str, list[str]]]:
    lines = text.replace("\r\n", "\n").split("\n")
    heads = [number for number, line in enumerate(lines) if re.match(rf"^gpuprov-probe \S+ {re.escape(nonce)}$", line)]
    if not heads:
        first = next((line.strip() for line in lines if line.strip()), "")
        shown = re.sub(r"[^ -~]", "?", first)[:200]
        raise ProbeError(f"the host did not answer to the probe{f': it said {shown}' if shown else ''}")
    version = lines[heads[0]].split()[1]
    if version != str(FORMAT):
        raise ProbeError(f"the host answered to the probe in format {version[:20]}; this gpuprov reads format {FORMAT}")
    records: list[tuple[str, list[str]]] = []
    for line in lines[heads[0] + 1 :]:
        if line.startswith("gpuprov-probe-end "):
            if line != f"gpuprov-probe-end {nonce} {len(records)}":
                raise ProbeError("the host's answer to the probe is garbled: its count does not fit")
            return records
        fields = line.split("\t")
        records.append((fields[0], [_field(field) for field in fields[1:]]))
    whole = sum(1 for record in records if record[0])
    raise ProbeError(f"the host's answer to the probe is cut off after {whole} records")


def _field(field: str) -> str:
    if field.startswith("="):
        return field[1:]
    if field.startswith("!"):
        try:
            return base64.b64decode(field[1:].encode("ascii"), validate=True).decode("utf-8", "replace")
        except (binascii.Error, UnicodeEncodeError):
            pass
    raise ProbeError(f"the host's answer to the probe is garbled: {re.sub('[^ -~]', '?', field)[:80]}")


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ProbeError(f"the host's answer to the probe is garbled: {text[:40]} is not a number") from None


def _files(text: str) -> _Files:
    """Unpack the archive in the answer."""
    files: _Files = {}
    if not text:
        return files
    try:
        data = gzip.GzipFile(fileobj=io.BytesIO(base64.b64decode(text))).read()
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                content = archive.extractfile(member) if member.isfile() else None
                if content:
                    files["/" + member.name.lstrip("/")] = {
                        "mode": f"{member.mode & 0o7777:04o}",
                        "uid": member.uid,
                        "gid": member.gid,
                        "mtime": int(member.mtime),
                        "data": content.read(),
                    }
    except (OSError, binascii.Error, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
        raise ProbeError(f"the host's files cannot be read from its answer to the probe: {error}") from error
    return files


def _text(files: _Files, path: str) -> str:
    return files[path]["data"].decode("utf-8", "replace") if path in files else ""


def _os(files: _Files) -> dict[str, str]:
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


def _architecture(machine: str, packages: list[list[str]]) -> str:
    for fields in packages:
        if fields[0] == "dpkg":
            return fields[3]
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _space(text: str) -> dict[str, int | None]:
    blocks, size, inodes_free, inodes = text.split()
    # File systems without a fixed number of inodes report none at all.
    return {
        "free_kb": int(blocks) * int(size) // 1024,
        "free_inodes": int(inodes_free) if int(inodes) else None,
    }


def _apt(every: _Rows, files: _Files) -> dict[str, Any]:
    packages: dict[str, dict[str, Any]] = {}
    for name, version, status, _machine in every.get("package", []):
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
        "source_files": {path: _text(files, path) for path in files if path.startswith("/etc/apt/sources.list")},
        "source_links": {fields[0]: fields[1] for fields in every.get("source_link", [])},
        "keyrings": {
            path: {**entry, "data": base64.b64encode(entry["data"]).decode("ascii")}
            for path, entry in files.items()
            if path.endswith((".gpg", ".asc")) and "keyrings/" in path
        },
        "lock_holder": f"{lock[0][1]} (process {lock[0][0]})" if lock else None,
        "broken": {fields[0]: fields[1] for fields in every.get("broken", [])},
    }


def _docker(single: dict[str, str], every: _Rows, files: _Files) -> dict[str, Any]:
    service = dict(fields[0].partition("=")[::2] for fields in every.get("service", []))
    answer = _answer(single, every)
    path = "/etc/docker/daemon.json"
    config = {
        "path": path,
        "kind": single.get("config_kind", "absent"),
        "target": single.get("config_target"),
        **dict.fromkeys(("mode", "uid", "gid", "mtime")),
        "data": "",
    }
    if path in files:
        config |= {**files[path], "data": base64.b64encode(files[path]["data"]).decode("ascii")}
    process = _process(every.get("dockerd", []))
    paths = [service.get("FragmentPath") or "", *(service.get("DropInPaths") or "").split()]
    units = [(unit, _text(files, unit)) for unit in paths if unit]
    texts = {path: _text(files, path) for path in dockerd_flags.environment_paths(units)}
    start = dockerd_flags.exec_start(units, texts, process["command"] if process else "")
    return {
        "config": config,
        "exec_start": start,
        "proxy_files": {
            path: {**files[path], "data": base64.b64encode(files[path]["data"]).decode("ascii")}
            for path in daemon_proxy.MODES
            if path in files
        },
        "version": (answer.info or {}).get("ServerVersion") or single.get("dockerd_version", ""),
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
        "info": answer.info,
        "info_error": answer.error,
        "running": answer.running,
        "snap": single.get("snap") == "yes",
        "v1_volumes": [fields[0] for fields in every.get("volume", [])],
    }


def _process(rows: list[list[str]]) -> dict[str, Any] | None:
    """Return the running dockerd, or None."""
    return {"pid": _number(rows[0][0]), "command": rows[0][1].strip()} if rows else None


class _Answer(NamedTuple):
    info: dict[str, Any] | None
    running: list[dict[str, str]]  # {id, name, image} of each container
    error: str


def _answer(single: dict[str, str], every: _Rows) -> _Answer:
    """Parse the answer of dockerd's API or of its client."""
    text = single.get("info", "")
    lines = [line for line in text.splitlines() if line.strip()]
    error = single.get("info_error", "")
    if not lines:
        return _Answer(None, [], error)
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
        return _Answer(None, [], error or re.sub(r"[^ -~]", "?", lines[-1])[:300])
    if not isinstance(info, dict) or not info.get("ServerVersion"):
        errors = info.get("ServerErrors") if isinstance(info, dict) else None
        return _Answer(None, [], error or "; ".join(errors or ["dockerd does not answer"]))
    return _Answer(info, running, error)


def _since(service: dict[str, str], single: dict[str, str]) -> int | None:
    """Return when the unit last changed its state, as epoch seconds: systemd counts from boot."""
    since = int(service.get("StateChangeTimestampMonotonic") or 0)
    if not since:
        return None
    return int(int(single["clock"]) - float(single.get("uptime", "0")) + since / 1e6)


def _json(text: str) -> dict[str, Any] | None:
    """Parse a JSON object; None for anything else."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _roots(rows: list[list[str]], start: Any) -> dict[str, str]:
    """Return the data directories of docker and containerd; dockerd's without what userns-remap adds to it."""
    roots = {fields[0]: fields[1] for fields in rows}
    flag = dockerd_flags.value(start, "data-root")
    if flag:
        roots["docker"] = flag
    if "docker" in roots:
        roots["docker"] = docker_data.without_user(roots["docker"])
    return roots


def _interpreter(rows: list[list[str]]) -> dict[str, str | None] | None:
    """Return the Python that the inventory names; version is None where it does not run."""
    return {"path": rows[0][0], "version": rows[0][1] or None} if rows else None


def _groups(rows: list[list[str]], primary_members: list[str | None]) -> dict[str, Any]:
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
