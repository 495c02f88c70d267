"""A simulated fleet: which name is at which port of which host, and how dead names are made."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import fleet
from tests.lab.lab import Host

HOSTS = [Host(f"debian12-0{number}", "debian12", f"10.89.7.1{number}", "", Path("/lab")) for number in (1, 2)]


def test_names_are_spread_over_the_hosts_and_the_dead_over_the_names() -> None:
    found = fleet.names(HOSTS, 10, {"silent": 1, "refused": 1})
    assert [(one.name, one.host.name, one.port) for one in found[:3]] == [
        ("gpu01", "debian12-01", 20001),
        ("gpu02", "debian12-02", 20002),
        ("gpu03", "debian12-01", 20003),
    ]
    assert {one.name: one.dead for one in found if one.dead} == {"gpu03": "refused", "gpu08": "silent"}


def test_more_dead_names_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 of 2 names cannot be dead"):
        fleet.names(HOSTS, 2, {"unknown": 3})


@pytest.mark.parametrize(
    ("dead", "redirected", "dropped", "known"),
    [
        ("", True, False, True),
        ("refused", False, False, True),
        ("silent", False, True, True),
        ("unknown", True, False, False),
    ],
)
def test_a_dead_name_differs_from_a_live_one_only_in_how_it_is_dead(
    dead: str, redirected: bool, dropped: bool, known: bool
) -> None:
    (one,) = fleet.names(HOSTS[:1], 1, {dead: 1} if dead else {})
    rules = fleet.ruleset([one])
    assert ("{ 20001 } redirect" in rules, "{ 20001 } drop" in rules) == (redirected, dropped)
    assert ("[10.89.7.11]:20001 ssh-ed25519 KEY" in fleet.known_hosts([one], "ssh-ed25519 KEY")) == known
    assert "gpu1 ansible_host=10.89.7.11 ansible_port=20001\n" in fleet.inventory([one], {})
