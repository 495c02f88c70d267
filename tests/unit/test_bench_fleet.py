"""The report of ./dev bench --fleet: what is derived from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.bench import fleet_report
from tests.lab import fleet


def one(work: str, names: int, seconds: float, forks: int = 50, **more: Any) -> dict[str, Any]:
    """Return a measurement of a run that takes 10 MiB for each fork and 100 MiB beside them."""
    memory = {"forks of ansible-playbook": forks * 10 * 1024, "gpuprov": 100 * 1024}
    measured = {
        "work": work,
        "names": names,
        "forks": forks,
        "load": 1.0,
        "gpuprov": [seconds, 0.1 * names],
        "failed": 0,
    }
    return {**measured, "serial": {"ansible-playbook": 0.01 * names}, "peak": memory, "middle": memory, **more}


FOUND = [
    one("growth", 100, 12.0, plain=[10.0, 5.0]),
    one("growth", 300, 32.0, plain=[30.0, 15.0]),
    one("growth", 1000, 102.0, plain=[100.0, 50.0]),
    one("forks", 100, 13.0, forks=16),
    one("one", 1, 2.0, forks=1),
    one("one slow", 1, 2.0 + 9 * 2 * fleet.SLOW, forks=1),
    one("silent", 100, 30.0, failed=5),
    one("silent", 100, 34.0, forks=16, failed=5),
    one("bastion plain", 100, 40.0, failed=7),
    one("bastion shared", 100, 15.0),
]


def test_constants_and_slopes_are_found_again() -> None:
    assert fleet_report.fitted(FOUND) == pytest.approx(
        {"start": 2, "wall": 0.1, "cpu": 0.1, "plain": 0.05, "serial": 0.01, "trips": 9, "fork": 10, "base": 100}
    )


def test_a_run_takes_its_start_and_the_longest_of_three() -> None:
    fit = {"start": 2.0, "cpu": 0.16, "serial": 0.001, "trips": 0.0}
    for changed, seconds, bound in (({}, 12, "cores"), ({"serial": 0.02}, 22, "Ansible's main process")):
        found = fleet_report.plan_seconds({**fit, **changed}, 1000)
        assert found[0] == pytest.approx(seconds)
        assert found[1] == bound
    assert fleet_report.plan_seconds({**fit, "trips": 100.0}, 1000)[1] == "forks"


def test_of_several_turns_the_median_counts() -> None:
    turns = [one("growth", 100, seconds) for seconds in (30.0, 10.0, 11.0)]
    assert [found["gpuprov"][0] for found in fleet_report.of(turns, "growth")] == [11.0]


def test_both_pages_get_their_tables_and_keep_the_rest(tmp_path: Path) -> None:
    for name in ("performance.md", "scale.md"):
        (tmp_path / name).write_text(f"before\n{fleet_report.BEGIN}\nold\n{fleet_report.END}\nafter\n")
    fleet_report.write_tables(FOUND, tmp_path)
    measured, scale = ((tmp_path / name).read_text() for name in ("performance.md", "scale.md"))
    assert "| 1,000 | 102.0 (100.0) | 100.0 (50.0) | 1.02 | 0.102 | 0.100 |\n" in measured
    assert "| 100 | 5 | 50 | 30.0 | 18.0 |\n" in measured
    assert "| 100 | 5 | 16 | 34.0 | 21.0 |\n" in measured
    assert "| a login for each host | 100 | 50 | 40.0 | 7 |\n" in measured
    assert "| all, at the peak | 600 | 600 | 600 | 260 |\n" in measured
    assert "| round trips that a host waits for | 9 | measured" in scale
    for text in (measured, scale):
        assert (text[:7], text[-7:], "old" in text) == ("before\n", "\nafter\n", False)
