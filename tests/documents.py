"""JSON documents of runs on many hosts, made from recorded hosts, for tests of what is made from documents."""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import gpu_findings
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.probe import report

_RECORDED = Path(__file__).parent / "unit/data/probe"
_RECORDINGS = ("eight-gpus", "eight-gpus", "eight-gpus", "real-h100", "mixed-models", "mismatch", "gpu-lost", "one-gpu")
_SYSTEMS = (("debian", "12", "bookworm"), ("ubuntu", "22.04", "jammy"), ("ubuntu", "24.04", "noble"))
_ENGINES = ("5:29.7.2-1~debian.12~bookworm", "5:29.7.2-1~debian.12~bookworm", "5:28.1.1-1~debian.12~bookworm")
_STEPS = (("Write keyrings and sources", 1.2), ("Install the pinned set", 25.0), ("Prove what was promised", 6.5))
_DISCONNECTED = {"task": "Read the host", "message": "connection refused by 192.0.2.7 port 22", "hint": ""}
_FULL = {
    "task": "Install the pinned set", "message": "E: You don't have enough free space in /var/cache/apt/archives/.",
    "hint": "fix that and run gpuprov again: it continues where it stopped",
}  # fmt: skip

# Texts that could end an element, an attribute, a script or a line, or that no text file may hold.
HOSTILE = [
    "</script><script>document.title='owned'</script>", "<img src=x onerror=alert(1)>", "<!--<script>", "]]>",
    "{{script}}", "\u2028\u202e\x00\x1b[31m", "'\"&lt;", "javascript:alert(1)", "\udcff",
]  # fmt: skip


def fleet(command: str, number: int) -> dict[str, Any]:
    """Return the document of a command on hosts gpu1 to gpuNUMBER, the same each time."""
    hosts = {f"gpu{index + 1}": _host(command, index) for index in range(number)}
    return {"format": 1, "gpuprov": "0.1.0", "command": command, "status": 2, "seconds": 74.3, "hosts": hosts}


def hostile_fleet(command: str, number: int) -> dict[str, Any]:
    """Return the same document with hostile texts in the place of the hosts' names and of all that they say."""
    document = fleet(command, number)
    hosts = {f"gpu{HOSTILE[n % len(HOSTILE)]}{n}": one for n, one in enumerate(document["hosts"].values())}
    return {**document, "hosts": _hostile(hosts, itertools.count())}


def _hostile(value: Any, numbers: Iterator[int]) -> Any:
    if isinstance(value, dict):
        kept = {"status", "severity", "disruption", "role"}  # gpuprov itself sets them
        return {name: one if name in kept else _hostile(one, numbers) for name, one in value.items()}
    if isinstance(value, list):
        return [_hostile(one, numbers) for one in value]
    if isinstance(value, str):
        number = next(numbers)
        return f"{HOSTILE[number % len(HOSTILE)]}{number}"
    return value


def _host(command: str, index: int) -> dict[str, Any]:
    facts = report.without_contents(copy.deepcopy(_recorded(_RECORDINGS[index % 8])))
    system = _SYSTEMS[index % 3]
    facts["os"] = {"id": system[0], "version_id": system[1], "codename": system[2], "pretty": "", "debian_version": ""}
    engine = _ENGINES[index % 5 % 3]
    packages = {"docker-ce": engine, "containerd.io": "2.3.3-1~debian.12", "nvidia-container-toolkit": "1.19.1-1"}
    for name, version in packages.items():
        facts["apt"]["packages"][name] = {"version": version, "status": "hi", "hold": True}
    changes = _changes(engine, index)
    seconds = round(3 + index % 17 * 0.7, 2)
    host: dict[str, Any] = {
        "status": "up-to-date", "facts": facts, "plan": _plan(changes), "changes": [], "steps": [], "left": [],
        "verify": None, "image": None, "lock": None, "error": None, "seconds": seconds,
        "findings": gpu_findings.findings(facts, "toolkit"),
    }  # fmt: skip
    if command == "doctor":
        ill = any(finding["severity"] != "info" for finding in host["findings"])
        host |= {"plan": None, "status": "ill" if ill else "healthy"}
    elif changes:
        host["status"] = "pending" if command != "provision" else "changed"
    if command == "provision":
        host["verify"] = {"ok": True, "checks": _checks(engine)}
        host["steps"] = [{"name": name, "changed": True, "seconds": each + index % 7} for name, each in _STEPS]
        host |= {"changes": changes} if changes else {"steps": host["steps"][-1:]}
    if index % 41 == 7:
        host |= {"status": "unreachable", "error": _DISCONNECTED, "facts": None, "findings": None, "plan": None}
        host |= {"verify": None, "changes": [], "steps": []}
    elif index % 53 == 11 and command == "provision":
        host |= {"status": "failed", "error": _FULL, "changes": changes[:1], "verify": None, "plan": _plan(changes)}
    return host


@functools.cache
def _recorded(name: str) -> dict[str, Any]:
    return report.parse((_RECORDED / f"{name}.txt").read_text(), "recording")


def _changes(engine: str, index: int) -> list[dict[str, Any]]:
    restart = {"disruption": "restart", "from": engine, "to": "5:29.7.2-1~debian.12~bookworm"}
    changes: list[dict[str, Any]] = []
    if "29.7.2" not in engine:
        changes += [{"role": "docker_ce", "subject": name, **restart} for name in ("docker-ce", "docker-ce-cli")]
    if index % 4 == 1:
        change = {"subject": "daemon.json", "from": None, "to": 'registry-mirrors ["https://mirror.example.com"]'}
        changes.append({"role": "docker_daemon", "disruption": "reload", **change})
    if index % 9 == 2:
        change = {"subject": "docker group", "from": None, "to": "alice", "disruption": "none"}
        changes.append({"role": "docker_group", **change})
    return changes


def _plan(changes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "format": 1, "changes": changes, "left_out": [], "steps": [], "joined": False, "engine_comes": False,
        "to_prove": "gpu", "disruption": "restart" if changes else "none", "running": [], "problems": [], "notes": [],
        "wanted": {"stack": "toolkit", "cdi": False},
    }  # fmt: skip


def _checks(engine: str) -> list[dict[str, Any]]:
    details = {
        "pinned packages": f"docker-ce {engine}",
        "docker runs, at boot too": "active, enabled",
        "container sees the GPU": "8 GPUs",
        "GPU computes right": "NVIDIA H100 80GB HBM3",
    }
    return [{"name": name, "ok": True, "detail": detail} for name, detail in details.items()]
