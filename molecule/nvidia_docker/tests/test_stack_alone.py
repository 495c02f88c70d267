"""NVIDIA's stack, installed by nvidia_docker alone."""

from __future__ import annotations

from testinfra.host import Host


def test_the_pinned_toolkit_is_installed_and_held_without_an_engine(host: Host) -> None:
    assert host.package("nvidia-container-toolkit").version == "1.19.1-1"
    assert "libnvidia-container1" in host.check_output("apt-mark showhold").split()
    assert not host.package("docker-ce").is_installed
