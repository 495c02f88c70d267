"""The result of a run: collected from ansible-runner's events, shown by the views."""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from typing import Any

from gpuprov.options import Options
from gpuprov.shared import plugin

_fleet = plugin("plugin_utils/text/fleet")
redacted, redact = plugin("module_utils/redaction").redacted, plugin("module_utils/redaction").redact
_failures = plugin("plugin_utils/text/failures")
# Host's fields, and the keys of a task's result that hold them.
_FIELDS = {
    "facts": "gpu_host_probe", "findings": "gpu_host_findings", "plan": "gpu_host_plan", "verify": "gpu_host_verify",
    "image": "docker_image", "left": "docker_data_left", "lock": "gpuprov_lock",
}  # fmt: skip
AGAIN = "fix that and run gpuprov again: it continues where it stopped"


@dataclass
class Host:
    """Data about one host. seconds: from its first task to its last. busy: since when a task is running; 0: none is."""

    name: str
    facts: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    verify: dict[str, Any] | None = None
    image: dict[str, Any] | None = None
    lock: dict[str, Any] | None = None
    findings: list[dict[str, str]] | None = None
    changes: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    changed: int = 0
    error: dict[str, str] | None = None
    unreachable: bool = False
    reached: bool = False
    applying: bool = False
    busy: float = 0.0
    doing: str = ""
    began: float = 0.0
    seconds: float = 0.0

    @property
    def planned(self) -> list[dict[str, Any]]:
        """Return the changes of the plan."""
        return (self.plan or {}).get("changes", [])

    @property
    def pending(self) -> bool:
        """Return whether there are changes to make or to verify."""
        return bool(self.planned) and not self.error and not self.verify

    @property
    def ill(self) -> bool:
        """Return whether there is a finding of severity error or warning."""
        return any(finding["severity"] != "info" for finding in self.findings or [])

    @property
    def known(self) -> bool:
        """Return whether the run came as far as a result of this host."""
        return bool(self.changed or self.changes) or any(getattr(self, name) for name in _FIELDS)

    @property
    def unfit(self) -> bool:
        """Return whether the lock does not fit."""
        return any(system["unfit"] for system in (self.lock or {}).get("systems", []))

    @property
    def versions(self) -> tuple[str, str]:
        """Return the versions of the engine and of NVIDIA's stack that are installed; "" for neither."""
        found = _fleet.versions(self.facts)
        return found["docker"], found["nvidia"]

    @property
    def failure(self) -> str:
        """Return ``failed`` or ``unreachable``; "" for neither."""
        return "" if not self.error else "unreachable" if self.unreachable else "failed"

    def take(self, result: dict[str, Any]) -> None:
        """Take over the fields of a task's result."""
        found = {**result, **(result.get("ansible_facts") or {})}
        for name, key in _FIELDS.items():
            if key in found and (name != "plan" or self.plan is None):
                setattr(self, name, redacted(found[key]))
        self.steps = result.get("steps") or self.steps
        self.changes += redacted(result.get("changes") or [])


@dataclass
class Run:
    """One run of a command.

    names: the hosts that the run is for, where Ansible told them. notes: printed first. told: {host: the status in its
    line of JSON}. output: Ansible's last lines. refusal: why the run could not begin.
    record: what record.py keeps of the run.
    """

    command: str
    options: Options
    by_name: dict[str, Host] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False
    complete: bool = False
    previewed: bool = False
    output: deque[str] = field(default_factory=lambda: deque(maxlen=200))
    refusal: str = ""
    began: float = field(default_factory=time.monotonic)
    started: float = field(default_factory=time.time)
    seconds: float = 0.0
    record: dict[str, Any] = field(default_factory=dict)
    _sets: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def __post_init__(self) -> None:
        for host in self.by_name.values():
            self.count(host)

    @property
    def playbook(self) -> str:
        """Return the name of the command's playbook."""
        return f"{self.command.replace(' ', '_')}.yml"

    @property
    def hosts(self) -> list[Host]:
        """Return the hosts in natural order: gpu2 before gpu10."""
        return [self.by_name[name] for name in sorted(self.by_name, key=_fleet.natural)]

    @property
    def status(self) -> int:
        """Return gpuprov's exit status, as the help of the commands defines it."""
        hosts = self.by_name.values()
        failures = {host.failure for host in hosts}
        if self.interrupted:
            return 130
        if not hosts:
            return 0 if self.options.only == [] else 1
        ill = any(host.ill for host in hosts) if self.command == "doctor" else any(host.unfit for host in hosts)
        if "failed" in failures or ill:
            return 2
        if "unreachable" in failures:
            return 4
        if not self.complete:
            return 1
        return 2 if self.command == "plan" and any(host.planned for host in hosts) else 0

    def state(self, host: Host) -> str:
        """Return the status of a host, as docs/json.md lists them."""
        if host.error:
            return host.failure
        cut_off = self.interrupted or not self.complete
        if cut_off and not host.known:
            return "interrupted"
        if self.command == "doctor":
            return "ill" if host.ill else "healthy"
        if cut_off and host.reached and host.pending:
            return "interrupted"
        if host.changes or host.changed:
            return "changed"
        return "pending" if host.planned and host.verify is None else "up-to-date"

    def finished(self, host: Host) -> bool:
        """Return whether the outcome of a host is known while the run goes on."""
        if self.command == "provision" and "gpuprov_full" not in self.options.variables:
            return bool(host.error or host.verify or (host.plan and not host.planned))
        done = {"plan": host.plan, "doctor": host.plan, "verify": host.verify}.get(self.command)
        return bool(host.error or done)

    def progress(self) -> tuple[str, int, int, Counter[str]]:
        """Return how far the run is, at a cost that does not grow with the number of hosts.

        Returned are ``read`` or ``done``, the number of hosts that this holds for, failed ones too, of how many, and
        how many are failed and unreachable. The word is "" where there is nothing to count yet.
        """
        sets = self._sets
        through = sets["applied" if sets["applying"] else "read"]
        failures = Counter({state: len(through & sets[state]) for state in ("failed", "unreachable")})
        if sets["applying"]:
            return "done", len(through), len(sets["due"]), failures
        word = "read" if self.command in ("plan", "doctor", "provision") else "done"
        word = word if failures.total() < len(through) else ""
        return word, len(through), len(self.names) or len(self.by_name), failures

    def count(self, host: Host) -> None:
        """Count a host whose data have changed."""
        read = host.verify if self.command == "verify" else host.plan or host.image
        holds = {
            "read": bool(host.error or read),
            "due": bool(host.planned),
            "applying": bool(host.planned and host.applying),
            "applied": bool(host.planned and (host.error or host.steps)),
            "failed": host.failure == "failed",
            "unreachable": host.failure == "unreachable",
        }
        for name, true in holds.items():
            (self._sets[name].add if true else self._sets[name].discard)(host.name)

    def take(self, event: dict[str, Any]) -> tuple[str, Host] | None:
        """Take one event; return (what happened, host) if it concerns a host."""
        found = self._take(event)
        if found:
            self.count(found[1])
        return found

    def _take(self, event: dict[str, Any]) -> tuple[str, Host] | None:
        kind, data = event.get("event", ""), event.get("event_data", {})
        result = data.get("res") or {}
        if not kind.startswith("runner_") or not data.get("host"):
            return None
        if kind == "runner_on_failed" and (result.get("before_hosts") or result.get("interrupted")):
            # No host failed: the command itself cannot continue.
            self.refusal = str(result["msg"]) if result.get("before_hosts") else self.refusal
            return None
        name = data["host"]
        if result.get("source") and ("reason" in result or "docker_image" in result):
            # The task ran once for all hosts; Ansible reports it for the first of them.
            name, result = result["source"], {**result, "msg": result.get("reason", "")}
            kind = "runner_on_unreachable" if result.get("source_unreachable") else kind
        host = self.by_name.setdefault(name, Host(name))
        host.began = host.began or time.monotonic()
        host.seconds = time.monotonic() - host.began
        # A run that stops between two waves does not reach all hosts of the plan.
        host.reached |= host.plan is not None
        # Also where it ends: a task that ran once is reported for another host than it started for.
        host.doing = data.get("task", "").rpartition(" : ")[2].rpartition(" | ")[2] or host.doing
        host.busy = time.monotonic() if kind == "runner_on_start" else 0.0
        if host.busy:
            if str(data.get("task_action", "")).endswith("gpu_host_apply"):
                subjects = dict.fromkeys(change["subject"] for change in host.planned)
                host.applying = True
                host.doing = f"{_fleet.counted(len(host.planned), 'change')}: {', '.join(subjects)}"
            return ("start", host)
        host.applying &= kind != "runner_on_skipped"
        host.take(result)
        if kind == "runner_on_ok" and result.get("changed"):
            host.changed += 1
            return ("changed", host)
        if kind == "runner_on_unreachable" or (kind == "runner_on_failed" and not data.get("ignore_errors")):
            host.unreachable = kind == "runner_on_unreachable"
            message, cure = _failures.unreachable(result) if host.unreachable else _failures.failed(result)
            hint = cure if host.unreachable else cure or AGAIN
            host.error = {"task": result.get("step") or host.doing, "message": redact(message), "hint": hint}
            return (host.failure, host)
        return ("done", host)
