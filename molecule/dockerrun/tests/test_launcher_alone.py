"""The launcher, written by dockerrun alone."""

from __future__ import annotations

from testinfra.host import Host


def test_everybody_can_run_it_and_root_alone_can_change_it(host: Host) -> None:
    launcher = host.file("/usr/local/bin/dockerrun")
    assert (launcher.user, launcher.group, launcher.mode) == ("root", "root", 0o755)
