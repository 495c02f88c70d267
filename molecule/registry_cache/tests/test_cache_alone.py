"""The cache, without an engine on its host."""

from __future__ import annotations

import json

from testinfra.host import Host

BLOBS = "/var/lib/docker-registry/docker/registry/v2/blobs/sha256"


def test_the_cache_serves_the_image_that_was_fetched_and_keeps_to_its_size(host: Host) -> None:
    assert host.service("docker-registry").is_running
    assert host.service("docker-registry").is_enabled
    assert host.service("gpuprov-registry-cache-trim.timer").is_running
    assert host.file("/etc/gpuprov-registry-cache/config.yml").mode == 0o600
    answer = host.check_output(
        "curl -sf http://127.0.0.1:5000/v2/library/hello-world/manifests/latest -H 'Accept: "
        "application/vnd.docker.distribution.manifest.v2+json'"
    )
    for layer in json.loads(answer)["layers"]:
        digest = layer["digest"].partition(":")[2]
        assert host.file(f"{BLOBS}/{digest[:2]}/{digest}/data").sha256sum == digest
