"""Findings about recorded answers to the probe: each fault is named if the host has it, and not otherwise."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import gpu_containers, gpu_report
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import (
    finding,
    gpu_findings,
    host_findings,
    host_plan,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.probe import gpu as probed_gpu
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.probe import report
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import explained
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text.fleet import finding_lines

DATA = Path(__file__).parent / "data" / "probe"
RECORDINGS = sorted(path.stem for path in DATA.glob("*.txt"))
CDI = "/etc/cdi/nvidia.yaml"

Found = dict[str, Any]
Change = Callable[[Found], object]


def recorded(name: str) -> Found:
    return report.parse((DATA / f"{name}.txt").read_text(), "recording")


def named(findings: Iterable[dict[str, str]]) -> dict[str, str]:
    return {one["name"]: one["severity"] for one in findings}


def of_gpu(found: Found, stack: str = "toolkit", driver: str = "required") -> dict[str, str]:
    return named(gpu_findings.findings(found, stack, driver))


# ---- recorded hosts

WRONG: dict[str, dict[str, str]] = {
    "container": {},
    "eight-gpus": {},
    "gpu-lost": {"gpu-lost": "error"},
    "mig": {"mig-pending": "warning", "mig-without-devices": "warning"},
    "mismatch": {"driver-mismatch": "error", "cdi-stale": "error"},
    "mixed-models": {"no-persistence": "info"},
    "module-not-built": {"module-not-built": "error"},
    "no-driver": {"no-driver": "error"},
    "no-gpu": {"no-gpu": "warning"},
    "nouveau": {"nouveau": "error", "no-driver": "error"},
    "one-gpu": {},
    "real-h100": {},
    "secure-boot": {"secure-boot": "error"},
}


def test_every_recording_is_tried_and_says_what_it_is() -> None:
    assert set(WRONG) == set(RECORDINGS)
    for name in RECORDINGS:
        assert (DATA / f"{name}.txt").read_text().startswith(("# real: ", "# constructed: "))


@pytest.mark.parametrize("name", RECORDINGS)
def test_of_a_recorded_host_just_what_is_wrong_is_named(name: str) -> None:
    assert of_gpu(recorded(name)) == WRONG[name]


@pytest.mark.parametrize("name", RECORDINGS)
def test_where_no_stack_is_wanted_nothing_of_a_gpu_is_to_be_cured(name: str) -> None:
    expected = {} if name == "no-gpu" else dict.fromkeys(WRONG[name], "info")
    assert of_gpu(recorded(name), stack="none") == expected


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_missing_driver_stops_unless_it_is_optional(name: str) -> None:
    host = recorded(name)
    without = name in ("nouveau", "no-driver", "module-not-built", "secure-boot")
    assert bool(gpu_findings.stopping(gpu_findings.findings(host, "toolkit"))) is without
    optional = gpu_findings.findings(host, "toolkit", "optional")
    assert gpu_findings.stopping(optional) == []
    if without:
        assert set(named(optional).values()) == {"warning"}
    else:
        assert named(optional) == WRONG[name]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("one-gpu", "1 GPU (NVIDIA H100 80GB HBM3)"),
        ("eight-gpus", "8 GPUs (NVIDIA H100 80GB HBM3)"),
        ("mixed-models", "2 GPUs (1 NVIDIA L40S, 1 Tesla T4)"),
        ("no-driver", "1 GPU (TU104GL [Tesla T4])"),
        ("container", "1 GPU (NVIDIA A10)"),
        ("gpu-lost", "7 GPUs (NVIDIA H100 80GB HBM3)"),
    ],
)
def test_gpus_are_counted_by_model(name: str, words: str) -> None:
    assert gpu_findings.describe(recorded(name)["gpu"]) == words


def test_mig_devices_belong_to_their_gpu() -> None:
    gpu = recorded("mig")["gpu"]
    assert [(one["mig"], one["mig_pending"]) for one in gpu["gpus"]] == [(True, True), (True, True), (False, True)]
    assert {device["gpu"] for device in gpu["mig_devices"]} == {gpu["gpus"][0]["uuid"]}
    assert [device["profile"] for device in gpu["mig_devices"]] == ["3g.20gb", "2g.10gb", "1g.5gb"]


def test_a_mismatch_names_both_versions_and_says_reboot() -> None:
    (found, *_others) = gpu_findings.findings(recorded("mismatch"), "toolkit")
    assert "550.54.14" in found["message"]
    assert "550.90.07" in found["message"]
    assert found["cure"] == "reboot"


@pytest.mark.parametrize("name", RECORDINGS)
def test_every_finding_is_whole_and_of_one_line(name: str) -> None:
    for one in gpu_findings.findings(recorded(name), "toolkit"):
        assert set(one) == {"name", "severity", "message", "why", "cure"}
        assert all(text and "\n" not in text for text in one.values())


# ---- one thing at a time, on a host that is in order


def library(use: str, path: str = "/usr/lib/x86_64-linux-gnu") -> Any:
    return lambda gpu: [
        {"name": name, "path": f"{path}/{name}.so.580.95.05", "version": "580.95.05", "use": use}
        for name in ("libcuda", "libnvidia-ml")
    ]


def spec(text: str, path: str = CDI) -> Any:
    return lambda gpu: [probed_gpu.cdi_spec(path, text.encode())]


def settings(**values: Any) -> Any:
    return lambda gpu: {"mode": "auto", "no_cgroups": None, **values}


ONE = "GPU-00000001-0000-4000-8000-000000000001"
GOOD = "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices: [{name: all}, {name: %s}]\n"
NODE = "containerEdits: {deviceNodes: [{path: %s, major: %d}]}\n"
MIG: dict[str, Any] = {"slot": "0000:19:00.0", "uuid": ONE, "model": "A", "minor": 0, "persistence": True}
# {what is changed: (of found["gpu"], what is then wrong)}
STATES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "nothing": ({}, {}),
    "older libraries left over": (
        {"libraries": lambda gpu: [*gpu["libraries"], {**gpu["libraries"][0], "version": "535.1.2", "use": "other"}]},
        {},
    ),
    "two versions of libraries": (
        {"libraries": lambda gpu: [gpu["libraries"][0], {**gpu["libraries"][1], "version": "580.1.2"}]},
        {"driver-mismatch": "error"},
    ),
    "no libraries": ({"libraries": []}, {"no-libraries": "error"}),
    "no libcuda": ({"libraries": lambda gpu: gpu["libraries"][1:]}, {"no-libraries": "error"}),
    "libraries out of the loader's sight": (
        {"libraries": library("linked", "/opt/nvidia/lib64")}, {"libraries-hidden": "warning"}
    ),
    "libraries where the loader was told to look": ({"libraries": library("loader", "/usr/local/nvidia/lib64")}, {}),
    "libraries of an unknown version": (
        {"libraries": lambda gpu: [{**one, "version": None} for one in gpu["libraries"]]}, {}
    ),
    "a mismatch that only nvidia-smi knows of": (
        {
            "libraries": lambda gpu: [{**one, "version": None} for one in gpu["libraries"]],
            "smi": [],
            "smi_error": "Failed to initialize NVML: Driver/library version mismatch NVML library version: 570.86",
        },
        {"driver-mismatch": "error"},
    ),
    "nvidia-smi fails": ({"smi": [], "smi_error": "No devices were found"}, {"smi-fails": "error"}),
    "nvidia-smi hangs": ({"smi": [], "smi_error": ""}, {"smi-fails": "error"}),
    "no nvidia-smi": ({"smi": [], "smi_path": None}, {"no-nvidia-smi": "info"}),
    "no nodes": ({"nodes": [], "devices": []}, {"no-device-nodes": "warning"}),
    "no node of uvm, and a CDI specification that has it": (
        {
            "nodes": lambda gpu: gpu["nodes"][:2],
            "cdi": spec(GOOD % ONE + "containerEdits: {deviceNodes: [{path: /dev/nvidia-uvm}]}\n"),
        },
        {"no-device-nodes": "warning"},
    ),
    "no node of uvm": ({"nodes": lambda gpu: gpu["nodes"][:2]}, {}),
    "a GPU that nouveau has": (
        {"pci": lambda gpu: [*gpu["pci"], {**gpu["pci"][0], "slot": "0000:65:00.0", "driver": "nouveau"}]},
        {"nouveau": "error"},
    ),
    "a GPU of a virtual machine": (
        {"pci": lambda gpu: [*gpu["pci"], {**gpu["pci"][0], "slot": "0000:65:00.0", "driver": "vfio-pci"}]}, {}
    ),
    "a GPU that the driver does not know": (
        {"pci": lambda gpu: [*gpu["pci"], {**gpu["pci"][0], "slot": "0000:65:00.0", "driver": ""}]},
        {"gpu-lost": "error"},
    ),
    "nouveau beside the driver, with no GPU": ({"modules": {"nvidia": "580.95.05", "nouveau": ""}}, {}),
    "Secure Boot": ({"secure_boot": True}, {}),
    "persistence off": (
        {"gpus": [{**MIG, "persistence": False, "mig": None, "mig_pending": None}], "persistenced": False},
        {"no-persistence": "info"},
    ),
    "MIG parted": (
        {
            "gpus": [{**MIG, "mig": True, "mig_pending": True}],
            "mig_devices": [{"gpu": ONE, "profile": "1g.5gb", "uuid": "MIG-1"}],
            "cdi": spec(GOOD % "MIG-1"),
        },
        {},
    ),
    "MIG parted since the specification was made": (
        {
            "gpus": [{**MIG, "mig": True, "mig_pending": True}],
            "mig_devices": [{"gpu": ONE, "profile": "1g.5gb", "uuid": "MIG-1"}],
            "cdi": spec(GOOD % ONE),
        },
        {"cdi-stale": "error"},
    ),
    "MIG not parted": (
        {"gpus": [{**MIG, "mig": True, "mig_pending": True}]}, {"mig-without-devices": "warning"}
    ),
    "MIG to go": ({"gpus": [{**MIG, "mig": False, "mig_pending": True}]}, {"mig-pending": "warning"}),
    "no CDI": ({"cdi": []}, {}),
    "CDI that is no YAML": ({"cdi": spec("a: [")}, {"cdi-invalid": "error"}),
    "CDI that is a list": ({"cdi": spec("[]")}, {"cdi-invalid": "error"}),
    "CDI without devices": (
        {"cdi": spec("cdiVersion: '1'\nkind: nvidia.com/gpu\ndevices: []")}, {"cdi-invalid": "error"}
    ),
    "CDI with a nameless device": (
        {"cdi": spec("cdiVersion: '1'\nkind: nvidia.com/gpu\ndevices: [{a: b}]")}, {"cdi-invalid": "error"}
    ),
    "CDI with a device that is a word": (
        {"cdi": spec("cdiVersion: '1'\nkind: nvidia.com/gpu\ndevices: [a]")}, {"cdi-invalid": "error"}
    ),
    "CDI as JSON, broken": ({"cdi": spec("{", "/var/run/cdi/nvidia.json")}, {"cdi-invalid": "error"}),
    "CDI of somebody else, broken": ({"cdi": spec("{", "/etc/cdi/nic.json")}, {}),
    "CDI of another driver": (
        {"cdi": spec(GOOD % ONE + "# /lib/libcuda.so.570.1.2\n")}, {"cdi-stale": "error"}
    ),
    "CDI of a GPU that went": ({"cdi": spec(GOOD % "GPU-9")}, {"cdi-stale": "error"}),
    "CDI with the numbers of another boot": (
        {"cdi": spec(GOOD % ONE + NODE % ("/dev/nvidia-uvm", 238))}, {"cdi-stale": "error"}
    ),
    "CDI with the numbers of this boot": ({"cdi": spec(GOOD % ONE + NODE % ("/dev/nvidia-uvm", 511))}, {}),
    "CDI with the number of a node that is not here": ({"cdi": spec(GOOD % ONE + NODE % ("/dev/x", 1))}, {}),
    "CDI of a GPU that is there": ({"cdi": spec(GOOD % ONE)}, {}),
    "toolkit in CDI mode": ({"toolkit": settings(mode="cdi")}, {}),
    "toolkit in CDI mode without CDI": ({"toolkit": settings(mode="cdi"), "cdi": []}, {"no-cdi": "error"}),
    "toolkit in no mode": ({"toolkit": settings(mode="magic")}, {"toolkit-mode": "error"}),
    "toolkit without control groups": ({"toolkit": settings(no_cgroups=True)}, {"no-cgroups": "warning"}),
    "toolkit never configured": ({"toolkit": None}, {}),
    "everything at once": (
        {
            "libraries": lambda gpu: [{**one, "version": "570.1.2"} for one in gpu["libraries"]],
            "cdi": spec("["), "toolkit": settings(no_cgroups=True),
            "gpus": [{**MIG, "persistence": False, "mig": True, "mig_pending": True}], "persistenced": False,
        },
        {
            "driver-mismatch": "error", "cdi-invalid": "error", "no-cgroups": "warning", "no-persistence": "info",
            "mig-without-devices": "warning",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("state", STATES)
def test_what_is_wrong_with_a_gpu_is_named_alone_and_combined(state: str) -> None:
    host = recorded("one-gpu")
    changes, wrong = STATES[state]
    host["gpu"].update({name: value(host["gpu"]) if callable(value) else value for name, value in changes.items()})
    before = copy.deepcopy(host)
    assert of_gpu(host) == wrong
    assert host == before


@pytest.mark.parametrize(
    ("driver", "linked", "mode", "version", "lost"),
    [
        ("cgroupfs", False, "legacy", "1.17.8-1", False),
        ("systemd", False, "auto", "1.19.1-1", True),
        ("systemd", True, "auto", "1.19.1-1", False),
        ("systemd", True, "auto", "1.17.8-1", True),
        ("systemd", True, "cdi", "1.17.8-1", False),
        ("systemd", True, "legacy", "1.19.1-1", True),
    ],
)
def test_a_reload_of_systemd_takes_gpus_away_where_systemd_does_not_know_of_them(
    driver: str, linked: bool, mode: str, version: str, lost: bool
) -> None:
    host = recorded("one-gpu")
    host["docker"]["info"] = {"ServerVersion": "29", "CgroupDriver": driver}
    host["apt"]["packages"]["nvidia-container-toolkit"]["version"] = version
    host["gpu"]["toolkit"].update(mode=mode, any_mode=True)
    for node in host["gpu"]["nodes"]:
        node["linked"] = linked
    # Where the others keep it, those lose it that this engine's --gpus gave it to.
    kept = {"gpus-flag-lost-at-reload": "info"} if driver == "systemd" else {}
    assert of_gpu(host) == ({"gpu-lost-at-reload": "warning"} if lost else kept)


# ---- the host


def packages(found: Found, status: str = "ii", **versions: str) -> Found:
    """Have packages in these versions."""
    found["apt"]["packages"].update(
        {name: {"version": version, "status": status, "hold": False} for name, version in versions.items()}
    )
    return found


def engine(found: Found, info: dict[str, Any] | None = None, **service: Any) -> Found:
    """Have dockerd run, unless info, what it says of itself, is empty."""
    found["docker"]["service"].update(
        load="loaded", active="active", sub="running", enabled="enabled", main_pid=9, state_changed=1
    )
    found["docker"]["service"].update(service)
    found["docker"]["info"] = {"ServerVersion": "29"} if info is None else info or None
    return found


def config(found: Found, text: str) -> None:
    found["docker"]["config"].update(kind="file", data=base64.b64encode(text.encode()).decode())


def unread(found: Found, text: str) -> None:
    config(found, text)
    found["docker"]["config"]["mtime"] = found["clock"]


def flagged(found: Found, text: str) -> None:
    config(found, text)
    found["docker"]["exec_start"] = [{"file": "/etc/x.conf", "line": "/usr/bin/dockerd --debug -H fd://"}]


HOSTS: dict[str, tuple[Change, dict[str, str]]] = {
    "in order": (lambda found: None, {}),
    "without docker": (lambda found: found["docker"]["service"].update(load="not-found"), {"no-docker": "info"}),
    "failed": (
        lambda found: (engine(found, {}, active="failed"), found["docker"].update(info_error="no such driver")),
        {"dockerd-fails": "error"},
    ),
    "starting": (lambda found: engine(found, {}, active="activating", sub="start"), {"dockerd-fails": "error"}),
    "stopped": (lambda found: engine(found, {}, active="inactive"), {"dockerd-stopped": "error"}),
    "masked": (lambda found: (engine(found, {}, load="masked", active="inactive", enabled="masked"),
        packages(found, **{"docker-ce": "5:29.7.2-1~debian.12~bookworm"})),
        {"dockerd-masked": "error"}),
    "old engine": (lambda found: packages(found, **{"docker-ce": "5:29.3.0-1~x"}), {"security-fixes": "warning"}),
    "old containerd": (
        lambda found: packages(found, **{"docker-ce": "5:29.7.2-1~x", "containerd.io": "2.1.4-1~x"}),
        {"security-fixes": "warning"},
    ),
    "old, and nothing newer is published": (
        lambda found: (packages(found, **{"docker-ce": "5:18.09.4~3-0~ubuntu-xenial", "containerd.io": "1.2.5-1"}),
            found["os"].update(codename="xenial")),
        {"security-fixes": "info"},
    ),
    "old, and removed": (lambda found: packages(found, "rc", **{"docker-ce": "5:18.09.4"}), {}),
    "disabled": (lambda found: engine(found, enabled="disabled"), {"dockerd-disabled": "warning"}),
    "stopped and disabled": (
        lambda found: engine(found, {}, active="inactive", enabled="disabled"),
        {"dockerd-stopped": "error", "dockerd-disabled": "warning"},
    ),
    "silent": (lambda found: engine(found, {}), {"dockerd-silent": "error"}),
    "changed on disk": (lambda found: engine(found, needs_daemon_reload=True), {"needs-daemon-reload": "warning"}),
    "daemon.json right": (lambda found: config(found, '{"debug": true}'), {}),
    "daemon.json broken": (lambda found: config(found, "{,}"), {"daemon-json": "error"}),
    "daemon.json with a wrong type": (lambda found: unread(found, '{"debug": "yes"}'), {"daemon-json": "error"}),
    "daemon.json with a key of no engine": (lambda found: unread(found, '{"x": 1}'), {"daemon-json": "error"}),
    "a value that dockerd runs with": (lambda found: config(found, '{"registry-mirrors": ["http://h/path"]}'), {}),
    "a flag twice": (lambda found: flagged(found, '{"debug": true}'), {"flag-conflict": "error"}),
    "a flag once": (lambda found: flagged(found, '{"labels": []}'), {}),
    "dpkg at work": (
        lambda found: found["apt"].update(lock_holder="apt-get (process 7)", broken={"a": "install ok unpacked"}),
        {"dpkg-locked": "warning"},
    ),
    "dpkg interrupted": (lambda found: found["apt"].update(interrupted=True), {"dpkg-interrupted": "warning"}),
    "a package half way": (
        lambda found: found["apt"].update(broken={"a": "install ok half-configured"}), {"half-installed": "warning"}
    ),
    "clock ahead": (lambda found: found.update(clock_skew=86400), {"clock-off": "warning"}),
    "clock behind": (lambda found: found.update(clock_skew=-61), {"clock-off": "warning"}),
    "clock a little off": (lambda found: found.update(clock_skew=59), {}),
    "degraded": (
        lambda found: found.update(failed_units=["docker.service", "x.service"]), {"system-degraded": "warning"}
    ),
    "degraded by docker alone": (lambda found: found.update(failed_units=["docker.service"]), {}),
    "reboot pending": (lambda found: found.update(reboot_required=["linux-base"]), {"reboot-pending": "info"}),
    "without systemd": (
        lambda found: (found.update(init="other"), found["docker"].update(process={"pid": 7, "command": "dockerd"})),
        {"no-systemd": "info"},
    ),
    "without systemd, silent": (
        lambda found: (engine(found, {}), found.update(init="other"),
            found["docker"].update(process={"pid": 7, "command": "dockerd"})),
        {"no-systemd": "info", "dockerd-silent": "error"},
    ),
}  # fmt: skip


def found_and_plan(change: Change) -> tuple[Found, dict[str, Any]]:
    host = recorded("one-gpu")
    engine(host)
    change(host)
    return host, host_plan.plan({}, host, [])


@pytest.mark.parametrize("state", HOSTS)
def test_what_is_wrong_with_a_host_is_named_and_nothing_else(state: str) -> None:
    change, wrong = HOSTS[state]
    assert named(host_findings.findings(*found_and_plan(change))) == wrong


def test_dockerd_says_in_its_own_words_why_it_does_not_start_and_no_secret() -> None:
    said = "failed to start: http://me:pw@mirror/ is not valid"
    host, plan = found_and_plan(lambda found: engine(found, {}, active="failed"))
    host["docker"]["info_error"] = said
    (one,) = host_findings.findings(host, plan)
    assert one["message"] == "dockerd does not start: failed to start: http://***@mirror/ is not valid"


def test_problems_of_the_plan_are_findings_and_daemon_json_is_told_once() -> None:
    problems = [
        {"name": "disk", "message": "/var has 3 MiB free; 1024 MiB are needed"},
        {"name": "docker_daemon", "message": "/etc/docker/daemon.json is not JSON"},
        {"name": "driver", "message": "told by the findings of the GPU"},
        {"name": "docker_ce_version", "message": "docker_ce_version cannot be read"},
    ]
    host, plan = found_and_plan(lambda found: config(found, "{"))
    wrong = {"disk": "error", "daemon-json": "error", "docker-ce-version": "error"}
    assert named(host_findings.findings(host, {**plan, "problems": problems})) == wrong
    config(host, "{}")
    wrong = {"disk": "error", "docker-daemon": "error", "docker-ce-version": "error"}
    assert named(host_findings.findings(host, {**plan, "problems": problems})) == wrong


def test_what_is_pending_is_worth_knowing() -> None:
    host, plan = found_and_plan(lambda found: None)
    changed = {**plan, "changes": [{"role": "docker_ce"}]}
    assert named(host_findings.findings(host, changed)) == {"not-as-wanted": "info"}


def test_the_worst_finding_comes_first() -> None:
    severities = ("info", "error", "warning")
    unsorted = [finding.finding("disk", "m", cure="c", severity=severity, why="w") for severity in severities]
    assert [one["severity"] for one in finding.ordered(unsorted)] == ["error", "warning", "info"]
    assert finding_lines(unsorted[1:2]) == ["1 error", "error disk: m", "  why:  w", "  cure: c"]
    assert finding_lines([]) == ["healthy"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", {"mode": None, "no_cgroups": None, "any_mode": None}),
        ("[nvidia-container-runtime]\nmode = 'cdi'\n", {"mode": "cdi", "no_cgroups": None, "any_mode": None}),
        ("nvidia-container-runtime.mode = 'csv'\n", {"mode": "csv", "no_cgroups": None, "any_mode": None}),
        ('[nvidia-container-runtime]\nmode = "legacy" # x\n', {"mode": "legacy", "no_cgroups": None, "any_mode": None}),
        ("[nvidia-container-cli]\n#no-cgroups = true\n", {"mode": None, "no_cgroups": None, "any_mode": None}),
        (
            "[nvidia-container-cli]\nno-cgroups=true\n[a.b]\nmode='x'\n",
            {"mode": None, "no_cgroups": True, "any_mode": None},
        ),
    ],
)
def test_the_toolkit_s_configuration_is_read(text: str, shown: dict[str, Any]) -> None:
    file = {gpu_report.TOOLKIT_CONFIG: {"data": text.encode()}}
    assert probed_gpu.parse({}, {}, file)["toolkit"] == shown


def test_findings_are_no_secret_and_can_be_written_as_json() -> None:
    for name in RECORDINGS:
        json.dumps(gpu_findings.findings(recorded(name), "toolkit"))


def test_every_kind_of_finding_is_made_somewhere_and_has_one_line_texts() -> None:
    root = Path(__file__).resolve().parents[2]
    made = "".join(
        (root / f"plugins/plugin_utils/plan/{name}.py").read_text() for name in ("gpu_findings", "host_findings")
    )
    named = set(re.findall(r'"([a-z-]+)"', made)) | {
        "python",
        "disk",
        "snap",
        "apt",
        "operating-system",
        "architecture",
    }
    assert set(explained.FINDINGS) - named - {"docker-daemon", "docker-group", "lock"} == set()
    assert not [text for kind in explained.FINDINGS.values() for text in kind if "\n" in text or not text]


@pytest.mark.parametrize(
    ("subject", "kind"),
    [
        ("keyring docker", "keyring NAME"),
        ("apt source nvidia", "apt source NAME"),
        ("docker-ce hold", "PACKAGE hold"),
        ("containerd.io", "PACKAGE"),
        ("docker.service", "docker.service"),
        ("proxy of docker.service, http-proxy.conf", "proxy of docker.service"),
        ("daemon.json", "daemon.json"),
        ("docker group", "docker group"),
        ("dockerrun.conf", "dockerrun"),
        *(
            (subject, "toolkit mode, hook of the toolkit, links in /dev/char, CDI specification, CDI refresh")
            for subject in gpu_containers.SUBJECTS
        ),
    ],
)
def test_a_change_is_explained_by_its_subject(subject: str, kind: str) -> None:
    change = explained.change(subject)
    assert change is not None
    assert change.name == kind
