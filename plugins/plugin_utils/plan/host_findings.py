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
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text.explained import FINDINGS

# Seconds that a host's clock may differ from ours.
CLOCK_TOLERANCE = 60

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


def findings(found: dict[str, Any], plan: dict[str, Any]) -> Iterator[Finding]:
    """Yield the findings of a host; plan is its plan, with the problems that block it."""
    result = list(_of_daemon_json(found))
    yield from result
    told = {"docker_daemon"} if result else set()
    for problem in plan["problems"]:
        # Findings of the GPU say why themselves.
        if problem["name"] not in told and problem["name"] != host_plan.NO_DRIVER:
            name = problem["name"].replace(" ", "-").replace("_", "-")
            yield {**finding(name if name in FINDINGS else "wrong-variable", redact(problem["message"])), "name": name}
    yield from _of_engine(found)
    yield from _of_packages(found["apt"])
    yield from _of_versions(found)
    yield from _of_system(found)
    if host_plan.engine_installed(found) and plan["changes"] and not plan["problems"]:
        number = len(plan["changes"])
        yield finding("not-as-wanted", f"{number} change{'' if number == 1 else 's'} pending")


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
            str(error).replace("; it was left alone", ""),
            cure=f"correct the file there, until python3 -m json.tool {path} shows it; then: {_start(docker)}",
        )
        return
    # A running dockerd accepts what it has read.
    wrong = daemon_json.errors(current, current, docker)
    for key in sorted(wrong):
        yield finding(
            "daemon-json",
            redact(wrong[key].replace(" and does not start with it", "")),
            cure=f"correct the key in {path}, or remove it with docker_daemon_options: {{{key}: null}}",
        )
    for sentence in dockerd_flags.conflicts(current, docker["exec_start"]):
        yield finding(
            "flag-conflict",
            sentence.partition(": dockerd would")[0],
            cure=f"remove it from one of them; then: {_reload_systemd(found)}; systemctl restart docker",
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
        yield finding("no-docker", "docker is not installed")
        return
    service, said = docker["service"], redact(docker["info_error"])
    if service["load"] == "masked":
        yield finding(
            "dockerd-masked", "docker.service is masked", cure=f"{_start(docker)}; systemctl enable docker.service"
        )
    elif service["active"] in ("failed", "activating"):
        state = "does not start" if service["active"] == "failed" or service["sub"] != "start" else "is still starting"
        yield finding(
            "dockerd-fails",
            f"dockerd {state}{f': {said}' if said else ''}",
            cure=f"journalctl -u docker -n 50; with the cause removed: {_start(docker)}",
        )
    elif service["active"] not in ("active", "reloading"):
        yield finding(
            "dockerd-stopped",
            f"dockerd does not run: docker.service is {service['active'] or 'unknown to systemd'}",
            cure=_start(docker),
        )
    elif not docker["info"]:
        yield finding("dockerd-silent", f"dockerd runs and does not answer{f': {said}' if said else ''}")
    if service["load"] != "masked" and service["enabled"] not in ("enabled", "enabled-runtime"):
        yield finding("dockerd-disabled", f"docker.service is {service['enabled'] or 'disabled'}")
    if service["needs_daemon_reload"]:
        yield finding(
            "needs-daemon-reload",
            "docker.service was changed on disk, and systemd has the old version loaded",
            cure=_reload_systemd(found),
        )


def _without_systemd(found: dict[str, Any]) -> Iterator[Finding]:
    docker = found["docker"]
    yield finding("no-systemd", "this host runs without systemd")
    if not host_plan.engine_installed(found):
        yield finding("no-docker", "docker is not installed", cure="see the finding no-systemd")
    elif not docker["info"]:
        said = redact(docker["info_error"])
        runs = bool(docker["process"])
        yield finding(
            "dockerd-silent" if runs else "dockerd-stopped",
            f"dockerd {'runs and does not answer' if runs else 'does not run'}{f': {said}' if said else ''}",
            cure="see its log" if runs else "dockerd >/var/log/dockerd.log 2>&1 &",
        )


def _of_packages(apt: dict[str, Any]) -> Iterator[Finding]:
    if apt["lock_holder"]:
        yield finding(
            "dpkg-locked",
            f"{apt['lock_holder']} is working on packages",
            cure=f"ps -fp {apt['lock_holder'].rpartition(' ')[2].rstrip(')')}",
        )
    elif apt["interrupted"]:
        yield finding("dpkg-interrupted", "dpkg was interrupted")
    reinstall = [name for name, status in apt["broken"].items() if "reinstreq" in status]
    # Packages are half-installed for a moment while apt works on them.
    if apt["broken"] and not apt["lock_holder"]:
        broken = ", ".join(f"{name} ({status.split()[-1]})" for name, status in sorted(apt["broken"].items()))
        yield finding(
            "half-installed",
            f"half-installed: {broken}",
            cure=f"apt-get install -y --reinstall {' '.join(sorted(reinstall))}"
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
            f"without known security fixes: {', '.join(old)}",
            cure="upgrade to an OS release that still gets packages: the vendors publish no newer ones for this release"
            if frozen
            else "",
            severity="info" if frozen else "warning",
            why="; ".join(fixes),
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
            f"the clock is {_span(abs(skew))} {'ahead' if skew > 0 else 'behind'}",
            cure="timedatectl set-ntp true || apt-get install -y systemd-timesyncd"
            if found["init"] == "systemd"
            else "date -s, or an NTP client",
        )
    units = [unit for unit in found["failed_units"] if unit not in ("docker.service", "docker.socket")]
    if units:
        yield finding(
            "system-degraded",
            f"failed units: {', '.join(units)}",
            cure=f"systemctl status {' '.join(units)}; with the cause removed: systemctl reset-failed",
        )
    if found["reboot_required"] is not None:
        packages = ", ".join(found["reboot_required"])
        yield finding("reboot-pending", f"a reboot is pending{f': {packages}' if packages else ''}")


def _span(seconds: int) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
