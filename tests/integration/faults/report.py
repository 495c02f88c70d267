"""A plugin of pytest's: prints how many faults hold, and writes the table of docs/reliability.md."""

from __future__ import annotations

import datetime
import os
import re
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.integration.faults.table import FAULTS, host_of

PAGE = Path(__file__).resolve().parents[3] / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: written by ./dev faults -->", "<!-- end of faults -->"
held: dict[str, bool] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Take down how a fault went."""
    match = re.search(r"\[(.+)\]$", report.nodeid)
    if match and match[1] in FAULTS:
        held[match[1]] = held.get(match[1], True) and report.passed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the count and the hosts, and where every fault was tried write the table."""
    for host in sorted({host_of(name) for name in held}):
        terminalreporter.write_line(f"on {host}: {', '.join(name for name in held if host_of(name) == host)}")
    terminalreporter.write_line(f"{sum(held.values())} of {len(held)} faults hold")
    if len(held) == len(FAULTS):
        before, _begin, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def table() -> str:
    """The table of all faults, with the date and what was tried."""
    on = f"{os.cpu_count()} cores, ansible-core {version('ansible-core')}, lab hosts"
    lines = [
        f"{datetime.date.today().isoformat()}, {on}: {sum(held.values())} of {len(held)} hold.",
        "",
        "| fault | how it is injected | host | exit status | holds |",
        "|---|---|---|---|---|",
    ]
    for name, fault in FAULTS.items():
        status = "(killed)" if fault.status < 0 else str(fault.status)
        lines.append(f"| {name} | {fault.how} | {host_of(name)} | {status} | {'yes' if held[name] else '**no**'} |")
    return "\n".join(lines)
