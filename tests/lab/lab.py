"""Labs: hosts in podman containers with systemd, sshd and an address each, and their servers."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.lab import images, repositories
from tests.lab.images import run, step

CHECKOUT = Path(__file__).resolve().parents[2]
HTTP_PORT = 8000
REGISTRY_PORT = 5000
PREFIX = "gpuprov-"
# Measured (tests/lab/README.md): what a systemd host with a dockerd of its own takes in podman.
LIMITS = "--ulimit nofile=20000:20000 --ulimit nproc=10000:10000".split()
HOST_OPTIONS = (
    *"--systemd=always --privileged --cgroupns=private -v /var/lib/docker -v /var/lib/containerd".split(),
    *LIMITS,
)


def podman(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run podman with the one runtime that takes this machine's cgroups."""
    command = ["podman", "--runtime", "runc", *map(str, words)]
    if check:
        return run(*command)
    return subprocess.run(command, text=True, capture_output=True, check=False)


def names() -> list[str]:
    """The names of the labs that are up, or that a crash left behind."""
    answer = podman("network", "ls", "--format", "{{.Name}}").stdout
    return sorted(name.removeprefix(PREFIX) for name in answer.split() if name.startswith(PREFIX))


def status() -> str:
    """What is up, as text."""
    return podman("ps", "-a", "--filter", "label=gpuprov-lab", "--format", "{{.Names}}\t{{.Status}}").stdout


@dataclass(frozen=True)
class Host:
    """One lab host."""

    name: str
    distro: str
    address: str
    container: str
    directory: Path

    def run(self, command: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run shell commands on the host as root, past ssh."""
        words = ["podman", "--runtime", "runc", "exec", "-i", self.container, "bash", "-c", command]
        done = subprocess.run(words, text=True, capture_output=True, input=stdin or "", check=False)
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {command}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def ssh(self, words: Sequence[str]) -> int:
        """Log in, or run a command; return its exit status."""
        return subprocess.run(["ssh", *self.ssh_options(), f"root@{self.address}", *words], check=False).returncode

    def ssh_options(self) -> list[str]:
        """What ssh needs to know this host and to be let in."""
        return ["-i", str(self.directory / "id_ed25519"), "-o", f"UserKnownHostsFile={self.directory / 'known_hosts'}"]


class Lab:
    """A lab: a network of its own, a server for packages and images, and hosts."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,20}", name):
            raise ValueError(f"a lab's name is of small letters, digits and hyphens: {name!r}")
        self.name = name
        self.network = PREFIX + name
        self.directory = CHECKOUT / ".lab" / name
        self.inventory = self.directory / "hosts.ini"

    # ---- addresses

    def _subnet(self) -> str:
        """The first three numbers of the lab's addresses, e.g. 10.89.7."""
        answer = podman("network", "inspect", self.network, "--format", "{{range .Subnets}}{{.Subnet}}{{end}}", check=False)
        if answer.returncode == 0:
            return answer.stdout.strip().rsplit(".", 1)[0]
        with images.locked("network"):
            taken = podman("network", "ls", "--format", "{{.Name}}").stdout.split()
            used = set()
            for other in taken:
                inspected = podman("network", "inspect", other, "--format", "{{range .Subnets}}{{.Subnet}}{{end}}")
                used.add(inspected.stdout.strip())
            start = zlib.crc32(self.name.encode()) % 200
            for step_number in range(200):
                prefix = f"10.89.{20 + (start + step_number) % 200}"
                if f"{prefix}.0/24" not in used:
                    podman("network", "create", "--disable-dns", "--subnet", f"{prefix}.0/24", self.network)
                    return prefix
        raise RuntimeError("no subnet is free: python -m tests.lab down --all")

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
        subnet = self._subnet()
        hosts = []
        for line in (self.directory / "hosts").read_text().split():
            name, distro, number = line.split(":")
            hosts.append(Host(name, distro, f"{subnet}.{number}", f"{self.network}-{name}", self.directory))
        return hosts

    def host(self, name: str) -> Host:
        """One host by its name."""
        return next(host for host in self.hosts() if host.name == name)

    def up(self, spec: str, pristine: bool = False) -> Lab:
        """Bring the lab up with the hosts that spec names, e.g. ``debian11:2,xenial``; return it.

        Hosts that are up stay as they are, unless pristine; what a crash left is repaired.
        """
        images.build()
        wanted = self._parse(spec)
        with images.locked(f"lab-{self.name}"), step(f"{self.name}: {len(wanted)} hosts up"):
            self.directory.mkdir(parents=True, exist_ok=True)
            self._subnet()
            (self.directory / "hosts").write_text("".join(f"{':'.join(row)}\n" for row in wanted))
            self._write_files()
            self._serve()
            keep = {host.container for host in self.hosts()}
            for container in self._containers():
                if container not in keep and not container.endswith("-server"):
                    self._remove(container)
            missing = [host for host in self.hosts() if pristine or not self._running(host)]
            self.start(missing)
        return self

    @staticmethod
    def _parse(spec: str) -> list[tuple[str, str, str]]:
        """Parse a spec into rows (name, distro, last number of the address)."""
        rows: list[tuple[str, str, str]] = []
        for part in spec.split(","):
            distro, _colon, count = part.partition(":")
            if distro not in images.DISTROS:
                raise ValueError(f"no such host: {distro!r}; there are {', '.join(images.DISTROS)}")
            for number in range(1, int(count or 1) + 1):
                name = distro if not count else f"{distro}-{number:02}"
                rows.append((name, distro, str(10 + len(rows))))
        return rows

    def reset(self, hosts: Iterable[str]) -> None:
        """Start hosts afresh: pristine, with the same address and host key."""
        self.start([self.host(name) for name in hosts])

    def start(self, hosts: Sequence[Host]) -> None:
        """Start hosts, replacing those that are there; return when they can be logged in to."""
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(self._start, hosts))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self._wait, hosts))

    def down(self) -> None:
        """Take everything of the lab away."""
        with images.locked(f"lab-{self.name}"):
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(self._remove, self._containers()))
            podman("network", "rm", "-f", self.network, check=False)
            shutil.rmtree(self.directory, ignore_errors=True)

    def _containers(self) -> list[str]:
        answer = podman("ps", "-a", "--filter", f"label=gpuprov-lab={self.name}", "--format", "{{.Names}}")
        return answer.stdout.split()

    def _running(self, host: Host) -> bool:
        """Whether a host is up, of the current image and with the address that is wanted."""
        answer = podman(
            "inspect", host.container, "--format",
            "{{.State.Running}} {{.ImageName}} {{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", check=False,
        )  # fmt: skip
        return answer.stdout.split() == ["true", images.image(host.distro), host.address]

    def _remove(self, container: str) -> None:
        answer = podman(
            "inspect", container, "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", check=False
        )
        podman("rm", "-f", "-v", "-t", "0", container, check=False)
        address = answer.stdout.strip()
        if address:
            # A persistent ssh connection to the host that was would hang instead of failing.
            listed = subprocess.run(["ss", "-Htnp", "dst", address], text=True, capture_output=True, check=False)
            for pid in set(re.findall(r'"ssh",pid=(\d+)', listed.stdout)):
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def _start(self, host: Host) -> None:
        self._remove(host.container)
        podman(
            "run", "-d", "--name", host.container, "--hostname", host.name, "--label", f"gpuprov-lab={self.name}", "--network", self.network,
            "--ip", host.address, *HOST_OPTIONS, images.image(host.distro), "/sbin/init",
        )  # fmt: skip
        suite = images.SUITES.get(host.distro, "bullseye")
        source = f"deb [signed-by=/etc/gpuprov-lab/distro.gpg] http://{self.server}:{HTTP_PORT}/distro/{suite} ./"
        host.run(f"cat > /etc/apt/sources.list", stdin=source + "\n")
        subprocess.run(
            ["podman", "--runtime", "runc", "exec", "-i", host.container, "sh", "-c", "cat > /etc/gpuprov-lab/distro.gpg"],
            input=(repositories.repository() / "distro" / "key.gpg").read_bytes(), check=True,
        )  # fmt: skip

    def _wait(self, host: Host) -> None:
        deadline = time.monotonic() + 90
        while True:
            state = host.run("systemctl is-system-running; test -e /dev/nvidia0 || echo no GPU", check=False).stdout.strip()
            if state == "running":
                return
            if state.startswith("degraded") or time.monotonic() > deadline:
                failed = host.run("systemctl --failed --no-legend", check=False).stdout
                raise RuntimeError(f"{host.name} did not come up: {state} {failed}")
            time.sleep(0.3)

    # ---- servers and files

    def _serve(self) -> None:
        """Start the server of packages and images, unless it runs with the current content."""
        container = f"{self.network}-server"
        mounted = f"{repositories.repository()} {repositories.registry()}"
        answer = podman("inspect", container, "--format", '{{.State.Running}} {{index .Config.Labels "content"}}', check=False)
        if answer.stdout.strip() == f"true {mounted}":
            return
        self._remove(container)
        podman(
            "run", "-d", "--name", container, "--network", self.network, "--ip", self.server, *LIMITS,
            "--label", f"gpuprov-lab={self.name}", "--label", f"content={mounted}", "-v", f"{repositories.repository()}:/www:ro",
            "-v", f"{repositories.registry()}:/registry:ro", "-v", f"{images.FILES}:/lab:ro",
            images.image("debian12"), "sh", "/lab/server.sh",
        )  # fmt: skip

    def _write_files(self) -> None:
        for name in ("id_ed25519", "id_ed25519.pub"):
            shutil.copy(images.CACHE / name, self.directory / name)
        host_key = Path(f"{images.host_key()}.pub").read_text().split()[:2]
        known = "".join(f"{host.address} {' '.join(host_key)}\n" for host in self.hosts())
        (self.directory / "known_hosts").write_text(known)
        lines = ["[gpu]", *(f"{host.name} ansible_host={host.address}" for host in self.hosts()), "", "[all:vars]"]
        lines += [f"{name}={value}" for name, value in self.variables().items()]
        self.inventory.write_text("\n".join(lines) + "\n")

    def variables(self) -> dict[str, str]:
        """The inventory variables that point at this lab, as an INI inventory writes them."""
        web = f"http://{self.server}:{HTTP_PORT}"
        fingerprint = repositories.fingerprint()
        return {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.directory / "id_ed25519"),
            "ansible_ssh_common_args": f"'-o UserKnownHostsFile={self.directory / 'known_hosts'}'",
            "docker_ce_repo_url": f"{web}/docker/linux",
            "docker_ce_repo_key_fingerprint": fingerprint,
            "nvidia_docker_repo_url": f"{web}/nvidia",
            "nvidia_docker_repo_key_fingerprint": fingerprint,
            "docker_daemon_registry_mirrors": f"'[\"{self.mirror}\"]'",
            "docker_group_users": "'[\"alice\"]'",
        }
