# SPDX-License-Identifier: MIT
"""Find what is wrong with a host beside its GPUs: its engine, its packages, itself. Pure functions.

Shapes of ``found`` and ``plan``: see roles/gpu_host_probe/README.md; of a finding: see finding.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_json, dockerd, dockerd_flags
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import gpu_findings, host_plan
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan.finding import Finding, finding

# Seconds that a host's clock may differ from ours.
CLOCK_TOLERANCE = 60

# {name of a plan's problem: (why it matters, the cure)}. Every other problem is a wrong variable.
_PROBLEMS = {
    "python": (
        "gpuprov can read this host but not change it",
        "apt-get install -y python3; on Ubuntu 16.04 and 18.04, here: gpuprov with its extra xenial",
    ),
    "disk": (
        "packages and images that do not fit leave an installation half done",
        "docker system prune; apt-get clean; du -xh --max-depth=2 /var | sort -h | tail",
    ),
    "snap": ("its dockerd conflicts with the packages", "snap remove docker"),
    "apt": ("nothing can be installed", "see what apt-get update says on the host"),
    "operating system": (
        "there are no pinned versions for it",
        "leave it out with --limit, or install a release that is supported",
    ),
    "architecture": ("there are no packages for it", "leave it out with --limit"),
    "docker_daemon": (
        "gpuprov does not change daemon.json while the result would be invalid",
        "correct /etc/docker/daemon.json, or the variables docker_daemon_*",
    ),
    "lock": ("the host would not get the locked packages", "gpuprov lock INVENTORY, and review what changed"),
    "docker_group": ("gpuprov adds only users that the host knows", "correct docker_group_users"),
}
# {package: [(the versions before this one, the first with the fixes, what is fixed)]}, as numbers without epoch and
# suffix. Advisories: runc GHSA-9493-h29p-rfm2, -qw9x-cqr3-wc7r and -cgrx-mc8f-2prm, which containerd.io has from
# 1.7.28-2 and 2.1.5 on; moby CVE-2026-34040; nvidia-container-toolkit CVE-2025-23266 and CVE-2025-23267.
_RUNC = "runc's CVE-2025-31133, -52565 and -52881: a container can take over the host"
_TOOLKIT = "CVE-2025-23266 and CVE-2025-23267: a container can take over the host"
SECURITY_FLOORS: dict[str, list[tuple[tuple[int, ...], tuple[int, ...], str]]] = {
    "docker-ce": [((30,), (29, 3, 1), "CVE-2026-34040: a request can get past authorization plugins")],
    "containerd.io": [((2,), (1, 7, 28, 2), _RUNC), ((3,), (2, 1, 5), _RUNC)],
    "nvidia-container-toolkit": [((2,), (1, 17, 8), _TOOLKIT)],
    "nvidia-container-toolkit-base": [((2,), (1, 17, 8), _TOOLKIT)],
}
# The vendors publish no newer packages for these: no available version is above the floors.
_FROZEN = ("xenial", "bionic", "focal")

_WRONG_VARIABLE = ("the plan cannot be made", "correct the variable in the inventory")


def findings(found: dict[str, Any], plan: dict[str, Any]) -> Iterator[Finding]:
    """Yield the findings of a host; plan is its plan, with the problems that block it."""
    result = list(_of_daemon_json(found))
    yield from result
    told = {"docker_daemon"} if result else set()
    for problem in plan["problems"]:
        # Findings of the GPU say why themselves.
        if problem["name"] not in told and problem["name"] != host_plan.NO_DRIVER:
            why, cure = _PROBLEMS.get(problem["name"], _WRONG_VARIABLE)
            name = problem["name"].replace(" ", "-").replace("_", "-")
            yield finding(name, "error", redact(problem["message"]), why, cure)
    yield from _of_engine(found)
    yield from _of_packages(found["apt"])
    yield from _of_versions(found)
    yield from _of_system(found)
    if host_plan.engine_installed(found) and plan["changes"] and not plan["problems"]:
        number = len(plan["changes"])
        yield finding(
            "not-as-wanted",
            "info",
            f"{number} change{'' if number == 1 else 's'} pending",
            "the host is not what the inventory asks for",
            "gpuprov plan shows what differs, gpuprov provision changes it",
        )


def _of_daemon_json(found: dict[str, Any]) -> Iterator[Finding]:
    docker = host_plan.daemon(found)
    config = docker["config"]
    path = config["path"]
    if config["kind"] == "other" or not config["data"]:
        return  # the plan names what is wrong
    try:
        current = daemon_json.parse(daemon_json.config_bytes(config), path)
    except HostError as error:
        yield finding(
            "daemon-json",
            "error",
            str(error).replace("; it was left alone", ""),
            "dockerd does not start with it",
            f"correct the file there, until python3 -m json.tool {path} shows it; then: {_start(docker)}",
        )
        return
    # A running dockerd accepts what it has read.
    wrong = daemon_json.errors(current, current, docker)
    for key in sorted(wrong):
        yield finding(
            "daemon-json",
            "error",
            redact(wrong[key].replace(" and does not start with it", "")),
            "dockerd does not start with it",
            f"correct the key in {path}, or remove it with docker_daemon_options: {{{key}: null}}",
        )
    for sentence in dockerd_flags.conflicts(current, docker["exec_start"]):
        yield finding(
            "flag-conflict",
            "error",
            sentence.partition(": dockerd would")[0],
            "dockerd does not start while both set it",
            f"remove it from one of them; then: {_reload_systemd(found)}; systemctl restart docker",
        )


def _start(docker: dict[str, Any]) -> str:
    """Return the command that starts dockerd, also from masked units and past systemd's limit of starts."""
    units = {**(docker.get("units") or {}), "docker.service": docker["service"]["load"]}
    masked = sorted(name for name, load in units.items() if load == "masked")
    unmask = f"systemctl unmask {' '.join(masked)}; " if masked else ""
    return unmask + f"systemctl reset-failed {' '.join(dockerd.COUNTING_UNITS)}; systemctl start docker.service"


def _reload_systemd(found: dict[str, Any]) -> str:
    """Return the command that has systemd read its units again, and what it does to containers."""
    lost = gpu_findings.lost_at_reload(found) or gpu_findings.flag_lost_at_reload(found)
    return f"systemctl daemon-reload{' (while no GPU container runs: it would lose its GPU)' if lost else ''}"


def _of_engine(found: dict[str, Any]) -> Iterator[Finding]:
    docker = found["docker"]
    if docker["snap"]:
        return
    if found["init"] != "systemd":
        yield from _without_systemd(found)
        return
    if not host_plan.engine_installed(found):
        yield finding("no-docker", "info", "docker is not installed", "no container runs here", "gpuprov provision")
        return
    service, said = docker["service"], redact(docker["info_error"])
    if service["load"] == "masked":
        yield finding(
            "dockerd-masked",
            "error",
            "docker.service is masked",
            "systemd does not start it, now or at boot",
            f"{_start(docker)}; systemctl enable docker.service",
        )
    elif service["active"] in ("failed", "activating"):
        state = "does not start" if service["active"] == "failed" or service["sub"] != "start" else "is still starting"
        yield finding(
            "dockerd-fails",
            "error",
            f"dockerd {state}{f': {said}' if said else ''}",
            "containers cannot be started or listed",
            f"journalctl -u docker -n 50; with the cause removed: {_start(docker)}",
        )
    elif service["active"] not in ("active", "reloading"):
        yield finding(
            "dockerd-stopped",
            "error",
            f"dockerd does not run: docker.service is {service['active'] or 'unknown to systemd'}",
            "containers cannot be started or listed",
            _start(docker),
        )
    elif not docker["info"]:
        yield finding(
            "dockerd-silent",
            "error",
            f"dockerd runs and does not answer{f': {said}' if said else ''}",
            "containers cannot be started or listed",
            "journalctl -u docker -n 50; then systemctl restart docker, which ends containers without live-restore",
        )
    if service["load"] != "masked" and service["enabled"] not in ("enabled", "enabled-runtime"):
        yield finding(
            "dockerd-disabled",
            "warning",
            f"docker.service is {service['enabled'] or 'disabled'}",
            "after a reboot no container runs",
            "systemctl enable docker.service",
        )
    if service["needs_daemon_reload"]:
        yield finding(
            "needs-daemon-reload",
            "warning",
            "docker.service was changed on disk, and systemd has the old version loaded",
            "the next start of dockerd does not follow its files",
            _reload_systemd(found),
        )


def _without_systemd(found: dict[str, Any]) -> Iterator[Finding]:
    docker = found["docker"]
    yield finding(
        "no-systemd",
        "info",
        "this host runs without systemd",
        "gpuprov plans, verifies and examines it; it cannot start or restart dockerd here, so it changes nothing",
        "install packages and daemon.json, and start dockerd, with the tool that builds this host or its image",
    )
    if not host_plan.engine_installed(found):
        yield finding(
            "no-docker", "info", "docker is not installed", "no container runs here", "see the finding no-systemd"
        )
    elif not docker["info"]:
        said = redact(docker["info_error"])
        runs = bool(docker["process"])
        yield finding(
            "dockerd-silent" if runs else "dockerd-stopped",
            "error",
            f"dockerd {'runs and does not answer' if runs else 'does not run'}{f': {said}' if said else ''}",
            "containers cannot be started or listed",
            "see its log" if runs else "dockerd >/var/log/dockerd.log 2>&1 &",
        )


def _of_packages(apt: dict[str, Any]) -> Iterator[Finding]:
    if apt["lock_holder"]:
        yield finding(
            "dpkg-locked",
            "warning",
            f"{apt['lock_holder']} is working on packages",
            "gpuprov waits for it, and gives up after docker_ce_lock_timeout",
            f"ps -fp {apt['lock_holder'].rpartition(' ')[2].rstrip(')')}",
        )
    elif apt["interrupted"]:
        yield finding(
            "dpkg-interrupted",
            "warning",
            "dpkg was interrupted",
            "apt refuses to work until that is finished; gpuprov provision does so first",
            "dpkg --configure -a",
        )
    reinstall = [name for name, status in apt["broken"].items() if "reinstreq" in status]
    # Packages are half-installed for a moment while apt works on them.
    if apt["broken"] and not apt["lock_holder"]:
        broken = ", ".join(f"{name} ({status.split()[-1]})" for name, status in sorted(apt["broken"].items()))
        yield finding(
            "half-installed",
            "warning",
            f"half-installed: {broken}",
            "apt may refuse to work, and these packages may not work",
            f"apt-get install -y --reinstall {' '.join(sorted(reinstall))}"
            if reinstall
            else "dpkg --configure -a && apt-get -y -f install",
        )


def _of_versions(found: dict[str, Any]) -> Iterator[Finding]:
    old: list[str] = []
    fixes: dict[str, None] = {}
    for name, package in sorted(found["apt"]["packages"].items()):
        fix = missing_fix(name, package["version"]) if package["status"].startswith(("ii", "hi")) else None
        if fix:
            old.append(f"{name} {package['version']}")
            fixes[fix] = None
    frozen = found["os"]["codename"] in _FROZEN
    if old:
        yield finding(
            "security-fixes",
            "info" if frozen else "warning",
            f"without known security fixes: {', '.join(old)}",
            "; ".join(fixes),
            "upgrade to an OS release that still gets packages: the vendors publish no newer ones for this release"
            if frozen
            else "gpuprov provision, with pins that are not older than gpuprov's own",
        )


def missing_fix(package: str, version: str) -> str | None:
    """Describe the security fix that a version of a package lacks, or return None where none is known."""
    # Neither epoch nor suffix: 5:29.3.1-1~debian.12~bookworm is (29, 3, 1, 1).
    numbers = tuple(int(number) for number in re.findall(r"\d+", version.split(":")[-1].split("~")[0])[:4])
    for below, floor, fix in SECURITY_FLOORS.get(package, ()):
        if numbers < below:
            return fix if numbers < floor else None
    return None


def _of_system(found: dict[str, Any]) -> Iterator[Finding]:
    skew = found["clock_skew"] or 0
    if abs(skew) > CLOCK_TOLERANCE:
        yield finding(
            "clock-off",
            "warning",
            f"the clock is {_span(abs(skew))} {'ahead' if skew > 0 else 'behind'}",
            "apt and registries refuse signatures and certificates outside their period of validity",
            "timedatectl set-ntp true || apt-get install -y systemd-timesyncd"
            if found["init"] == "systemd"
            else "date -s, or an NTP client",
        )
    units = [unit for unit in found["failed_units"] if unit not in ("docker.service", "docker.socket")]
    if units:
        yield finding(
            "system-degraded",
            "warning",
            f"failed units: {', '.join(units)}",
            "the services of these units are missing",
            f"systemctl status {' '.join(units)}; with the cause removed: systemctl reset-failed",
        )
    if found["reboot_required"] is not None:
        packages = ", ".join(found["reboot_required"])
        yield finding(
            "reboot-pending",
            "info",
            f"a reboot is pending{f': {packages}' if packages else ''}",
            "updates take effect only then",
            "reboot while no container runs",
        )


def _span(seconds: int) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
