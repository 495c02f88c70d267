"""daemon.json, written by docker_daemon alone."""

from __future__ import annotations

import json

from testinfra.host import Host


def test_the_file_has_the_mirrors_for_an_engine_that_is_yet_to_come(host: Host) -> None:
    config = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert config == {"registry-mirrors": host.ansible.get_variables()["docker_daemon_registry_mirrors"]}
    assert not host.package("docker-ce").is_installed
