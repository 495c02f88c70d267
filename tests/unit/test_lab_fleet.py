"""A simulated fleet: which name is at which port of which host, and how those of each kind are made."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.lab import fleet
from tests.lab.lab import Host

HOSTS = [Host(f"debian12-0{number}", "debian12", f"10.89.7.1{number}", "", Path("/lab")) for number in (1, 2)]


def test_names_are_spread_over_the_hosts_and_each_kind_over_the_names() -> None:
    found = fleet.names(HOSTS, 12, {"silent": 2, "refused": 1, "late": 1})
    assert [(one.name, one.host.name, one.port) for one in found[:3]] == [
        ("gpu01", "debian12-01", 20001),
        ("gpu02", "debian12-02", 20002),
        ("gpu03", "debian12-01", 20003),
    ]
    kinds = {one.name: one.kind for one in found if one.kind}
    assert kinds == {"gpu02": "refused", "gpu05": "silent", "gpu08": "late", "gpu11": "silent"}


def test_more_names_of_a_kind_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 of 2 names cannot be unknown, late"):
        fleet.names(HOSTS, 2, {"unknown": 2, "late": 1})


@pytest.mark.parametrize(
    ("kind", "redirected", "dropped", "known"),
    [
        ("", 22, False, True),
        ("refused", None, False, True),
        ("silent", None, True, True),
        ("unknown", 22, False, False),
        ("slow", 2201, False, True),
        ("late", 2202, False, True),
        ("wrong", 2203, False, True),
        ("garbage", 2204, False, True),
    ],
)
def test_a_kind_of_name_differs_from_a_plain_one_only_in_one_thing(
    kind: str, redirected: int | None, dropped: bool, known: bool
) -> None:
    (one,) = fleet.names(HOSTS[:1], 1, {kind: 1} if kind else {})
    rules = fleet.ruleset([one])
    assert re.findall(r"\{ 20001 \} redirect to :(\d+)", rules) == ([str(redirected)] if redirected else [])
    assert ("{ 20001 } drop" in rules) == dropped
    assert ("[10.89.7.11]:20001 ssh-ed25519 KEY" in fleet.known_hosts([one], "ssh-ed25519 KEY")) == known
    assert "gpu1 ansible_host=10.89.7.11 ansible_port=20001\n" in fleet.inventory([one], {})


def test_each_port_that_names_are_redirected_to_has_a_server() -> None:
    started = shlex.split(fleet.units())
    assert started[-1] == "ForceCommand=echo ~~ garbage ~~"
    assert {word.split(":")[0] for word in started if re.match(r"\d+=", word)} == {
        "2201=slow",
        "2202=late",
        "2203=wrong",
    }
    assert started[started.index("-p", started.index("/usr/sbin/sshd")) + 1] == "2204"
