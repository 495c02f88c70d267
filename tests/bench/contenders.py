"""The contenders: each brings hosts to the same state, in its own way."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab.lab import Host, Lab

HERE = Path(__file__).parent
CONFIG = "/etc/docker/daemon.json"
LAUNCHER = "/usr/local/bin/dockerrun"


@dataclass(frozen=True)
class State:
    """The desired state, read from a host that gpuprov provisioned.

    directory holds the files of sources, keyrings and udev, and the launcher, at their paths.
    """

    directory: Path
    packages: list[str]
    files: list[str]
    daemon_json: str

    def with_mirrors(self, mirrors: list[str]) -> str:
        """daemon.json with these mirrors."""
        return json.dumps({**json.loads(self.daemon_json), "registry-mirrors": mirrors}, indent=2)


def state_of(host: Host, directory: Path) -> State:
    """Read the state of a provisioned host."""
    paths = host.run("ls /etc/apt/sources.list.d/*.sources /etc/apt/keyrings/* /etc/udev/rules.d/*").stdout.split()
    paths = [path for path in paths if "docker" in path or "nvidia" in path]
    for path in [*paths, LAUNCHER]:
        target = directory / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(base64.b64decode(host.run(f"base64 {path}").stdout))
    (directory / LAUNCHER.lstrip("/")).chmod(0o755)
    held = host.run("dpkg-query -W -f '${Package}=${Version}\\n' $(apt-mark showhold)").stdout.split()
    wanted = {"packages": held, "files": paths}
    (directory / "wanted.json").write_text(json.dumps(wanted), encoding="utf-8")
    return State(directory, held, paths, host.run(f"cat {CONFIG}").stdout)


Run = Callable[[Lab, Sequence[Host], list[str]], None]


def gpuprov(*words: str) -> Run:
    """Gpuprov provision, with these options."""

    def run(lab: Lab, hosts: Sequence[Host], mirrors: list[str]) -> None:
        _run(
            ["gpuprov", "provision", str(lab.inventory), "--limit", ",".join(host.name for host in hosts),
             "-e", json.dumps({"docker_daemon_registry_mirrors": mirrors}), *words]
        )  # fmt: skip

    return run


def pyinfra(state: State, directory: Path) -> Run:
    """Pyinfra, from PyPI, with tests/bench/pyinfra_deploy.py; all hosts at once, as is its default."""

    def run(lab: Lab, hosts: Sequence[Host], mirrors: list[str]) -> None:
        data = {
            "ssh_user": "root",
            "ssh_key": str(lab.directory / "id_ed25519"),
            "ssh_known_hosts_file": str(lab.directory / "known_hosts"),
            "state": str(state.directory),
            "daemon_json": state.with_mirrors(mirrors),
        }
        inventory = directory / "inventory.py"
        inventory.write_text(f"hosts = ({[host.address for host in hosts]!r}, {data!r})\n", encoding="utf-8")
        _run(["pyinfra", "-y", str(inventory), str(HERE / "pyinfra_deploy.py")])

    return run


def shell(state: State) -> Run:
    """The commands of the manual procedure as one script for each host, over ssh, all hosts at once."""

    def run(lab: Lab, hosts: Sequence[Host], mirrors: list[str]) -> None:
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for path in [*state.files, LAUNCHER]:
                tar.add(state.directory / path.lstrip("/"), path.lstrip("/"))
        names = " ".join(package.partition("=")[0] for package in state.packages)
        script = f"""set -e
export DEBIAN_FRONTEND=noninteractive
echo {base64.b64encode(archive.getvalue()).decode()} | base64 -d | tar -xz --no-same-owner -C /
mkdir -p /etc/docker
cat > {CONFIG} <<'END'
{state.with_mirrors(mirrors)}
END
apt-get -qq update
apt-get -qq -y --no-install-recommends --allow-change-held-packages --allow-downgrades \\
  install {" ".join(state.packages)}
apt-mark hold {names}
systemctl enable --now docker
systemctl reload docker
gpasswd -a alice docker
docker run --rm hello-world
"""
        started = [
            subprocess.Popen(
                ["ssh", *host.ssh_options(), f"root@{host.address}", "sh -s"],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            )
            for host in hosts
        ]  # fmt: skip
        for process in started:
            assert process.stdin is not None
            process.stdin.write(script)
            process.stdin.close()
        for process, host in zip(started, hosts, strict=True):
            assert process.stderr is not None
            said = process.stderr.read()
            if process.wait():
                raise RuntimeError(f"the script failed on {host.name}: {said[-1000:]}")

    return run


def _run(words: list[str]) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(words, env={**os.environ, "PATH": path}, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{words[0]} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
