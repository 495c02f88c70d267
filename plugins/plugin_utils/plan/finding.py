# SPDX-License-Identifier: MIT
"""Make and order findings: what is wrong with a host, in one shape.

A finding is {name, severity, message, why, cure}: a stable name, one of SEVERITIES, what was seen, why it matters,
and the cure in one line, a command where there is one.
"""

from __future__ import annotations

from collections.abc import Iterable

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text.explained import FINDINGS

Finding = dict[str, str]
# error: the host does not do its work; warning: it will fail later, or does part of its work; info: worth knowing.
SEVERITIES = ("error", "warning", "info")


def finding(name: str, message: str, *, cure: str = "", severity: str = "", why: str = "") -> Finding:
    """Return a finding of a kind of FINDINGS; every text is one line. What is not given is that of its kind."""
    kind = FINDINGS[name]
    return {
        "name": name,
        "severity": severity or kind.severity,
        "message": message,
        "why": why or kind.why,
        "cure": cure or kind.cure,
    }


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with the worst first, else in the order in which they were found."""
    return sorted(findings, key=lambda one: SEVERITIES.index(one["severity"]))
