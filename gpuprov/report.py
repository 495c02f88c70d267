"""A run as text for people and as JSON: pure functions over its result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

from gpuprov.result import AGAIN, Host, Run
from gpuprov.shared import plugin

_fleet = plugin("plugin_utils/text/fleet")
counted, grouped = _fleet.counted, _fleet.grouped


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
        return [f"{host.failure}: {host.error['message'].splitlines()[0]}"] if host.error else lines_of(host)

    failures = [host.failure for host in run.hosts]
    to_do_on = sum(not host.error for host in due)
    counts = [f"{counted(to_do_on, 'host')} to {to_do}", f"{failures.count('') - to_do_on} {good}"]
    counts += [f"{failures.count(word)} {word}" for word in ("failed", "unreachable") if word in failures]
    return f"{by_host(run.hosts, lines)}{title}: {', '.join(counts)}.  {run.seconds:.0f} s\n"


def lock_text(run: Run) -> str:
    """Return what was locked, or what does not fit."""
    return joined(line for host in run.hosts if host.lock for line in host.lock["lines"])


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
        rows.append((host.name, _fleet.os_name(host.facts), *cells))
    return joined(_fleet.table_lines(rows))


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
    return _fleet.version(package["version"])


def steps_text(run: Run) -> str:
    """Return how many hosts took each step, and the seconds that it took."""
    seconds: dict[str, list[float]] = {}
    for host in run.hosts:
        for step in host.steps:
            seconds.setdefault(step["name"], []).append(step["seconds"])
    rows: list[tuple[str, ...]] = [("step", "hosts", "seconds")]
    for name, all_of in seconds.items():
        least, most = (f"{value:.0f}" for value in (min(all_of), max(all_of)))
        rows.append((name, str(len(all_of)), least if least == most else f"{least} to {most}"))
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
    """Return the task, the cause and what to do next for each host that failed."""
    lines = []
    for host in run.hosts:
        if host.error:
            lines.append(f"{host.name}: {host.failure} at: {host.error['task']}")
            lines += [f"  {line}" for line in host.error["message"].splitlines()]
            lines += [f"  What to do: {host.error['hint']}"] if host.error["hint"] else []
    return joined(lines)


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
    hosts = {}
    for host in run.hosts:
        told = {key: getattr(host, key) for key in _KEYS}
        hosts[host.name] = {"status": _status(host, run), **told, "seconds": round(host.seconds, 2)}
    seconds = round(run.seconds, 2)
    about = {"format": 1, "gpuprov": version("gpuprov"), "command": run.command, "status": run.status}
    return {**about, "seconds": seconds, "hosts": hosts}


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
