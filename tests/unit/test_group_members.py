"""Who becomes a member of the group docker, decided without a host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker.group_members import (
    decide,
)
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError


def members(
    users: list[str], present: list[str] | None, answers: dict[str, str] | None = None, local: bool = True
) -> list[tuple[Any, Any]]:
    group = {"exists": present is not None, "local": local, "members": present or []}
    accounts = {user: user for user in users} | (answers or {})
    changes = decide({"group": "docker", "users": users}, {"docker": group}, accounts)
    return [(change["from"], change["to"]) for change in changes]


def test_who_is_missing_is_added_and_names_are_compared_whole() -> None:
    assert members(["bob"], ["bobby", "jacob"]) == [(None, "bob")]


def test_members_nobody_named_stay() -> None:
    assert members(["bob"], ["alice", "bob"]) == []


def test_a_missing_group_is_made_only_for_members() -> None:
    assert members(["bob"], None) == [(None, "bob")]
    assert members([], None) == []


def test_an_account_that_does_not_exist_is_named() -> None:
    with pytest.raises(HostError, match="no account carol on this host"):
        decide({"group": "docker", "users": ["bob", "carol"]}, {}, {"bob": "bob", "carol": None})


@pytest.mark.parametrize(
    "name", ["", "-G", "+alice", " a", "a ", "a:b", "a,b", "a;reboot", "a\tb", "*", "a|b", "$(id)", "a\n", "../x"]
)
def test_what_is_no_user_name_is_refused(name: str) -> None:
    with pytest.raises(HostError, match="is not a user name"):
        decide({"group": "docker", "users": [name]}, {}, {name: name})


@pytest.mark.parametrize(
    "name",
    [
        "ASmith", "CORP\\bob", "corp\\bob smith", "bob@corp.example", "j.doe", "svc$", "CORP\\host$", "zoë", "42",
        "a_b-c", "CORP+bob", "o'neil", "#1", "%x", "!x", "a&b", "~bob",
    ],
)  # fmt: skip
def test_whatever_a_directory_calls_an_account_is_taken_as_the_name_service_answers(name: str) -> None:
    assert members([name], []) == [(None, name)]
    assert members([name], ["canonical"], {name: "canonical"}) == []
    assert members([name], [name], {name: "canonical"}) == [(None, "canonical")]


def test_two_spellings_of_one_account_are_one_member() -> None:
    assert members(["ASmith", "asmith"], [], {"ASmith": "asmith"}) == [(None, "asmith")]


@pytest.mark.parametrize("answered", ["a:b", "a,b", "a\nb", "-a", "+a"])
def test_a_name_that_etc_group_cannot_hold_is_refused(answered: str) -> None:
    with pytest.raises(HostError, match="which /etc/group cannot hold"):
        members(["bob"], [], {"bob": answered})


def test_a_group_of_a_directory_is_refused_where_a_member_is_missing() -> None:
    assert members(["alice"], ["alice"], local=False) == []
    with pytest.raises(HostError, match=r"comes from a directory service .* make bob a member in the directory"):
        members(["alice", "Bob"], ["alice"], {"Bob": "bob"}, local=False)
