"""The host after the uninstall of registry_cache."""

from __future__ import annotations

from testinfra.host import Host


def test_package_units_and_settings_are_gone_and_layers_stay(host: Host) -> None:
    assert not host.package("docker-registry").is_installed
    assert not host.file("/etc/gpuprov-registry-cache").exists
    assert host.check_output("ls /etc/systemd/system | grep -c registry || true") == "0"
    assert host.file("/var/lib/docker-registry/docker").is_directory
