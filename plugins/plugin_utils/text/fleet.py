# SPDX-License-Identifier: MIT
"""Describe hosts to people, for gpuprov and for playbooks: pure functions. Imports nothing of the collection.

Hosts with the same lines are grouped, and named as ranges.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from typing import Any

# Longer names get lines of their own.
LABEL = 40
# Plans without details name so many additions of a role, in so many columns.
_FEW, _WIDTH = 3, 48


# ---- parts


def counted(number: int, noun: str) -> str:
    """Return a number of things: ``1 host``, ``2 hosts``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Return seconds as people read them: 7 s, 1 min 40 s, 12 min, 2 h 5 min."""
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60) if whole < 600 else (round(whole / 60), 0)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{number} {unit}" for number, unit in ((hours, "h"), (minutes, "min"), (rest, "s")) if number]
    return " ".join(parts)


def size_text(number: int) -> str:
    """Return bytes as people read them: 512 B, 4.3 MB, 12.1 GB (of 1000 each, as Docker counts)."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def natural(name: str) -> list[tuple[int, str]]:
    """Return the sort key for natural order: gpu2 before gpu10, 1.9.1 before 1.10.0."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def host_ranges(names: Iterable[str]) -> str:
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


def grouped(said_of: Iterable[tuple[Any, str]]) -> dict[Any, str]:
    """Return {what is said: the hosts that it is said of, as ranges}."""
    names: dict[Any, list[str]] = {}
    for said, host in said_of:
        names.setdefault(said, []).append(host)
    return {said: host_ranges(of) for said, of in names.items()}


def grouped_lines(said_of: Iterable[tuple[list[str], str]]) -> list[str]:
    """Return the lines of each host; hosts with the same lines are grouped."""
    labels = grouped((tuple(lines), host) for lines, host in said_of)
    width = max((len(label) for label in labels.values() if len(label) <= LABEL), default=0)
    text = []
    for lines, label in labels.items():
        *above, beside = [label] if len(label) <= LABEL else [*textwrap.wrap(label, 78), ""]
        text += [*above, f"{beside:<{width}}  {lines[0]}", *(f"  {line}" for line in lines[1:])]
    return text


def table_lines(rows: list[tuple[str, ...]]) -> list[str]:
    """Return rows as lines of aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


# ---- plan and findings


def os_name(probe: dict[str, Any] | None) -> str:
    """Return a host's OS, e.g. ``debian 12``."""
    system = (probe or {}).get("os") or {}
    return f"{system.get('id', '')} {system.get('version_id', '')}".strip()


def versions(probe: dict[str, Any] | None) -> dict[str, str]:
    """Return the upstream versions of a host's docker, containerd and nvidia stack, of its driver and its kernel.

    Each is "" where the host has none: {"docker": "29.7.2", "containerd": "2.3.3", …}.
    """
    found = probe or {}
    packages = (found.get("apt") or {}).get("packages", {})

    def upstream(name: str) -> str:
        package = packages.get(name)
        if not package or package["status"][1:2] != "i":
            return ""
        return version(package["version"])

    return {
        "docker": upstream("docker-ce"),
        "containerd": upstream("containerd.io"),
        "nvidia": upstream("nvidia-docker2") or upstream("nvidia-container-toolkit"),
        "driver": (found.get("gpu") or {}).get("driver_version") or "",
        "kernel": found.get("kernel") or "",
    }


def gpus_text(probe: dict[str, Any] | None) -> str:
    """Return a host's GPUs, e.g. ``8 x NVIDIA H100``: as the driver names them, else as the PCI bus does."""
    gpu = (probe or {}).get("gpu") or {}
    models = [one.get("model") or "GPU" for one in gpu.get("gpus") or []]
    models = models or [one.get("name") or "GPU" for one in gpu.get("pci") or []]
    return ", ".join(f"{models.count(model)} x {model}" for model in dict.fromkeys(models))


def change_text(change: dict[str, Any]) -> str:
    """Describe a change, e.g. ``5:28 → 5:29`` or ``+ alice``."""
    before, after = change["from"], change["to"]
    return f"+ {after}" if before is None else f"- {before}" if after is None else f"{before} → {after}"


def change_lines(changes: list[dict[str, Any]]) -> list[str]:
    """Return an aligned line for each change."""
    width = max((len(change["subject"]) for change in changes), default=0)
    return [
        f"{change['subject']:<{width}}  {change_text(change)}"
        + ("" if change.get("disruption", "none") == "none" else f"  ({change['disruption']})")
        for change in changes
    ]


def folded(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fold what a role adds without disruption into one change, where it is more than three. Others stay as they are.

    Packages come first in it, with the vendor's version: ``docker-ce 29.7.2, …, and 5 more``.
    """
    added: dict[str, list[dict[str, Any]]] = {}
    for change in changes:
        if change["from"] is None and change["disruption"] == "none":
            added.setdefault(change["role"], []).append(change)
    result = []
    for change in changes:
        alike = added.get(change["role"], [])
        if len(alike) <= _FEW or not any(change is one for one in alike):
            result.append(change)
        elif change is alike[0]:
            packages = [f"{one['subject']} {version(str(one['to']))}" for one in alike if " " not in one["subject"]]
            named = [*packages, *(one["subject"] for one in alike if " " in one["subject"])]
            fitting = [name for number, name in enumerate(named) if len(", ".join(named[: number + 1])) <= _WIDTH]
            shown = (fitting or named[:1])[:_FEW]
            told = f"{', '.join(shown)}, and {len(alike) - len(shown)} more"
            result.append({"role": change["role"], "subject": change["role"], "from": None, "to": told})
    return result


def version(text: str) -> str:
    """Return the upstream version of a package's version: 29.7.2 of 5:29.7.2-1~debian."""
    return re.split(r"[-~+]", text.rpartition(":")[2])[0]


def plan_lines(plan: dict[str, Any], probe: dict[str, Any] | None, details: bool = True) -> list[str]:
    """Return the lines of a host's plan: a heading, the changes, then problems that do not block them.

    Without details, long lists of additions are shortened.
    """
    notes = [f"! {note['message']}" for note in plan.get("notes", [])]
    if not plan.get("changes"):
        return ["up to date", *notes]
    parts = [counted(len(plan["changes"]), "change")]
    if plan["disruption"] != "none":
        parts.append(f"{plan['disruption']} needed")
    if plan["running"]:
        parts.append(f"{counted(len(plan['running']), 'container')} running")
    shown = plan["changes"] if details else folded(plan["changes"])
    holder = ((probe or {}).get("apt") or {}).get("lock_holder")
    if holder:
        parts.append(f"apt held by {holder}")
    return [f"{os_name(probe)}   {', '.join(parts)}", *change_lines(shown), *notes]


def finding_lines(findings: list[dict[str, str]]) -> list[str]:
    """Return a heading, then message, reason and cure of each finding.

    The cure is not wrapped, so that it can be copied.
    """
    severities = [finding["severity"] for finding in findings]
    counts = [counted(severities.count(word), word) for word in ("error", "warning") if word in severities]
    lines = [", ".join(counts) or "healthy"]
    for one in findings:
        for text, indent in ((f"{one['severity']} {one['name']}: {one['message']}", 2), (f"  why:  {one['why']}", 8)):
            lines += textwrap.wrap(text, 76, subsequent_indent=" " * indent, break_on_hyphens=False)
        lines.append(f"  cure: {one['cure']}")
    return lines


def lock_lines(lock: dict[str, Any]) -> list[str]:
    """Return what gpuprov lock found or wrote, in lines."""
    lines = []
    for system in lock["systems"]:
        count = f"{system['packages']} packages"
        if lock["checked"]:
            fits = (
                f"{len(system['unfit'])} differences" if system["unfit"] else "fits the inventory and the repositories"
            )
            lines += [f"{system['name']}: {count}, {fits}", *(f"  {line}" for line in system["unfit"])]
        else:
            # Of the packages that were pulled in, a new lock has too many to show.
            shown = [one for one in system["changes"] if one["role"] or not system["new"]]
            hidden = len(system["changes"]) - len(shown)
            width = max((len(one["subject"]) for one in shown), default=0)
            lines.append(f"{system['name']}: {count}, " + ("as before" if not system["changes"] else "changed:"))
            lines += [f"  {one['subject']:<{width}}  {change_text(one)}" for one in shown]
            lines += [f"  and {hidden} more that these pull in"] if hidden else []
        lines += [f"  ! {line}" for line in system["below_floors"]]
    return lines
