"""The state of a provisioned host, seen from the host itself."""

from __future__ import annotations

import json
from typing import Any

import pytest
from testinfra.host import Host

TOOLKIT = dict.fromkeys(
    (
        "nvidia-container-toolkit",
        "nvidia-container-toolkit-base",
        "libnvidia-container-tools",
        "libnvidia-container1",
    ),
    "1.19.1-1",
)


def _engine(version: str, containerd: str, buildx: str, compose: str) -> dict[str, str]:
    return {
        "docker-ce": version,
        "docker-ce-cli": version,
        "containerd.io": containerd,
        "docker-buildx-plugin": buildx,
        "docker-compose-plugin": compose,
    }


# By the release's code name. Written out here on purpose: the roles' own pins are what is tested.
PINS = {
    "xenial": {
        "docker-ce": "5:18.09.4~3-0~ubuntu-xenial",
        "docker-ce-cli": "5:18.09.4~3-0~ubuntu-xenial",
        "containerd.io": "1.2.5-1",
        "nvidia-docker2": "2.0.3+docker18.09.4-1",
        "nvidia-container-runtime": "2.0.0+docker18.09.4-1",
        "nvidia-container-runtime-hook": "1.4.0-1",
    },
    "bullseye": TOOLKIT
    | _engine(
        "5:29.8.0-1~debian.11~bullseye",
        "2.3.4-2~debian.11~bullseye",
        "0.37.0-1~debian.11~bullseye",
        "5.5.1-1~debian.11~bullseye",
    ),
    "bookworm": TOOLKIT
    | _engine(
        "5:29.7.2-1~debian.12~bookworm",
        "2.3.3-1~debian.12~bookworm",
        "0.36.1-1~debian.12~bookworm",
        "5.5.0-1~debian.12~bookworm",
    ),
    "resolute": TOOLKIT
    | _engine(
        "5:29.7.2-1~ubuntu.26.04~resolute",
        "2.3.3-1~ubuntu.26.04~resolute",
        "0.36.1-1~ubuntu.26.04~resolute",
        "5.4.0-1~ubuntu.26.04~resolute",
    ),
    "trixie": TOOLKIT
    | _engine(
        "5:29.7.2-1~debian.13~trixie",
        "2.3.4-1~debian.13~trixie",
        "0.36.1-1~debian.13~trixie",
        "5.5.0-1~debian.13~trixie",
    ),
}


@pytest.fixture
def pins(host: Host) -> dict[str, str]:
    """Package name to exact version, for the release of this host."""
    return PINS[host.check_output(". /etc/os-release; echo $VERSION_CODENAME")]


@pytest.fixture
def daemon(host: Host) -> dict[str, Any]:
    """Return docker info of the running daemon."""
    return json.loads(host.check_output("docker info --format '{{json .}}'"))


@pytest.fixture
def wanted(host: Host) -> dict[str, Any]:
    """The host's variables in the inventory."""
    return host.ansible.get_variables()


def test_every_package_of_the_set_is_at_its_pin(host: Host, pins: dict[str, str]) -> None:
    assert {name: host.package(name).version for name in pins} == pins


def test_every_package_of_the_set_is_held(host: Host, pins: dict[str, str]) -> None:
    assert set(host.check_output("apt-mark showhold").split()) >= set(pins)


def test_an_upgrade_leaves_every_package_of_the_set_alone(host: Host, pins: dict[str, str]) -> None:
    simulated = host.check_output("apt-get --simulate upgrade")
    moved = {line.split()[1] for line in simulated.splitlines() if line.startswith("Inst ")}
    assert not moved & set(pins)


def test_apt_reads_the_sources_without_a_complaint(host: Host) -> None:
    update = host.run("apt-get -q update")
    assert update.rc == 0, update.stderr
    assert update.stderr == ""


def test_each_source_names_the_keyring_that_may_sign_it(host: Host, wanted: dict[str, Any]) -> None:
    sources = host.check_output(
        "cat /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true"
    )
    assert wanted["docker_ce_repo_url"] in sources
    assert wanted["nvidia_docker_repo_url"] in sources
    assert "signed-by" in sources.lower()


def test_keyrings_are_readable_for_apt_and_writable_for_root_only(host: Host) -> None:
    keyrings = host.check_output("ls /etc/apt/keyrings/*.gpg").split()
    assert len(keyrings) == 2
    for path in keyrings:
        keyring = host.file(path)
        assert (keyring.user, keyring.group, keyring.mode) == ("root", "root", 0o644)


def test_daemon_json_has_what_was_asked_for_and_keeps_what_was_there(host: Host, wanted: dict[str, Any]) -> None:
    config = json.loads(host.file("/etc/docker/daemon.json").content_string)
    assert config["registry-mirrors"] == wanted["docker_daemon_registry_mirrors"]
    assert config["runtimes"]["nvidia"]["path"] == "nvidia-container-runtime"
    assert config["log-opts"] == {"max-size": "50m", "max-file": "3"}


def test_docker_is_active_and_enabled(host: Host) -> None:
    docker = host.service("docker")
    assert docker.is_running, host.run("journalctl --no-pager -u docker -n 50").stdout
    assert docker.is_enabled


def test_the_running_daemon_uses_the_mirrors_and_the_nvidia_runtime(
    daemon: dict[str, Any], wanted: dict[str, Any]
) -> None:
    in_effect = [url.rstrip("/") for url in daemon["RegistryConfig"]["Mirrors"]]
    assert in_effect == wanted["docker_daemon_registry_mirrors"]
    assert "nvidia" in daemon["Runtimes"]


def test_hello_world_is_pulled_through_the_mirror_and_runs(host: Host) -> None:
    host.run("docker image rm --force hello-world")
    assert "Hello from Docker!" in host.check_output("docker run --rm hello-world")


def test_alice_may_use_docker(host: Host) -> None:
    assert "docker" in host.user("alice").groups
    assert host.run("su alice -c 'docker version'").rc == 0


def test_nobody_else_was_put_into_the_docker_group(host: Host) -> None:
    assert host.group("docker").members == ["alice"]


def test_alice_runs_a_command_in_a_container_as_herself_with_the_gpu(host: Host) -> None:
    launcher = host.file("/usr/local/bin/dockerrun")
    assert (launcher.user, launcher.group, launcher.mode) == ("root", "root", 0o755)
    seen = host.check_output("cd /home/alice && runuser -u alice -- dockerrun busybox sh -c 'id -u; nvidia-smi -L'")
    assert seen.splitlines()[0] == str(host.user("alice").uid)
    assert "GPU 0: " in seen


def test_a_container_of_the_nvidia_runtime_sees_the_gpu(host: Host) -> None:
    seen = host.check_output("docker run --rm --runtime nvidia --env NVIDIA_VISIBLE_DEVICES=all busybox nvidia-smi -L")
    assert seen.startswith("GPU 0: ")


def test_a_container_that_asks_for_no_gpu_sees_none(host: Host) -> None:
    # 127: the container has no nvidia-smi, which comes with the GPU.
    assert host.run("docker run --rm --runtime nvidia busybox nvidia-smi -L").rc == 127
