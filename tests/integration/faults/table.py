"""The faults: how each is injected, what the run must say, and its exit status. docs/reliability.md shows them."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import NamedTuple

from tests.integration.faults.scene import (
    Act,
    Scene,
    beside_another,
    killed,
    meanwhile,
    signalled,
    waiting_for_another,
)
from tests.integration.v1 import start_v1_plugin, stop_v1_plugin

# What makes work for a run: another engine, another plugin, another mirror, a key that needs a restart.
OLDER = ("-e", "docker_ce_version=OLD_ENGINE")
# The same for apt, under a container that runs: no package that restarts dockerd.
PLUGIN = ("-e", "docker_ce_compose_version=OLD_COMPOSE")
MIRRORS = ("-e", json.dumps({"docker_daemon_registry_mirrors": ["MIRROR", "http://second.invalid"]}))
RESTART = ("-e", json.dumps({"docker_daemon_options": {"log-driver": "local"}}))
ALWAYS = ("-e", "docker_daemon_restart=always")
THROUGH_PROXY = ("-e", "docker_ce_repo_url=PROXY/docker/linux", *PLUGIN)

APT = "pgrep -x apt-get >/dev/null"
# The brackets keep the shell that looks from finding itself.
UNPACKING = "pgrep -f 'dpkg .*--unpac[k]' >/dev/null"
VERIFYING = "pgrep -f gpuprov-verif[y] >/dev/null"
PROBING = "pgrep -f gpuprov-prob[e] >/dev/null"
CONFIGURING = "ls /etc/docker/daemon.json.gpuprov-* >/dev/null 2>&1"

CONFIG = "/etc/docker/daemon.json"
KEPT = f"cp -p {CONFIG} /tmp/kept.json"
PUT_BACK = f"rm -rf {CONFIG}; cp -p /tmp/kept.json {CONFIG}"


def locked(path: str, seconds: float, name: str = "apt") -> str:
    """A process of a name that holds a lock of apt's."""
    program = f"import fcntl, time; f = open('{path}', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); time.sleep({seconds})"
    return (
        f"cp -L $(command -v python3) /tmp/{name}; systemctl stop fault-lock 2>/dev/null; "
        f'systemd-run -q --collect --unit fault-lock /tmp/{name} -c "{program}"; '
        f"for i in $(seq 12000); do grep -q $(stat -c :%i {path}) /proc/locks && exit 0; sleep 0.05; done; exit 1"
    )


UNLOCKED = "systemctl stop fault-lock 2>/dev/null || true"
FRONTEND = "/var/lib/dpkg/lock-frontend"


def reloaded(live_restore: str) -> str:
    """Have dockerd read daemon.json, and wait until its live-restore is "true" or "false"."""
    shown = "$(docker info --format '{{.LiveRestoreEnabled}}')"
    return f'systemctl reload docker; until [ "{shown}" = {live_restore} ]; do sleep 0.1; done'


def drop_in(lines: str) -> str:
    """Give docker.service a drop-in with these lines of [Service]."""
    return (
        "mkdir -p /etc/systemd/system/docker.service.d; "
        f"printf '[Service]\\n{lines}\\n' > /etc/systemd/system/docker.service.d/fault.conf; systemctl daemon-reload"
    )


NO_DROP_IN = "rm -r /etc/systemd/system/docker.service.d; systemctl daemon-reload; systemctl reset-failed docker; true"
# A copy of /var, small and full, over the real one.
SMALL_VAR = "mkdir -p /small; mount -t tmpfs -o {} tmpfs /small; cp -ax /var/. /small; mount --bind /small /var"
BIG_VAR = "umount -l /var; umount -l /small"


# The proof takes long enough to be met in its midst.
SLOW_DOCKER = (
    'printf \'#!/bin/sh\\n[ "$1" != run ] || sleep 20\\nexec /usr/bin/docker "$@"\\n\' > /usr/local/sbin/docker; '
    "chmod +x /usr/local/sbin/docker"
)
FAST_DOCKER = "rm /usr/local/sbin/docker"
SUDO = "echo 'admin ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin"


def with_v1_volumes(scene: Scene) -> None:
    """A container that uses a volume of nvidia-docker v1."""
    start_v1_plugin(scene.host)
    volume = "--volume-driver nvidia-docker -v nvidia_driver_396.44:/usr/local/nvidia"
    scene.host.run(f"docker run -d --name old {volume} busybox sleep 36000")


class Fault(NamedTuple):
    """One fault. Texts for the host are shell; Scene.fill() has the words that stand for the lab's values.

    how is for people. said and unsaid are regular expressions for what the run prints. words are the
    run's, and again those of the run that finishes the job. pristine starts from a fresh host, not
    from one that is as wanted; container has one run that must not notice. dockerd: whether it is to
    be the same process right after the faulty run ("same"), to run ("up"), or may be down ("any").
    after puts away, at the very end, what the job's end needed.
    """

    how: str
    status: int
    said: str
    inject: str | Callable[[Scene], object] = ""
    undo: str = ""
    words: tuple[str, ...] = ()
    again: tuple[str, ...] | None = None
    verb: str = "provision"
    act: Act | None = None
    pristine: bool = False
    container: bool = False
    dockerd: str = "same"
    after: Callable[[Scene], object] | None = None
    unsaid: str = "Traceback"


FAULTS: dict[str, Fault] = {
    # ---- reaching the host, and being cut off
    "unreachable": Fault(
        "port 2 of the host, where nobody listens", 4, r"connection refused by \S+ port 2",
        words=("-e", "ansible_port=2", *MIRRORS), again=MIRRORS,
    ),
    "ssh dies in mid-apt": Fault(
        "every sshd of a session killed while dpkg unpacks", 4, "unreachable at: Apply and prove",
        words=OLDER, dockerd="any",
        act=meanwhile(UNPACKING, lambda scene: scene.host.run("pkill -KILL -f '^sshd(-session)?: [^/]'")),
    ),
    "controller killed while probing": Fault(
        "kill -9 while the probe runs", -9, "", words=MIRRORS, act=killed(PROBING), container=True,
    ),
    "controller killed in apt": Fault(
        "kill -9 while apt works", -9, "", words=OLDER, act=killed(APT), dockerd="any",
    ),
    "controller killed in dpkg": Fault(
        "kill -9 while dpkg unpacks, on a fresh host", -9, "", pristine=True, act=killed(UNPACKING), dockerd="any",
    ),
    "controller killed while configuring": Fault(
        "kill -9 when daemon.json has its backup", -9, "", "rm -f /etc/docker/daemon.json.gpuprov-*",
        words=MIRRORS, act=killed(CONFIGURING), container=True,
    ),
    "controller killed while verifying": Fault(
        "kill -9 while containers prove the result", -9, "", SLOW_DOCKER, FAST_DOCKER,
        words=MIRRORS, act=killed(VERIFYING), container=True,
    ),
    "reboot in mid-run": Fault(
        "the host switched off and on while dpkg unpacks", 4, "unreachable at: ",
        words=OLDER, act=meanwhile(UNPACKING, Scene.reboot), dockerd="any",
    ),
    "Ctrl-C": Fault(
        "SIGINT while apt works", 130, r"finishing the tasks in flight(.|\n)* yes (.|\n)*Interrupted",
        words=(*OLDER, *MIRRORS), act=signalled(signal.SIGINT, 1, APT), dockerd="up", unsaid="Traceback|stray process",
    ),
    "Ctrl-C twice": Fault(
        "SIGINT twice while apt works", 130, "stopping at once(.|\n)*Interrupted",
        words=OLDER, act=signalled(signal.SIGINT, 2, APT), dockerd="any", unsaid="Traceback|stray process",
    ),
    "SIGTERM": Fault(
        "SIGTERM while containers prove the result", 130, "finishing the tasks in flight(.|\n)*Interrupted",
        SLOW_DOCKER, FAST_DOCKER,
        words=MIRRORS, act=signalled(signal.SIGTERM, 1, VERIFYING), unsaid="Traceback|stray process",
    ),
    "two controllers": Fault(
        "a second run while the first one waits for dpkg's lock", 2,
        r"has been at this host since .* UTC(.|\n)*first run: status 0",
        locked(FRONTEND, 12), UNLOCKED, words=OLDER, act=beside_another, dockerd="up",
    ),
    "two controllers, one waits": Fault(
        "the same, with --wait", 0, "first run: status 0",
        locked(FRONTEND, 12), UNLOCKED, words=OLDER, act=waiting_for_another, dockerd="up",
    ),
    # ---- apt and dpkg
    "dpkg lock held 20 s": Fault(
        "a process named apt holds dpkg's lock", 0, "Install the pinned set", locked(FRONTEND, 20), UNLOCKED,
        words=OLDER, dockerd="up",
    ),
    "dpkg lock held for ever": Fault(
        "the same, and 3 s of patience", 2, r"apt \(process \d+\) has held apt's lock for 3 s",
        locked(FRONTEND, 36000), UNLOCKED,
        words=("-e", "docker_ce_lock_timeout=3", *PLUGIN), again=PLUGIN, container=True,
    ),
    "unattended upgrade": Fault(
        "a process named unattended-upgr holds the lock", 2, r"unattended-upgr \(process \d+\) has held apt's lock",
        locked(FRONTEND, 36000, "unattended-upgr"), UNLOCKED,
        words=("-e", "docker_ce_lock_timeout=2", *PLUGIN), again=PLUGIN, container=True,
    ),
    "interrupted dpkg": Fault(
        "dpkg --unpack of another docker-ce-cli, not configured", 0, "docker-ce-cli .*half installed",
        "cd /tmp && apt-get -qq download docker-ce-cli=NEW_ENGINE && "
        "dpkg --unpack --force-hold docker-ce-cli_*.deb",
        dockerd="up",
    ),
    "package set half upgraded": Fault(
        "docker-ce-cli newer than docker-ce", 0, "docker-ce-cli ",
        "apt-get -qq -y --allow-change-held-packages install docker-ce-cli=NEW_ENGINE", dockerd="up",
    ),
    "held at another version": Fault(
        "an administrator held an older docker-ce", 0, "docker-ce ",
        "apt-get -qq -y --allow-change-held-packages --allow-downgrades install docker-ce=OLD_ENGINE; "
        "apt-mark hold docker-ce", dockerd="up",
    ),
    "half removed": Fault(
        "docker-ce removed by force under the others", 0, r"docker-ce +\+ ",
        "dpkg --force-depends,hold,remove-essential -r docker-ce", dockerd="up",
    ),
    "repository down": Fault(
        "the repository's port refuses", 2, "apt cannot use|could not be (fetched|installed)|apt could not install",
        "rm -rf /var/lib/apt/lists/*; "
        "iptables -I OUTPUT -p tcp -d SERVER --dport 8000 -j REJECT --reject-with tcp-reset",
        "iptables -D OUTPUT 1", words=PLUGIN, container=True,
    ),
    "repository 404": Fault(
        "the repository's every file is missing", 2, r"apt cannot use http://127\.0\.0\.1:9000\S* .*404",
        lambda scene: scene.proxy("missing"), words=THROUGH_PROXY, again=PLUGIN, container=True,
    ),
    "HTML in place of an index": Fault(
        "a portal's page in place of every index", 2,
        "apt cannot use .*(Clearsigned file isn't valid|NOSPLIT|not signed)",
        lambda scene: scene.proxy("html"), words=THROUGH_PROXY, again=PLUGIN, container=True,
    ),
    "corrupted package": Fault(
        "one bit of each package is wrong", 2, "apt could not install the set: .*[Hh]ash [Ss]um mismatch",
        lambda scene: scene.proxy("corrupted"), words=THROUGH_PROXY, again=PLUGIN, container=True,
    ),
    "download cut off": Fault(
        "each package ends in its middle", 2, "apt could not install the set: ",
        lambda scene: scene.proxy("cut_off"), words=THROUGH_PROXY, again=PLUGIN, container=True,
    ),
    "hash mismatch": Fault(
        "the index is not the one that Release names", 2, "apt cannot use .*([Hh]ash [Ss]um mismatch|unexpected size)",
        lambda scene: scene.proxy("mismatch"), words=THROUGH_PROXY, again=PLUGIN, container=True,
    ),
    "unsigned repository": Fault(
        "no InRelease and no Release.gpg", 2, "apt cannot use .*(not|no longer) signed",
        lambda scene: scene.proxy("unsigned"), words=THROUGH_PROXY, again=PLUGIN, container=True,
    ),
    "wrong signing key": Fault(
        "InRelease signed by another key", 2, "apt cannot use .*(NO_PUBKEY|not signed|couldn't be verified)",
        lambda scene: scene.dated(-1, 9, own_key=False), words=THROUGH_PROXY, again=PLUGIN, container=True,
    ),
    "expired Release": Fault(
        "Valid-Until was yesterday", 2, "apt cannot use .*expired",
        lambda scene: scene.dated(-9, -1), words=THROUGH_PROXY, again=PLUGIN, container=True,
    ),
    "clock a year off": Fault(
        "as apt sees it: a Release of a year ahead", 2, "apt cannot use .*not valid yet",
        lambda scene: scene.dated(365, 400), words=THROUGH_PROXY, again=PLUGIN, container=True,
    ),
    "redirect to HTTP": Fault(
        "a repository of HTTPS that sends apt to HTTP", 2, "apt cannot use https://localhost:9000.*[Rr]edirection from",
        Scene.redirect_to_http, words=("-e", "docker_ce_repo_url=https://localhost:9000/docker/linux", *PLUGIN),
        again=PLUGIN, container=True,
    ),
    "key redirected to HTTP": Fault(
        "the same where the key comes from, on a fresh host", 2,
        "cannot be fetched.*Redirection from https to .* is forbidden",
        Scene.redirect_to_http, words=("-e", "docker_ce_repo_url=https://localhost:9000/docker/linux"), again=(),
        pristine=True, dockerd="any",
    ),
    "DNS fails": Fault(
        "a repository by a name that does not resolve", 2, "apt cannot use .*(resolv|Resolv|lookup)",
        words=("-e", "docker_ce_repo_url=http://repository.invalid/docker/linux", *PLUGIN), again=PLUGIN,
        container=True,
    ),
    "conflicting Signed-By": Fault(
        "another entry of the repository with another keyring", 0, "apt source docker",
        "echo 'deb [signed-by=/etc/gpuprov-lab/distro.gpg] REPOSITORY/docker/linux/VENDOR CODENAME stable' "
        "> /etc/apt/sources.list.d/site.list", words=OLDER, dockerd="up",
    ),
    # ---- space and file systems
    "/var full": Fault(
        "a full tmpfs over /var of a fresh host", 2, r"/var has \d+ MiB free; 1024 MiB are needed",
        SMALL_VAR.format("size=400m"), BIG_VAR, pristine=True, dockerd="any",
    ),
    "inodes exhausted": Fault(
        "a tmpfs without inodes left over /var of a fresh host", 2, "/var has no free inodes",
        SMALL_VAR.format("size=3000m,nr_inodes=40000") + "; mkdir /var/junk; cd /var/junk; "
        "seq 40000 | xargs touch 2>/dev/null; true", BIG_VAR, pristine=True, dockerd="any",
    ),
    "/boot full": Fault(
        "a tmpfs of 4 MiB over /boot", 2, r"/boot has \d MiB free; 8 MiB are needed",
        "mount -t tmpfs -o size=4m tmpfs /boot", "umount /boot", words=PLUGIN, container=True,
    ),
    "disk full in mid-download": Fault(
        "a tmpfs of 1 MiB over apt's archives", 2, "apt could not install the set: .*(space|No space)",
        "apt-get clean; mount -t tmpfs -o size=1m tmpfs /var/cache/apt/archives; mkdir /var/cache/apt/archives/partial",
        "umount -l /var/cache/apt/archives", words=OLDER,
    ),
    "/etc read-only": Fault(
        "/etc mounted read-only", 2, "daemon.json could not be written: .*Read-only",
        "mount --bind /etc /etc; mount -o remount,ro,bind /etc", "umount -l /etc", words=MIRRORS, container=True,
    ),
    "disk full in docker run": Fault(
        "a full tmpfs over /var/lib/docker/containers", 2, "container runs: .*no space left",
        "mount -t tmpfs -o size=4k tmpfs /var/lib/docker/containers; "
        "dd if=/dev/zero of=/var/lib/docker/containers/x 2>/dev/null; true",
        "umount -l /var/lib/docker/containers", verb="verify",
    ),
    "registry mirror down": Fault(
        "the mirror's port refuses, and the image is not there", 2, "container runs: ",
        "docker image rm -f hello-world:latest >/dev/null; "
        "iptables -I OUTPUT -p tcp -d SERVER --dport 5000 -j REJECT --reject-with tcp-reset",
        "iptables -D OUTPUT 1", verb="verify", container=True,
    ),
    "junk in /etc/docker": Fault(
        "20 MB of junk beside daemon.json", 0, "", "head -c 20000000 /dev/urandom > /etc/docker/junk",
        "rm /etc/docker/junk", words=MIRRORS, container=True,
    ),
    # ---- daemon.json and dockerd
    "daemon.json is not JSON": Fault(
        "a surplus comma", 2, r"daemon.json is not JSON: .*line 1 column \d+",
        f"{KEPT}; echo '{{\"debug\": false,}}' > {CONFIG}", PUT_BACK, words=MIRRORS, container=True,
    ),
    "daemon.json is empty": Fault(
        "a file of no bytes", 0, "daemon.json", f": > {CONFIG}", words=MIRRORS, container=True,
    ),
    "daemon.json is a symlink": Fault(
        "a link to a file outside /etc/docker", 2, "symlink",
        f"{KEPT}; mv {CONFIG} /opt/daemon.json; ln -s /opt/daemon.json {CONFIG}", PUT_BACK,
        words=MIRRORS, container=True,
    ),
    "daemon.json is immutable": Fault(
        "chattr +i", 2, "daemon.json could not be written: .*not permitted",
        f"chattr +i {CONFIG}", f"chattr -i {CONFIG}", words=MIRRORS, container=True,
    ),
    "flag conflict in a drop-in": Fault(
        "a drop-in with --registry-mirror", 2, r"registry-mirror.*docker\.service\.d/fault\.conf",
        drop_in("ExecStart=\\nExecStart=/usr/bin/dockerd -H fd:// --registry-mirror=http://flag.invalid"),
        NO_DROP_IN, words=MIRRORS, container=True,
    ),
    "a key that dockerd does not know": Fault(
        "docker_daemon_options with a typing error", 2, "has no key regsitry-mirrors",
        words=("-e", json.dumps({"docker_daemon_options": {"regsitry-mirrors": []}})), again=MIRRORS,
    ),
    "dockerd refuses the configuration": Fault(
        "a storage driver that does not exist", 2,
        r"dockerd (did not start|refuses).*nonsense(.|\n)*The old daemon.json is back, and dockerd runs with it",
        words=("-e", json.dumps({"docker_daemon_options": {"storage-driver": "nonsense"}})), again=MIRRORS,
        dockerd="up",
    ),
    "dockerd hangs at start": Fault(
        "a drop-in that waits for ever with the new daemon.json", 2,
        "not up after 60 s(.|\n)*The old daemon.json is back, and dockerd runs with it",
        drop_in('ExecStartPre=/bin/sh -c "grep -q log-driver /etc/docker/daemon.json && sleep 9999 || true"'),
        NO_DROP_IN, words=RESTART, dockerd="up",
    ),
    "start-limit-hit": Fault(
        "dockerd killed until systemd gives up", 0, "docker.service",
        "for i in $(seq 9); do systemctl kill -s KILL docker 2>/dev/null; systemctl start docker 2>/dev/null; done; "
        "systemctl stop docker.socket; systemctl kill -s KILL docker; systemctl is-failed docker", dockerd="up",
    ),
    "docker masked": Fault("systemctl mask", 0, "masked", "systemctl mask docker", words=MIRRORS),
    "docker masked and stopped": Fault(
        "systemctl mask and stop", 0, "masked", "systemctl stop docker.socket docker; systemctl mask docker",
        words=MIRRORS, dockerd="up",
    ),
    "restart while a container runs": Fault(
        "a key that needs a restart", 2, "a restart of dockerd is needed .*1 containers? runs?: job",
        words=RESTART, again=(*RESTART, *ALWAYS), container=True,
    ),
    "engine upgrade while a container runs": Fault(
        "another docker-ce", 2, "a restart of dockerd is needed .*docker-ce .*job",
        words=OLDER, again=(*OLDER, *ALWAYS), container=True,
    ),
    "engine upgrade with live-restore": Fault(
        "another docker-ce on a host whose containers outlive dockerd", 0, "docker-ce ",
        f"""python3 -c "import json; p = '{CONFIG}'; c = json.load(open(p)); c['live-restore'] = True; """
        """json.dump(c, open(p, 'w'))"; """ + reloaded("true"),
        # dockerd keeps what goes from the file until it starts again.
        f"""sed -i 's/"live-restore": true/"live-restore": false/' {CONFIG}; {reloaded("false")}; """
        f"""sed -i 's/, "live-restore": false//' {CONFIG}; systemctl reload docker""",
        words=OLDER, container=True, dockerd="up",
    ),
    "docker.io with containers running": Fault(
        "Debian's docker.io on a fresh host, with a running container", 2,
        "a restart of dockerd is needed .*docker.io .*job",
        f"""mkdir -p /etc/docker; echo '{{"registry-mirrors": ["MIRROR"]}}' > {CONFIG}; apt-get -qq update; """
        "DEBIAN_FRONTEND=noninteractive apt-get -qq -y install docker.io >/dev/null 2>&1; "
        "docker run -d --name job busybox sleep 36000", again=ALWAYS, pristine=True,
    ),
    "docker as a snap": Fault(
        "/snap/bin/docker", 2, "docker is installed as a snap", "mkdir -p /snap/bin; touch /snap/bin/docker",
        "rm -r /snap", words=MIRRORS, container=True,
    ),
    "volumes of nvidia-docker v1": Fault(
        "its volume plugin, and a container that uses a volume", 2, "containers use volumes of nvidia-docker v1: old",
        with_v1_volumes, words=MIRRORS, again=("-e", "nvidia_docker_remove_v1_containers=true", *MIRRORS),
        after=lambda scene: stop_v1_plugin(scene.host), container=True,
    ),
    # ---- the account and its surroundings
    "locale that is not English": Fault(
        "LANG=de_DE.UTF-8 for every login", 0, "", "echo 'LANG=de_DE.UTF-8\nLANGUAGE=de' >> /etc/environment",
        "sed -i /LANG/d /etc/environment", words=OLDER, dockerd="up",
    ),
    "login shell that prints": Fault(
        "banners from .bashrc, on stdout and stderr", 0, "",
        "cp /root/.bashrc /root/.bashrc.kept 2>/dev/null; sed -i '1i echo WELCOME; echo beware >\\&2' /root/.bashrc",
        "mv /root/.bashrc.kept /root/.bashrc", words=MIRRORS, container=True,
    ),
    "umask 077": Fault(
        "umask 077 in .bashrc, on a fresh host", 0, "",
        "cp /root/.bashrc /root/.bashrc.kept 2>/dev/null; sed -i '1i umask 077' /root/.bashrc",
        pristine=True, dockerd="any",
    ),
    "sudo needs a password": Fault(
        "an account whose sudo asks", 2, "sudo needs a password",
        "echo 'admin ALL=(ALL) ALL' > /etc/sudoers.d/admin", SUDO,
        words=("-e", "ansible_user=admin", *MIRRORS), container=True,
    ),
    "sudo requires a terminal": Fault(
        "Defaults requiretty", 2, "sudo asks for a terminal",
        "sed -i '1i Defaults requiretty' /etc/sudoers", "sed -i '/requiretty/d' /etc/sudoers",
        words=("-e", "ansible_user=admin", *MIRRORS), container=True,
    ),
    "no sudo for the account": Fault(
        "an account that may not", 2, "may not use sudo|sudo needs a password",
        "rm /etc/sudoers.d/admin", SUDO,
        words=("-e", "ansible_user=admin", *MIRRORS), container=True,
    ),
    "a user that does not exist": Fault(
        "docker_group_users with a name that no account has", 2, "no account nobody-such",
        words=("-e", json.dumps({"docker_group_users": ["alice", "nobody-such"]})), again=MIRRORS, container=True,
    ),
    "values that would inject": Fault(
        "shell in a version", 2, "is not a version",
        words=("-e", json.dumps({"docker_ce_version": "5:1; touch /tmp/injected"})), again=MIRRORS, container=True,
    ),
}  # fmt: skip

# A third of them, of every kind, for `./dev test`; `./dev faults` runs all.
QUICK = tuple(FAULTS)[::3]


# Tried on resolute, the others on debian12.
ON_RESOLUTE = (
    "ssh dies in mid-apt",
    "controller killed in apt",
    "two controllers, one waits",
    "sudo needs a password",
    "no sudo for the account",
)


def host_of(name: str) -> str:
    """The host that a fault is tried on."""
    return "resolute" if name in ON_RESOLUTE else "debian12"
