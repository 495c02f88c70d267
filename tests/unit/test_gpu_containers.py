"""The settings that give containers GPUs and keep them there, decided without a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_json
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import gpu_containers
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import daemon_notes, gpu_reload
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.probe import gpu, report

DATA = Path(__file__).parent / "data/probe"
UUID = "GPU-5ca1ab1e-0000-0000-0000-000000000000"
RULE = gpu_containers.LINKS_RULE


def spec(path: str = gpu_containers.SPEC_PATH, **changes: Any) -> dict[str, Any]:
    right = {
        "kind": "nvidia.com/gpu",
        "devices": ["0", UUID, "all"],
        "nodes": {},
        "driver_version": "580.1",
        "error": "",
    }
    return {"path": path, **right, **changes}


def found(driver: str = "systemd", runc: str = "v1.3.0-0-g1", mode: str | None = "auto", **gpu: Any) -> dict[str, Any]:
    """A host of today: the toolkit gives devices by the container's own configuration."""
    return {
        "init": "systemd",
        "os": {"codename": "noble"},
        "apt": {"packages": {"nvidia-container-toolkit": {"version": "1.19.1-1"}}},
        "docker": {"info": {"CgroupDriver": driver, "RuncCommit": {"ID": runc}}},
        "gpu": {
            "toolkit": {"mode": mode},
            "nodes": [{"path": "/dev/nvidia0", "number": "195:0", "linked": False}],
            "kept": ["nvidia-cdi-refresh.path"],
            "cdi": [spec()],
            "gpus": [{"uuid": UUID, "mig": False}],
            "mig_devices": [],
            "driver_version": "580.1",
            **gpu,
        },
    }


def decided(host: dict[str, Any], **wanted: Any) -> list[tuple[str, Any, Any]]:
    asked = {"stack": "toolkit", "version": "1.19.1-1", "cdi": False, "mode": "", **wanted}
    return [(one["subject"], one["from"], one["to"]) for one in gpu_containers.decide(asked, host)]


def test_a_host_of_today_has_nothing_to_be_changed() -> None:
    assert decided(found()) == decided(found(), cdi=True) == []
    assert gpu_reload.lasting(found())[0]


@pytest.mark.parametrize("runc", ["v1.1.3-0-g6", "1.1.5+ds1-1+deb12u1", "v1.1.6", "", "860f061b76bb"])
def test_a_runc_that_leaves_out_devices_without_links_gets_links(runc: str) -> None:
    host = found(runc=runc)
    assert decided(host) == [("links in /dev/char", None, "/dev/nvidia0")]
    assert "/dev/nvidia0 without a link" in gpu_reload.lasting(host)[1]
    host["gpu"]["nodes"][0]["linked"] = True
    assert decided(host) == [("links in /dev/char", "until the next start", "by a udev rule")]
    host["gpu"]["kept"].append(RULE)
    assert decided(host) == []
    assert gpu_reload.lasting(host) == (
        True,
        "systemd knows of the devices (toolkit mode auto, links in /dev/char)",
    )


@pytest.mark.parametrize("runc", ["v1.1.2", "v1.1.7-0-g860f061", "1.1.15+ds1-2+b4", "v1.2.5-0-g59923ef"])
def test_other_runcs_need_no_links(runc: str) -> None:
    assert decided(found(runc=runc)) == []


def test_an_older_systemd_needs_links_whatever_the_runc() -> None:
    host = found()
    host["os"]["codename"] = "bionic"
    assert [subject for subject, *_change in decided(host)] == ["links in /dev/char"]


def test_without_systemd_s_cgroups_nothing_is_lost_and_nothing_changed() -> None:
    host = found(driver="cgroupfs", runc="v1.1.5", mode="legacy")
    assert decided(host) == decided(host, version="1.17.8-1") == []
    assert gpu_reload.lasting(host) == (True, "dockerd manages cgroups without systemd")


def test_a_mode_that_goes_behind_systemd_s_back_is_changed() -> None:
    host = found(mode="legacy")
    assert decided(host) == [("toolkit mode", "legacy", "auto")]
    assert not gpu_reload.lasting(host)[0]


def test_an_older_toolkit_gets_cdi_and_a_specification_that_is_kept_fresh() -> None:
    host = found(cdi=[], kept=[])
    host["apt"]["packages"]["nvidia-container-toolkit"]["version"] = "1.17.8-1"
    assert decided(host, version="1.17.8-1") == [
        ("toolkit mode", "auto", "cdi"),
        ("hook of the toolkit", "refuses docker run --gpus", "gives GPUs in the mode cdi, too"),
        ("CDI refresh", None, "gpuprov-cdi-refresh.path"),
        ("CDI specification", None, "driver 580.1"),
    ]
    assert not gpu_reload.lasting(host)[0]


@pytest.mark.parametrize("mode", ["auto", "cdi", "legacy"])
def test_a_mode_that_is_asked_for_is_set_and_otherwise_left(mode: str) -> None:
    changes = [("toolkit mode", "csv", mode)]
    assert [one for one in decided(found(mode="csv"), mode=mode) if one[0] == "toolkit mode"] == changes
    right = found(mode=mode)
    right["gpu"]["toolkit"]["any_mode"] = True
    assert decided(right, mode=mode) == []


@pytest.mark.parametrize("words", [{"mode": "cdi"}, {"mode": "", "version": "1.17.8-1"}])
def test_the_hook_works_in_the_mode_cdi_for_docker_run_gpus_asks_it(words: dict[str, str]) -> None:
    host = found(mode="auto" if words["mode"] else "cdi")
    hook = [one for one in decided(host, **words) if one[0] == "hook of the toolkit"]
    assert hook == [("hook of the toolkit", "refuses docker run --gpus", "gives GPUs in the mode cdi, too")]
    host["gpu"]["toolkit"]["any_mode"] = True
    assert [one for one in decided(host, **words) if one[0] == "hook of the toolkit"] == []


CDI_ON = {"CDISpecDirs": ["/etc/cdi"]}


@pytest.mark.parametrize(
    ("info", "gpu", "way", "lost"),
    [
        ({"ServerVersion": "18.09.4"}, {}, None, ""),
        (
            {"ServerVersion": "20.10.24+dfsg1"},
            {},
            "hook",
            "Docker Engine 20.10.24+dfsg1 gives GPUs for --gpus by a hook",
        ),
        ({"ServerVersion": "28.5.2", **CDI_ON}, {}, "hook", "by a hook"),
        ({"ServerVersion": "29.7.2", **CDI_ON}, {}, "cdi", ""),
        ({"ServerVersion": "29.7.2", **CDI_ON}, {"cdi": []}, "hook", "by a hook"),
        ({"ServerVersion": "29.7.2"}, {}, "hook", "by a hook"),
        (
            {"ServerVersion": "29.7.2", "RuncCommit": {"ID": "1.1.5"}, **CDI_ON},
            {},
            "cdi",
            "/dev/nvidia0 without a link",
        ),
        ({"ServerVersion": "26.1.5", "DefaultRuntime": "nvidia"}, {}, "runtime", ""),
        ({"ServerVersion": "26.1.5", "DefaultRuntime": "nvidia"}, {"toolkit": {"mode": "legacy"}}, "runtime", "a hook"),
        ({"ServerVersion": "26.1.5", "CgroupDriver": "cgroupfs"}, {}, "hook", ""),
    ],
)
def test_what_a_container_started_with_gpus_alone_loses_at_a_daemon_reload(
    info: dict[str, Any], gpu: dict[str, Any], way: str | None, lost: str
) -> None:
    host = found(**gpu)
    host["docker"]["info"].update(info)
    assert gpu_reload.flag_gives(host) == way
    assert lost in gpu_reload.flag_lost_at_reload(host)
    assert bool(gpu_reload.flag_lost_at_reload(host)) is bool(lost)
    if way == "hook" and lost:
        ok, said = gpu_reload.lasting(host)
        assert ok
        assert "with --gpus alone it goes" in said
        assert "--runtime=nvidia --gpus" in said


@pytest.mark.parametrize(
    ("specs", "before"),
    [
        ([], None),
        ([spec(kind="other.com/device")], None),
        ([spec(driver_version="570.2")], "driver 570.2"),
        ([spec(driver_version=None)], "driver unknown"),
        ([spec(kind="", error="it has no kind")], "/var/run/cdi/nvidia.yaml is invalid: it has no kind"),
        ([spec(nodes={"/dev/nvidia0": "508:0", "/dev/nvidia1": None})], "other numbers of /dev/nvidia0"),
        ([spec(devices=["GPU-other", "all"])], f"without {UUID}"),
        ([spec(devices=[UUID, "GPU-gone", "all"])], "with GPU-gone, which is not here"),
        ([spec(devices=["0", UUID])], "without the device all"),
        # What lies in /var/run/cdi goes before the other.
        ([spec("/etc/cdi/nvidia.yaml"), spec(driver_version="570.2")], "driver 570.2"),
    ],
)
def test_a_specification_that_is_missing_stale_or_invalid_is_generated(specs: list[Any], before: str | None) -> None:
    assert decided(found(cdi=specs), cdi=True) == [("CDI specification", before, "driver 580.1")]
    assert decided(found(cdi=specs)) == []


@pytest.mark.parametrize(
    ("engine", "directories", "by_cdi"),
    [
        ("29.2.0", ["/etc/cdi", "/var/run/cdi"], True),
        ("29.7.2", ["/etc/cdi"], True),
        ("30.0.0", ["/etc/cdi"], True),
        ("29.7.2", [], False),
        ("29.1.5", ["/etc/cdi"], False),
        ("28.5.2", ["/etc/cdi"], False),
        ("18.09.4", None, False),
    ],
)
def test_a_stale_specification_is_generated_anew_where_the_engine_takes_gpus_from_it(
    engine: str, directories: list[str] | None, by_cdi: bool
) -> None:
    for stale, before in (
        (spec(driver_version="570.2"), "driver 570.2"),
        (spec(devices=[UUID, "GPU-gone", "all"]), "with GPU-gone, which is not here"),
    ):
        host = found(cdi=[stale])
        host["docker"]["info"].update(ServerVersion=engine, CDISpecDirs=directories)
        assert decided(host) == ([("CDI specification", before, "driver 580.1")] if by_cdi else [])
    # After MIG was switched on nothing of NVIDIA's makes another one.
    mig = [{"gpu": UUID, "profile": "1g.10gb", "uuid": "MIG-1"}]
    host = found(gpus=[{"uuid": UUID, "mig": True}], mig_devices=mig)
    host["docker"]["info"].update(ServerVersion=engine, CDISpecDirs=directories)
    assert decided(host) == ([("CDI specification", "without MIG-1", "driver 580.1")] if by_cdi else [])
    # Without one the engine falls back to the toolkit's hook.
    host = found(cdi=[])
    host["docker"]["info"].update(ServerVersion=engine, CDISpecDirs=directories)
    assert decided(host) == []


def test_device_nodes_without_numbers_of_their_own_are_not_of_another_boot() -> None:
    assert decided(found(cdi=[spec(nodes={"/dev/nvidia0": None, "/dev/nvidia9": "195:9"})]), cdi=True) == []


def test_a_fresh_specification_in_etc_will_do() -> None:
    assert decided(found(cdi=[spec("/etc/cdi/nvidia.yaml")]), cdi=True) == []
    assert decided(found(cdi=[spec(driver_version="570.2"), spec()][1:]), cdi=True) == []


def test_with_mig_its_devices_have_to_be_in_the_specification() -> None:
    mig = [{"gpu": UUID, "profile": "1g.10gb", "uuid": "MIG-1"}]
    host = found(gpus=[{"uuid": UUID, "mig": True}], mig_devices=mig)
    assert decided(host, cdi=True) == [("CDI specification", "without MIG-1", "driver 580.1")]


def test_without_a_driver_no_specification_can_be_generated_yet() -> None:
    assert decided(found(cdi=[], driver_version=None, nodes=[]), cdi=True) == []


def test_without_systemd_nothing_refreshes_a_specification() -> None:
    host = {**found(kept=[]), "init": "other"}
    assert decided(host, cdi=True) == []


def test_other_stacks_have_no_cdi() -> None:
    assert decided(found(), stack="none", cdi=True) == decided(found(), stack="nvidia-docker2") == []
    with pytest.raises(HostError, match="nvidia_docker_stack: toolkit"):
        decided(found(), stack="nvidia-docker2", cdi=True)


def test_the_module_reads_a_genuine_specification_as_the_probe_does(monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import nvidia_toolkit

    seen = {}

    def taken(path: str, data: bytes) -> dict[str, Any]:
        seen[path] = data
        return read(path, data)

    read = gpu.cdi_spec
    monkeypatch.setattr(gpu, "cdi_spec", taken)
    host = report.parse((DATA / "real-h100.txt").read_text(), "recording")
    monkeypatch.setattr(nvidia_toolkit, "text_of", seen.__getitem__)
    (of_probe,) = host["gpu"]["cdi"]
    of_module = nvidia_toolkit.spec(of_probe["path"])
    assert {key: of_probe[key] for key in of_module} == of_module


# ---- dockerd


@pytest.mark.parametrize(
    ("engine", "toolkit", "refused"),
    [
        ("18.09.4", "1.19.1-1", True),
        ("20.10.24+dfsg1", "1.17.8-1", True),
        ("25.0.0", "", False),
        ("25.0.5", "1.18.2-1", False),
        ("25.0.5", "1.19.1-1", True),
        ("26.0.2", "1.19.0-1", True),
        ("26.1.0", "1.19.1-1", False),
        ("29.7.2", "1.20.0-1", False),
        ("dev", "1.19.1-1", False),
        ("", "1.19.1-1", False),
    ],
)
def test_an_engine_that_cannot_read_the_toolkit_s_specification_is_refused(
    engine: str, toolkit: str, refused: bool
) -> None:
    said = daemon_json.cdi_refusal({"features": {"cdi": True}}, {"ServerVersion": engine}, toolkit)
    assert bool(said) == refused
    assert daemon_json.cdi_refusal({"features": {}}, {"ServerVersion": engine}, toolkit) is None
    assert daemon_json.cdi_refusal({"features": {"cdi": True}}, None, toolkit) is None


CONTAINERD = {"DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
OVERLAY2 = {"DriverStatus": [["Backing Filesystem", "extfs"], ["Supports d_type", "true"]]}


@pytest.mark.parametrize(
    ("options", "info", "engine", "noted"),
    [
        ({"data-root": "/srv/docker"}, CONTAINERD, (28, 5, 2), True),
        ({"data-root": "/srv/docker"}, OVERLAY2, (29, 7, 2), False),
        ({"data-root": "/srv/docker"}, None, (29, 7, 2), True),
        ({"data-root": "/srv/docker"}, None, (28, 5, 2), False),
        ({"data-root": "/srv/docker"}, None, (), False),
        ({"data-root": "/srv/docker", "features": {"containerd-snapshotter": True}}, OVERLAY2, (28, 5, 2), True),
        ({"data-root": "/srv/docker", "features": {"containerd-snapshotter": False}}, None, (29, 7, 2), False),
        ({"data-root": None}, CONTAINERD, (29, 7, 2), False),
        ({}, CONTAINERD, (29, 7, 2), False),
    ],
)
def test_a_data_root_that_moves_no_images_is_noted(
    options: dict[str, Any], info: dict[str, Any] | None, engine: tuple[int, ...], noted: bool
) -> None:
    said = daemon_notes.data_root_note(options, info, engine)
    assert bool(said) == noted
    assert said is None or "/srv/docker" in said


def daemon(config: str, directories: Any) -> dict[str, Any]:
    import base64

    data = base64.b64encode(config.encode()).decode()
    return {
        "config": {"kind": "file", "path": "/etc/docker/daemon.json", "data": data, "mode": "0644"},
        "service": {"active": "active"},
        "exec_start": [],
        "info": {"ServerVersion": "26", "CDISpecDirs": directories},
    }


@pytest.mark.parametrize(("directories", "disruption"), [([], "restart"), (None, "restart"), (["/etc/cdi"], "reload")])
def test_switching_cdi_on_takes_a_restart_unless_dockerd_has_it_on_unasked(directories: Any, disruption: str) -> None:
    wanted = {"options": {"features": {"cdi": True}}}
    (change,), text = daemon_json.decide(wanted, daemon('{"features": {"buildkit": true}}', directories))
    assert change["disruption"] == disruption
    assert text is not None
    assert daemon_json.parse(text, "daemon.json") == {"features": {"buildkit": True, "cdi": True}}


def test_a_dockerd_that_runs_without_the_cdi_of_its_file_is_restarted() -> None:
    text = '{"features": {"cdi": true}}'
    wanted = {"options": {"features": {"cdi": True}}}
    (change,), _text = daemon_json.decide(wanted, daemon(text, []))
    assert (change["from"], change["disruption"]) == ("runs without features", "restart")
    assert daemon_json.decide(wanted, daemon(text, ["/etc/cdi"]))[0] == []
