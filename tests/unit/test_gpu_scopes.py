"""Which running containers a daemon-reload takes GPUs from, of what systemd and the kernel say."""

from __future__ import annotations

import json
import os

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import dockerd
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import gpu_scopes

NODES = {"/dev/nvidia0": "195:0", "/dev/nvidia1": "195:1", "/dev/nvidiactl": "195:255", "/dev/nvidia-uvm": "510:0"}
GIVEN = {"195:0", "195:255", "510:0"}
# What runc 1.1 asks systemd for in every container.
USUAL = "DeviceAllow=char-pts rwm\nDeviceAllow=/dev/char/1:3 rwm\nDeviceAllow=char-* m\nDeviceAllow=block-* m\n"
ALL = "".join(f"DeviceAllow=/dev/char/{number} rwm\n" for number in sorted(GIVEN))


def scope(lines: str, policy: str = "strict") -> dict[str, object]:
    (found,) = gpu_scopes.scopes(f"ControlGroup=/system.slice/a.scope\nDevicePolicy={policy}\n{lines}Id=a.scope\n")
    return dict(found)


@pytest.mark.parametrize(
    ("lines", "policy", "linked", "lost"),
    [
        # The legacy mode's hook gives devices behind systemd's back.
        (USUAL, "strict", None, sorted(GIVEN)),
        (USUAL, "auto", None, sorted(GIVEN)),
        ("", "closed", None, sorted(GIVEN)),
        # CDI, and a device named with --device.
        (USUAL + ALL, "strict", None, []),
        (USUAL + "DeviceAllow=/dev/nvidia0 rw\nDeviceAllow=/dev/nvidiactl rw\n", "strict", None, ["510:0"]),
        (USUAL + "DeviceAllow=/dev/nvidia0 r\n" + ALL.replace("195:0", "1:5"), "strict", None, ["195:0"]),
        # An old systemd needs the link in /dev/char.
        (USUAL + ALL, "strict", set(), sorted(GIVEN)),
        (USUAL + ALL, "strict", {"195:0", "195:255"}, ["510:0"]),
        (USUAL + "DeviceAllow=/dev/nvidia0 rw\n" + ALL, "strict", {"195:255", "510:0"}, []),
        # Everything is allowed: a privileged container, or one that asked for it.
        ("", "auto", None, []),
        ("DeviceAllow=\n", "auto", None, []),
        ("DeviceAllow=char-* rwm\n", "strict", None, []),
        ("DeviceAllow=char-nvidia* rw\nDeviceAllow=char-nvidia-uvm rw\n", "strict", None, []),
    ],
)
def test_systemd_takes_the_devices_that_it_does_not_know(
    lines: str, policy: str, linked: set[str] | None, lost: list[str]
) -> None:
    assert gpu_scopes.unknown(scope(lines, policy), GIVEN, NODES, linked) == lost


def test_containers_without_a_gpu_lose_none() -> None:
    assert gpu_scopes.unknown(scope(USUAL), set(), NODES) == []


def test_every_scope_is_read_and_units_without_a_cgroup_are_not() -> None:
    text = (
        f"Id=init.scope\nControlGroup=/init.scope\nDevicePolicy=auto\n\nControlGroup=/x/b.scope\n{USUAL}"
        "DevicePolicy=strict\nId=b.scope\n\nId=gone.scope\nControlGroup=\nDevicePolicy=auto\n"
    )
    found = gpu_scopes.scopes(text)
    assert [(one["unit"], one["cgroup"], one["open"]) for one in found] == [
        ("init.scope", "/init.scope", True),
        ("b.scope", "/x/b.scope", False),
    ]
    assert found[1]["allow"] == ["char-pts", "/dev/char/1:3"]


def test_what_the_hook_mounts_is_told_from_all_of_dev() -> None:
    lines = (
        "701 690 0:5 /nvidia0 /dev/nvidia0 rw,nosuid,noexec - devtmpfs udev rw",
        "702 690 0:5 / /dev rw - devtmpfs udev rw",
        "703 690 8:1 /x /data/nvidia1 rw - ext4 /dev/sda1 rw",
        "short line",
    )
    assert gpu_scopes.mounted("\n".join(lines)) == {"/dev/nvidia0"}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        (json.dumps({"linux": {"devices": [{"path": "/dev/nvidia0", "major": 195, "minor": 0}]}}), {"195:0"}),
        (json.dumps({"linux": {"devices": [{"path": "/dev/x", "major": 195}]}}), {"195:0"}),
        (json.dumps({"linux": {}}), set()),
        (json.dumps({"linux": {"devices": None}}), set()),
        (json.dumps([]), set()),
        ("", set()),
        ("{", set()),
    ],
)
def test_devices_are_read_of_a_configuration(text: str, numbers: set[str]) -> None:
    assert gpu_scopes.configured(text) == numbers


@pytest.mark.parametrize(("shims", "lost"), [(1, True), (0, False)])
def test_where_systemd_says_nothing_running_containers_may_lose_their_gpus(
    shims: int, lost: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_scopes, "_nodes", lambda _directory: NODES)
    monkeypatch.setattr(os.path, "isdir", lambda _path: True)
    monkeypatch.setattr(dockerd, "shims", lambda: shims)
    monkeypatch.setattr(dockerd, "running", lambda: None)
    ran: list[tuple[str, ...]] = []

    def run(*words: str) -> tuple[int, str, str]:
        ran.append(words)
        return 1, "", "not found"

    assert bool(gpu_scopes.Host(run).keep()) is lost
    assert all(words[1] == "show" for words in ran)


RUNNING = [{"id": "a" * 64, "name": "job"}, {"id": "b" * 64, "name": "other"}]
JOB, OTHER, PODMAN = f"docker-{'a' * 64}.scope", f"docker-{'b' * 64}.scope", "libpod-c.scope"


@pytest.mark.parametrize(
    ("subjects", "losing", "untold", "policy", "kept", "lost", "refused"),
    [
        (["docker-ce"], [JOB, OTHER], [], "when-idle", ["job", "other"], [], False),
        (["docker-ce"], [JOB, OTHER], [OTHER], "when-idle", ["job"], ["other"], True),
        (["docker-ce"], [JOB], [JOB], "never", [], ["job"], True),
        (["docker-ce"], [JOB], [JOB], "when-empty", [], ["job"], True),
        (["docker-ce"], [JOB, PODMAN], [JOB], "always", [PODMAN], ["job"], False),
        (["docker-ce"], [], [], "never", [], [], False),
        ([], [JOB], [JOB], "when-idle", [], [], False),
    ],
)
def test_what_becomes_of_containers_when_systemd_reads_its_units_again(
    subjects: list[str],
    losing: list[str],
    untold: list[str],
    policy: str,
    kept: list[str],
    lost: list[str],
    refused: bool,
) -> None:
    devices = {unit: [] if unit in untold else ["/dev/nvidia0"] for unit in losing}
    assert sorted(gpu_scopes.untellable(devices)) == sorted(untold)
    fate = gpu_scopes.fate(subjects, devices, untold, RUNNING, policy)
    assert (fate["kept"], fate["lost"], bool(fate["refusal"])) == (kept, lost, refused)
    assert all(name in (fate["refusal"] or name) for name in lost)
