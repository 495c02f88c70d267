# SPDX-License-Identifier: MIT
"""Explain findings and changes to people: the one place of these texts. Imports nothing of the collection.

Findings are made from them, ``gpuprov explain`` prints them, and ``./dev docs`` writes them into docs/doctor.md,
docs/changes.md and docs/ansible.md. Backticks are Markdown's.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class FindingKind(NamedTuple):
    """A kind of finding. cure: what to do, a command if there is one; a host's finding may have a more exact one."""

    severity: str
    meaning: str
    why: str
    cure: str


class ChangeKind(NamedTuple):
    """A kind of change in a plan. subject: a regular expression for its first column; name: how the docs name it."""

    subject: str
    name: str
    meaning: str
    why: str
    advice: str


_START = "systemctl reset-failed docker.service docker.socket; systemctl start docker.service"
_TOOLKIT = "nvidia-ctk config --config-file /etc/nvidia-container-runtime/config.toml --in-place --set"

FINDINGS = {
    "no-gpu": FindingKind(
        "warning",
        "the host should have an NVIDIA stack, and no GPU is visible",
        "a card that fell off the bus looks the same as no card",
        "nvidia_docker_stack=none in the inventory, if the host should have none; else lspci -d 10de:",
    ),
    "no-driver": FindingKind(
        "error",
        "the host has a GPU and no driver for it",
        "no container gets a GPU, and drivers are not gpuprov's to install",
        "install NVIDIA's driver by the distribution's means, and reboot",
    ),
    "module-not-built": FindingKind(
        "error",
        "a driver is installed and has no module for the running kernel",
        "no container gets a GPU; a kernel update without its headers leaves this",
        "apt-get install -y dkms linux-headers-$(uname -r) && dkms autoinstall && modprobe nvidia",
    ),
    "module-not-loaded": FindingKind(
        "error",
        "the module is installed and not loaded",
        "no container gets a GPU until it is",
        "modprobe nvidia; if that fails: journalctl -k --grep 'nvidia|NVRM'",
    ),
    "nouveau": FindingKind(
        "error",
        "nouveau uses the GPU, which prevents NVIDIA's driver from doing so",
        "no container gets a GPU through nouveau: CUDA needs NVIDIA's driver",
        "printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' > /etc/modprobe.d/nouveau.conf; "
        "update-initramfs -u; reboot",
    ),
    "secure-boot": FindingKind(
        "error",
        "Secure Boot is on, and the module is not signed, or signed with a key that the kernel does not trust",
        "no container gets a GPU: the kernel loads only modules that are signed with a trusted key",
        "mokutil --import KEY, where KEY is what DKMS signs with; reboot, and enrol the key in the firmware's menu",
    ),
    "driver-mismatch": FindingKind(
        "error",
        "the loaded driver and its libraries are of different versions",
        "containers that start now get no GPU; running ones keep theirs",
        "reboot",
    ),
    "no-libraries": FindingKind(
        "error",
        "the driver's libraries cannot be found",
        "containers get these files from the host, and no GPU without them",
        "install the driver's libraries: libnvidia-compute-SERIES on Ubuntu, libcuda1 and libnvidia-ml1 on Debian",
    ),
    "libraries-hidden": FindingKind(
        "warning",
        "the driver's libraries are in a directory that the loader does not search",
        "programs find them only with LD_LIBRARY_PATH, and NVIDIA's tools may give containers none",
        "echo DIRECTORY > /etc/ld.so.conf.d/nvidia.conf && ldconfig",
    ),
    "smi-fails": FindingKind(
        "error",
        "`nvidia-smi` fails; with its message",
        "the driver is loaded but does not respond",
        "journalctl -k --grep 'NVRM|Xid'; a reboot, where that names no other cause",
    ),
    "no-nvidia-smi": FindingKind(
        "info",
        "`nvidia-smi` is not installed",
        "containers that ask for the utilities get none, and nothing shows the state of the GPUs",
        "install nvidia-utils-SERIES on Ubuntu, nvidia-smi on Debian",
    ),
    "gpu-lost": FindingKind(
        "error",
        "a GPU is on the PCI bus and unknown to the driver",
        "the card failed, fell off the bus, or is switched off in the driver",
        "journalctl -k --grep 'NVRM|Xid'; then power the host off and on",
    ),
    "no-device-nodes": FindingKind(
        "warning",
        "nodes in `/dev` that containers need are missing",
        "containers get these devices, and do not start without them",
        "nvidia-modprobe -u -c 0, with a -c for each GPU",
    ),
    "no-persistence": FindingKind(
        "info",
        "the driver is not kept loaded",
        "each program that finds the GPU unused initializes it again, which takes seconds",
        "systemctl enable --now nvidia-persistenced, or nvidia-smi -pm 1",
    ),
    "mig-without-devices": FindingKind(
        "warning",
        "MIG is on, and the GPU has no MIG devices",
        "CUDA sees no device there, neither the GPU nor a part of it",
        "nvidia-smi mig -lgip; nvidia-smi mig -i GPU -cgi PROFILE -C; or off: nvidia-smi -i GPU -mig 0",
    ),
    "mig-pending": FindingKind(
        "warning",
        "a change of the MIG mode waits for a reset",
        "containers see the GPU as before",
        "nvidia-smi --gpu-reset -i GPU, while nothing uses it; or reboot",
    ),
    "cdi-invalid": FindingKind(
        "error",
        "a file in `/etc/cdi` or `/var/run/cdi` is not a CDI specification",
        "a container that asks for one of its devices does not start",
        "nvidia-ctk cdi generate --output=FILE",
    ),
    "cdi-stale": FindingKind(
        "error",
        "the CDI specification is of another driver, names GPUs that the host does not have, lacks MIG devices that it "
        "has, or gives device nodes the numbers of another boot",
        "a container that asks for its devices gets files that do not exist, and does not start",
        "nvidia-ctk cdi generate --output=FILE",
    ),
    "no-cdi": FindingKind(
        "error",
        "the toolkit's mode is `cdi`, and the host has no specification",
        "a container that asks for a GPU does not start",
        "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
    ),
    "toolkit-mode": FindingKind(
        "error",
        "the toolkit's mode is set to a mode that does not exist",
        "NVIDIA's runtime refuses to start any container",
        f"{_TOOLKIT} nvidia-container-runtime.mode=auto",
    ),
    "no-cgroups": FindingKind(
        "warning",
        "the toolkit is configured for a rootless engine",
        "that is for rootless engines: here containers get a GPU that they may not open",
        f"{_TOOLKIT} nvidia-container-cli.no-cgroups=false",
    ),
    "gpu-lost-at-reload": FindingKind(
        "warning",
        "running containers lose their GPU at the next `systemctl daemon-reload`",
        "a systemctl daemon-reload takes the GPU from running containers",
        "gpuprov provision; the toolkit then gives GPUs by CDI, with the links that are missing",
    ),
    "gpus-flag-lost-at-reload": FindingKind(
        "info",
        "containers that were started with `docker run --gpus` alone lose their GPU, because the engine (before 29.2, "
        "or without a CDI specification) attaches it through NVIDIA's hook; the others keep it",
        "a systemctl daemon-reload takes the GPU from containers that were started with --gpus alone",
        "docker run --runtime=nvidia --gpus …, or an engine from 29.2 on with a CDI specification",
    ),
    "gpus-flag-refused": FindingKind(
        "warning",
        "the toolkit's mode is `cdi`, in which its hook refuses `docker run --gpus`",
        "docker run --gpus does not start; --runtime=nvidia does",
        f"{_TOOLKIT} nvidia-container-runtime-hook.skip-mode-detection=true",
    ),
    "dockerd-fails": FindingKind(
        "error",
        "dockerd does not start; with its message",
        "containers cannot be started or listed",
        f"journalctl -u docker -n 50; with the cause removed: {_START}",
    ),
    "dockerd-stopped": FindingKind(
        "error",
        "dockerd does not run",
        "containers cannot be started or listed",
        _START,
    ),
    "dockerd-masked": FindingKind(
        "error",
        "the unit of dockerd is masked",
        "systemd does not start it, now or at boot",
        f"systemctl unmask docker.service; {_START}; systemctl enable docker.service",
    ),
    "dockerd-silent": FindingKind(
        "error",
        "dockerd runs and does not answer",
        "containers cannot be started or listed",
        "journalctl -u docker -n 50; then systemctl restart docker, which ends containers without live-restore",
    ),
    "dockerd-disabled": FindingKind(
        "warning",
        "dockerd does not start at boot",
        "after a reboot no container runs",
        "systemctl enable docker.service",
    ),
    "daemon-json": FindingKind(
        "error",
        "`daemon.json` is not JSON, or has a key or value with which dockerd does not start; the file that a running "
        "dockerd has read is not checked",
        "dockerd does not start with it",
        "correct the key in /etc/docker/daemon.json, or remove it with docker_daemon_options: {KEY: null}",
    ),
    "flag-conflict": FindingKind(
        "error",
        "a key is in `daemon.json` and also a flag of dockerd",
        "dockerd does not start while both set it",
        "remove it from one of them; then: systemctl daemon-reload; systemctl restart docker",
    ),
    "needs-daemon-reload": FindingKind(
        "warning",
        "docker.service was changed on disk, and systemd has not read it",
        "the next start of dockerd does not follow its files",
        "systemctl daemon-reload, while no GPU container runs that would lose its GPU",
    ),
    "dpkg-locked": FindingKind(
        "warning",
        "apt or dpkg is running; with the process",
        "gpuprov waits for it, and gives up after docker_ce_lock_timeout",
        "ps -fp PROCESS",
    ),
    "dpkg-interrupted": FindingKind(
        "warning",
        "dpkg was interrupted",
        "apt refuses to work until that is finished; gpuprov provision does so first",
        "dpkg --configure -a",
    ),
    "half-installed": FindingKind(
        "warning",
        "packages are half-installed; with their names",
        "apt may refuse to work, and these packages may not work",
        "dpkg --configure -a && apt-get -y -f install",
    ),
    "security-fixes": FindingKind(
        "warning",
        "docker-ce, containerd.io or the toolkit lacks known security fixes (info on Ubuntu 16.04, 18.04 and 20.04, "
        "for which there are no newer packages)",
        "a container or a request may get rights that it should not have; the finding names the advisory",
        "gpuprov provision with pins that are not older than those of gpuprov",
    ),
    "clock-off": FindingKind(
        "warning",
        "the host's clock differs from the controller's by more than a minute",
        "apt and registries refuse signatures and certificates outside their period of validity",
        "timedatectl set-ntp true || apt-get install -y systemd-timesyncd",
    ),
    "system-degraded": FindingKind(
        "warning",
        "units failed; with their names",
        "the services of these units are missing",
        "systemctl status UNIT; with the cause removed: systemctl reset-failed",
    ),
    "reboot-pending": FindingKind(
        "info",
        "a reboot is due; with the packages that need it",
        "updates take effect only then",
        "reboot while no container runs",
    ),
    "no-docker": FindingKind("info", "docker is not installed", "no container runs here", "gpuprov provision"),
    "not-as-wanted": FindingKind(
        "info",
        "the plan has changes",
        "the host is not what the inventory asks for",
        "gpuprov plan shows what differs, gpuprov provision changes it",
    ),
    "no-systemd": FindingKind(
        "info",
        "gpuprov cannot start or restart dockerd here",
        "gpuprov plans, verifies and examines it; it cannot start or restart dockerd here, so it changes nothing",
        "install packages and daemon.json, and start dockerd, with the tool that builds this host or its image",
    ),
    # Problems that block a plan.
    "python": FindingKind(
        "error",
        "the host has no Python that this ansible-core can use",
        "gpuprov can read this host but not change it",
        "apt-get install -y python3; on Ubuntu 16.04 and 18.04, here: gpuprov with its extra xenial",
    ),
    "disk": FindingKind(
        "error",
        "there is too little space, or there are no free inodes",
        "packages and images that do not fit leave an installation half done",
        "docker system prune; apt-get clean; du -xh --max-depth=2 /var | sort -h | tail",
    ),
    "snap": FindingKind(
        "error", "docker is installed as a snap", "its dockerd conflicts with the packages", "snap remove docker"
    ),
    "apt": FindingKind(
        "error",
        "`apt-get` does not work on the host",
        "nothing can be installed",
        "see what apt-get update says on the host",
    ),
    "operating-system": FindingKind(
        "error",
        "the release of the operating system is not supported",
        "there are no pinned versions for it",
        "leave it out with --limit, or install a release that is supported",
    ),
    "architecture": FindingKind(
        "error", "the architecture is not supported", "there are no packages for it", "leave it out with --limit"
    ),
    "docker-daemon": FindingKind(
        "error",
        "`daemon.json` cannot be merged with the inventory's settings, or dockerd would not start with the result",
        "gpuprov does not change daemon.json while the result would be invalid",
        "correct /etc/docker/daemon.json, or the variables docker_daemon_*",
    ),
    "lock": FindingKind(
        "error",
        "the lock was made for other pins, or for other releases",
        "the host would not get the locked packages",
        "gpuprov lock INVENTORY, and review what changed",
    ),
    "docker-group": FindingKind(
        "error",
        "an account of `docker_group_users` does not exist on the host",
        "gpuprov adds only users that the host knows",
        "correct docker_group_users",
    ),
    "wrong-variable": FindingKind(
        "error",
        "a variable has a value that no plan can be made with; the finding has the name of its role or of the variable",
        "the plan cannot be made",
        "correct the variable in the inventory",
    ),
}

CHANGES = (
    ChangeKind(
        r"keyring .+",
        "keyring NAME",
        "writes the key that apt trusts for this repository alone, after comparing its fingerprint with the one in the "
        "variables",
        "apt installs nothing that is not signed by this key, and the key signs for no other repository",
        "nothing; if a mirror has a key of its own, check it, then set docker_ce_repo_key_fingerprint or "
        "nvidia_docker_repo_key_fingerprint",
    ),
    ChangeKind(
        r"apt source .+",
        "apt source NAME",
        "writes the one entry for this repository, and removes other entries for it",
        "two entries for one repository with different keys stop every apt on the host",
        "to keep apt's sources as they are, docker_ce_repo_manage: false and nvidia_docker_repo_manage: false",
    ),
    ChangeKind(
        r".+ hold",
        "PACKAGE hold",
        "holds or releases a package in apt",
        "an unattended upgrade of a package that is not held restarts dockerd under running jobs, or separates it from "
        "the driver",
        "nothing; docker_ce_hold: false and nvidia_docker_hold: false release them",
    ),
    ChangeKind(
        r"docker\.service",
        "docker.service",
        "starts dockerd, enables it at boot, or unmasks its unit",
        "containers run only while dockerd does, and after a reboot only if it is enabled",
        "if it does not start: journalctl -u docker -n 50, and gpuprov doctor",
    ),
    ChangeKind(
        r"volume of nvidia-docker v1",
        "volume of nvidia-docker v1",
        "removes a volume of the driver that nvidia-docker v1 mounted into containers",
        "dockerd would wait for a plugin that no longer exists",
        "containers that use it are removed only with nvidia_docker_remove_v1_containers: true",
    ),
    ChangeKind(
        r"toolkit mode|hook of the toolkit|links in /dev/char|CDI specification|CDI refresh",
        "toolkit mode, hook of the toolkit, links in /dev/char, CDI specification, CDI refresh",
        "sets up how containers get GPUs, so that they keep them when systemd reads its units again",
        "otherwise a systemctl daemon-reload, which any package may cause, takes the GPU from running containers",
        "nothing; docker run --gpus needs --runtime=nvidia too with an engine before 29.2. nvidia_docker_mode and "
        "nvidia_docker_cdi choose otherwise",
    ),
    ChangeKind(
        r"proxy of docker\.service.*",
        "proxy of docker.service",
        "writes or removes the drop-in with dockerd's proxy, for an engine before 23.0",
        "dockerd pulls images through this proxy; the login shell's setting does not reach it",
        "dockerd restarts for it: docker_daemon_restart says when that is allowed",
    ),
    ChangeKind(
        r"daemon\.json",
        "daemon.json",
        "sets or removes one key in dockerd's configuration; keys that the inventory does not name stay",
        "a key marked restart takes effect only when dockerd restarts; the others at a reload, which does not touch "
        "containers",
        "docker_daemon_restart says when a restart is allowed; the file before the change is kept beside it",
    ),
    ChangeKind(
        r".+ group",
        "docker group",
        "adds an account to the group docker",
        "its members use docker without sudo, and are as powerful as root on the host",
        "the account logs in again; docker_group_users names the accounts",
    ),
    ChangeKind(
        r"dockerrun(\.conf)?",
        "dockerrun",
        "writes the launcher that runs a command in a container as its caller, and its defaults in dockerrun.conf",
        "people use GPUs in containers without knowing Docker's options",
        "nothing; another file of that name is kept beside it",
    ),
    ChangeKind(
        r"docker(-ce|-ce-cli|-buildx-plugin|-compose-plugin|\.io|-engine)|containerd(\.io)?|runc|(lib)?nvidia-[a-z0-9-]+",
        "PACKAGE",
        "installs, changes or removes a package, in one transaction with the others of its set",
        "versions that do not belong together break GPUs in containers; a package marked restart restarts dockerd",
        "docker_ce_version, nvidia_docker_version and the like name other versions; docker_ce_restart says when "
        "dockerd may restart",
    ),
)


# {variable of the playbooks: (how it is set, the same as, in Markdown)}.
PLAYBOOK_VARIABLES = {
    "gpuprov_full": ("gpuprov_full=true", "`--full`"),
    "gpuprov_serial": ('\'{"gpuprov_serial": [1, "10%"]}\'', "`--serial 1,10%`"),
    "gpuprov_max_fail_percentage": ("gpuprov_max_fail_percentage=5", "`--max-fail-percentage 5`"),
    "gpuprov_wait": ("gpuprov_wait=600", "`--wait`, for at most 600 s"),
    "gpuprov_mirror": ("gpuprov_mirror=tuna", "(none: use the apt repositories of a [mirror](usage.md#mirrors))"),
    "gpuprov_lock": (
        "gpuprov_lock=site.lock.yml",
        "(none: the [lock](lock.md), below the inventory's directory; default: `gpuprov.lock.yml`, if it exists)",
    ),
    "gpuprov_bundle": (
        "gpuprov_bundle=/srv/bundle",
        "`--bundle /srv/bundle` of `plan` and `provision`; a relative path is below the directory of the inventory",
    ),
    "gpuprov_lock_upgrade": ("gpuprov_lock_upgrade=true", "`--upgrade` of `lock`"),
    "gpuprov_build_on": ("gpuprov_build_on=gpu01", "`--on gpu01` of `image build`"),
    "gpuprov_registry_cache_hosts": (
        "gpuprov_registry_cache_hosts=cache01",
        "(none: the hosts of a [registry cache](registry-cache.md), as a pattern)",
    ),
    "gpuprov_quiet": ("gpuprov_quiet=true", "(none: do not show the plan or the findings)"),
}


def change(subject: str) -> ChangeKind | None:
    """Return the kind of a change by the first column of the plan, e.g. ``keyring docker`` or ``docker-ce``."""
    return next((kind for kind in CHANGES if re.fullmatch(kind.subject, subject)), None)
