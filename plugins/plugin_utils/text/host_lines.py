# SPDX-License-Identifier: MIT
"""Describe a host's plan and findings in lines for people. Imports nothing of the collection."""

from __future__ import annotations

from typing import Any


def change_text(change: dict[str, Any]) -> str:
    """Describe a change, e.g. ``5:28 → 5:29`` or ``+ alice``."""
    before, after = change["from"], change["to"]
    return f"+ {after}" if before is None else f"- {before}" if after is None else f"{before} → {after}"


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """Return a line for each change of a plan, or "up to date", then its notes."""
    result = []
    for change in plan["changes"]:
        note = "" if change["disruption"] == "none" else f"  ({change['disruption']})"
        result.append(f"{change['subject']}: {change_text(change)}{note}")
    return (result or ["up to date"]) + [f"note: {note['message']}" for note in plan["notes"]]


def finding_lines(findings: list[dict[str, str]]) -> list[str]:
    """Return three lines for each finding, or "healthy" where there are none."""
    result = []
    for one in findings:
        result += [f"{one['severity']} {one['name']}: {one['message']}", f"  why:  {one['why']}"]
        result.append(f"  cure: {one['cure']}")
    return result or ["healthy"]


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
