# SPDX-License-Identifier: MIT
"""Turn what a probe found on a host into facts and a plan, and the plan into the work of each step."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, NamedTuple

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import (
    ansible_compat,
    mirrors,
    package_files,
    role_options,
    run_cache,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import held, lock_file
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import (
    finding,
    gpu_findings,
    host_findings,
    host_plan,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan.tags import Tags
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.probe import host_probe, report

# Roles that run after the plan; their options are checked before the host is changed.
_LATER = ("gpu_host_verify",)


class Desired(NamedTuple):
    """The desired state of a host, and the problems of the options that describe it."""

    wanted: dict[str, Any]  # {role: its <role>_desired}
    options: dict[str, dict[str, Any]]  # {role: its options}
    problems: list[dict[str, str]]
    locked: dict[str, list[str]]  # {package: [version, SHA-256]} of the lock, empty without one


class Planned(NamedTuple):
    """The facts of a host, with its plan and findings, and its desired state. The latter holds secrets."""

    facts: dict[str, Any]
    desired: Desired


def question(resolver: role_options.Resolver, own: dict[str, Any], interpreter: str | None) -> host_probe.Question:
    """Return the probe of a host. Problems of the options that it reads are left to the plan."""
    users = resolver.option("docker_group", "users") or []
    root = (resolver.option("docker_daemon", "options") or {}).get("data-root")
    data_root = str(root) if isinstance(root, str) and root.startswith("/") else None
    return host_probe.question(users, data_root, own["timeout"], interpreter)


def planned(
    action: ActionBase,
    own: dict[str, Any],
    data_root: str | None,
    found: dict[str, Any],
    task_vars: dict[str, Any],
    interpreter: str | None,
) -> Planned:
    """Return the facts and the plan of a host. own are the options of the role gpu_host_probe."""
    # Contents of files may be secret: they stay out of facts, which callbacks show.
    facts: dict[str, Any] = {
        **host_probe.standard_facts(found),
        "gpu_host_probe": report.without_contents(found),
    }
    if not interpreter:
        python = report.choose_python(found["pythons"], ansible_compat.CORE_VERSION)
        if python:
            facts["discovered_interpreter_python"] = python
    variables = {**task_vars, "ansible_facts": {**(task_vars.get("ansible_facts") or {}), **facts}}
    free_mib = {f"/{place}": own[f"free_{place}_mib"] for place in ("var", "etc", "boot")}
    problems = host_plan.host_problems(found, ansible_compat.CORE_VERSION, free_mib, data_root)
    resolver = resolver_of(action, variables)
    unsupported = host_plan.release_problems(
        found,
        list(resolver.variables["docker_ce_releases"]),
        list(resolver.variables["docker_ce_architectures"].values()),
    )
    # Defaults are looked up by release: without one there are none.
    wants = Desired({}, {}, unsupported, {}) if unsupported else _desired(resolver)
    problems += wants.problems
    of_gpu: list[dict[str, str]] = []
    stack, cdi = "none", False
    if wants.wanted:
        stack, cdi = wants.options["nvidia_docker"]["stack"], wants.options["docker_daemon"]["cdi"]
        of_gpu = gpu_findings.findings(found, stack, own["driver"])
    stopping = gpu_findings.stopping(of_gpu)
    problems += [{"name": host_plan.NO_DRIVER, "message": sentence} for sentence in stopping]
    notes = [
        {"name": one["name"], "message": f"{one['message']}; cure: {one['cure']}"}
        for one in of_gpu
        if one["severity"] != "info" and not stopping
    ]
    desired_of = {} if problems else wants.wanted
    tags = Tags.of(task_vars, action._task.tags)
    locked = bool(wants.locked)
    plan: dict[str, Any] = host_plan.plan(desired_of, found, problems, notes=notes, tags=tags, locked=locked)
    if any((change["role"], change["subject"][:11]) == ("nvidia_docker", "apt source ") for change in plan["changes"]):
        plan["notes"] += _mirror_notes(resolver, wants.options["nvidia_docker"])
    if "docker_ce" in desired_of:
        plan["notes"] += package_files.note(desired_of["docker_ce"]["packages"], plan["changes"])
    plan["wanted"] = {"stack": stack, "cdi": cdi}
    facts["gpu_host_plan"] = plan
    facts["gpu_host_findings"] = finding.ordered([*of_gpu, *host_findings.findings(found, plan)])
    return Planned(facts, wants)


def _mirror_notes(resolver: role_options.Resolver, options: dict[str, Any]) -> list[dict[str, str]]:
    """Return the note that gpuprov_mirror lacks the repository of NVIDIA's stack; options are nvidia_docker's."""
    mirror = str(resolver.render(resolver.variables.get("gpuprov_mirror") or ""))
    said = mirrors.lacking_note(mirror, options["stack"], options["repo_url"])
    return [{"name": "mirror", "message": said}] if said else []


def desired(action: ActionBase, variables: dict[str, Any]) -> Desired:
    """Return the desired state of a supported host, computed once for all hosts with the same variables."""
    return _desired(resolver_of(action, variables))


def resolver_of(action: ActionBase, variables: dict[str, Any]) -> role_options.Resolver:
    """Return what reads the options of a host whose facts are among the variables."""
    resolver = role_options.resolver(action, variables)
    for role in host_plan.ROLES:
        resolver.reveal(role)
    return resolver


def _desired(resolver: role_options.Resolver) -> Desired:
    names = [f"{role}_desired" for role in host_plan.ROLES]
    names += [name for role in (*host_plan.ROLES, *_LATER) for name in role_options.specification(role)]
    # An earlier task may have registered options of these roles: compute them again.
    registered = {f"__{role}" for role in host_plan.ROLES}
    raw = {name: value for name, value in resolver.variables.items() if name not in registered}
    with contextlib.suppress(lock_file.LockFileError):  # which _computed reports
        raw["gpuprov.lock"] = held.identity(*resolver.lock())
    key = run_cache.key([*names, "gpuprov.lock"], raw)
    return Desired(*run_cache.cached(key, lambda: _computed(resolver)))


def _computed(resolver: role_options.Resolver) -> Desired:
    # Many defaults look these up: render them once.
    for name in ("docker_ce_release", "nvidia_docker_release"):
        resolver.variables[name] = resolver.render(resolver.variables[name])
    options = {role: resolver.resolve(role) for role in (*host_plan.ROLES, *_LATER)}
    if resolver.problems:
        return Desired({}, {}, resolver.problems, {})
    try:
        wanted = {role: resolver.desired(role) for role in host_plan.ROLES}
    except role_options.OptionError as error:
        return Desired({}, {}, [{"name": "variables", "message": str(error)}], {})
    return Desired(wanted, options, [], resolver.locked("docker_ce"))


def sentences(problems: list[dict[str, str]]) -> str:
    """Return problems as lines for people."""
    return "\n".join(dict.fromkeys(problem["message"] for problem in problems))


def proof(plan: dict[str, Any], wants: Desired) -> str:
    """Return which containers prove a plan, one of host_plan.PROOFS."""
    return min(plan["to_prove"], wants.options["gpu_host_verify"]["containers"], key=host_plan.PROOFS.index)


def steps(plan: dict[str, Any], wants: Desired) -> list[dict[str, Any]]:
    """Return the work of the module gpu_host_apply for a plan: [{name, concern, params}]. It holds secrets."""
    works = [_work(step["role"], step["part"], plan, wants) for step in plan["steps"]]
    return [
        {"name": step["name"], "concern": concern, "params": params}
        for step, (concern, params) in zip(plan["steps"], works, strict=True)
    ]


def _work(role: str, part: str, plan: dict[str, Any], wants: Desired) -> tuple[str, dict[str, Any]]:
    """Return the concern of a part of a role, and its parameters."""
    wanted, options = wants.wanted[role], wants.options[role]
    if part == "v1":
        changes = [change for change in plan["changes"] if change["subject"] == host_plan.V1_VOLUME]
        containers = {"remove_containers": options["remove_v1_containers"]}
        return "v1", {"script": _file(role, "nvidia-docker-v1.sh"), "changes": changes, **containers}
    if part in ("source", "packages"):
        sets = [wanted, wants.wanted["nvidia_docker"]] if role == "docker_ce" and plan["joined"] else [wanted]
        limits = {name: options[name] for name in ("lock_timeout", "restart", "proxy")}
        limits["locked"] = wants.locked
        return "packages", {"sets": sets, "sources_only": part == "source", **limits}
    if part == "service":
        return "service", {"timeout": options["start_timeout"]}
    if part == "settings":
        limits = {
            "disruption": plan["disruption"],
            "validate": not plan["engine_comes"],
            "engine": _engine(plan, wants),
        }
        return "daemon", {**wanted, "backups": options["backups"], **limits}
    if part == "launcher":
        return "launcher", {"wanted": wanted, "launcher": _file(role, "dockerrun")}
    return ("toolkit", wanted["gpu"]) if part == "toolkit" else ("group", wanted)


def _engine(plan: dict[str, Any], wants: Desired) -> str:
    """Return the version of the engine that a plan installs, or "" where it installs none."""
    if all(change["subject"] != "docker-ce" for change in plan["changes"]):
        return ""
    packages = wants.wanted["docker_ce"]["packages"]
    return next((str(package["version"]) for package in packages if package["name"] == "docker-ce"), "")


def _file(role: str, name: str) -> str:
    return (Path(role_options.ROLES_DIRECTORY) / role / "files" / name).read_text(encoding="utf-8")
