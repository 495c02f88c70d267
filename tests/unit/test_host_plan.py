"""The plan of one host, made of what its roles want and what the probe found."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import docker_service
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import host_plan
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan.tags import Tags
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import fleet

MIRROR = "http://mirror.example:5000"
NVIDIA = {"nvidia": {"path": "nvidia-container-runtime"}}
CONFIG = {"registry-mirrors": [MIRROR], "runtimes": NVIDIA}
MIRRORS = f'registry-mirrors ["{MIRROR}"]'
RUNTIME = 'runtimes.nvidia {"path": "nvidia-container-runtime"}'
TOOLKIT = "nvidia-container-toolkit"
VERSIONS = {"docker-ce": "5:29.7.2", "containerd.io": "2.3.3", TOOLKIT: "1.19.1-1"}
DAEMON_JSON = "/etc/docker/daemon.json"
LAUNCHER = "/usr/local/bin/dockerrun"


def package_set(role: str, *names: str) -> dict[str, Any]:
    packages = [{"name": name, "version": VERSIONS[name]} for name in names]
    gpu = {"stack": "toolkit", "version": VERSIONS[TOOLKIT], "cdi": False, "mode": ""}
    return {"role": role, "hold": True, "remove": [], "packages": packages, "source": None, "gpu": gpu}


def wanted(**roles: Any) -> dict[str, Any]:
    return {
        "docker_ce": package_set("docker_ce", "docker-ce", "containerd.io"),
        "nvidia_docker": package_set("nvidia_docker", "nvidia-container-toolkit"),
        "docker_daemon": {"options": CONFIG, "mode": "0644", "follow_symlink": False},
        "docker_group": {"group": "docker", "users": ["alice"]},
        "dockerrun": {"install": True, "sha256": "5ca1", "defaults": []},
        **roles,
    }


def right() -> dict[str, Any]:
    """Return the probe's result of a host in the desired state."""
    return {
        "os": {"id": "debian", "codename": "bookworm", "pretty": "Debian GNU/Linux 12 (bookworm)"},
        "architecture": "amd64",
        "init": "systemd",
        "clock": 1000,
        "pythons": [{"path": "/usr/bin/python3", "version": "3.11.2"}],
        "interpreter": None,
        "disk": {"/": {"free_kb": 9 * 1024 * 1024, "free_inodes": 1000}},
        "apt": {
            "version": "2.6.1",
            "packages": {
                name: {"version": version, "status": "hi", "hold": True} for name, version in VERSIONS.items()
            },
            "source_files": {},
            "keyrings": {},
        },
        "docker": {
            "config": config(CONFIG),
            "service": {"load": "loaded", "active": "active", "enabled": "enabled", "state_changed": 200},
            "exec_start": [],
            "info": {"RegistryConfig": {"Mirrors": [MIRROR + "/"]}, "Runtimes": NVIDIA},
            "running": [],
            "v1_volumes": [],
            "snap": False,
            "process": {},
        },
        "dockerrun": {LAUNCHER: {"sha256": "5ca1", "mode": "0755", "uid": 0, "gid": 0, "ours": True}},
        "groups": {"docker": {"exists": True, "members": ["alice"]}},
        "accounts": {"alice": "alice", "bob": "bob"},
        "gpu": {
            "toolkit": {"mode": "auto", "no_cgroups": None},
            "nodes": [],
            "kept": [],
            "cdi": [],
            "gpus": None,
            "mig_devices": [],
            "driver_version": None,
        },
    }


def config(content: object) -> dict[str, Any]:
    data = base64.b64encode(json.dumps(content).encode()).decode()
    return {"path": DAEMON_JSON, "kind": "file", "target": None, "mode": "0644", "mtime": 100, "data": data}


def pristine() -> dict[str, Any]:
    host = right()
    host["apt"]["packages"] = {"apt": {"version": "2.6.1", "status": "ii", "hold": False}}
    absent = {**config({}), "kind": "absent", "mode": None, "mtime": None, "data": ""}
    nothing = {"load": "not-found", "active": "inactive", "enabled": "", "state_changed": None}
    host["docker"].update(config=absent, service=nothing, info=None)
    host["groups"], host["dockerrun"] = {}, {}
    return host


def drifted(**parts: Any) -> dict[str, Any]:
    """A host that is right but for parts: docker__config is found["docker"]["config"], an object adds to it."""
    host = right()
    for path, value in parts.items():
        *outer, last = path.split("__")
        place = host
        for name in outer:
            place = place[name]
        place[last] = {**place[last], **value} if isinstance(value, dict) else value
    return host


def package(name: str, **drift: Any) -> dict[str, Any]:
    return drifted(apt__packages={name: {"version": VERSIONS[name], "status": "hi", "hold": True, **drift}})


def plan(found: dict[str, Any], wants: dict[str, Any] | None = None, **more: Any) -> Any:
    before = copy.deepcopy(found)
    result = host_plan.plan(wanted() if wants is None else wants, found, [], **more)
    assert found == before
    return result


def roles_of(result: dict[str, Any]) -> list[str]:
    """The roles of a plan's steps, in order, without the step that comes last."""
    return list(dict.fromkeys(step["role"] for step in result["steps"] if step["part"] not in ("source", "toolkit")))


def plan_lines(plan: dict[str, Any]) -> list[str]:
    return [fleet.change_lines([change])[0].replace("  ", ": ", 1) for change in plan["changes"]]


def test_a_host_that_is_right_has_nothing_to_run() -> None:
    nothing: dict[str, Any] = {
        "changes": [],
        "left_out": [],
        "steps": [],
        "problems": [],
        "notes": [],
        "running": [],
        "to_prove": "none",
    }
    assert plan(right()) == {**nothing, "format": 1, "joined": False, "engine_comes": False, "disruption": "none"}
    assert fleet.plan_lines(plan(right()), None) == ["up to date"]


def test_a_pristine_host_is_configured_before_its_daemon_first_starts() -> None:
    result = plan(pristine())
    assert plan_lines(result) == [
        "docker-ce: + 5:29.7.2",
        "containerd.io: + 2.3.3",
        "nvidia-container-toolkit: + 1.19.1-1",
        f"daemon.json: + {MIRRORS}",
        f"daemon.json: + {RUNTIME}",
        "docker group: + alice",
        f"dockerrun: + {LAUNCHER}",
    ]
    assert roles_of(result) == ["docker_daemon", "docker_ce", "docker_group", "dockerrun"]
    assert (result["joined"], result["disruption"], result["problems"]) == (True, "none", [])


@pytest.mark.parametrize(
    ("found", "role", "line"),
    [
        (package("docker-ce", version="5:28"), "docker_ce", "docker-ce: 5:28 → 5:29.7.2  (restart)"),
        (package("docker-ce", hold=False), "docker_ce", "docker-ce hold: not held → held"),
        (package("containerd.io", status="rc"), "docker_ce", "containerd.io: + 2.3.3  (restart)"),
        (package(TOOLKIT, version="1.18.0-1"), "nvidia_docker", f"{TOOLKIT}: 1.18.0-1 → 1.19.1-1"),
        (drifted(docker__v1_volumes=["v1"]), "nvidia_docker", "volume of nvidia-docker v1: - v1"),
        (
            drifted(docker__config=config({"registry-mirrors": [MIRROR]})),
            "docker_daemon",
            f"daemon.json: + {RUNTIME}  (reload)",
        ),
        (drifted(docker__config={"mode": "0600"}), "docker_daemon", "daemon.json mode: 0600 → 0644"),
        (drifted(groups__docker={"members": ["bob"]}), "docker_group", "docker group: + alice"),
        (drifted(dockerrun={LAUNCHER: None}), "dockerrun", f"dockerrun: + {LAUNCHER}"),
        (drifted(docker__service={"enabled": "disabled"}), "docker_ce", "docker.service: disabled → enabled"),
    ],
)
def test_one_thing_that_drifted_is_the_only_change(found: dict[str, Any], role: str, line: str) -> None:
    result = plan(found)
    assert (plan_lines(result), roles_of(result), result["joined"]) == ([line], [role], False)
    assert result["disruption"] == (line.partition("  (")[2].rstrip(")") or "none")


@pytest.mark.parametrize(
    ("service", "changes"),
    [
        (("loaded", "active", "enabled"), []),
        (("loaded", "reloading", "enabled"), []),
        (("loaded", "failed", "enabled"), [("failed", "active")]),
        (("loaded", "", ""), [("inactive", "active"), ("disabled", "enabled")]),
        (("masked", "inactive", "masked"), [("masked", "unmasked"), ("inactive", "active")]),
    ],
)
def test_the_service_is_to_run_now_and_at_boot(service: tuple[str, ...], changes: list[tuple[str, str]]) -> None:
    found = docker_service.changes_of(dict(zip(("load", "active", "enabled"), service, strict=True)))
    assert [(change["from"], change["to"]) for change in found] == changes


def test_volumes_of_v1_go_before_anything_else_is_touched() -> None:
    host = package("docker-ce", version="5:28")
    host["docker"]["v1_volumes"] = ["v1"]
    steps = [(step["role"], step["part"]) for step in plan(host)["steps"]]
    assert steps == [("nvidia_docker", "v1"), ("docker_ce", "packages"), ("docker_ce", "service")]


@pytest.mark.parametrize(
    ("found", "proof"),
    [
        (pristine(), "gpu"),
        (package("docker-ce", version="5:28"), "gpu"),
        (package(TOOLKIT, version="1.18.0-1"), "gpu"),
        (drifted(docker__service={"active": "failed"}), "gpu"),
        (drifted(docker__config=config({"registry-mirrors": [MIRROR]})), "gpu"),
        (drifted(docker__config=config({"runtimes": NVIDIA})), "image"),
        (drifted(groups__docker={"members": ["bob"]}), "none"),
        (drifted(dockerrun={LAUNCHER: None}), "none"),
        (right(), "none"),
    ],
)
def test_containers_prove_what_the_changes_could_have_broken(found: dict[str, Any], proof: str) -> None:
    assert plan(found)["to_prove"] == proof


@pytest.mark.parametrize(
    ("state", "package_version", "roles", "comes"),
    [
        ("failed", "5:29.7.2", ["docker_daemon", "docker_ce"], False),
        ("inactive", "5:29.7.2", ["docker_daemon", "docker_ce"], False),
        ("activating", "5:28", ["docker_daemon", "docker_ce"], True),
        ("active", "5:28", ["docker_ce", "docker_daemon"], False),
    ],
)
def test_a_dockerd_that_does_not_run_is_started_with_its_file_written_before(
    state: str, package_version: str, roles: list[str], comes: bool
) -> None:
    host = package("docker-ce", version=package_version)
    host["docker"]["config"] = config({})
    host["docker"]["service"]["active"] = state
    result = plan(host)
    assert (roles_of(result), result["engine_comes"]) == (roles, comes)


@pytest.mark.parametrize(
    ("pinned", "first"), [("5:20.10.24~3-0~debian-bookworm", True), ("5:28.0.1-1~debian.12~bookworm", False)]
)
def test_a_key_that_an_older_engine_does_not_know_leaves_the_file_before_that_engine_comes(
    pinned: str, first: bool
) -> None:
    host = drifted(docker__config=config({**CONFIG, "proxies": {"http-proxy": "http://proxy.test:3128"}}))
    host["docker"]["info"]["ServerVersion"] = "29.7.2"
    wants = wanted()
    wants["docker_ce"]["packages"] = [{"name": "docker-ce", "version": pinned}]
    wants["docker_daemon"]["proxy"] = {"http": "http://proxy.test:3129"}
    result = plan(host, wants)
    assert roles_of(result) == (["docker_daemon", "docker_ce"] if first else ["docker_ce", "docker_daemon"])
    assert result["engine_comes"] == first


def test_what_a_dockerd_that_does_not_run_needs_for_gpus_is_seen_once_it_runs() -> None:
    result = plan(drifted(docker__service={"active": "inactive"}))
    assert (result["steps"][-1]["role"], result["steps"][-1]["part"]) == ("nvidia_docker", "toolkit")


def test_a_key_is_judged_by_the_engine_that_will_read_it() -> None:
    options = {"options": {"firewall-backend": "nftables"}, "mode": "0644", "follow_symlink": False}
    wants = wanted(docker_daemon=options)
    old = {"ServerVersion": "28.5.2"}
    (problem,) = plan(drifted(docker__info=old), wants)["problems"]
    assert "dockerd 28.5.2 has no key firewall-backend" in problem["message"]
    upgraded = package("docker-ce", version="5:28.5.2")
    upgraded["docker"]["info"].update(old)
    assert plan(upgraded, wants)["problems"] == []


def test_without_systemd_nobody_looks_for_its_service() -> None:
    by_hand = drifted(init="other", docker__service={"active": "", "enabled": ""}, docker__process={"pid": 9})
    assert plan(by_hand)["steps"] == []


def test_without_systemd_a_running_dockerd_is_one_that_would_have_to_restart() -> None:
    by_hand = drifted(
        init="other", docker__service={"active": ""}, docker__process={"pid": 9}, docker__config=config({})
    )
    changes = plan(by_hand)["changes"]
    assert [change["disruption"] for change in changes] == ["reload", "reload"]


@pytest.mark.parametrize(("init", "refused"), [("systemd", False), ("other", True)])
def test_what_is_pending_is_refused_on_a_host_without_systemd(init: str, refused: bool) -> None:
    host = {**pristine(), "init": init}
    said = host_plan.cannot_provision(host)
    assert ("without systemd" in (said or "")) is refused


def test_without_nvidia_there_is_nothing_of_it_in_the_plan() -> None:
    none = wanted(
        nvidia_docker=package_set("nvidia_docker"), docker_daemon={**wanted()["docker_daemon"], "options": {}}
    )
    result = plan({**pristine(), "docker": {**pristine()["docker"], "v1_volumes": ["v1"]}}, none)
    assert (roles_of(result), result["joined"]) == (["docker_ce", "docker_group", "dockerrun"], False)
    assert "nvidia" not in json.dumps(result)


def test_only_roles_that_are_wanted_are_planned() -> None:
    result = plan(pristine(), {"docker_group": {"group": "docker", "users": ["bob"]}})
    assert (roles_of(result), plan_lines(result)) == (
        ["docker_group"],
        ["docker group: + bob"],
    )


def test_engine_and_stack_that_both_change_do_so_in_one_transaction() -> None:
    result = plan(drifted(apt__packages=dict.fromkeys(VERSIONS)))
    assert (roles_of(result), result["joined"]) == (["docker_ce"], True)


def test_an_upgrade_with_other_drift_runs_the_roles_in_order_and_names_what_runs() -> None:
    host = package("docker-ce", version="5:28")
    host["docker"].update(config=config({}), running=[{"name": "train"}, {"name": "serve"}])
    result = plan(host)
    assert (roles_of(result), result["disruption"]) == (["docker_ce", "docker_daemon"], "restart")
    assert result["running"] == ["serve", "train"]


def test_what_a_role_refuses_is_a_problem_beside_those_known_already() -> None:
    known = {"name": "disk", "message": "full"}
    problems = [known]
    wants = wanted(docker_group={"group": "docker", "users": ["carol"]})
    result = host_plan.plan(wants, drifted(docker__config=config([])), problems)
    assert [problem["name"] for problem in result["problems"]] == ["disk", "docker_daemon", "docker_group"]
    assert "no account carol" in result["problems"][2]["message"]
    assert problems == [known]
    wants = wanted(dockerrun={**wanted()["dockerrun"], "defaults": ["bash"]})
    assert "'bash' is neither" in host_plan.plan(wants, right(), [])["problems"][0]["message"]
    wants = wanted(docker_ce={**wanted()["docker_ce"], "packages": [{"name": "docker-ce", "version": "5:29*"}]})
    (problem,) = host_plan.plan(wants, pristine(), [])["problems"]
    assert problem == {"name": "docker_ce", "message": "docker_ce: '5:29*' is not a version of docker-ce"}


@pytest.mark.parametrize(
    ("codename", "name", "pretty", "architecture", "problem"),
    [
        ("bookworm", "debian", "Debian 12", "arm64", None),
        ("bookworm", "debian", "Debian 12", "i386", "i386 is not supported; supported are amd64, arm64"),
        (
            "sid",
            "debian",
            "Debian sid",
            "i386",
            "Debian sid is not supported; supported are the releases bookworm, noble",
        ),
        ("", "alpine", "", "amd64", "alpine is not supported; supported are the releases bookworm, noble"),
        ("", "", "", "", "this operating system is not supported; supported are the releases bookworm, noble"),
    ],
)
def test_a_host_that_is_not_supported_is_named(
    codename: str, name: str, pretty: str, architecture: str, problem: str | None
) -> None:
    found = {"os": {"codename": codename, "id": name, "pretty": pretty}, "architecture": architecture}
    problems = host_plan.release_problems(found, ["bookworm", "noble"], ["amd64", "arm64"])
    assert [problem["message"] for problem in problems] == ([] if problem is None else [problem])


@pytest.mark.parametrize(
    ("found", "problems"),
    [
        (right(), []),
        (drifted(pythons=[]), [("python", "ansible-core 2.21.0 cannot manage this host's Python (it has no Python)")]),
        (drifted(pythons=[{"path": "/p", "version": "3.5.2"}]), [("python", "Python (/p is 3.5.2)")]),
        (
            drifted(disk={"/var": {"free_kb": 5119, "free_inodes": 9}}),
            [("disk", "/var has 4 MiB free; 5 MiB are needed")],
        ),
        (drifted(disk={"/var": {"free_kb": 5120, "free_inodes": 9}}), []),
        (drifted(disk={"/var": {"free_kb": 5120, "free_inodes": 0}}), [("disk", "/var has no free inodes")]),
        (drifted(disk={"/var": {"free_kb": 5120, "free_inodes": None}}), []),
        (drifted(disk={"/": {"free_kb": 0, "free_inodes": 9}}), [("disk", "/var has 0 MiB free; 5 MiB are needed")]),
        (
            drifted(docker={"roots": {"docker": "/srv/dd"}}, disk={"/srv/dd": {"free_kb": 1024, "free_inodes": 9}}),
            [("disk", "/srv/dd has 1 MiB free; 5 MiB are needed")],
        ),
        (
            drifted(
                docker={"roots": {"docker": "/var/lib/docker"}},
                disk={path: {"free_kb": 1024, "free_inodes": 9} for path in ("/var", "/var/lib/docker")},
            ),
            [("disk", "/var has 1 MiB free; 5 MiB are needed")],
        ),
        (drifted(docker={"snap": True}), [("snap", "remove it first (snap remove docker;")]),
        (drifted(apt={"version": ""}), [("apt", "apt-get does not work on this host")]),
    ],
)
def test_what_must_be_in_order_first_is_named(found: dict[str, Any], problems: list[tuple[str, str]]) -> None:
    have = host_plan.host_problems(found, "2.21.0", {"/var": 5})
    assert [problem["name"] for problem in have] == [name for name, _part in problems]
    assert all(part in problem["message"] for problem, (_name, part) in zip(have, problems, strict=True))


@pytest.mark.parametrize(
    ("data_root", "short"),
    [(None, ["/srv/old has 1 MiB"]), ("/srv/new/", ["/srv/new/ has 2 MiB"]), ("/srv/wide", [])],
)
def test_space_is_measured_where_dockerd_will_write(data_root: str | None, short: list[str]) -> None:
    free = {"/var": 9999, "/srv/old": 1, "/srv/new/": 2, "/srv/wide": 9000}
    found = drifted(
        docker={"roots": {"docker": "/srv/old"}},
        disk={path: {"free_kb": 1024 * mib, "free_inodes": 9} for path, mib in free.items()},
    )
    have = host_plan.host_problems(found, "2.21.0", {"/var": 5}, data_root)
    assert [problem["message"].partition(" free")[0] for problem in have] == short


def test_the_mask_that_a_removed_package_leaves_is_not_planned() -> None:
    masked = {"load": "masked", "active": "inactive", "enabled": "masked"}
    gone = plan(drifted(docker__service=masked, apt__packages={"docker-ce": None}))
    assert [line.split(":")[0] for line in plan_lines(gone)] == ["docker-ce"]
    there = plan(drifted(docker__service=masked))
    assert plan_lines(there)[0] == "docker.service: masked → unmasked"


def test_what_keeps_gpus_in_containers_is_planned_for_the_cgroup_driver_that_dockerd_is_to_have() -> None:
    node = {"path": "/dev/nvidia0", "number": "195:0", "linked": True}
    info = {**right()["docker"]["info"], "CgroupDriver": "cgroupfs", "RuncCommit": {"ID": "v1.1.5-0-gf19387a"}}
    host = drifted(gpu__nodes=[node], docker__info=info)
    systemd = {"options": {**CONFIG, "exec-opts": ["native.cgroupdriver=systemd"]}}
    planned = plan(host, wanted(docker_daemon={**wanted()["docker_daemon"], **systemd}))
    assert [change["subject"] for change in planned["changes"]] == ["links in /dev/char", "daemon.json"]
    assert planned["steps"][-1]["part"] == "toolkit"
    assert plan(host)["changes"] == []


SOURCE = {
    "name": "docker",
    "format": "deb822",
    "uris": ["https://download.docker.com/linux/debian"],
    "suites": ["bookworm"],
    "components": ["stable"],
    "architectures": ["amd64"],
    "keyring": "/etc/apt/keyrings/docker.gpg",
    "key_url": "https://download.docker.com/linux/debian/gpg",
    "key_fingerprint": "9DC858229FC7DD38854AE2D88D81803C0EBFCD88",
}


@pytest.mark.parametrize(
    ("found", "roles", "first"),
    [
        # Before daemon.json is written, or volumes go, a repository that cannot be used is known.
        (pristine(), ["docker_ce"], ["docker_ce source", "docker_daemon settings"]),
        (pristine(), ["docker_ce", "nvidia_docker"], ["docker_ce source", "docker_daemon settings"]),
        (pristine(), ["nvidia_docker"], ["docker_ce source", "docker_daemon settings"]),
        (
            drifted(docker={"v1_volumes": ["a"]}),
            ["nvidia_docker"],
            ["nvidia_docker source", "nvidia_docker v1"],
        ),
        (right(), ["docker_ce"], ["docker_ce source"]),
        (right(), ["nvidia_docker"], ["nvidia_docker source"]),
        (right(), ["docker_ce", "nvidia_docker"], ["docker_ce source", "nvidia_docker source"]),
        # Packages that come first bring their sources.
        (package("docker-ce", version="5:28"), ["docker_ce"], ["docker_ce packages"]),
        (
            drifted(apt__packages={"docker-ce": None, TOOLKIT: None}),
            ["docker_ce", "nvidia_docker"],
            ["docker_ce packages"],
        ),
        (right(), [], []),
    ],
)
def test_sources_and_keys_come_before_anything_else(found: dict[str, Any], roles: list[str], first: list[str]) -> None:
    wants = wanted()
    for role in roles:
        wants[role] = {**wants[role], "source": SOURCE}
    steps = [f"{step['role']} {step['part']}" for step in plan(found, wants)["steps"]]
    assert steps[: len(first)] == first
    assert sum(step.endswith("source") for step in steps) == sum(step.endswith("source") for step in first)


@pytest.mark.parametrize(
    ("found", "first"),
    [
        (pristine(), ["docker_ce source", "docker_daemon settings"]),
        (
            drifted(docker={"v1_volumes": ["a"]}, apt__packages={TOOLKIT: None}),
            ["nvidia_docker source", "nvidia_docker v1"],
        ),
        (package("docker-ce", version="5:28"), ["docker_ce packages"]),
        (right(), []),
    ],
)
def test_packages_are_compared_with_the_lock_before_anything_else(found: dict[str, Any], first: list[str]) -> None:
    steps = [f"{step['role']} {step['part']}" for step in plan(found, locked=True)["steps"]]
    assert steps[: len(first)] == first
    assert len(plan(found)["steps"]) == len(steps) - sum(step.endswith("source") for step in first)


@pytest.mark.parametrize(
    ("run", "skip", "changed", "steps"),
    [
        (
            [],
            [],
            ["docker-ce", "daemon.json", "docker group"],
            ["packages", "service", "settings", "members"],
        ),
        (["docker_group"], [], ["docker group"], ["members"]),
        (["docker_group_members", "docker_daemon"], [], ["daemon.json", "docker group"], ["settings", "members"]),
        (["docker_ce_packages"], [], ["docker-ce"], ["packages"]),
        (["docker_ce_service", "dockerrun"], [], [], []),
        (["mine"], [], [], []),
        ([], ["docker_ce"], ["daemon.json", "docker group"], ["settings", "members"]),
        (["docker_ce"], ["docker_ce_service"], ["docker-ce"], ["packages"]),
        (["all"], ["all"], [], []),
    ],
)
def test_tags_choose_among_the_changes_and_the_rest_is_named(
    run: list[str], skip: list[str], changed: list[str], steps: list[str]
) -> None:
    host = package("docker-ce", version="5:28")
    host["docker"]["config"] = config({**CONFIG, "registry-mirrors": []})
    host["groups"]["docker"]["members"] = []
    tags = Tags.of({"ansible_run_tags": run or ["all"], "ansible_skip_tags": skip}, ["always"])
    result = plan(host, tags=tags)
    assert [change["subject"] for change in result["changes"]] == changed
    assert [step["part"] for step in result["steps"]] == steps
    everything = {"docker-ce": "docker_ce_packages", "daemon.json": "docker_daemon_settings",
                  "docker group": "docker_group_members"}  # fmt: skip
    left_out = [tag for subject, tag in everything.items() if subject not in changed]
    notes = [note["message"] for note in result["notes"] if note["name"] == "left-out"]
    assert [note.partition(": ")[2].split(", ") for note in notes] == ([left_out] if left_out else [])


def test_a_tag_of_a_person_s_own_playbook_chooses_everything_under_it() -> None:
    tags = Tags.of({"ansible_run_tags": ["site"]}, ["site", "always"])
    assert roles_of(plan(package("docker-ce", version="5:28"), tags=tags)) == ["docker_ce"]


def test_a_role_that_the_tags_leave_out_stops_nobody() -> None:
    options = {"options": {"no-such-key": 1}, "mode": "0644", "follow_symlink": False}
    wants = wanted(docker_daemon=options)
    (problem,) = plan(right(), wants)["problems"]
    assert "no-such-key" in problem["message"]
    assert plan(right(), wants, tags=Tags(frozenset(["docker_group"])))["problems"] == []


NODE = {"path": "/dev/nvidia0", "number": "195:0", "linked": False}
JOB, IDLE = {"id": "a" * 64, "name": "job", "image": "x"}, {"id": "b" * 64, "name": "idle", "image": "x"}
UNIT = f"docker-{'a' * 64}.scope"
OLDER_ENGINE = {"docker-ce": {"version": "5:28.0.0", "status": "hi", "hold": True}}
BASE = {f"{TOOLKIT}-base": {"version": "1.18.0-1", "status": "hi", "hold": True}}


@pytest.mark.parametrize(
    ("packages", "live", "losing", "policy", "names", "containers"),
    [
        # The toolkit alone: its script reloads systemd.
        (BASE, False, {UNIT: ["/dev/nvidia0"]}, "when-idle", ["gpu-containers-keep"], ["job"]),
        (BASE, False, {UNIT: []}, "when-idle", ["refused"], ["job"]),
        (BASE, False, {UNIT: []}, "never", ["refused"], ["job"]),
        (BASE, False, {UNIT: []}, "always", ["gpu-containers-lose"], ["job"]),
        (BASE, False, {}, "when-idle", [], []),
        # The engine: dockerd restarts.
        (OLDER_ENGINE, True, {UNIT: ["/dev/nvidia0"]}, "when-idle", ["gpu-containers-keep"], ["job"]),
        (OLDER_ENGINE, True, {UNIT: []}, "when-idle", ["refused"], ["job"]),
        (OLDER_ENGINE, True, {UNIT: ["/dev/nvidia0"]}, "never", ["refused"], ["idle", "job"]),
        (OLDER_ENGINE, False, {UNIT: ["/dev/nvidia0"]}, "when-idle", ["refused"], ["idle", "job"]),
        # Containers are stopped.
        (OLDER_ENGINE, False, {UNIT: ["/dev/nvidia0"]}, "always", [], []),
        # Both in one transaction.
        ({**OLDER_ENGINE, **BASE}, True, {UNIT: ["/dev/nvidia0"]}, "when-idle", ["gpu-containers-keep"], ["job"]),
    ],
)
def test_a_plan_foretells_what_becomes_of_running_containers(
    packages: dict[str, Any], live: bool, losing: dict[str, Any], policy: str, names: list[str], containers: list[str]
) -> None:
    found = drifted(apt__packages={**BASE, f"{TOOLKIT}-base": package_of("1.19.1-1"), **packages}, gpu__nodes=[NODE])
    found["docker"]["running"] = [JOB, IDLE]
    found["docker"]["info"]["LiveRestoreEnabled"] = live
    wants = wanted()
    wants["nvidia_docker"]["packages"].append({"name": f"{TOOLKIT}-base", "version": "1.19.1-1"})
    planned = plan(found, wants)
    assert host_plan.reloads_systemd(planned, found)
    notes = host_plan.outlook(planned, found, losing, dict.fromkeys(host_plan.ROLES, policy))
    assert [note["name"] for note in notes] == names
    assert [name for note in notes for name in note["containers"]] == containers
    said = [note for note in notes if "is never" not in note["message"]]
    assert all(name in note["message"] for note in said for name in note["containers"])


@pytest.mark.parametrize(
    ("live", "losing", "policy", "names"),
    [
        (True, {UNIT: ["/dev/nvidia0"]}, "when-idle", ["gpu-containers-keep"]),
        (True, {UNIT: []}, "when-idle", ["refused"]),
        (True, {UNIT: []}, "always", ["gpu-containers-lose"]),
        (False, {UNIT: []}, "always", []),
    ],
)
def test_a_plan_foretells_that_a_drop_in_has_systemd_read_its_units_again(
    live: bool, losing: dict[str, Any], policy: str, names: list[str]
) -> None:
    found = drifted(docker__config=config({**CONFIG, "live-restore": live}), gpu__nodes=[NODE])
    found["docker"]["running"] = [JOB, IDLE]
    found["docker"]["info"] |= {"LiveRestoreEnabled": live, "ServerVersion": "20.10.24"}
    wants = wanted()
    wants["docker_daemon"]["proxy"] = {"http": "http://proxy.test:3128"}
    planned = plan(found, wants)
    assert [change["subject"] for change in planned["changes"]] == ["proxy of docker.service"]
    assert host_plan.reloads_systemd(planned, found)
    notes = host_plan.outlook(planned, found, losing, dict.fromkeys(host_plan.ROLES, policy))
    assert [note["name"] for note in notes] == names


@pytest.mark.parametrize(
    ("live", "policy", "message"),
    [
        (False, "when-idle", "2 containers run: idle, job. Stop them"),
        (True, "never", "docker_daemon_restart is never"),
        (True, "when-idle", ""),
        (False, "always", ""),
    ],
)
def test_a_plan_foretells_that_dockerd_may_not_be_restarted(live: bool, policy: str, message: str) -> None:
    options = {**CONFIG, "live-restore": live, "exec-opts": ["native.cgroupdriver=systemd"]}
    found = drifted(docker__config=config({**CONFIG, "live-restore": live}))
    found["docker"]["running"] = [JOB, IDLE]
    found["docker"]["info"]["LiveRestoreEnabled"] = live
    planned = plan(found, wanted(docker_daemon={"options": options, "mode": "0644", "follow_symlink": False}))
    assert planned["disruption"] == "restart"
    notes = host_plan.outlook(planned, found, {}, dict.fromkeys(host_plan.ROLES, policy))
    assert [note["name"] for note in notes] == (["refused"] if message else [])
    assert message in "".join(note["message"] for note in notes)


def package_of(version: str) -> dict[str, Any]:
    return {"version": version, "status": "hi", "hold": True}


def test_containers_are_not_looked_at_where_systemd_reads_nothing_again() -> None:
    found = drifted(gpu__nodes=[NODE], docker__config=config({}))
    assert not host_plan.reloads_systemd(plan(found), found)
