"""A provisioned host after gpu_host_verify."""

from __future__ import annotations

from testinfra.host import Host


def test_no_container_is_left(host: Host) -> None:
    assert host.check_output("docker ps -aq") == ""
