"""A run as text for people and as JSON: pure functions over its result."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable
from typing import Any

from gpuprov.result import AGAIN, Host, Run, counted
from gpuprov.shared import plugin

_lines = plugin("plugin_utils/text/host_lines")
# Longer names get lines of their own, above their text.
_LABEL = 40


# ---- parts


def grouped(said_of: Iterable[tuple[Any, Host]]) -> dict[Any, str]:
    """Return {what is said: the hosts that it is said of, as ranges}."""
    names: dict[Any, list[str]] = {}
    for said, host in said_of:
        names.setdefault(said, []).append(host.name)
    return {said: host_ranges(of) for said, of in names.items()}


def grouped_lines(said_of: Iterable[tuple[tuple[str, ...], Host]]) -> str:
    """Return the lines of each host; hosts with the same lines are grouped."""
    labels = grouped(said_of)
    width = max((len(label) for label in labels.values() if len(label) <= _LABEL), default=0)
    text = ""
    for lines, label in labels.items():
        *above, beside = [label] if len(label) <= _LABEL else [*textwrap.wrap(label, 78), ""]
        text += "\n".join([*above, f"{beside:<{width}}  {lines[0]}", *(f"  {line}" for line in lines[1:])]) + "\n"
    return text


def host_ranges(names: list[str]) -> str:
    """Return host names as ranges, as Ansible inventories write them: ``gpu[01:16], gpu18, login``."""
    runs: list[tuple[str, str, str, str]] = []  # prefix, first number, last number, suffix
    for name in names:
        match = re.fullmatch(r"(.*?)(\d+)(\D*)", name)
        before, number, after = match.groups() if match else (name, "", "")
        if runs and number:
            former, first, last, rest = runs[-1]
            follows = last and number == str(int(last) + 1).zfill(len(last))
            wider = first[:1] == "0" and len(number) > len(first)
            if follows and not wider and (former, rest) == (before, after):
                runs[-1] = (before, first, number, after)
                continue
        runs.append((before, number, number, after))
    return ", ".join(
        f"{before}[{first}:{last}]{after}" if first != last else f"{before}{first}{after}"
        for before, first, last, after in runs
    )


def table_text(rows: list[tuple[str, ...]]) -> str:
    """Return rows as aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows
    )


def change_lines(changes: list[dict[str, Any]]) -> list[str]:
    """Return an aligned line for each change."""
    width = max((len(change["subject"]) for change in changes), default=0)
    return [
        f"{change['subject']:<{width}}  {_lines.change_text(change)}"
        + ("" if change.get("disruption", "none") == "none" else f"  ({change['disruption']})")
        for change in changes
    ]


def _counts(hosts: list[Host], due: Callable[[Host], bool], to_do: str, good: str) -> str:
    first = sum(not host.error and due(host) for host in hosts)
    bad = [(word, sum(host.failure == word for host in hosts)) for word in ("failed", "unreachable")]
    rest = len(hosts) - first - sum(number for _word, number in bad)
    parts = [f"{counted(first, 'host')} {to_do}", f"{rest} {good}"]
    return ", ".join([*parts, *(f"{number} {word}" for word, number in bad if number)])


def os_name(host: Host) -> str:
    """Return a host's OS, e.g. ``debian 12``."""
    system = (host.facts or {}).get("os") or {}
    return f"{system.get('id', '')} {system.get('version_id', '')}".strip()


# ---- progress


def steps_done(host: Host) -> list[str]:
    """Name the steps that changed something, with their seconds, where that is more than a moment."""
    return [
        step["name"] + (f" ({step['seconds']:.0f} s)" if step["seconds"] >= 1 else "")
        for step in host.steps
        if step["changed"]
    ]


def progress_text(hosts: Iterable[Host]) -> str:
    """Return how many of the hosts to change are done, e.g. ``12 of 40 hosts done, 3 failed``; "" before the first."""
    due = [host for host in hosts if host.planned]
    if not any(host.applying for host in due):
        return ""
    failed = sum(bool(host.error) for host in due)
    done = sum(bool(host.steps) and not host.error for host in due)
    return f"{done} of {counted(len(due), 'host')} done" + (f", {failed} failed" if failed else "")


# ---- the plan, and what is wrong


def plan_text(hosts: list[Host], seconds: float) -> str:
    """Return the plan of all hosts. Hosts with the same plan are grouped; the last line counts hosts."""
    said = grouped_lines((_plan_lines(host), host) for host in hosts)
    return (
        f"{said}Plan: {_counts(hosts, lambda host: bool(host.planned), 'to change', 'up to date')}.  {seconds:.0f} s\n"
    )


def _plan_lines(host: Host) -> tuple[str, ...]:
    if host.error:
        return (_failure_line(host),)
    plan = host.plan or {}
    # Problems that do not block the changes.
    notes = [f"! {note['message']}" for note in plan.get("notes", [])]
    if not host.planned:
        return ("up to date", *notes)
    parts = [counted(len(host.planned), "change")]
    if plan["disruption"] != "none":
        parts.append(f"{plan['disruption']} needed")
    if plan["running"]:
        parts.append(f"{counted(len(plan['running']), 'container')} running")
    holder = ((host.facts or {}).get("apt") or {}).get("lock_holder")
    if holder:
        parts.append(f"apt held by {holder}")
    return (f"{os_name(host)}   {', '.join(parts)}", *change_lines(host.planned), *notes)


def _failure_line(host: Host) -> str:
    return f"{host.failure}: {(host.error or {'message': ''})['message'].splitlines()[0]}"


def findings_text(hosts: list[Host], seconds: float) -> str:
    """Return the findings of all hosts. Hosts with the same findings are grouped; the last line counts hosts."""
    said = grouped_lines((_finding_lines(host), host) for host in hosts)
    return f"{said}Doctor: {_counts(hosts, lambda host: host.ill, 'to cure', 'healthy')}.  {seconds:.0f} s\n"


def _finding_lines(host: Host) -> tuple[str, ...]:
    """Return message, reason and cure of each finding. The cure is not wrapped, so that it can be copied."""
    if host.error:
        return (_failure_line(host),)
    found = [finding["severity"] for finding in host.findings or []]
    counts = [counted(found.count(word), word) for word in ("error", "warning") if word in found]
    lines = [", ".join(counts) or "healthy"]
    for line in _lines.finding_lines(host.findings) if host.findings else []:
        indent = " " * (8 if line.startswith(" ") else 2)
        whole = line.startswith("  cure: ")
        lines += [line] if whole else textwrap.wrap(line, 76, subsequent_indent=indent, break_on_hyphens=False)
    return tuple(lines)


def lock_text(hosts: list[Host]) -> str:
    """Return what was locked, or what does not fit."""
    return "".join(f"{line}\n" for host in hosts if host.lock for line in host.lock["lines"])


# ---- the end


def result_text(run: Run) -> str:
    """Return the table at the end of a run."""
    rows: list[tuple[str, ...]] = [("host", "OS", "docker", "nvidia", "changed", "verified", "seconds")]
    for host in run.hosts:
        packages = ((host.facts or {}).get("apt") or {}).get("packages", {})
        docker, toolkit, v1 = (
            _version(packages.get(name)) for name in ("docker-ce", "nvidia-container-toolkit", "nvidia-docker2")
        )
        changed = str(len(host.changes) or host.changed)
        cells = (docker or "-", v1 or toolkit or "-", changed, _verified(host, run), f"{host.seconds:.0f}")
        rows.append((host.name, os_name(host), *cells))
    return table_text(rows)


def _verified(host: Host, run: Run) -> str:
    if host.verify:
        return "yes" if host.verify["ok"] else "NO"
    if host.error:
        return host.failure
    if host.pending and not host.reached:
        return "not reached"
    if run.interrupted and (host.pending or host.plan is None):
        return "interrupted"
    return "predicted" if run.options.check else "as wanted"


def _version(package: dict[str, Any] | None) -> str:
    """Return the upstream version of an installed package, e.g. 29.7.2 of 5:29.7.2-1~debian."""
    if not package or package["status"][1:2] != "i":
        return ""
    return re.split(r"[-~+]", package["version"].rpartition(":")[2])[0]


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
    notes = []
    for host in hosts:
        users = [str(change["to"]) for change in host.changes if change["role"] == "docker_group" and change["to"]]
        if users:
            notes.append((f"Log in again for the group docker to take effect: {', '.join(users)} on", host))
        notes += [(f"Left: {left}, on", host) for left in host.left]
    return "".join(f"{sentence} {names}\n" for sentence, names in grouped(notes).items())


def unfinished_text(hosts: list[Host]) -> str:
    """Describe the state of the hosts that a run did not finish."""
    states = grouped((_state(host), host) for host in hosts if host.pending)
    return "".join(f"{names}: {state}\n" for state, names in states.items())


def _state(host: Host) -> str:
    if not host.reached:
        return "not reached: as before"
    if host.applying and not host.steps:
        return "interrupted: the step at hand is completed there, and the others are not begun"
    if not host.changes:
        return "interrupted before its first change: as before"
    made = f"interrupted: {len(host.changes)} of {counted(len(host.planned), 'change')} made"
    return made + (", not verified" if len(host.changes) >= len(host.planned) else "")


def errors_text(hosts: list[Host]) -> str:
    """Return the task, the cause and what to do next for each host that failed."""
    lines = []
    for host in hosts:
        if host.error:
            lines.append(f"{host.name}: {host.failure} at: {host.error['task']}")
            lines += [f"  {line}" for line in host.error["message"].splitlines()]
            lines += [f"  What to do: {host.error['hint']}"] if host.error["hint"] else []
    return "".join(f"{line}\n" for line in lines)


def short_errors_text(hosts: list[Host]) -> str:
    """Return the errors of the hosts in a line each; hosts with the same error are grouped."""
    errors = []
    for host in hosts:
        if host.error:
            cure = "" if host.error["hint"] in ("", AGAIN) else f" ({host.error['hint']})"
            errors.append((f"{host.failure}: {host.error['message']}{cure}", host))
    return "".join(f"{names}: {text}\n" for text, names in grouped(errors).items())


def interrupted_text(run: Run) -> str:
    """Return the last line of a run that was interrupted."""
    return "Interrupted. Run it again to finish: what is done already stays.\n" if run.interrupted else ""


# ---- JSON

_KEYS = ("facts", "plan", "changes", "steps", "left", "verify", "image", "lock", "findings", "error")


def document(run: Run) -> dict[str, Any]:
    """Return the JSON document of a run; docs/json.md describes it."""
    hosts = {
        host.name: {
            "status": _status(host, run),
            **{key: getattr(host, key) for key in _KEYS},
            "seconds": round(host.seconds, 2),
        }
        for host in run.hosts
    }
    return {
        "format": 1, "command": run.command, "status": run.status, "seconds": round(run.seconds, 2), "hosts": hosts,
    }  # fmt: skip


def _status(host: Host, run: Run) -> str:
    if host.error:
        return host.failure
    if run.command == "doctor":
        return "ill" if host.ill else "healthy"
    if run.interrupted and host.reached and host.pending:
        return "interrupted"
    if host.changes or host.changed:
        return "changed"
    return "pending" if host.planned and host.verify is None else "up-to-date"
