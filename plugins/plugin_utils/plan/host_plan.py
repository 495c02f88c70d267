# SPDX-License-Identifier: MIT
"""Decide the plan of one host: its changes, and the problems that block them. Pure functions.

Shapes of ``found``: see roles/gpu_host_probe/README.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import package_set
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import (
    daemon_json,
    daemon_keys,
    daemon_proxy,
    docker_service,
    dockerrun_files,
    group_members,
)
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import gpu_containers, gpu_scopes
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import daemon_notes
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan.tags import PARTS, Tags
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.probe.report import choose_python

_Changes = list[dict[str, Any]]  # of {role, subject, from, to, disruption}
_Problem = dict[str, Any]  # {name, message}; notes may have more

FORMAT = 1
# Decisions are made in this order.
ROLES = tuple(PARTS)
# The roles with an option that says when dockerd may be restarted.
_RESTARTING = ("docker_ce", "nvidia_docker", "docker_daemon")
# What containers can prove, the least first: nothing, that an image runs, that a container sees the GPU, too.
PROOFS = ("none", "image", "gpu")
V1_VOLUME = "volume of nvidia-docker v1"
# The name of the problem "a GPU and no driver".
NO_DRIVER = "driver"


def plan(
    wanted: dict[str, Any],
    found: dict[str, Any],
    problems: Iterable[_Problem],
    notes: Iterable[_Problem] = (),
    tags: Tags = Tags(),  # noqa: B008 - it cannot change
    locked: bool = False,
) -> dict[str, Any]:
    """Return the plan of one host.

    wanted: {role: its <role>_desired}; found: what the probe reported; problems: those known already,
    [{name, message}]; notes: like problems, but they do not block the changes; tags: those of the run; locked: whether
    a lock may refuse packages.
    Result: {format, changes, left_out, steps, joined, to_prove, problems, notes, disruption, running}: left_out are
    the changes that the tags leave out; steps are [{role, part, name}], the pending parts of roles in order, with a
    name for people; joined says that nvidia_docker's packages go into docker_ce's transaction; engine_comes that
    daemon.json is written before its engine is installed; to_prove is what containers must prove after the changes,
    one of PROOFS.
    """
    problems = list(problems)
    every: _Changes = []
    coming = _with_coming_cgroup_driver(wanted, found) if tags.choose("docker_daemon", ["settings"]) else found
    judged = with_coming_engine(wanted if tags.choose("docker_ce", ["packages"]) else {}, found)
    for role in ROLES:
        if role in wanted:
            try:
                every += _DECISIONS[role](wanted[role], coming if role == "nvidia_docker" else judged)
            except HostError as error:
                if tags.choose(role, PARTS[role]):
                    problems.append(_problem(role, str(error)))
    # Packages come with the source that apt gets them from.
    changes: _Changes = []
    left_out: _Changes = []
    for change in every:
        part = _part(change)
        parts = [part, "packages"] if part == "source" else [part]
        (changes if tags.choose(change["role"], parts) else left_out).append(change)
    refusal = daemon_json.cdi_refusal(
        wanted.get("docker_daemon", {}).get("options") or {},
        found["docker"]["info"],
        wanted["nvidia_docker"]["gpu"]["version"] if _has_toolkit(wanted) else "",
    )
    engine_changes = any(change["subject"] == "docker-ce" for change in changes)
    if refusal and not engine_changes and tags.choose("docker_daemon", ["settings"]):
        problems.append(_problem("nvidia_docker_cdi", refusal))
    pending = {(change["role"], _part(change)) for change in changes}
    joined = {("docker_ce", "packages"), ("nvidia_docker", "packages")} <= pending
    if ("docker_ce", "packages") in pending and tags.choose("docker_ce", ["service"]):
        pending.add(("docker_ce", "service"))
    roles = {role for role, _step in pending}
    first = configured_first(roles, found) or (engine_changes and leaves_file(changes, judged))
    # Where sources are written, packages are compared with the lock: before anything else changes.
    compared = {(role, "source") for role, part in pending if locked and part == "packages"}
    steps = _ordered(pending | compared, joined, first)
    # Only a running dockerd tells what it needs of the toolkit.
    if (
        _has_toolkit(wanted)
        and tags.choose("nvidia_docker", ["toolkit"])
        and any(
            (change["role"] == "nvidia_docker" and change["subject"] != V1_VOLUME)
            or (change["subject"] == "docker.service" and change["to"] == "active")
            for change in changes
        )
    ):
        # Last: what is needed depends on the dockerd and the toolkit that are in place then.
        steps.append(("nvidia_docker", "toolkit"))
    return {
        "format": FORMAT,
        "changes": changes,
        "left_out": left_out,
        "steps": [{"role": role, "part": part, "name": PARTS[role][part]} for role, part in steps],
        "joined": joined,
        "engine_comes": engine_changes and first and "docker_daemon" in roles,
        "to_prove": to_prove(changes),
        "problems": problems,
        "notes": [*notes, *_daemon_notes(wanted, judged), *_tag_notes(left_out)],
        "disruption": daemon_json.worst(change["disruption"] for change in changes),
        "running": sorted(container["name"] for container in found["docker"]["running"]),
    }


def _with_coming_cgroup_driver(wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return found with the cgroup driver that the running dockerd will have with the wanted settings."""
    info = found["docker"]["info"]
    options = wanted.get("docker_daemon", {}).get("options") or {}
    drivers = [
        option.partition("=")[2]
        for option in options.get("exec-opts") or []
        if str(option).startswith("native.cgroupdriver=")
    ]
    if not info or not drivers:
        return found
    return {**found, "docker": {**found["docker"], "info": {**info, "CgroupDriver": drivers[-1]}}}


def with_coming_engine(wanted: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """Return found with the version of the engine that will read daemon.json."""
    docker = found["docker"]
    packages = wanted.get("docker_ce", {}).get("packages") or []
    coming = next((package["version"] for package in packages if package["name"] == "docker-ce"), "")
    installed = (found["apt"]["packages"].get("docker-ce") or {}).get("version", "")
    if coming and coming != installed:
        version = coming
    else:
        version = (docker["info"] or {}).get("ServerVersion") or docker.get("version") or installed
    return {**found, "docker": {**docker, "version": version}}


def reloads_systemd(plan: dict[str, Any], found: dict[str, Any]) -> bool:
    """Return whether a plan makes systemd read its units again while containers with GPUs may run."""
    changes = [change for role, changes in _transactions(plan) for change in _of_units(role, changes)]
    return found["init"] == "systemd" and bool(found["gpu"]["nodes"]) and bool(changes)


def _of_units(role: str, changes: _Changes) -> _Changes:
    """Return the changes of a role that make systemd read its units again: packages, and the drop-in with a proxy."""
    changes = [change for change in changes if change["disruption"] != "none"]
    return [change for change in changes if role != "docker_daemon" or change["subject"] == daemon_proxy.SUBJECT]


def outlook(
    plan: dict[str, Any], found: dict[str, Any], losing: dict[str, list[str]], policies: dict[str, str]
) -> list[_Problem]:
    """Predict what a plan does to running containers, as the roles decide it: [{name, message, containers}].

    losing: what gpu_scopes.Host.losing() returned; policies: {role: its option restart}.
    """
    docker = daemon(found)
    notes: list[_Problem] = []
    up = docker["service"]["active"] in ("active", "reloading")
    # All that docker_packages knows of the daemon.
    asked = {name: docker[name] for name in ("running", "info")}
    for role, changes in _transactions(plan):
        of_daemon = role == "docker_daemon"
        known = (docker if of_daemon else asked) if up else {}
        refusal = daemon_json.restart_refusal(policies[role], changes, known)
        if refusal:
            names = sorted(container["name"] for container in docker["running"])
            # The run ends there: later steps do not happen.
            return [*notes, _problem("refused", f"will be refused: {refusal}", containers=names)]
        restarts = daemon_json.worst(change["disruption"] for change in changes) == "restart"
        if restarts and up and not daemon_json.survives_restart(changes, known):
            continue
        subjects = [change["subject"] for change in _of_units(role, changes)]
        fate = gpu_scopes.fate(subjects, losing, gpu_scopes.untellable(losing), docker["running"], policies[role])
        if fate["refusal"]:
            return [*notes, _problem("refused", f"will be refused: {fate['refusal']}", containers=fate["lost"])]
        if fate["lost"]:
            said = f"{', '.join(fate['lost'])} will lose their GPU: systemd cannot be told of it"
            notes.append(_problem("gpu-containers-lose", said, containers=fate["lost"]))
        if fate["kept"]:
            said = (
                f"{', '.join(fate['kept'])}: systemd is told of the GPU before apt runs, or it would be lost. A "
                "container that starts with a GPU while apt runs may lack it until apt has ended"
            )
            notes.append(_problem("gpu-containers-keep", said, containers=fate["kept"]))
    return notes


def _transactions(plan: dict[str, Any]) -> list[tuple[str, _Changes]]:
    """Return [(role whose option restart decides, changes)] in the order in which they are made."""
    groups: dict[str, _Changes] = {role: [] for role in ROLES}
    for change in plan["changes"]:
        role = "docker_ce" if change["role"] == "nvidia_docker" and plan["joined"] else change["role"]
        groups[role].append(change)
    roles = [step["role"] for step in plan["steps"] if step["part"] in ("packages", "settings")]
    return [(role, groups[role]) for role in roles if role in _RESTARTING and groups[role]]


def to_prove(changes: _Changes) -> str:
    """Return what containers must prove after these changes, one of PROOFS."""
    proofs = [PROOFS[0]]
    for change in changes:
        if change["role"] in ("docker_group", "dockerrun"):
            continue
        # Settings that a reload takes over, such as mirrors, do not affect GPUs in containers.
        reloaded = change["role"] == "docker_daemon" and change["disruption"] != "restart"
        runtime = "runtime" in f"{change['from']} {change['to']}"
        proofs.append("image" if reloaded and not runtime else "gpu")
    return max(proofs, key=PROOFS.index)


def _part(change: dict[str, Any]) -> str:
    """Return the part of its role that makes a change."""
    role, subject = change["role"], change["subject"]
    if role not in ("docker_ce", "nvidia_docker"):
        return next(iter(PARTS[role]))
    if subject.startswith(("keyring ", "apt source ")):
        return "source"
    if subject in gpu_containers.SUBJECTS:
        return "toolkit"
    return {"docker.service": "service", V1_VOLUME: "v1"}.get(subject, "packages")


def _tag_notes(left_out: _Changes) -> list[_Problem]:
    tags = list(dict.fromkeys(f"{change['role']}_{_part(change)}" for change in left_out))
    changes = "1 change" if len(left_out) == 1 else f"{len(left_out)} changes"
    said = f"the tags of this run leave out {changes}: {', '.join(tags)}"
    return [_problem("left-out", said)] if left_out else []


def _has_toolkit(wanted: dict[str, Any]) -> bool:
    return "nvidia_docker" in wanted and wanted["nvidia_docker"]["gpu"]["stack"] == "toolkit"


def _ordered(pending: set[tuple[str, str]], joined: bool, first: bool) -> list[tuple[str, str]]:
    """Return the pending parts of roles, (role, part), in the order of the work, without the toolkit's.

    first: daemon.json is written before the engine is installed or started.
    """
    roles = list(ROLES)
    if first:
        # So that dockerd has its configuration when it starts.
        roles.remove("docker_daemon")
        roles.insert(0, "docker_daemon")
    order = [(role, part) for role in roles for part in PARTS[role] if (role, part) in pending]
    steps = [(role, part) for role, part in order if part not in ("source", "v1", "toolkit")]
    if joined:
        steps.remove(("nvidia_docker", "packages"))
    if ("nvidia_docker", "v1") in pending:
        # Before the engine changes: a newer engine would wait for the plugin of these volumes.
        steps.insert(0, ("nvidia_docker", "v1"))
    sources = [role for role, part in order if part == "source"]
    if joined and sources:
        sources = ["docker_ce"]
    # Before anything else, so that a repository that cannot be used leaves the host as it was. Packages that come
    # first bring their sources.
    if sources == [role for role, part in steps[:1] if part == "packages"]:
        return steps
    return [(role, "source") for role in sources] + steps


def configured_first(roles: Collection[str], found: dict[str, Any]) -> bool:
    """Return whether daemon.json is written before the engine is installed or started."""
    return {"docker_daemon", "docker_ce"} <= set(roles) and not (
        engine_installed(found) and found["docker"]["service"]["active"] in ("active", "reloading")
    )


def leaves_file(changes: _Changes, judged: dict[str, Any]) -> bool:
    """Return whether a key leaves daemon.json with which the engine that comes, an older one, would not start."""
    version = daemon_json.engine_version(daemon(judged))
    return any(
        not daemon_keys.is_known(change["from"].partition(" ")[0].partition(".")[0], version)
        for change in changes
        if change["subject"] == "daemon.json" and change["to"] is None
    )


def engine_installed(found: dict[str, Any]) -> bool:
    """Return whether there is a docker.service, or the package docker-ce where systemd cannot tell."""
    if found["init"] != "systemd":
        return bool(found["docker"]["process"]) or _has_package(found, "docker-ce")
    load = found["docker"]["service"]["load"]
    if load == "masked":
        # A removed package leaves its service masked until it is installed again.
        return _has_package(found, "docker-ce")
    return load not in (None, "", "not-found")


def _has_package(found: dict[str, Any], name: str) -> bool:
    return package_set.is_present(found["apt"]["packages"].get(name))


def _decide_docker_ce(wanted: dict[str, Any], found: dict[str, Any]) -> _Changes:
    changes: _Changes = package_set.decide(wanted, found["apt"], found["architecture"])
    if engine_installed(found) and found["init"] == "systemd":
        changes += docker_service.changes_of(found["docker"]["service"])
    return changes


def _decide_nvidia_docker(wanted: dict[str, Any], found: dict[str, Any]) -> _Changes:
    changes: _Changes = package_set.decide(wanted, found["apt"], found["architecture"])
    volume = {"role": "nvidia_docker", "subject": V1_VOLUME, "to": None, "disruption": "none"}
    volumes = found["docker"]["v1_volumes"] if wanted["packages"] else []
    return [*changes, *({**volume, "from": name} for name in volumes), *gpu_containers.decide(wanted["gpu"], found)]


def daemon(found: dict[str, Any]) -> dict[str, Any]:
    """Return the part of ``found`` that daemon_json decides on."""
    hook_unseen = not _has_package(found, "nvidia-container-toolkit")
    docker = {**found["docker"], "clock": found["clock"], "hook_unseen": hook_unseen}
    if found["init"] != "systemd" and docker["process"]:
        docker["service"] = {**docker["service"], "active": "active"}
    return docker


def _daemon_notes(wanted: dict[str, Any], found: dict[str, Any]) -> list[_Problem]:
    if "docker_daemon" not in wanted:
        return []
    settings, docker = wanted["docker_daemon"], daemon(found)
    version = daemon_json.engine_version(docker)
    said = {
        "gpus-flag": daemon_notes.hook_note(settings, docker),
        "daemon-json-unread": daemon_notes.unread_note(settings, docker),
        "data-root": daemon_notes.data_root_note(settings["options"], docker["info"], version),
    }
    return [_problem(name, sentence) for name, sentence in said.items() if sentence]


_DECISIONS: dict[str, Callable[[dict[str, Any], dict[str, Any]], _Changes]] = {
    "docker_ce": _decide_docker_ce,
    "nvidia_docker": _decide_nvidia_docker,
    "docker_daemon": lambda wanted, found: daemon_json.decide(wanted, daemon(found))[0],
    "docker_group": lambda wanted, found: group_members.decide(wanted, found["groups"], found["accounts"]),
    "dockerrun": lambda wanted, found: dockerrun_files.decide(wanted, found["dockerrun"]),
}


def release_problems(found: dict[str, Any], releases: list[str], architectures: list[str]) -> list[_Problem]:
    """Return the problem of a host whose OS or architecture is not supported.

    releases are codenames, architectures are dpkg's names.
    """
    system = found["os"]
    if system["codename"] not in releases:
        name = system["pretty"] or system["id"] or "this operating system"
        said = f"{name} is not supported; supported are the releases {', '.join(releases)}"
        return [_problem("operating system", said)]
    if found["architecture"] not in architectures:
        said = f"{found['architecture']} is not supported; supported are {', '.join(architectures)}"
        return [_problem("architecture", said)]
    return []


def host_problems(
    found: dict[str, Any], core_version: str, free_mib: dict[str, int], data_root: str | None = None
) -> list[_Problem]:
    """Return the problems that must be solved before gpuprov touches a host.

    core_version is the running ansible-core's; free_mib: {path: MiB that must be free there}; data_root is where
    dockerd will keep its data, if it moves.
    """
    problems = []
    interpreter = found["interpreter"]
    pythons = [interpreter] if interpreter else found["pythons"]
    if interpreter and not interpreter["version"]:
        said = (
            f"ansible_python_interpreter is {interpreter['path']}, which does not run on this host: install it, or "
            "correct the setting, or set it to auto"
        )
        problems.append(_problem("python", said))
    elif not choose_python(pythons, core_version):
        have = ", ".join(f"{python['path']} is {python['version']}" for python in pythons) or "it has no Python"
        said = (
            f"ansible-core {core_version} cannot manage this host's Python ({have}). For Ubuntu 16.04 and 18.04 run "
            "gpuprov with ansible-core 2.16 (gpuprov's extra xenial); elsewhere install python3 there, or name one "
            "with ansible_python_interpreter"
        )
        problems.append(_problem("python", said))
    needed = dict(free_mib)
    if "/var" in free_mib:
        # The engine may write elsewhere than below /var.
        roots = found["docker"].get("roots", {})
        for root in {**roots, "docker": data_root or roots.get("docker")}.values():
            if root in found["disk"] and found["disk"][root] != found["disk"].get("/var"):
                needed[root] = free_mib["/var"]
    for path, mib in sorted(needed.items()):
        disk = found["disk"].get(path) or found["disk"].get("/")
        if disk and disk["free_kb"] is not None and disk["free_kb"] < mib * 1024:
            said = f"{path} has {disk['free_kb'] // 1024} MiB free; {mib} MiB are needed"
            problems.append(_problem("disk", said))
        elif disk and disk["free_inodes"] == 0:
            problems.append(_problem("disk", f"{path} has no free inodes"))
    if found["docker"]["snap"]:
        said = (
            "docker is installed as a snap, whose dockerd conflicts with the packages: remove it first "
            "(snap remove docker; without --purge snapd keeps a snapshot of its images and volumes)"
        )
        problems.append(_problem("snap", said))
    if not found["apt"]["version"]:
        problems.append(_problem("apt", "apt-get does not work on this host"))
    return problems


def _problem(name: str, message: str, **more: Any) -> _Problem:
    return {"name": name, "message": message, **more}


def cannot_provision(found: dict[str, Any]) -> str | None:
    """Return why nothing can be changed on a host, or None where it can."""
    if found["init"] == "systemd":
        return None
    return (
        "this host runs without systemd: dockerd could not be started, enabled at boot or restarted, so nothing was "
        "changed. Install packages and daemon.json with the tool that builds this host or its image; gpuprov plan "
        "lists them, and verify and doctor work here"
    )
