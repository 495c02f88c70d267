"""Labs: hosts in podman containers with systemd, sshd and an address each, and their server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import cgroups, images, registry, repositories
from tests.lab.images import run, step

CHECKOUT = Path(__file__).resolve().parents[2]
HTTP_PORT = 8000
REGISTRY_PORT = 5000
# Checkouts that are tested at one time on one machine each need another one.
PREFIX = os.environ.get("GPUPROV_LAB_PREFIX", "gpuprov-")
LABEL = "gpuprov-lab"
# Seconds that a host, or the server, may take to come up.
PATIENCE = 900
# Measured (README.md): what a systemd host with a dockerd of its own takes in podman.
LIMITS = ["--ulimit", "nofile=20000:20000", "--ulimit", "nproc=10000:10000"]
HOST_OPTIONS = (
    *["--privileged", "--cgroupns=private"],
    *["-v", "/var/lib/docker", "-v", "/var/lib/containerd"],
    *LIMITS,
)
# What podman does under --systemd=always, less the mounts of cgroup v1.
CGROUP2_OPTIONS = (
    *["--systemd=false", "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec"],
    *["--stop-signal", "SIGRTMIN+3", "-e", "container=podman"],
)
# The hosts on cgroup v1, as releases before Ubuntu 21.10 and Debian 11 are.
CGROUP1 = ("xenial",)
# What a host without systemd starts: the stand-in GPU, as its unit plugs it in, and sshd.
NO_SYSTEMD_START = """\
sed -n 's/^ExecStart=-\\?//p' /etc/systemd/system/gpuprov-lab-gpu.service | sh
mkdir -p /run/sshd && exec /usr/sbin/sshd -D
"""
NO_SYSTEMD_INIT = ("tini", "--", "sh", "-c", NO_SYSTEMD_START)
# OpenSSH 8.5 to 9.8 agree on a key exchange that takes each side a tenth of a second of processor time.
FAST_LOGIN = "-o KexAlgorithms=curve25519-sha256"
# On a host: it was brought up to the end.
READY = "/run/gpuprov-lab-ready"
# A host takes about five of the kernel's inotify instances; its default of 128 is not enough.
INOTIFY = Path("/proc/sys/fs/inotify/max_user_instances")


def _command(*words: str | Path) -> list[str]:
    # crun, where it is podman's default, refuses a hybrid cgroup hierarchy.
    return ["podman", "--runtime", "runc", *map(str, words)]


def podman(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman; with check, raise RuntimeError with its output where it fails."""
    if check:
        return run(*_command(*words))
    return subprocess.run(_command(*words), text=True, capture_output=True, check=False)


def names() -> list[str]:
    """The names of the labs that are up, or that a crash left something of."""
    networks = podman("network", "ls", "--format", "{{.Name}}").stdout.split()
    containers = podman(
        "ps", "-a", "--filter", f"label={LABEL}", "--format", f'{{{{index .Labels "{LABEL}"}}}}'
    ).stdout.split()
    directories = (path.name for path in (CHECKOUT / ".lab").glob("*"))
    found = {name.removeprefix(PREFIX) for name in [*networks, *containers] if name.startswith(PREFIX)}
    return sorted(found.union(directories))


def status() -> str:
    """Return all containers of labs and their states as text, one a line."""
    form = "{{.Names}}\t{{.Status}}"
    return podman("ps", "-a", "--filter", f"label={LABEL}", "--format", form).stdout


_CUT = """\
table inet cut {
 chain in {
  type filter hook input priority 0; policy drop;
  tcp dport 22 accept
  iifname lo accept
 }
 chain out {
  type filter hook output priority 0; policy drop;
  tcp sport 22 accept
  oifname lo accept
 }
}
"""


@dataclass(frozen=True)
class Host:
    """One lab host. directory is its lab's, with the key that logs in and known_hosts."""

    name: str
    distro: str
    address: str
    container: str
    directory: Path

    @property
    def container_id(self) -> Path:
        """The file with the ID of the host's container."""
        return self.directory / f"{self.name}.id"

    def run(self, command: str, check: bool = True, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run shell commands on the host as root, past ssh; input is their standard input.

        With check, raises RuntimeError with the output where they fail.
        """
        # runc, as podman would have it done: podman itself takes three times the processor time of the rest.
        done = subprocess.run(
            ["runc", "exec", self.container_id.read_text(encoding="utf-8"), "bash", "-c", command],
            text=True, capture_output=True, input=input or "", check=False,
        )  # fmt: skip
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {command}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def in_network(self, *words: str, stdin: str | None = None) -> None:
        """Run a command of this machine in the network of the host."""
        pid = podman("inspect", "-f", "{{.State.Pid}}", self.container).stdout.strip()
        subprocess.run(["nsenter", "-t", pid, "-n", *words], input=stdin, text=True, check=True)

    def cut(self) -> None:
        """Let nothing pass but ssh to the host, until it is reset."""
        self.in_network("nft", "-f", "-", stdin=_CUT)

    def ssh(self, words: Sequence[str], user: str = "root") -> int:
        """Log in, or run a command; return its exit status."""
        command = ["ssh", *self.ssh_options(), f"{user}@{self.address}", *words]
        return subprocess.run(command, check=False).returncode

    def ssh_options(self) -> list[str]:
        """Return ssh's options for this host: its key, and the key to log in with."""
        known = f"UserKnownHostsFile={self.directory / 'known_hosts'}"
        return ["-i", str(self.directory / "id_ed25519"), "-o", known, "-o", "IdentitiesOnly=yes"]


class Lab:
    """A lab: a network of its own, a server for packages and images, and hosts.

    ssh_options: ssh's in the inventory, beside the known hosts.
    """

    def __init__(self, name: str, ssh_options: str = FAST_LOGIN) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
            raise ValueError(f"a lab's name is of small letters, digits and hyphens: {name!r}")
        self.name = name
        self.ssh_options = ssh_options
        self.network = PREFIX + name
        self.directory = CHECKOUT / ".lab" / name
        self.inventory = self.directory / "hosts.ini"
        self._prefix: str | None = None

    # ---- addresses

    def _subnet(self) -> str:
        """The first three numbers of the lab's addresses, e.g. 10.89.7."""
        if self._prefix is None:
            self._prefix = self._known_subnet() or self._new_subnet()
        return self._prefix

    def _known_subnet(self) -> str | None:
        answer = podman("network", "inspect", self.network, check=False)
        if answer.returncode:
            return None
        subnet: str = json.loads(answer.stdout)[0]["subnets"][0]["subnet"]
        return subnet.rsplit(".", 1)[0]

    def _new_subnet(self) -> str:
        """Make the lab's network: the subnet follows from the name, or is the next free one."""
        start = zlib.crc32(self.name.encode()) % 200
        problem = ""
        with images.locked("network"):
            for number in range(200):
                prefix = f"10.89.{20 + (start + number) % 200}"
                subnet = f"{prefix}.0/24"
                made = podman(
                    "network", "create", "--disable-dns", "--subnet", subnet, self.network,
                    check=False,
                )  # fmt: skip
                if made.returncode == 0:
                    return prefix
                problem = made.stderr
                if "subnet" not in problem and "network" not in problem:
                    break
        raise RuntimeError(f"no network for the lab {self.name}: {problem}")

    @property
    def server(self) -> str:
        """The address of the lab's package server and registry."""
        return f"{self._subnet()}.2"

    @property
    def mirror(self) -> str:
        """The lab's registry, as a registry mirror."""
        return f"http://{self.server}:{REGISTRY_PORT}"

    # ---- hosts

    def hosts(self) -> list[Host]:
        """The hosts of the lab as it was last brought up."""
        rows = self.directory / "hosts"
        if not rows.exists():
            raise RuntimeError(f"the lab {self.name} is not up: python -m tests.lab up {self.name}")
        subnet = self._subnet()
        hosts = []
        for line in rows.read_text(encoding="utf-8").split():
            name, distro, number = line.split(":")
            container = f"{self.network}-{name}"
            hosts.append(Host(name, distro, f"{subnet}.{number}", container, self.directory))
        return hosts

    def host(self, name: str) -> Host:
        """One host by its name."""
        for host in self.hosts():
            if host.name == name:
                return host
        known = ", ".join(host.name for host in self.hosts())
        raise ValueError(f"the lab {self.name} has no host {name!r}, it has {known}")

    def up(self, spec: str = "debian12,debian13", pristine: bool = False) -> list[Host]:
        """Bring the lab up with the hosts that spec names, e.g. ``debian11:2,xenial``.

        Hosts that are up stay as they are, unless pristine; what a crash left is repaired, and
        hosts that spec does not name go. Returns when all can be logged in to.
        """
        wanted = parse(spec)
        images.build()
        with images.locked(f"lab-{self.network}"), step(f"{self.name}: {len(wanted)} hosts up"):
            self.directory.mkdir(parents=True, exist_ok=True)
            rows = "".join(f"{':'.join(row)}\n" for row in wanted)
            (self.directory / "hosts").write_text(rows, encoding="utf-8")
            hosts = self.hosts()
            self._write_files(hosts)
            found = self._containers()
            self._serve(found)
            keep = {f"{self.network}-server", *(host.container for host in hosts)}
            self._remove([name for name in found if name not in keep], found)
            with ThreadPoolExecutor(8) as pool:
                up = pool.map(lambda one: not pristine and self._is_up(one, found), hosts)
                down = [one for one, is_up in zip(hosts, up, strict=True) if not is_up]
            self._start(down, found)
        return hosts

    def reset(self, *hosts: Host | str) -> None:
        """Start hosts (none named: all) afresh: pristine, same name, address and host key."""
        with images.locked(f"lab-{self.network}"):
            named = [self.host(one) if isinstance(one, str) else one for one in hosts]
            self._start(named or self.hosts(), self._containers())

    def down(self) -> None:
        """Take everything of the lab away; harmless where there is nothing."""
        with images.locked(f"lab-{self.network}"):
            found = self._containers()
            self._remove(found, found)
            if (self.directory / "hosts").exists():
                # Of hosts whose containers are gone already, too.
                for host in self.hosts():
                    cgroups.remove(host.container)
            podman("network", "rm", "-f", self.network, check=False)
            shutil.rmtree(self.directory, ignore_errors=True)
            self._prefix = None

    def _containers(self) -> dict[str, dict[str, Any]]:
        """Return podman's record of each of the lab's containers, by name."""
        listed = podman(
            "ps", "-a", "--filter", f"label={LABEL}={self.network}", "--format", "{{.Names}}"
        ).stdout.split()
        if not listed:
            return {}
        # One that goes meanwhile makes podman fail, and still say what it knows of the others.
        answer = podman("container", "inspect", *listed, check=False)
        return {one["Name"]: one for one in json.loads(answer.stdout or "[]")}

    @staticmethod
    def _address(container: dict[str, Any]) -> str:
        for network in container["NetworkSettings"]["Networks"].values():
            return str(network["IPAddress"])
        return ""

    def _is_up(self, host: Host, found: dict[str, dict[str, Any]]) -> bool:
        """Return whether a host runs, with the current image and the right address."""
        one = found.get(host.container)
        return (
            one is not None
            and one["State"]["Status"] == "running"
            and one["ImageName"] == images.image(host.distro)
            and self._address(one) == host.address
            and host.container_id.exists()
            # Not "running" alone: a test may have left a failed unit, which is its own business.
            and host.run(f"test -e {READY} && {_state(host)}", check=False).stdout in ("running\n", "degraded\n")
        )

    def _remove(self, containers: Iterable[str], found: dict[str, dict[str, Any]]) -> None:
        there = [name for name in containers if name in found]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(_remove_container, there))
        for name in there:
            _hang_up(self._address(found[name]))

    def _start(self, hosts: Sequence[Host], found: dict[str, dict[str, Any]]) -> None:
        """Start hosts, replacing those that are there; return when they can be logged in to."""
        needed = 512 + 8 * len(hosts)
        if hosts and int(INOTIFY.read_text()) < needed:
            INOTIFY.write_text("8192")
        self._remove([host.container for host in hosts], found)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._create, hosts))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._wait, hosts))

    def _create(self, host: Host) -> None:
        host.container_id.unlink(missing_ok=True)
        words = (
            "run", "-d", "--pull=never", "--replace", "--name", host.container, "--hostname", host.name,
            "--cidfile", str(host.container_id),
            "--label", f"{LABEL}={self.network}", "--network", self.network, "--ip", host.address,
            "--mac-address", _mac(host.address), *HOST_OPTIONS,
        )  # fmt: skip
        image = images.image(host.distro)
        init = NO_SYSTEMD_INIT if host.distro == images.NO_SYSTEMD else ("/sbin/init",)
        if host.distro in CGROUP1:
            start = ["--systemd=always", image, *init]
        else:
            start = [*CGROUP2_OPTIONS, image, "sh", "-c", f'{cgroups.START}"$0" "$@"', *init]
        cgroups.run_in(cgroups.create(host.container), _command(*words, *start))

    def _wait(self, host: Host) -> None:
        """Wait for a host's systemd, and give the host its distribution's source."""
        suite = images.SUITES.get(host.distro, "bookworm" if host.distro == images.NO_SYSTEMD else "bullseye")
        source = f"http://{self.server}:{HTTP_PORT}/distro/{suite}"
        line = f"deb [signed-by=/etc/gpuprov-lab/distro.gpg] {source} ./"
        deadline = time.monotonic() + PATIENCE
        while True:
            done = host.run(
                f"echo '{line}' > /etc/apt/sources.list && {_state(host)} --wait",
                check=False,
            )
            state = done.stdout.strip()
            if state == "running":
                host.run(f"touch {READY}")
                return
            if state == "degraded" or time.monotonic() > deadline:
                failed = host.run("systemctl --failed --no-legend", check=False)
                raise RuntimeError(f"{host.name} did not come up: {state} {done.stderr}{failed.stdout}")
            time.sleep(0.2)

    # ---- server and files

    def _serve(self, found: dict[str, dict[str, Any]]) -> None:
        """Start the server of packages and images, unless it runs with the current content."""
        container = f"{self.network}-server"
        content = f"{repositories.directory()} {registry.directory()}"
        one = found.get(container)
        # Asked for itself: after a restart of the machine podman says of what is gone that it runs.
        if one and one["Config"]["Labels"].get("content") == content and not self._silent():
            return
        self._remove([container], found)
        script = (images.FILES / "server.sh").read_text(encoding="utf-8")
        words = (
            "run", "-d", "--pull=never", "--replace", "--name", container, "--network", self.network,
            "--ip", self.server, "--mac-address", _mac(self.server), *LIMITS, "--label", f"{LABEL}={self.network}",
            "--label", f"content={content}", "-v", f"{repositories.directory()}:/www:ro",
            "-v", f"{registry.directory()}:/registry:ro", images.image("debian12"),
            "sh", "-c", script,
        )  # fmt: skip
        podman(*words)
        deadline = time.monotonic() + PATIENCE
        while silent := self._silent():
            if time.monotonic() > deadline:
                log = podman("logs", container, check=False)
                raise RuntimeError(f"the lab's server is silent at port {silent}: {log.stdout}{log.stderr}")
            time.sleep(0.1)

    def _silent(self) -> int | None:
        """The port of the server at which nobody answers; None where all answer."""
        for port in (HTTP_PORT, REGISTRY_PORT):
            try:
                socket.create_connection((self.server, port), timeout=2).close()
            except OSError:
                return port
        return None

    def _write_files(self, hosts: Sequence[Host]) -> None:
        for name in ("id_ed25519", "id_ed25519.pub"):
            shutil.copy(images.CACHE / name, self.directory / name)
        host_key = Path(f"{images.host_key()}.pub").read_text(encoding="utf-8").split()[:2]
        known = "".join(f"{host.address} {' '.join(host_key)}\n" for host in hosts)
        (self.directory / "known_hosts").write_text(known, encoding="utf-8")
        lines = ["[gpu]", *(f"{host.name} ansible_host={host.address}" for host in hosts)]
        lines += ["", "[all:vars]"]
        lines += [f"{name}={value}" for name, value in self.variables().items()]
        self.inventory.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def variables(self) -> dict[str, str]:
        """The inventory variables that point at this lab, as an INI inventory writes them."""
        web = f"http://{self.server}:{HTTP_PORT}"
        fingerprint = repositories.fingerprint()
        known = self.directory / "known_hosts"
        return {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.directory / "id_ed25519"),
            "ansible_ssh_common_args": f"'-o UserKnownHostsFile={known} {self.ssh_options}'",
            "docker_ce_repo_url": f"{web}/docker/linux",
            "docker_ce_repo_key_fingerprint": fingerprint,
            "nvidia_docker_repo_url": f"{web}/nvidia",
            "nvidia_docker_repo_key_fingerprint": fingerprint,
            # Without quotes around it, it is a list in an INI inventory.
            "docker_daemon_registry_mirrors": json.dumps([self.mirror]),
            "docker_group_users": json.dumps(["alice"]),
        }


def parse(spec: str) -> list[tuple[str, str, str]]:
    """Parse a spec of hosts into rows (name, distro, last number of the address).

    ``debian12`` is one host of that name, ``debian12:2`` are debian12-01 and debian12-02.
    """
    rows: list[tuple[str, str, str]] = []
    for part in spec.split(","):
        distro, _colon, count = part.strip().partition(":")
        if distro not in (*images.DISTROS, images.NO_SYSTEMD):
            known = ", ".join((*images.DISTROS, images.NO_SYSTEMD))
            raise ValueError(f"no such host: {distro!r}; there are {known}")
        if count and not re.fullmatch("[1-9][0-9]?", count):
            raise ValueError(f"how many hosts is {count!r}? 1 to 99")
        for number in range(1, int(count or 1) + 1):
            name = f"{distro}-{number:02}" if count else distro
            rows.append((name, distro, str(10 + len(rows))))
    if len({row[0] for row in rows}) < len(rows):
        raise ValueError(f"a host is named twice in {spec!r}; two of a kind are debian12:2")
    return rows


def _remove_container(name: str) -> None:
    words = ("rm", "-f", "-v", "-t", "0", name)
    # The first call may only find out that the container's processes are gone.
    if podman(*words, check=False).returncode:
        podman(*words, check=False)
    cgroups.remove(name)


def _state(host: Host) -> str:
    """The command that says whether a host runs."""
    return "echo running #" if host.distro == images.NO_SYSTEMD else "systemctl is-system-running"


def _mac(address: str) -> str:
    """The hardware address that goes with an address.

    The same every time: who remembers the host that was would look for the new one in vain.
    """
    return "02:00:" + ":".join(f"{int(number):02x}" for number in address.split("."))


def _hang_up(address: str) -> None:
    """End this machine's ssh connections to a host that is gone: they would hang, not fail."""
    if not address:
        return
    listed = subprocess.run(["ss", "-Htnp", "dst", address], text=True, capture_output=True, check=False)
    for pid in set(re.findall(r'"ssh",pid=(\d+)', listed.stdout)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
