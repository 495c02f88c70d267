"""A host with an image after docker_image."""

from __future__ import annotations

from testinfra.host import Host


def test_the_image_is_still_there(host: Host) -> None:
    assert host.check_output("docker image ls --format '{{.Repository}}'") == "busybox"
