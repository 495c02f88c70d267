"""The host after the uninstall of docker_ce."""

from __future__ import annotations

from testinfra.host import Host


def test_packages_and_source_are_gone_and_data_stays(host: Host) -> None:
    assert not host.package("docker-ce").is_installed
    assert not host.file("/etc/apt/sources.list.d/docker.sources").exists
    assert not host.file("/etc/apt/keyrings/docker.gpg").exists
    assert host.file("/var/lib/docker").is_directory
