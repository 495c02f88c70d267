"""What verification promises, judged without a host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_proof

GPU = "GPU 0: NVIDIA H200 (UUID: GPU-1)"


def found(**docker: Any) -> dict[str, Any]:
    return {
        "apt": {"packages": {"docker-ce": {"version": "5:1", "status": "hi", "hold": True}}},
        "docker": {
            "info": {"RegistryConfig": {"Mirrors": ["http://m/"]}, "Runtimes": {"nvidia": {}}},
            "info_error": "",
            "service": {"active": "active", "enabled": "enabled"},
            **docker,
        },
        "dockerrun": {},
        "groups": {"docker": {"members": ["alice"]}},
        "gpu": {"devices": [], "smi": []},
    }


def plan(*changes: tuple[str, str, Any, Any]) -> dict[str, Any]:
    keys = ("role", "subject", "from", "to")
    return {"changes": [{**dict(zip(keys, change, strict=True)), "disruption": "none"} for change in changes]}


def test_a_host_with_an_empty_plan_passes_every_check() -> None:
    assert all(check["ok"] for check in host_proof.state_checks(found(), plan()))


@pytest.mark.parametrize(
    ("change", "name", "detail"),
    [
        (("docker_ce", "docker-ce", "5:1", "5:2"), "pinned packages", "docker-ce: 5:1, wanted 5:2"),
        (
            ("docker_ce", "docker.service", "disabled", "enabled"),
            "docker runs, at boot too",
            "disabled",
        ),
        (
            ("docker_daemon", "daemon.json", None, "debug true"),
            "daemon.json in effect",
            "debug true is missing",
        ),
        (("docker_group", "docker group", None, "bob"), "docker group", "bob is missing"),
        (("dockerrun", "dockerrun", None, "/usr/local/bin/dockerrun"), "dockerrun", "dockerrun is missing"),
        (("nvidia_docker", "nvidia-docker2", "2.0", None), "pinned packages", "2.0 is to go"),
    ],
)
def test_a_change_that_is_left_fails_the_check_it_belongs_to(
    change: tuple[str, str, Any, Any], name: str, detail: str
) -> None:
    failed = [check for check in host_proof.state_checks(found(), plan(change)) if not check["ok"]]
    assert [check["name"] for check in failed] == [name]
    assert detail in failed[0]["detail"]


def test_a_daemon_that_does_not_answer_fails_even_when_nothing_differs() -> None:
    checks = host_proof.state_checks(found(info=None, info_error="permission denied"), plan())
    assert {"name": "docker answers", "ok": False, "detail": "permission denied"} in checks


def test_the_hosts_gpus_must_all_be_seen_in_the_container() -> None:
    output = f"container runs\tok\tHello\ncontainer sees the GPU\tok\t/dev/nvidia0 {GPU}\n"
    assert all(check["ok"] for check in host_proof.container_checks(output, [GPU]))
    second = "GPU 1: NVIDIA H200 (UUID: GPU-2)"
    assert [check["ok"] for check in host_proof.container_checks(output, [GPU, second])] == [
        True,
        False,
    ]


def test_an_answer_that_is_none_is_an_error_and_not_a_pass() -> None:
    with pytest.raises(host_proof.ProofError, match="sh: not found"):
        host_proof.container_checks("sh: not found\n", [])
