# SPDX-License-Identifier: MIT
"""The plan of one host: a list of changes, and what stands in their way. Pure functions.

Shapes of ``found``: see roles/gpu_host_probe/README.md. Python 2.7 syntax, like its neighbours.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import (
    daemon_json,
    docker_service,
    dockerrun_files,
    gpu_containers,
    gpu_scopes,
    group_members,
    package_set,
)
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.probe_report import choose_python

FORMAT = 1
# Decisions are made in the order in which the roles run on a host that has an engine.
ROLES = ("docker_ce", "nvidia_docker", "docker_daemon", "docker_group", "dockerrun")
# Those with an option that says when dockerd may be restarted.
_RESTARTING = ("docker_ce", "nvidia_docker", "docker_daemon")
# What containers can prove: nothing, that the image runs, that one sees the GPU as well.
PROOFS = ("none", "image", "gpu")
V1_VOLUME = "volume of nvidia-docker v1"
# The steps by their part, or by their role.
_NAMES = {
    "sources": "Write keyrings and sources",
    "v1": "Clean up after nvidia-docker v1",
    "setup": "Set up what hands GPUs to containers",
    "docker_ce": "Install the pinned set",
    "nvidia_docker": "Install the pinned stack",
    "docker_daemon": "Configure dockerd",
    "docker_group": "Make the users members of the group docker",
    "dockerrun": "Write the launcher dockerrun",
}
# The problem of a host with a GPU and without its driver.
NO_DRIVER = "driver"


def plan(wanted, found, problems, notes=()):
    """Return the plan of one host.

    wanted: {role: its __<role>_wanted}; found: what the probe reported; problems: those found
    already, [{name, message}]; notes: what is amiss and stands in nothing's way, like problems.
    Result: {format, changes, steps, joined, to_prove, problems, notes, disruption, running}: steps are
    [{role, tasks_from, name}], the parts of roles that are pending, in order, with a name for people; joined says that
    nvidia_docker's packages go into docker_ce's transaction; engine_comes that daemon.json is written for an engine
    that is yet to be installed; to_prove is the most that containers have to prove once the changes are made, one of
    PROOFS.
    """
    problems = list(problems)
    changes = []
    coming = _with_coming_cgroup_driver(wanted, found)
    judged = with_coming_engine(wanted, found)
    for role in ROLES:
        if role in wanted:
            try:
                changes += _DECISIONS[role](wanted[role], coming if role == "nvidia_docker" else judged)
            except HostError as error:
                problems.append({"name": role, "message": str(error)})
    refusal = daemon_json.cdi_refusal(
        wanted.get("docker_daemon", {}).get("options") or {},
        found["docker"]["info"],
        wanted["nvidia_docker"]["gpu"]["version"] if _has_toolkit(wanted) else "",
    )
    if refusal and not any(change["subject"] == "docker-ce" for change in changes):
        problems.append(_problem("nvidia_docker_cdi", refusal))
    # What comes after the packages of a role has a step of its own.
    setup = [change for change in changes if change["subject"] in gpu_containers.SUBJECTS]
    pending = [role for role in ROLES if any(change["role"] == role and change not in setup for change in changes)]
    joined = "docker_ce" in pending and "nvidia_docker" in pending
    # A dockerd that does not run does not say what it needs of the toolkit: that is seen once it does.
    last = _has_toolkit(wanted) and any(_of_the_stack(change) or _starts(change) for change in changes)
    steps = [(role, "apply") for role in _order(pending, joined, found)]
    if any(change["subject"] == V1_VOLUME for change in changes):
        # Before the engine is touched: a newer one would wait for the plugin of these volumes.
        steps.insert(0, ("nvidia_docker", "v1"))
    if last:
        # With dockerd and the toolkit in place: which of it is needed depends on both.
        steps.append(("nvidia_docker", "setup"))
    return {
        "format": FORMAT,
        "changes": changes,
        "steps": [
            {"role": role, "tasks_from": part, "name": _NAMES.get(part) or _NAMES[role]}
            for role, part in _sources(changes, joined, steps) + steps
        ],
        "joined": joined,
        "engine_comes": configured_first(pending, found) and any(_of_engine(change) for change in changes),
        "to_prove": _to_prove(changes),
        "problems": problems,
        "notes": list(notes) + _daemon_notes(wanted, judged),
        "disruption": daemon_json.worst(change["disruption"] for change in changes),
        "running": sorted(container["name"] for container in found["docker"]["running"]),
    }


def _with_coming_cgroup_driver(wanted, found):
    """What was found, with the cgroup driver of a running dockerd that wanted settings give it."""
    info = found["docker"]["info"]
    options = wanted.get("docker_daemon", {}).get("options") or {}
    drivers = [
        option.partition("=")[2]
        for option in options.get("exec-opts") or []
        if str(option).startswith("native.cgroupdriver=")
    ]
    if not info or not drivers:
        return found
    return dict(found, docker=dict(found["docker"], info=dict(info, CgroupDriver=drivers[-1])))


def with_coming_engine(wanted, found):
    """Return found with the version of the engine that will read daemon.json."""
    docker = found["docker"]
    packages = wanted.get("docker_ce", {}).get("packages") or []
    coming = next((package["version"] for package in packages if package["name"] == "docker-ce"), "")
    installed = (found["apt"]["packages"].get("docker-ce") or {}).get("version", "")
    if coming and coming != installed:
        version = coming
    else:
        version = (docker["info"] or {}).get("ServerVersion") or docker.get("version") or installed
    return dict(found, docker=dict(docker, version=version))


def reloads_systemd(host_plan, found):
    """Return whether packages of a plan have systemd read its units again while containers with GPUs may run."""
    packages = [change for role, changes in _transactions(host_plan) if role != "docker_daemon" for change in changes]
    return (
        found["init"] == "systemd"
        and bool(found["gpu"]["nodes"])
        and daemon_json.worst(change["disruption"] for change in packages) != "none"
    )


def outlook(host_plan, found, losing, policies):
    """Return notes of what becomes of running containers: [{name, message, containers}].

    losing: what gpu_scopes.Host.losing() returned; policies: {role: its option restart}. Decided as the roles do it.
    """
    docker, notes = daemon(found), []
    up = docker["service"]["active"] in ("active", "reloading")
    # What is known to apt_pinned_sets.
    asked = {name: docker[name] for name in ("running", "info")}
    for role, changes in _transactions(host_plan):
        of_daemon = role == "docker_daemon"
        known = (docker if of_daemon else asked) if up else {}
        refusal = daemon_json.restart_refusal(policies[role], changes, known)
        if refusal:
            names = sorted(container["name"] for container in docker["running"])
            # What comes after it does not happen.
            return notes + [dict(_problem("refused", "will be refused: %s" % refusal), containers=names)]
        restarts = daemon_json.worst(change["disruption"] for change in changes) == "restart"
        if of_daemon or (restarts and up and not daemon_json.survives_restart(changes, known)):
            continue
        subjects = [change["subject"] for change in changes if change["disruption"] != "none"]
        fate = gpu_scopes.fate(subjects, losing, gpu_scopes.untellable(losing), docker["running"], policies[role])
        if fate["refusal"]:
            return notes + [dict(_problem("refused", "will be refused: %s" % fate["refusal"]), containers=fate["lost"])]
        if fate["lost"]:
            said = "%s will lose their GPU: systemd cannot be told of it" % ", ".join(fate["lost"])
            notes.append(dict(_problem("gpu-containers-lose", said), containers=fate["lost"]))
        if fate["kept"]:
            said = (
                "%s: systemd is told of the GPU before apt runs, or it would be lost. A container that starts with "
                "a GPU while apt runs may be without it until apt has ended" % ", ".join(fate["kept"])
            )
            notes.append(dict(_problem("gpu-containers-keep", said), containers=fate["kept"]))
    return notes


def _transactions(host_plan):
    """Return [(role whose option restart decides, changes)] in the order in which they are made."""
    groups = {role: [] for role in ROLES}
    for change in host_plan["changes"]:
        role = "docker_ce" if change["role"] == "nvidia_docker" and host_plan["joined"] else change["role"]
        groups[role].append(change)
    roles = [step["role"] for step in host_plan["steps"] if step["tasks_from"] == "apply"]
    return [(role, groups[role]) for role in roles if role in _RESTARTING and groups[role]]


def _to_prove(changes):
    proofs = [PROOFS[0]]
    for change in changes:
        if change["role"] in ("docker_group", "dockerrun"):
            continue
        # Mirrors and the like, taken over by a reload, have no part in how the GPU gets into a container.
        reloaded = change["role"] == "docker_daemon" and change["disruption"] != "restart"
        runtime = "runtime" in "%s %s" % (change["from"], change["to"])
        proofs.append("image" if reloaded and not runtime else "gpu")
    return max(proofs, key=PROOFS.index)


def _starts(change):
    return change["subject"] == "docker.service" and change["to"] == "active"


def _of_engine(change):
    return change["subject"] == "docker-ce"


def _sources(changes, joined, steps):
    """Return the steps that write keyrings and sources before anything else, where their roles come later."""
    roles = [
        role
        for role in ("docker_ce", "nvidia_docker")
        if any(one["role"] == role and one["subject"].startswith(("keyring ", "apt source ")) for one in changes)
    ]
    if joined and roles:
        roles = ["docker_ce"]
    if roles == [role for role, part in steps[:1] if part == "apply"]:
        return []
    return [(role, "sources") for role in roles]


def _of_the_stack(change):
    return change["role"] == "nvidia_docker" and change["subject"] != V1_VOLUME


def _has_toolkit(wanted):
    return "nvidia_docker" in wanted and wanted["nvidia_docker"]["gpu"]["stack"] == "toolkit"


def _order(pending, joined, found):
    order = [role for role in pending if not (joined and role == "nvidia_docker")]
    if configured_first(order, found):
        # What starts a dockerd that does not run starts it configured already.
        order.remove("docker_daemon")
        order.insert(0, "docker_daemon")
    return order


def configured_first(roles, found):
    """Return whether daemon.json is written before the engine is installed or started."""
    return {"docker_daemon", "docker_ce"} <= set(roles) and not (
        engine_installed(found) and found["docker"]["service"]["active"] in ("active", "reloading")
    )


def engine_installed(found):
    """Return whether there is a docker.service, or a package of dockerd where systemd knows of none."""
    if found["init"] != "systemd":
        return bool(found["docker"]["process"]) or package_set.is_present(found["apt"]["packages"].get("docker-ce"))
    load = found["docker"]["service"]["load"]
    if load == "masked":
        # A removed package leaves its service masked, and takes that back when it is installed.
        return package_set.is_present(found["apt"]["packages"].get("docker-ce"))
    return load not in (None, "", "not-found")


def _decide_docker_ce(wanted, found):
    changes = package_set.decide(wanted, found["apt"], found["architecture"])
    if engine_installed(found) and found["init"] == "systemd":
        changes += docker_service.changes_of(found["docker"]["service"])
    return changes


def _decide_nvidia_docker(wanted, found):
    changes = package_set.decide(wanted, found["apt"], found["architecture"])
    if wanted["packages"]:
        for volume in found["docker"]["v1_volumes"]:
            changes.append(
                {
                    "role": "nvidia_docker",
                    "subject": V1_VOLUME,
                    "from": volume,
                    "to": None,
                    "disruption": "none",
                }
            )
    return changes + gpu_containers.decide(wanted["gpu"], found)


def daemon(found):
    """Return the half of ``found`` that daemon_json decides on."""
    hook = found["apt"]["packages"].get("nvidia-container-toolkit")
    docker = dict(found["docker"], clock=found["clock"], hook_unseen=not package_set.is_present(hook))
    if found["init"] != "systemd" and docker["process"]:
        docker["service"] = dict(docker["service"], active="active")
    return docker


def _decide_docker_daemon(wanted, found):
    return daemon_json.decide(wanted, daemon(found))[0]


def _daemon_notes(wanted, found):
    if "docker_daemon" not in wanted:
        return []
    docker = daemon(found)
    said = (
        ("gpus-flag", daemon_json.hook_note(wanted["docker_daemon"], docker)),
        ("daemon-json-unread", daemon_json.note(wanted["docker_daemon"], docker)),
        (
            "data-root",
            daemon_json.data_root_note(
                wanted["docker_daemon"]["options"], docker["info"], daemon_json.engine_version(docker)
            ),
        ),
    )
    return [_problem(name, sentence) for name, sentence in said if sentence]


def _decide_docker_group(wanted, found):
    return group_members.decide(wanted, found["groups"], found["accounts"])


def _decide_dockerrun(wanted, found):
    return dockerrun_files.decide(wanted, found["dockerrun"])


_DECISIONS = {
    "docker_ce": _decide_docker_ce,
    "nvidia_docker": _decide_nvidia_docker,
    "docker_daemon": _decide_docker_daemon,
    "docker_group": _decide_docker_group,
    "dockerrun": _decide_dockerrun,
}


def release_problems(found, releases, architectures):
    """Return the problem of a host whose OS or architecture is not among those supported.

    releases are codenames, architectures dpkg's words.
    """
    system = found["os"]
    if system["codename"] not in releases:
        return [
            _problem(
                "operating system",
                "%s is not supported; supported are the releases %s"
                % (
                    system["pretty"] or system["id"] or "this operating system",
                    ", ".join(releases),
                ),
            )
        ]
    if found["architecture"] not in architectures:
        return [
            _problem(
                "architecture",
                "%s is not supported; supported are %s" % (found["architecture"], ", ".join(architectures)),
            )
        ]
    return []


def host_problems(found, core_version, free_mib, data_root=None):
    """Return what must be in order before anything on a host is touched.

    core_version is the running ansible-core's; free_mib: {path: MiB that must be free there}; data_root is where
    dockerd will keep its data, if not where it does.
    """
    problems = []
    interpreter = found["interpreter"]
    pythons = [interpreter] if interpreter else found["pythons"]
    if interpreter and not interpreter["version"]:
        problems.append(
            _problem(
                "python",
                "ansible_python_interpreter is %(path)s, which does not run on this host: install it, or correct the "
                "setting, or set it to auto" % interpreter,
            )
        )
    elif not choose_python(pythons, core_version):
        have = ", ".join("%(path)s is %(version)s" % python for python in pythons) or "it has no Python"
        problems.append(
            _problem(
                "python",
                "ansible-core %s cannot manage this host's Python (%s). For Ubuntu 16.04 and 18.04 run gpuprov "
                "with ansible-core 2.16 (gpuprov's extra xenial); elsewhere install python3 there, or name one with "
                "ansible_python_interpreter" % (core_version, have),
            )
        )
    needed = dict(free_mib)
    if "/var" in free_mib:
        # The engine may write elsewhere than below /var.
        roots = found["docker"].get("roots", {})
        for root in dict(roots, docker=data_root or roots.get("docker")).values():
            if root in found["disk"] and found["disk"][root] != found["disk"].get("/var"):
                needed[root] = free_mib["/var"]
    for path, mib in sorted(needed.items()):
        disk = found["disk"].get(path) or found["disk"].get("/")
        if disk and disk["free_kb"] is not None and disk["free_kb"] < mib * 1024:
            problems.append(
                _problem(
                    "disk",
                    "%s has %d MiB free; %d MiB are needed" % (path, disk["free_kb"] // 1024, mib),
                )
            )
        elif disk and disk["free_inodes"] == 0:
            problems.append(_problem("disk", "%s has no free inodes" % path))
    if found["docker"]["snap"]:
        problems.append(
            _problem(
                "snap",
                "docker is installed as a snap, whose dockerd would be in the way: remove it first "
                "(snap remove docker; without --purge snapd keeps a snapshot of its images and volumes)",
            )
        )
    if not found["apt"]["version"]:
        problems.append(_problem("apt", "apt-get does not work on this host"))
    return problems


def _problem(name, message):
    return {"name": name, "message": message}


def cannot_provision(found):
    """Return why nothing can be changed on a host, or None where it can."""
    if found["init"] == "systemd":
        return None
    return (
        "this host runs without systemd: dockerd could not be started, enabled at boot or restarted, so nothing was "
        "touched. Put packages and daemon.json in place by what makes this host or its image; gpuprov plan names "
        "them, and verify and doctor work here"
    )


def lines(host_plan):
    """Return a plan as lines for people: one for each change, or that there is none; then what is to be noted."""
    result = []
    for change in host_plan["changes"]:
        if change["from"] is None:
            text = "+ %s" % change["to"]
        elif change["to"] is None:
            text = "- %s" % change["from"]
        else:
            text = "%s -> %s" % (change["from"], change["to"])
        note = "" if change["disruption"] == "none" else "  (%s)" % change["disruption"]
        result.append("%s: %s%s" % (change["subject"], text, note))
    return (result or ["up to date"]) + ["note: %(message)s" % note for note in host_plan["notes"]]
