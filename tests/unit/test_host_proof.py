"""The checks of verification, decided without a host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import host_proof


def found(**docker: Any) -> dict[str, Any]:
    return {
        "init": "systemd",
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
    return {
        "changes": [{**dict(zip(keys, change, strict=True)), "disruption": "none"} for change in changes],
        "left_out": [],
    }


def test_a_host_with_an_empty_plan_passes_every_check() -> None:
    assert all(check["ok"] for check in host_proof.state_checks(found(), plan()))


def test_nothing_is_promised_of_what_tags_leave_out() -> None:
    host = found(info=None, info_error="no docker")
    left_out = plan(("docker_ce", "docker-ce", None, "5:2"), ("dockerrun", "dockerrun", None, "dockerrun"))["changes"]
    checks = host_proof.state_checks(host, {**plan(), "left_out": left_out})
    assert [check["name"] for check in checks if not check["ok"]] == []
    assert {check["name"] for check in checks}.isdisjoint(["pinned packages", "dockerrun", "docker answers"])


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
        (("nvidia_docker", "nvidia-docker2", "2.0", None), "pinned packages", "2.0 must go"),
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


UUIDS = [f"GPU-5ca1ab1e-0000-0000-0000-00000000000{number}" for number in range(3)]


def seen(*uuids: str, **changes: Any) -> dict[str, Any]:
    """Return the output of gpu_check.py in a container that has these GPUs."""
    devices = [{"name": "H200", "uuid": uuid[4:], "error": None, "busy": False} for uuid in uuids]
    return {
        "nodes": [f"/dev/nvidia{number}" for number in range(len(uuids))],
        "nvml": {"error": None, "gpus": [{"uuid": uuid, "mig": []} for uuid in uuids]},
        "cuda": {"error": None, "version": 13000, "devices": devices},
        **changes,
    }


NOTHING = seen(
    nvml={"error": "libnvidia-ml.so.1: cannot open shared object file", "gpus": []},
    cuda={"error": "libcuda.so.1: cannot open shared object file", "version": 0, "devices": []},
)


def gpu(*uuids: str, mig: tuple[str, ...] = ()) -> dict[str, Any]:
    """The probe's gpu of a host that has these GPUs."""
    return {"gpus": [{"uuid": uuid} for uuid in uuids], "smi": [], "mig_devices": [{"uuid": uuid} for uuid in mig]}


def answer(host: dict[str, Any], **looks: Any) -> dict[str, tuple[bool, str]]:
    """The checks that containers.sh's answer gives, by name; a look of text is a container that failed."""
    lines = ["container runs\tok\tHello"]
    for name, look in looks.items():
        good = isinstance(look, dict)
        lines.append(f"{name}\t{'ok' if good else 'failed'}\t{ascii(look) if good else look}")
    checks = host_proof.container_checks("\n".join(lines), host)
    return {check["name"]: (check["ok"], check["detail"]) for check in checks}


def failed(checks: dict[str, tuple[bool, str]]) -> dict[str, str]:
    return {name: detail for name, (ok, detail) in checks.items() if not ok}


def test_containers_that_have_what_they_ask_for_pass_every_check() -> None:
    everything = seen(*UUIDS)
    checks = answer(gpu(*UUIDS), all=everything, none=NOTHING, gpus=seen(UUIDS[0]), cdi=everything)
    assert failed(checks) == {}
    assert list(checks) == [
        "container runs",
        "container sees the GPU",
        "CUDA starts in a container",
        "GPU computes right",
        "no GPU where none is asked for",
        "one GPU where one is asked for",
        "GPU with --gpus",
        "GPU by CDI",
    ]


@pytest.mark.parametrize(
    ("said", "cure"),
    [
        ('docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].',
         "systemctl restart docker"),
        ('docker: Error response: exec: "nvidia-container-runtime-hook": executable file not found in $PATH.',
         "apt-get install --reinstall nvidia-container-toolkit"),
        ("stderr: invoking the NVIDIA Container Runtime Hook directly (e.g. specifying the docker --gpus flag) is not",
         "skip-mode-detection = true"),
        ("nvidia-container-cli: no driver", "nvidia-container-cli: no driver"),
    ],
)  # fmt: skip
def test_a_docker_that_refuses_the_flag_gpus_fails_a_check_that_says_the_cure(said: str, cure: str) -> None:
    wrong = failed(answer(gpu(UUIDS[0]), all=seen(UUIDS[0]), gpus=said))
    assert list(wrong) == ["GPU with --gpus"]
    assert cure in wrong["GPU with --gpus"]


def test_a_gpu_that_a_container_does_not_see_is_named() -> None:
    wrong = failed(answer(gpu(*UUIDS), all=seen(*UUIDS[:2])))
    assert list(wrong) == ["container sees the GPU"]
    assert UUIDS[2] in wrong["container sees the GPU"]


def test_a_gpu_that_the_host_does_not_have_is_named() -> None:
    wrong = failed(answer(gpu(UUIDS[0]), all=seen(UUIDS[1])))
    assert f"in a container that the host does not have: {UUIDS[1]}" in wrong["container sees the GPU"]


def test_a_host_that_does_not_name_its_gpus_has_nothing_to_compare_with() -> None:
    assert failed(answer({"gpus": None, "smi": []}, all=seen(UUIDS[0]))) == {}
    smi = [f"GPU 0: NVIDIA H200 (UUID: {UUIDS[0]})"]
    assert "container sees the GPU" in failed(answer({"gpus": None, "smi": smi}, all=seen(UUIDS[1])))


@pytest.mark.parametrize(
    ("look", "name", "detail"),
    [
        (NOTHING, "container sees the GPU", "libnvidia-ml.so.1: cannot open"),
        ("nvidia-container-cli: no driver", "container sees the GPU", "nvidia-container-cli: no driver"),
        (
            seen(UUIDS[0], cuda={"error": "cuInit: CUDA_ERROR_UNKNOWN", "version": 0, "devices": []}),
            "CUDA starts in a container",
            "cuInit: CUDA_ERROR_UNKNOWN",
        ),
        (
            seen(UUIDS[0], cuda={"error": None, "version": 12040, "devices": []}),
            "CUDA starts in a container",
            "CUDA 12.4, 0 of 1 devices",
        ),
    ],
    ids=["no library", "no container", "cuInit", "no device"],
)
def test_what_keeps_cuda_from_starting_is_said(look: Any, name: str, detail: str) -> None:
    wrong = failed(answer(gpu(UUIDS[0]), all=look))
    assert detail in wrong[name]


def test_wrong_arithmetic_fails_and_names_the_gpu() -> None:
    look = seen(*UUIDS)
    look["cuda"]["devices"][1]["error"] = "1 of 16384 results are wrong"
    wrong = failed(answer(gpu(*UUIDS), all=look))
    assert list(wrong) == ["GPU computes right"]
    assert f"{UUIDS[1][4:]}: 1 of 16384 results are wrong" in wrong["GPU computes right"]


def test_a_gpu_that_a_job_has_for_itself_is_not_tried_and_no_failure() -> None:
    look = seen(*UUIDS)
    look["cuda"]["devices"][1].update(error="cuDevicePrimaryCtxRetain: CUDA_ERROR_DEVICE_UNAVAILABLE", busy=True)
    checks = answer(gpu(*UUIDS), all=look)
    assert failed(checks) == {}
    assert "was not tried: a job has it" in checks["GPU computes right"][1]


def test_mig_devices_are_compared_and_cuda_gives_one_of_them() -> None:
    mig = ("MIG-11111111-0000-0000-0000-000000000000", "MIG-22222222-0000-0000-0000-000000000000")
    look = seen(mig[0], nvml={"error": None, "gpus": [{"uuid": UUIDS[0], "mig": list(mig)}]})
    assert failed(answer(gpu(UUIDS[0], mig=mig), all=look)) == {}
    look["nvml"]["gpus"][0]["mig"] = [mig[0]]
    assert mig[1] in failed(answer(gpu(UUIDS[0], mig=mig), all=look))["container sees the GPU"]


def test_two_gpus_where_one_is_asked_for_and_one_where_none_is_fail() -> None:
    wrong = failed(answer(gpu(*UUIDS), one=seen(*UUIDS[:2]), none=seen(UUIDS[0])))
    assert list(wrong) == ["one GPU where one is asked for", "no GPU where none is asked for"]
    # A node is enough to be too much.
    assert failed(answer(gpu(*UUIDS), none={**NOTHING, "nodes": ["/dev/nvidia0"]}))


def test_without_nvml_cuda_names_the_gpus() -> None:
    look = seen(*UUIDS, nvml={"error": "libnvidia-ml.so.1: no such file", "gpus": []})
    assert failed(answer(gpu(*UUIDS), all=look)) == {}


def test_an_image_that_cannot_be_made_fails_the_check_that_needs_it() -> None:
    wrong = failed(answer(gpu(UUIDS[0]), image="no Python of this host has ctypes"))
    assert wrong == {"container sees the GPU": "no Python of this host has ctypes"}


def test_an_answer_that_is_none_is_an_error_and_not_a_pass() -> None:
    with pytest.raises(host_proof.ProofError, match="sh: not found"):
        host_proof.container_checks("sh: not found\n", gpu())
    assert failed(answer(gpu(UUIDS[0]), all={"what": "else"}))
