"""The record of a run, kept beside its log, and the commands ``gpuprov runs``, which read the records."""

from __future__ import annotations

import functools
import getpass
import json
import os
import socket
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from gpuprov import runner
from gpuprov.options import Options, UsageError
from gpuprov.result import Host, Run, redact, redacted
from gpuprov.shared import plugin

_fleet = plugin("plugin_utils/text/fleet")
# The other fields of Options are recorded elsewhere, ask for passwords, or concern only what is printed.
_OPTIONS = (
    "limit", "forks", "user", "private_key", "vault_password_files", "check", "diff", "tags", "skip_tags", "workers",
)  # fmt: skip

app = typer.Typer(help="Earlier runs: who, when, which hosts, what changed.", rich_markup_mode=None)
AsJson = Annotated[bool, Option("--json", help="Print the records as JSON.")]


def write(directory: Path, run: Run, status: int | None = None, error: str = "") -> None:
    """Write the record of a run to its directory, and note it in run. status: the exit status; None: the run begins."""
    groups: dict[str, dict[str, Any]] = {}
    unseen = [Host(name) for name in run.names if name not in run.by_name]
    for host in [*run.hosts, *unseen] if status is not None else []:
        docker, nvidia = host.versions
        changes, why = _fleet.change_lines(host.changes), host.error and host.error["message"]
        result = {"status": run.state(host), "docker": docker, "nvidia": nvidia, "changes": changes, "error": why}
        groups.setdefault(json.dumps(result), {"hosts": [], **result})["hosts"].append(host.name)
    run.record = {
        "format": 1, "id": directory.name, "command": run.command, "inventory": run.options.inventory,
        "options": _given(run.options), "machine": socket.gethostname(),
        "user": os.environ.get("SUDO_USER") or _account(),
        "began": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(run.started)),
        "seconds": round(run.seconds, 2), "status": status, "error": redact(error),
        "versions": versions(), "results": list(groups.values()),
    }  # fmt: skip
    new = directory / "run.json.new"
    new.write_text(json.dumps(run.record, indent=1) + "\n", encoding="utf-8")
    new.replace(directory / "run.json")


def _account() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


@functools.cache
def versions() -> dict[str, str]:
    """Return {distribution: version} of gpuprov and of what it runs."""
    return {name: metadata.version(name) for name in ("gpuprov", "ansible-core", "ansible-runner")}


def _given(options: Options) -> dict[str, Any]:
    """Return the options that were given. Values of -e may be secret: only the names of the variables are recorded."""
    given = {name: getattr(options, name) for name in _OPTIONS}
    values = [runner.extra_vars(text) for text in options.extra_vars or []]
    given["extra_vars"] = [name for one in values for name in ([f"@{one}"] if isinstance(one, Path) else one)]
    given |= {name: value for name, value in options.variables.items() if isinstance(value, str | int)}
    return redacted(
        json.loads(
            json.dumps({name: value for name, value in given.items() if value and name != "gpuprov_quiet"}, default=str)
        )
    )


def records() -> list[dict[str, Any]]:
    """Return the records of all runs, the newest last; ``ended`` says in words how each ended."""
    found = []
    for path in sorted(runner.runs_directory().glob("*/run.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # deleted meanwhile, or cut off by a full disk
        ended = "running" if runner.goes_on(path.parent) else "killed"
        record["ended"] = ended if record["status"] is None else f"exit {record['status']}"
        found.append(record)
    return found


def find(beginning: str) -> dict[str, Any]:
    """Return the record of the only run whose ID begins so, or of the ``last``. Raises UsageError."""
    every = records()
    found = every[-1:] if beginning == "last" else [one for one in every if one["id"].startswith(beginning)]
    if len(found) != 1:
        many = f"{len(found)} runs have IDs that begin with {beginning}" if found else f"there is no run {beginning}"
        raise UsageError(f"{many}; gpuprov runs lists them")
    return found[0]


def retry(run: Run) -> None:
    """Limit a run to the hosts that the last run of its command on its inventory did not finish. Raises UsageError."""
    command, inventory, check = run.command, run.options.inventory, run.options.check
    for last in reversed(records()):
        same = (last["command"], last["inventory"], last["options"].get("check", False)) == (command, inventory, check)
        if same and (last["results"] or last["status"] is None):
            break
    else:
        raise UsageError(f"--retry: there is no earlier gpuprov {command} of {inventory} that reached a host")
    if last["status"] is None:
        state = "goes on" if last["ended"] == "running" else "was killed, so which hosts it finished is not known"
        raise UsageError(f"--retry: run {last['id']} {state}")
    due = {"failed", "unreachable", "interrupted", *(["pending"] if command == "provision" and not check else [])}
    names = [name for group in last["results"] if group["status"] in due for name in group["hosts"]]
    run.options.only = sorted(names, key=_fleet.natural)
    hosts = (
        f"{_fleet.counted(len(names), 'host')}: {_fleet.host_ranges(run.options.only)}" if names else "nothing to do"
    )
    run.notes.append(f"retry of run {last['id']}: {hosts}")


def list_text(every: list[dict[str, Any]]) -> str:
    """Return a table of runs that fits 80 columns. IDs are without the number of the process."""
    rows: list[tuple[str, ...]] = [("run", "user", "command", "hosts", "changed", "failed", "ended")]
    for one in every:
        states = [group["status"] for group in one["results"] for _host in group["hosts"]]
        failed = states.count("failed") + states.count("unreachable")
        numbers = (str(number) for number in (len(states), states.count("changed"), failed))
        rows.append((one["id"].rpartition("-")[0], one["user"][:8], one["command"], *numbers, one["ended"]))
    return "".join(f"{line}\n" for line in _fleet.table_lines(rows))


def show_text(one: dict[str, Any]) -> str:
    """Return what a record says. Hosts with the same result are grouped."""
    options = [name if value is True else f"{name} {value}" for name, value in one["options"].items()]
    rows = {
        "run": one["id"], "command": f"gpuprov {one['command']} {one['inventory']}", "options": ", ".join(options),
        "user": f"{one['user']} on {one['machine']}", "began": one["began"],
        "ended": one["ended"] + (f", {_fleet.duration(one['seconds'])}" if one["status"] is not None else ""),
        "error": one["error"], "versions": ", ".join(" ".join(pair) for pair in one["versions"].items()),
        "log": runner.runs_directory() / one["id"] / "log",
    }  # fmt: skip
    lines = [f"{name:<8}  {value}" for name, value in rows.items() if value]
    said = []
    for group in one["results"]:
        state = group["status"] + (f": {group['error'].splitlines()[0]}" if group["error"] else "")
        installed = [f"{name} {group[name]}" for name in ("docker", "nvidia") if group[name]]
        said += [([", ".join([state, *installed]), *group["changes"]], host) for host in group["hosts"]]
    said.sort(key=lambda pair: _fleet.natural(pair[1]))
    return "".join(f"{line}\n" for line in [*lines, *_fleet.grouped_lines(said)])


@app.callback(invoke_without_command=True)
def runs(context: typer.Context, as_json: AsJson = False) -> None:
    """List the newest runs of this account, the last one at the end."""
    if not context.invoked_subcommand:
        every = records()
        sys.stdout.write(json.dumps(every, indent=1) + "\n" if as_json else list_text(every))


@app.command()
def show(
    run: Annotated[str, Argument(metavar="ID", help="The ID of a run, its beginning, or last.")],
    as_json: AsJson = False,
) -> None:
    """Show the record of a run."""
    one = find(run)
    sys.stdout.write(json.dumps(one, indent=1) + "\n" if as_json else show_text(one))
