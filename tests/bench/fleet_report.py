"""The report of ``./dev bench --fleet``: tables for docs/performance.md and docs/scale.md, and a plot."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.lab.fleet import SLOW

Found = Sequence[dict[str, Any]]
BEGIN, END = "<!-- fleet: written by ./dev bench --fleet -->", "<!-- end of fleet -->"
# What docs/scale.md calculates with: a controller and a network.
CORES, ROUND_TRIP, GIGABITS = 16, 0.05, 10
# From docs/performance.md: processor seconds of the controller for a first install, and MB that it sends to a host.
INSTALL_SECONDS, INSTALL_MB = 0.31, 235
# What --forks auto takes with so many cores.
FORKS = 100


def write(found: Found, docs: Path) -> None:
    """Put the tables into both pages, and the plot beside them."""
    write_tables(found, docs)
    plot(found, docs / "scale.svg")


def write_tables(found: Found, docs: Path) -> None:
    """Put the tables into performance.md and scale.md, between their marks."""
    for name, text in (("performance.md", tables(found)), ("scale.md", scale(found))):
        page = docs / name
        before, rest = page.read_text(encoding="utf-8").split(BEGIN)
        page.write_text(f"{before}{BEGIN}\n{text}{END}{rest.split(END)[1]}", encoding="utf-8")


def tables(found: Found) -> str:
    """Return time and growth, memory, silent hosts and bastions as tables; of several turns, the median."""
    growth = of(found, "growth")
    lines = [_machine(found), ""]
    lines += ["| names | gpuprov, s (CPU s) | plain ssh, s (CPU s) | ratio | gpuprov, s a name | plain ssh, s a name |"]
    lines += ["|---|---|---|---|---|---|"]
    for one in growth:
        ours, plain = one["gpuprov"], one["plain"]
        cells = [f"{ours[0]:.1f} ({ours[1]:.1f})", f"{plain[0]:.1f} ({plain[1]:.1f})", f"{ours[0] / plain[0]:.2f}"]
        cells += [f"{ours[0] / one['names']:.3f}", f"{plain[0] / one['names']:.3f}"]
        lines.append(f"| {one['names']:,} | {' | '.join(cells)} |")
    if len(growth) > 1:
        first, last = growth[0], growth[-1]
        grown = [last[who][0] / last["names"] / (first[who][0] / first["names"]) for who in ("gpuprov", "plain")]
        lines += ["", f"From {first['names']:,} to {last['names']:,} names, the seconds a name change by a factor of"]
        lines += [f"{grown[0]:.2f}, those of plain ssh by {grown[1]:.2f}."]
    lines += ["", "Memory in MiB; shared pages count once:", ""]
    columns = [*growth, *of(found, "forks")]
    kinds = sorted({kind for one in columns for kind in one["peak"]}, key=lambda kind: -growth[-1]["peak"].get(kind, 0))
    lines += ["| processes | " + " | ".join(f"{one['names']:,} names, {one['forks']} forks" for one in columns) + " |"]
    lines += ["|---|" + "---|" * len(columns)]
    lines += [f"| {kind} | " + " | ".join(_mib(one["peak"].get(kind, 0)) for one in columns) + " |" for kind in kinds]
    lines += ["| all, at the peak | " + " | ".join(_mib(sum(one["peak"].values())) for one in columns) + " |"]
    lines += ["| all, halfway | " + " | ".join(_mib(sum(one["middle"].values())) for one in columns) + " |"]
    lines += ["", "| names | silent | forks | s | added by the silent, s |", "|---|---|---|---|---|"]
    silent = {one["forks"]: one for one in of(found, "silent")}
    for one in (growth[0], *of(found, "forks")):
        other = silent[one["forks"]]
        added = f"{other['gpuprov'][0] - one['gpuprov'][0]:.1f}"
        lines += [
            f"| {one['names']} | 0 | {one['forks']} | {one['gpuprov'][0]:.1f} | |",
            f"| {one['names']} | {other['failed']} | {one['forks']} | {other['gpuprov'][0]:.1f} | {added} |",
        ]
    lines += ["", "| through a bastion | names | forks | s | not reached |", "|---|---|---|---|---|"]
    for work, how in (("bastion plain", "a login for each host"), ("bastion shared", "all in one connection")):
        for one in of(found, work):
            lines += [f"| {how} | {one['names']} | {one['forks']} | {one['gpuprov'][0]:.1f} | {one['failed']} |"]
    return "\n".join([*lines, ""])


def scale(found: Found) -> str:
    """Return what a run costs, from a fit of what was measured, and what larger fleets take by it."""
    fit = fitted(found)
    cores = os.cpu_count() or 1
    rows = [
        ("start and end of a run", f"{fit['start']:.1f} s", "measured: one name"),
        (f"a host, elapsed, on these {cores} cores", f"{fit['wall'] * 1e3:.0f} ms", "measured: slope"),
        ("a host, controller's processor time", f"{fit['cpu'] * 1e3:.0f} ms", "measured: slope"),
        ("of that, plain ssh", f"{fit['plain'] * 1e3:.0f} ms", "measured: slope"),
        ("of that, Ansible's main process, which uses one core", f"{fit['serial'] * 1e3:.0f} ms", "measured: slope"),
        ("round trips that a host waits for", f"{fit['trips']:.0f}", "measured: one name, and one slow name"),
        ("memory of a fork", f"{fit['fork']:.0f} MiB", "measured: slope over forks"),
        ("memory beside the forks", f"{fit['base']:.0f} MiB", "measured"),
    ]
    lines = [_machine(found), "", "| cost | | |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows), ""]
    lines += [
        f"Calculated from these, for a controller with {CORES} cores as fast as these, {FORKS} forks, and a round-trip",
        f"time of {ROUND_TRIP * 1e3:.0f} ms:",
        "",
        f"| hosts | plan | bound by | controller's part of first installs | packages | at {GIGABITS} Gbit/s |",
        "|---|---|---|---|---|---|",
    ]
    for hosts in (1_000, 10_000, 100_000):
        seconds, bound = plan_seconds(fit, hosts)
        install = hosts * INSTALL_SECONDS / CORES
        megabytes = hosts * INSTALL_MB
        wire = _duration(megabytes * 8 / 1000 / GIGABITS)
        cells = [f"{hosts:,}", _duration(seconds), bound, _duration(install), f"{megabytes / 1e6:.1f} TB", wire]
        lines.append(f"| {' | '.join(cells)} |")
    memory = fit["base"] + FORKS * fit["fork"]
    lines += [
        "",
        f"Memory of such a controller: {memory / 1024:.1f} GiB (calculated), whatever the number of hosts.",
        "",
    ]
    return "\n".join(lines)


def fitted(found: Found) -> dict[str, float]:
    """Return the constants and slopes of a run: seconds, MiB, and round trips."""
    growth, (few, *_) = of(found, "growth"), of(found, "forks")
    (one, *_), (slow, *_) = of(found, "one"), of(found, "one slow")
    first, last = growth[0], growth[-1]
    same = next(each for each in growth if each["names"] == few["names"])
    names = last["names"] - first["names"] or 1

    def slope(value: Any) -> float:
        return float(value(last) - value(first)) / names

    peaks = [sum(each["peak"].values()) / 1024 for each in (same, few)]
    fork = (peaks[0] - peaks[1]) / (same["forks"] - few["forks"])
    return {
        "start": one["gpuprov"][0],
        "wall": slope(lambda each: each["gpuprov"][0]),
        "cpu": slope(lambda each: each["gpuprov"][1]),
        "plain": slope(lambda each: each["plain"][1]),
        "serial": slope(lambda each: each["serial"].get("ansible-playbook", 0)),
        "trips": (slow["gpuprov"][0] - one["gpuprov"][0]) / (2 * SLOW),
        "fork": fork,
        "base": peaks[0] - fork * same["forks"],
    }


def plan_seconds(fit: dict[str, float], hosts: int) -> tuple[float, str]:
    """Return the seconds of a plan with nothing to do, calculated, and what they are bound by."""
    waits = fit["trips"] * ROUND_TRIP + fit["cpu"]
    bounds = {
        "cores": hosts * fit["cpu"] / CORES,
        "Ansible's main process": hosts * fit["serial"],
        "forks": hosts * waits / FORKS,
    }
    bound = max(bounds, key=lambda name: bounds[name])
    return fit["start"] + bounds[bound], bound


def of(found: Found, work: str) -> list[dict[str, Any]]:
    """Return the measurements of a work, by names and forks; of several turns, the one with the median time."""
    same: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for one in found:
        if one["work"] == work:
            same.setdefault((one["names"], one["forks"]), []).append(one)
    middle = [sorted(turns, key=lambda one: one["gpuprov"][0])[(len(turns) - 1) // 2] for turns in same.values()]
    return sorted(middle, key=lambda one: (one["names"], -one["forks"]))


def plot(found: Found, path: Path) -> None:
    """Draw seconds over names, gpuprov's and plain ssh's."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "gpuprov"
    from matplotlib import pyplot

    growth = of(found, "growth")
    names = [one["names"] for one in growth]
    figure, panels = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for who, label, style in (("gpuprov", "gpuprov plan", "o-"), ("plain", "plain ssh", "^--")):
        panels[0].plot(names, [one[who][0] for one in growth], style, label=label, markersize=4)
    panels[0].set_title("Seconds, nothing to do", fontsize=9)
    panels[0].legend(fontsize=8)
    panels[1].plot(names, [sum(one["peak"].values()) / 1024 for one in growth], "o-", markersize=4, label="at the peak")
    panels[1].plot(names, [sum(one["middle"].values()) / 1024 for one in growth], "s--", markersize=4, label="halfway")
    panels[1].set_title(f"MiB of gpuprov's processes, {growth[0]['forks']} forks", fontsize=9)
    panels[1].legend(fontsize=8)
    for panel in panels:
        panel.set_xlabel("names")
        panel.set_ylim(bottom=0)
    figure.savefig(path, metadata={"Date": None})
    # matplotlib ends lines with spaces.
    path.write_text(re.sub(r" +$", "", path.read_text(encoding="utf-8"), flags=re.M), encoding="utf-8")


def _machine(found: Found) -> str:
    loads = [one["load"] for one in found]
    return (
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores for controller and hosts together; load before the runs "
        f"{min(loads):.0f} to {max(loads):.0f}, median {statistics.median(loads):.0f} (an earlier run leaves some):"
    )


def _mib(kib: float) -> str:
    return f"{kib / 1024:.0f}"


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
