"""A run as text for people and as JSON: pure functions over its result."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from typing import Any

from gpuprov.result import AGAIN, Host, Run
from gpuprov.shared import plugin

_fleet = plugin("plugin_utils/text/fleet")
counted, grouped = _fleet.counted, _fleet.grouped
# More hosts than this are told together: they share rows, and a pipe gets progress in place of a line for each.
MANY = 30


# ---- parts


def joined(lines: Iterable[str]) -> str:
    """Return lines as text."""
    return "".join(f"{line}\n" for line in lines)


def by_host(hosts: list[Host], lines_of: Callable[[Host], list[str]]) -> str:
    """Return the lines of each host; hosts with the same lines are grouped."""
    return joined(_fleet.grouped_lines((lines_of(host), host.name) for host in hosts))


# ---- progress


def steps_done(host: Host) -> list[str]:
    """Name the steps that changed something, with their seconds, where that is more than a moment."""
    return [
        step["name"] + (f" ({_fleet.duration(step['seconds'])})" if step["seconds"] >= 1 else "")
        for step in host.steps
        if step["changed"]
    ]


def progress_text(run: Run) -> str:
    """Return how far a run is, e.g. ``12 of 40 hosts done, 3 failed``; "" where there is nothing to count."""
    word, through, total, failures = run.progress()
    counts = [f"{through - failures.total()} of {counted(total, 'host')} {word}"]
    counts += [f"{number} {state}" for state, number in failures.items() if number]
    return ", ".join(counts) if word else ""


def time_left(seconds: float, done: int, total: int) -> str:
    """Return how long the rest takes if it goes on as in the seconds so far; "" where that says nothing."""
    left = seconds * (total - done) / done if done else 0
    if done < 5 or left < 10:
        return ""
    return f"about {_fleet.duration(left if left < 90 else max(round(left / 60), 2) * 60)} left"


def screen_lines(run: Run, now: float, width: int, height: int) -> list[str]:
    """Return what a terminal of this size shows during a run: how far it is, the slowest hosts, and those that failed.

    now: seconds of time.monotonic().
    """
    _word, through, total, _failures = run.progress()
    lines = [text] if (text := progress_text(run)) else []
    if lines and total > 1:
        filled = 20 * through // total
        phase = now - run.began - (run.seconds if run.previewed else 0)
        left = time_left(phase, through, total)
        lines = [f"{'━' * filled}{'─' * (20 - filled)}  {lines[0]}" + (f", {left}" if left else "")]
    hosts = list(run.by_name.values())
    failed = sorted((host for host in hosts if host.error), key=lambda host: _fleet.natural(host.name))
    names = [f"{state}: {of}" for state, of in grouped((host.failure, host.name) for host in failed).items()]
    room = max(height - len(lines) - len(names) - 1, 1)
    busy = sorted((host for host in hosts if host.busy), key=lambda host: host.busy)
    column = max((len(host.name) for host in busy[:room]), default=0)
    lines += [f"{host.name:<{column}}  {now - host.busy:4.0f} s  {host.doing}" for host in busy[:room]]
    lines += [f"… and {len(busy) - room} more"] if len(busy) > room else []
    return [line if len(line) < width else f"{line[: width - 2]}…" for line in [*lines, *names]]


# ---- the plan, and what is wrong


def plan_text(run: Run) -> str:
    """Return the plan of all hosts. Hosts with the same plan are grouped; the last line counts hosts."""
    due = [host for host in run.hosts if host.planned]

    def lines(host: Host) -> list[str]:
        return _fleet.plan_lines(host.plan or {}, host.facts, run.options.details)

    short = any(not run.options.details and _fleet.folded(host.planned) != host.planned for host in due)
    text = _overview(run, "Plan", lines, due, "change", "up to date")
    return text[:-1] + "  (--details: every change)\n" if short else text


def findings_text(run: Run) -> str:
    """Return the findings of all hosts. Hosts with the same findings are grouped; the last line counts hosts."""
    due = [host for host in run.hosts if host.ill]
    return _overview(run, "Doctor", lambda host: _fleet.finding_lines(host.findings or []), due, "cure", "healthy")


def _overview(
    run: Run, title: str, lines_of: Callable[[Host], list[str]], due: list[Host], to_do: str, good: str
) -> str:
    def lines(host: Host) -> list[str]:
        return [host.failure] if host.error else lines_of(host)

    failures = [host.failure for host in run.hosts]
    to_do_on = sum(not host.error for host in due)
    counts = [f"{counted(to_do_on, 'host')} to {to_do}", f"{failures.count('') - to_do_on} {good}"]
    counts += [f"{failures.count(word)} {word}" for word in ("failed", "unreachable") if word in failures]
    return f"{by_host(run.hosts, lines)}{title}: {', '.join(counts)}.  {_fleet.duration(run.seconds)}\n"


def lock_text(run: Run) -> str:
    """Return what was locked, or what does not fit."""
    return joined(line for host in run.hosts if host.lock for line in host.lock["lines"])


# ---- the end


def result_text(run: Run) -> str:
    """Return the table at the end of a run. In the table of many hosts, those with the same result share a row."""
    many = len(run.by_name) > MANY
    groups: dict[tuple[str, ...], list[Host]] = {}
    for host in run.hosts:
        docker, nvidia = (version or "-" for version in host.versions)
        cells = (_fleet.os_name(host.facts), docker, nvidia, str(len(host.changes) or host.changed))
        groups.setdefault(("" if many else host.name, *cells, _verified(host, run)), []).append(host)
    rows: list[tuple[str, ...]] = [
        ("hosts" if many else "host", "OS", "docker", "nvidia", "changed", "verified", "time")
    ]
    for (name, *row), of in groups.items():
        rows.append((name or str(len(of)), *row, _span([host.seconds for host in of])))
    text, *lines = _fleet.table_lines(rows)
    for line, of in zip(lines, groups.values(), strict=True):
        names = textwrap.wrap(_fleet.host_ranges(host.name for host in of), 72) if many else []
        text += "\n".join(["", line, *(f"       {part}" for part in names)])
    return f"{text}\n"


def _span(seconds: list[float]) -> str:
    """Return the least and the most of some seconds: ``21 to 31 s``."""
    least, most = (_fleet.duration(value) for value in (min(seconds), max(seconds)))
    if most.removesuffix(" s").isdigit():
        least = least.removesuffix(" s") if least != most else least
    return least if least == most else f"{least} to {most}"


def _verified(host: Host, run: Run) -> str:
    if host.verify:
        return "yes" if host.verify["ok"] else "NO"
    state = run.state(host)
    if state == "pending" and not host.reached:
        return "not reached"
    if state in ("failed", "unreachable", "interrupted"):
        return state
    return "predicted" if run.options.check else "as wanted"


def steps_text(run: Run) -> str:
    """Return how many hosts took each step, and the seconds that it took."""
    seconds: dict[str, list[float]] = {}
    for host in run.hosts:
        for step in host.steps:
            seconds.setdefault(step["name"], []).append(step["seconds"])
    rows: list[tuple[str, ...]] = [("step", "hosts", "time")]
    rows += [(name, str(len(all_of)), _span(all_of)) for name, all_of in seconds.items()]
    return joined(_fleet.table_lines(rows)) if seconds else ""


def notes_text(run: Run) -> str:
    """Return what people have to do after a run that changed the hosts, and what an uninstallation left there."""
    notes = []
    for host in [] if run.options.check else run.hosts:
        users = [str(change["to"]) for change in host.changes if change["role"] == "docker_group" and change["to"]]
        if users:
            notes.append((f"Log in again for the group docker to take effect: {', '.join(users)} on", host.name))
        notes += [(f"Left: {left}, on", host.name) for left in host.left]
    return joined(f"{sentence} {names}" for sentence, names in grouped(notes).items())


def unfinished_text(run: Run) -> str:
    """Describe the state of the hosts that a run did not finish."""
    unfinished = [host for host in run.hosts if host.pending and not run.options.check]
    states = grouped((_state(host), host.name) for host in unfinished)
    return joined(f"{names}: {state}" for state, names in states.items())


def _state(host: Host) -> str:
    if not host.reached:
        return "not reached: as before"
    if host.applying and not host.steps:
        return "interrupted: the step at hand is completed there, and the others are not begun"
    if not host.changes:
        return "interrupted before its first change: as before"
    made = f"interrupted: {len(host.changes)} of {counted(len(host.planned), 'change')} made"
    return made + (", not verified" if len(host.changes) >= len(host.planned) else "")


def errors_text(run: Run) -> str:
    """Return the task, the cause and what to do next of hosts that failed; those with the same error are grouped."""
    errors = []
    for host in run.hosts:
        if host.error:
            lines = [f"{host.failure} at: {host.error['task']}", *host.error["message"].splitlines()]
            if host.error["hint"]:
                lines += textwrap.wrap(f"What to do: {host.error['hint']}", 76, break_on_hyphens=False)
            errors.append(("\n  ".join(lines), host.name))
    return joined(f"{names}: {text}" for text, names in grouped(errors).items())


def short_errors_text(run: Run) -> str:
    """Return the errors of the hosts in a line each; hosts with the same error are grouped."""
    errors = []
    for host in run.hosts:
        if host.error:
            cure = "" if host.error["hint"] in ("", AGAIN) else f" ({host.error['hint']})"
            errors.append((f"{host.failure}: {host.error['message']}{cure}", host.name))
    return joined(f"{names}: {text}" for text, names in grouped(errors).items())


# ---- JSON

_KEYS = ("facts", "plan", "changes", "steps", "left", "verify", "image", "lock", "findings", "error")


def document(run: Run) -> dict[str, Any]:
    """Return the JSON document of a run; docs/json.md describes it."""
    return {**_summary(run), "hosts": {host.name: _host(host, run) for host in run.hosts}}


def _summary(run: Run) -> dict[str, Any]:
    about = {"format": 1, "gpuprov": version("gpuprov"), "command": run.command}
    return {**about, "status": run.status, "seconds": round(run.seconds, 2)}


def _host(host: Host, run: Run) -> dict[str, Any]:
    told = {key: getattr(host, key) for key in _KEYS}
    return {"status": run.state(host), **told, "seconds": round(host.seconds, 2)}


def host_line(run: Run, host: Host, known: bool = False) -> str:
    """Return a line of JSON for a host whose outcome is known now, and was not told before; "" for other hosts."""
    status = run.state(host)
    if run.told.get(host.name) == status or not (known or run.finished(host)):
        return ""
    run.told[host.name] = status
    return json.dumps({"host": host.name, **_host(host, run)}, sort_keys=True) + "\n"


def last_lines(run: Run) -> Iterator[str]:
    """Yield the lines of JSON that end a run: those of the other hosts, and that of the run."""
    yield from (host_line(run, host, known=True) for host in run.hosts)
    yield json.dumps({**_summary(run), "hosts": Counter(map(run.state, run.hosts))}, sort_keys=True) + "\n"
