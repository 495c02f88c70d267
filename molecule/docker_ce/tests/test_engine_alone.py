"""The engine, installed by docker_ce alone."""

from __future__ import annotations

from testinfra.host import Host


def test_the_pinned_engine_runs_at_boot_too_and_is_held(host: Host) -> None:
    assert host.package("docker-ce").version == "5:29.7.2-1~debian.12~bookworm"
    assert "docker-ce" in host.check_output("apt-mark showhold").split()
    assert host.service("docker").is_running
    assert host.service("docker").is_enabled


def test_nothing_of_other_roles_is_there(host: Host) -> None:
    assert not host.file("/etc/docker/daemon.json").exists
    assert not host.package("nvidia-container-toolkit").is_installed
