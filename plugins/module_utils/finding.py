# SPDX-License-Identifier: MIT
"""What is wrong with a host, in one shape. Pure functions, used on the controller.

A finding is {name, severity, message, why, cure}: a name that stays, one of SEVERITIES, what was
seen, why it matters, and what cures it in one line, a command where there is one.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

# error: the host does not do what it is for; warning: it will not for long, or not all of it;
# info: worth knowing.
SEVERITIES = ("error", "warning", "info")


def finding(name, severity, message, why, cure):
    """Return a finding; every text is one line."""
    return {"name": name, "severity": severity, "message": message, "why": why, "cure": cure}


def ordered(findings):
    """Return findings with the worst first, else in the order in which they were found."""
    return sorted(findings, key=lambda one: SEVERITIES.index(one["severity"]))


def is_healthy(findings):
    """Return whether there is nothing to cure: info alone is no ailment."""
    return all(one["severity"] == "info" for one in findings)


def lines(findings):
    """Return findings as lines for people, or one that says that there is none."""
    result = []
    for one in findings:
        result.append("%(severity)s: %(name)s: %(message)s" % one)
        result.append("  why:  %(why)s" % one)
        result.append("  cure: %(cure)s" % one)
    return result or ["healthy"]
