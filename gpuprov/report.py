"""Text and JSON about a run: pure functions over the data collected from its events."""

from __future__ import annotations

import re
import textwrap
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]

_CREDENTIALS = re.compile(r"(://)[^/@\s\"']+@")

# Messages of Ansible and ssh, and what they mean.
_UNREACHABLE = (
    (r"connect to host (\S+) port (\d+): Connection refused", r"connection refused by \1 port \2"),
    (
        r"connect to host (\S+) port (\d+): (?:Connection timed out|Operation timed out)",
        r"no answer from \1 port \2",
    ),
    (r"connect to host (\S+) port (\d+): No route to host", r"no route to \1"),
    (r"Could not resolve hostname ([^\s:]+)", r"the name \1 cannot be resolved"),
    (
        r"Host key verification failed",
        "the host key is not known, or has changed: check it, then put it into known_hosts",
    ),
    (r"(Permission denied \([^)]*\))", r"\1: see -u and --private-key, or -k for a password"),
    (r"Connection timed out", "no answer within the time allowed"),
)
_FAILED = (
    (
        r"Missing (\w+) password|\b(sudo|doas): (?:a password is|interactive authentication is|\w+) required",
        r"\1\2 needs a password that was not given",
        "give it with -K, or allow the account to become root without one",
    ),
    (
        r"Incorrect (\w+) password",
        r"\1 did not accept the password",
        r"give the password that \1 asks for with -K (su: that of root; sudo and doas: that of the login user)",
    ),
    (
        r"must have a tty",
        "sudo asks for a terminal (requiretty)",
        "take that away for this account, or set ansible_pipelining=false",
    ),
    (
        r"/usr/bin/python\S*: (No such file|not found)|interpreter .* not found",
        "there is no Python on the host",
        "install python3 there: apt-get install python3",
    ),
    # Must be last: Ansible prints this for the errors above too.
    (
        r"No start of json char found|Module result deserialization failed",
        "the Python on the host is not one that this ansible-core manages",
        "Ubuntu 16.04 and 18.04 need ansible-core 2.16: install gpuprov with its extra xenial (README, What it needs)",
    ),
)


_AGAIN = "fix that and run gpuprov again: it continues where it stopped"


def redact(text: str) -> str:
    """Replace the user information of every URL in a text by ``***``."""
    return _CREDENTIALS.sub(r"\1***@", text)


def redacted(value: Any) -> Any:
    """Redact every string in a JSON value."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redacted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redacted(inner) for inner in value]
    return value


@dataclass
class Host:
    """Data about one host. seconds is the time from its first task to its last."""

    name: str
    facts: dict[str, Any] | None = None
    plan: dict[str, Any] | None = None
    verify: dict[str, Any] | None = None
    image: dict[str, Any] | None = None
    findings: list[dict[str, str]] | None = None
    changes: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    changed: int = 0
    error: dict[str, str] | None = None
    unreachable: bool = False
    reached: bool = False
    applying: bool = False
    doing: str = ""
    began: float = 0.0
    seconds: float = 0.0


class Collector:
    """Collect data about each host from a run's events."""

    def __init__(self) -> None:
        self.hosts: dict[str, Host] = {}

    def take(self, event: Event) -> tuple[str, Host] | None:
        """Process one event; return (what happened, host) if it concerns a host."""
        kind = event.get("event", "")
        data = event.get("event_data", {})
        if not kind.startswith("runner_") or not data.get("host"):
            return None
        host = self.hosts.setdefault(data["host"], Host(data["host"]))
        host.began = host.began or time.monotonic()
        host.seconds = time.monotonic() - host.began
        result = data.get("res") or {}
        task = words_of(data.get("task", ""))
        # A run that stops between two waves does not reach all hosts of the plan.
        host.reached |= host.plan is not None
        # Also where it ends: a task that ran once is reported for another host than it started for.
        host.doing = task or host.doing
        if kind == "runner_on_start":
            if str(data.get("task_action", "")).endswith("gpu_host_apply"):
                host.applying = True
                host.doing = applied_text(host.plan or {})
            return ("start", host)
        if kind == "runner_on_skipped":
            host.applying = False
        self._take_result(host, result)
        task = result.get("step") or task
        if kind == "runner_on_ok" and result.get("changed"):
            host.changed += 1
            return ("changed", host)
        if kind == "runner_on_unreachable":
            host.unreachable = True
            host.error = {
                "task": task,
                "message": unreachable_text(result.get("msg", "")),
                "hint": "",
            }
            return ("unreachable", host)
        if kind == "runner_on_failed" and not data.get("ignore_errors"):
            message, hint = failure_text(result)
            host.error = {"task": task, "message": message, "hint": hint}
            return ("failed", host)
        return ("done", host)

    @staticmethod
    def _take_result(host: Host, result: dict[str, Any]) -> None:
        facts = result.get("ansible_facts") or {}
        if "gpu_host_probe" in facts:
            host.facts = facts["gpu_host_probe"]
        if "gpu_host_findings" in facts:
            host.findings = facts["gpu_host_findings"]
        if "gpu_host_plan" in facts and host.plan is None:
            host.plan = facts["gpu_host_plan"]
        if "gpu_host_verify" in result:
            host.verify = result["gpu_host_verify"]
        if "docker_image" in result:
            host.image = result["docker_image"]
        host.steps = result.get("steps") or host.steps
        host.left = result.get("docker_data_left", host.left)
        host.changes += result.get("changes") or []


def words_of(task: str) -> str:
    """Return a task's name without its prefix of role and file."""
    return task.rpartition(" : ")[2].rpartition(" | ")[2]


def unreachable_text(message: str) -> str:
    """Explain why a host could not be reached."""
    for pattern, words in _UNREACHABLE:
        match = re.search(pattern, message)
        if match:
            return match.expand(words)
    said = message.removeprefix("Task failed: ").removeprefix("Failed to connect to the host via ssh:").strip()
    return redact(said) or "ssh ended without a message"


def failure_text(result: dict[str, Any]) -> tuple[str, str]:
    """Explain a failed task's result: return (cause, what to do next)."""
    if "censored" in result:
        return "the task keeps its output to itself (no_log)", _AGAIN
    broken = [item for item in result.get("results") or [] if isinstance(item, dict) and item.get("failed")]
    if broken:
        return failure_text(broken[0])
    said = "\n".join(
        str(result.get(name) or "") for name in ("msg", "stderr", "module_stderr", "stdout", "module_stdout")
    )
    for pattern, cause, hint in _FAILED:
        found = re.search(pattern, said)
        if found:
            return found.expand(cause), found.expand(hint)
    message = str(result.get("msg") or "").strip()
    of_module = str(result.get("module_stderr") or result.get("module_stdout") or "").strip()
    if message.startswith("MODULE FAILURE") and of_module:
        message = of_module.splitlines()[-1]
    if message in ("", "non-zero return code", "MODULE FAILURE"):
        # With a terminal, stderr holds only the last line of ssh itself.
        stderr = re.sub(r"^Shared connection to \S+ closed\.\s*$", "", str(result.get("stderr") or ""), flags=re.M)
        output = stderr.strip() or str(result.get("stdout") or "").strip()
        message = output or message or "it failed without a message"
    message = re.sub(r"^(Task failed: |Module failed: |Action failed: )+", "", message)
    if "Traceback (most recent call last)" in message:
        message = message.strip().splitlines()[-1]
    return redact(message), _AGAIN


# ---- progress


def applied_text(plan: dict[str, Any]) -> str:
    """Name what is being applied, e.g. ``3 changes: docker-ce, daemon.json``."""
    subjects = dict.fromkeys(change["subject"] for change in plan.get("changes", []))
    return f"{_count(len(plan.get('changes', [])), 'change')}: {', '.join(subjects)}"


def steps_done(steps: list[dict[str, Any]]) -> list[str]:
    """Name the steps that changed something, with their seconds, where that is more than a moment."""
    return [
        step["name"] + (f" ({step['seconds']:.0f} s)" if step["seconds"] >= 1 else "")
        for step in steps
        if step["changed"]
    ]


def progress_text(hosts: Iterable[Host]) -> str:
    """Return how many of the hosts to change are done, e.g. ``12 of 40 hosts done, 3 failed``; "" before the first."""
    due = [host for host in hosts if (host.plan or {}).get("changes")]
    if not any(host.applying for host in due):
        return ""
    failed = sum(bool(host.error) for host in due)
    done = sum(bool(host.steps) and not host.error for host in due)
    return f"{done} of {_count(len(due), 'host')} done" + (f", {failed} failed" if failed else "")


# ---- the plan


def change_text(change: dict[str, Any]) -> str:
    """Describe a change, e.g. ``5:28 → 5:29`` or ``+ alice``."""
    before, after = change["from"], change["to"]
    if before is None:
        return redact(f"+ {after}")
    if after is None:
        return redact(f"- {before}")
    return redact(f"{before} → {after}")


def host_heading(host: Host) -> str:
    """Describe a host in one line: its OS and the number of changes."""
    plan = host.plan or {}
    changes = plan.get("changes", [])
    if host.error:
        return ("unreachable: " if host.unreachable else "failed: ") + host.error["message"].splitlines()[0]
    if not changes:
        return "up to date"
    parts = [_count(len(changes), "change")]
    if plan["disruption"] != "none":
        parts.append(f"{plan['disruption']} needed")
    if plan["running"]:
        parts.append(f"{_count(len(plan['running']), 'container')} running")
    holder = ((host.facts or {}).get("apt") or {}).get("lock_holder")
    if holder:
        parts.append(f"apt held by {holder}")
    return f"{os_name(host)}   {', '.join(parts)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def as_counted(name: str) -> list[tuple[int, str]]:
    """Return the sort key for natural order: gpu2 before gpu10, 1.9.1 before 1.10.0."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def os_name(host: Host) -> str:
    """Return a host's OS, e.g. ``debian 12``."""
    system = (host.facts or {}).get("os") or {}
    return f"{system.get('id', '')} {system.get('version_id', '')}".strip()


# Longer names get lines of their own, above their text.
_LABEL = 40


def plan_text(hosts: list[Host], seconds: float) -> str:
    """Return the plan of all hosts. Hosts with the same plan are grouped; the last line counts hosts."""
    said = together((host, (host_heading(host), *_change_lines(host), *_note_lines(host))) for host in hosts)
    return f"{said}Plan: {count_text(hosts)}.  {seconds:.0f} s\n"


def together(said_of: Iterable[tuple[Host, tuple[str, ...]]]) -> str:
    """Return the lines of each host; hosts with the same lines are grouped."""
    said: dict[tuple[str, ...], list[str]] = {}
    for host, said_lines in said_of:
        said.setdefault(said_lines, []).append(host.name)
    labels = {lines: host_ranges(names) for lines, names in said.items()}
    width = max((len(label) for label in labels.values() if len(label) <= _LABEL), default=0)
    text = ""
    for lines, label in labels.items():
        *above, beside = [label] if len(label) <= _LABEL else [*textwrap.wrap(label, 78), ""]
        text += "\n".join([*above, f"{beside:<{width}}  {lines[0]}", *(f"  {line}" for line in lines[1:])]) + "\n"
    return text


def _change_lines(host: Host) -> list[str]:
    changes = [] if host.error else (host.plan or {}).get("changes", [])
    width = max((len(change["subject"]) for change in changes), default=0)
    return [
        f"{change['subject']:<{width}}  {change_text(change)}"
        + ("" if change["disruption"] == "none" else f"  ({change['disruption']})")
        for change in changes
    ]


def _note_lines(host: Host) -> list[str]:
    """Return problems that do not block the changes."""
    notes = [] if host.error else (host.plan or {}).get("notes", [])
    return [redact(f"! {note['message']}") for note in notes]


def host_ranges(names: list[str]) -> str:
    """Return host names as ranges, as Ansible inventories write them: ``gpu[01:16], gpu18, login``."""
    runs: list[tuple[str, str, str, str]] = []  # prefix, first number, last number, suffix
    for name in names:
        match = re.fullmatch(r"(.*?)(\d+)(\D*)", name)
        before, number, after = match.groups() if match else (name, "", "")
        if runs and number:
            former, first, last, rest = runs[-1]
            follows = (
                last
                and number == str(int(last) + 1).zfill(len(last))
                and not (first[0] == "0" and len(number) > len(first))
            )
            if follows and (former, rest) == (before, after):
                runs[-1] = (before, first, number, after)
                continue
        runs.append((before, number, number, after))
    return ", ".join(
        f"{before}[{first}:{last}]{after}" if first != last else f"{before}{first}{after}"
        for before, first, last, after in runs
    )


def count_text(hosts: list[Host]) -> str:
    """Count the hosts that will change, are up to date, failed, or are unreachable."""
    unreachable = sum(host.unreachable for host in hosts)
    failed = sum(bool(host.error) and not host.unreachable for host in hosts)
    pending = sum(not host.error and bool((host.plan or {}).get("changes")) for host in hosts)
    good = len(hosts) - unreachable - failed - pending
    parts = [f"{_count(pending, 'host')} to change", f"{good} up to date"]
    if failed:
        parts.append(f"{failed} failed")
    if unreachable:
        parts.append(f"{unreachable} unreachable")
    return ", ".join(parts)


# ---- what is wrong


def ailments(host: Host) -> list[dict[str, str]]:
    """Return a host's findings of severity error or warning."""
    return [finding for finding in host.findings or [] if finding["severity"] != "info"]


def findings_text(hosts: list[Host], seconds: float) -> str:
    """Return the findings of all hosts. Hosts with the same findings are grouped; the last line counts hosts."""
    said = together((host, (_health(host), *_finding_lines(host))) for host in hosts)
    unreachable = sum(host.unreachable for host in hosts)
    failed = sum(bool(host.error) and not host.unreachable for host in hosts)
    ill = sum(not host.error and bool(ailments(host)) for host in hosts)
    parts = [f"{_count(ill, 'host')} to cure", f"{len(hosts) - ill - failed - unreachable} healthy"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{unreachable} unreachable"] if unreachable else []
    return f"{said}Doctor: {', '.join(parts)}.  {seconds:.0f} s\n"


def _health(host: Host) -> str:
    if host.error:
        return host_heading(host)
    found = [finding["severity"] for finding in host.findings or []]
    counts = [_count(found.count(word), word) for word in ("error", "warning") if word in found]
    return ", ".join(counts) or "healthy"


def _finding_lines(host: Host) -> list[str]:
    """Return message, reason and cure of each finding. The cure is not wrapped, so that it can be copied."""
    lines = []
    for finding in [] if host.error else host.findings or []:
        lines += textwrap.wrap(
            redact(f"{finding['severity']} {finding['name']}: {finding['message']}"), 76, subsequent_indent="  ",
            break_on_hyphens=False, break_long_words=False,
        )  # fmt: skip
        lines += textwrap.wrap(f"why:  {finding['why']}", 76, initial_indent="  ", subsequent_indent="        ")
        lines.append(redact(f"  cure: {finding['cure']}"))
    return lines


# ---- the end


def result_rows(hosts: list[Host], check: bool = False, interrupted: bool = False) -> list[tuple[str, ...]]:
    """Return the rows of the table at the end of a run, with the header first."""
    rows: list[tuple[str, ...]] = [("host", "OS", "docker", "nvidia", "changed", "verified", "seconds")]
    for host in hosts:
        packages = {**((host.facts or {}).get("apt") or {}).get("packages", {})}
        if host.error and not host.verify:
            state = "unreachable" if host.unreachable else "failed"
        elif host.verify:
            state = "yes" if host.verify["ok"] else "NO"
        elif _is_pending(host) and not host.reached:
            state = "not reached"
        elif interrupted and (_is_pending(host) or host.plan is None):
            state = "interrupted"
        else:
            state = "predicted" if check else "as wanted"
        docker = _version(packages.get("docker-ce"))
        nvidia = _version(packages.get("nvidia-docker2")) or _version(packages.get("nvidia-container-toolkit"))
        changed = str(len(host.changes) or host.changed)
        rows.append(
            (
                host.name,
                os_name(host),
                docker or "-",
                nvidia or "-",
                changed,
                state,
                f"{host.seconds:.0f}",
            )
        )
    return rows


def _version(package: dict[str, Any] | None) -> str:
    """Return the upstream version of an installed package, e.g. 29.7.2 of 5:29.7.2-1~debian."""
    if not package or package["status"][1:2] != "i":
        return ""
    return str(re.split(r"[-~+]", package["version"].rpartition(":")[2])[0])


def table_text(rows: list[tuple[str, ...]]) -> str:
    """Return rows as aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def steps_text(hosts: list[Host]) -> str:
    """Return how many hosts took each step, and the seconds that it took."""
    seconds: dict[str, list[float]] = {}
    for host in hosts:
        for step in host.steps:
            seconds.setdefault(step["name"], []).append(step["seconds"])
    rows: list[tuple[str, ...]] = [("step", "hosts", "seconds")]
    for name, all_of in seconds.items():
        least, most = (f"{value:.0f}" for value in (min(all_of), max(all_of)))
        rows.append((name, str(len(all_of)), least if least == most else f"{least} to {most}"))
    return table_text(rows) if seconds else ""


def notes_text(hosts: list[Host]) -> str:
    """Return what people have to do after a run that changed the hosts, and what an uninstallation left there."""
    notes: dict[str, list[str]] = {}
    for host in hosts:
        users = [str(change["to"]) for change in host.changes if change["role"] == "docker_group" and change["to"]]
        sentences = [f"Log in again for the group docker to take effect: {', '.join(users)} on"] if users else []
        for sentence in [*sentences, *(f"Left: {left}, on" for left in host.left)]:
            notes.setdefault(sentence, []).append(host.name)
    return "".join(f"{sentence} {host_ranges(names)}\n" for sentence, names in notes.items())


def _is_pending(host: Host) -> bool:
    """Return whether a host has changes to make or must still be verified."""
    return bool((host.plan or {}).get("changes")) and not host.error and not host.verify


def unfinished_text(hosts: list[Host]) -> str:
    """Describe the state of the hosts that a run did not finish."""
    said: dict[str, list[str]] = {}
    for host in hosts:
        if not _is_pending(host):
            continue
        plan = host.plan or {}
        if not host.reached:
            text = "not reached: as before"
        elif host.applying and not host.steps:
            text = "interrupted: the step at hand is completed there, and the others are not begun"
        elif not host.changes:
            text = "interrupted before its first change: as before"
        else:
            text = f"interrupted: {len(host.changes)} of {_count(len(plan['changes']), 'change')} made"
            text += ", not verified" if len(host.changes) >= len(plan["changes"]) else ""
        said.setdefault(text, []).append(host.name)
    return "".join(f"{host_ranges(names)}: {text}\n" for text, names in said.items())


def cure(host: Host) -> str:
    """Return what to do about a host's failure, or "" if that is only to run gpuprov again."""
    hint = (host.error or {}).get("hint", "")
    return "" if hint == _AGAIN else hint


def errors_text(hosts: list[Host]) -> str:
    """Return the task, the cause and what to do next for each host that failed."""
    lines = []
    for host in hosts:
        if not host.error:
            continue
        word = "unreachable" if host.unreachable else "failed"
        lines.append(f"{host.name}: {word} at: {host.error['task']}")
        lines += [f"  {line}" for line in host.error["message"].splitlines()]
        if host.error["hint"]:
            lines.append(f"  What to do: {host.error['hint']}")
    return "\n".join(lines) + ("\n" if lines else "")


def document(command: str, status: int, hosts: list[Host], seconds: float) -> dict[str, Any]:
    """Return the JSON document of a run; docs/json.md describes it."""
    return {
        "format": 1,
        "command": command,
        "status": status,
        "seconds": round(seconds, 2),
        "hosts": {
            host.name: redacted(
                {
                    "status": _host_status(host, command, interrupted=status == 130),
                    "facts": host.facts,
                    "plan": host.plan,
                    "changes": host.changes,
                    "steps": host.steps,
                    "left": host.left,
                    "verify": host.verify,
                    "image": host.image,
                    "findings": host.findings,
                    "error": host.error,
                    "seconds": round(host.seconds, 2),
                }
            )
            for host in hosts
        },
    }


def _host_status(host: Host, command: str, interrupted: bool) -> str:
    if host.error:
        return "unreachable" if host.unreachable else "failed"
    if command == "doctor":
        return "ill" if ailments(host) else "healthy"
    if interrupted and host.reached and _is_pending(host):
        return "interrupted"
    if host.changes or host.changed:
        return "changed"
    if (host.plan or {}).get("changes") and host.verify is None:
        return "pending"
    return "up-to-date"
