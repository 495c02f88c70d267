"""The host after the uninstall of dockerrun."""

from __future__ import annotations

from testinfra.host import Host


def test_the_launcher_is_gone(host: Host) -> None:
    assert not host.file("/usr/local/bin/dockerrun").exists
