# SPDX-License-Identifier: MIT
"""Make and order findings: what is wrong with a host, in one shape.

A finding is {name, severity, message, why, cure}: a stable name, one of SEVERITIES, what was seen, why it matters,
and the cure in one line, a command where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable

Finding = dict[str, str]
# error: the host does not do its work; warning: it will fail later, or does part of its work; info: worth knowing.
SEVERITIES = ("error", "warning", "info")


def finding(name: str, severity: str, message: str, why: str, cure: str) -> Finding:
    """Return a finding; every text is one line."""
    return {"name": name, "severity": severity, "message": message, "why": why, "cure": cure}


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with the worst first, else in the order in which they were found."""
    return sorted(findings, key=lambda one: SEVERITIES.index(one["severity"]))
