"""The host after the uninstall of docker_daemon."""

from __future__ import annotations

from testinfra.host import Host


def test_a_file_without_other_keys_is_gone(host: Host) -> None:
    assert not host.file("/etc/docker/daemon.json").exists
