"""The group docker, filled by docker_group alone."""

from __future__ import annotations

from testinfra.host import Host


def test_alice_alone_is_a_member(host: Host) -> None:
    assert host.group("docker").members == ["alice"]
