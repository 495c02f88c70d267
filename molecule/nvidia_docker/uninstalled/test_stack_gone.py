"""The host after the uninstall of nvidia_docker."""

from __future__ import annotations

from testinfra.host import Host


def test_packages_and_source_are_gone(host: Host) -> None:
    assert not host.package("nvidia-container-toolkit").is_installed
    assert not host.file("/etc/apt/sources.list.d/nvidia-container-toolkit.sources").exists
    assert not host.file("/etc/apt/keyrings/nvidia-container-toolkit.gpg").exists
