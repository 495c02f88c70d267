"""The host after a probe."""

from __future__ import annotations

from testinfra.host import Host


def test_nothing_was_touched(host: Host) -> None:
    assert host.check_output("ls /etc/apt/keyrings /usr/local/bin") == "/etc/apt/keyrings:\n\n/usr/local/bin:"
    assert not host.file("/etc/docker").exists
