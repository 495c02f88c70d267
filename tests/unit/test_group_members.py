"""Who becomes a member of the group docker, decided without a host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.group_members import (
    GroupError,
    decide,
)


def members(users: list[str], present: list[str] | None) -> list[tuple[Any, Any]]:
    group = {"exists": present is not None, "members": present or []}
    changes = decide({"group": "docker", "users": users}, {"docker": group}, dict.fromkeys(users, True))
    return [(change["from"], change["to"]) for change in changes]


def test_who_is_missing_is_added_and_names_are_compared_whole() -> None:
    assert members(["bob"], ["bobby", "jacob"]) == [(None, "bob")]


def test_members_nobody_named_stay() -> None:
    assert members(["bob"], ["alice", "bob"]) == []


def test_a_missing_group_is_made_only_for_members() -> None:
    assert members(["bob"], None) == [(None, "bob")]
    assert members([], None) == []


def test_an_account_that_does_not_exist_is_named() -> None:
    with pytest.raises(GroupError, match="no account carol on this host"):
        decide({"group": "docker", "users": ["bob", "carol"]}, {}, {"bob": True, "carol": False})


@pytest.mark.parametrize("name", ["", "-G", "a b", "a;reboot", "$(id)", "a\n", "../x"])
def test_what_is_no_user_name_is_refused(name: str) -> None:
    with pytest.raises(GroupError, match="is not a user name"):
        decide({"group": "docker", "users": [name]}, {}, {name: True})
