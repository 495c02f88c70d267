"""``./dev bench --fleet N``: what N hosts cost the controller, beside plain ssh with the same probe.

It measures gpuprov plan on many names with nothing to do, and writes .dev/fleet.json, the tables of docs/performance.md
and docs/scale.md, and docs/scale.svg.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import fleet_report
from tests.lab import fleet
from tests.lab.lab import Host, Lab

ROOT = Path(__file__).resolve().parents[2]
PROBE = ROOT / "roles/gpu_host_probe/files/probe.sh"
RESULTS = ROOT / ".dev" / "fleet.json"
FORKS, FEW = 50, 16
# Seconds between two looks at the memory: each look reads the page tables of all forks.
INTERVAL = 1.0
_TICKS = os.sysconf("SC_CLK_TCK")
# sshd's own limit, which the lab raises: from 10 logins at a time on it resets 30 % of them, at 100 all.
STARTUPS = "10:30:100"
# What ssh's configuration says of the bastion so that all logins pass through one connection to it.
SHARED = "  ControlMaster auto\n  ControlPersist 60s\n  ControlPath {directory}/bastion\n"


def measure(count: int, spec: str, turns: int) -> None:
    """Bring a fleet up, measure it, and write the tables. The last host of the spec is the bastion."""
    lab = Lab("bench-fleet")
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        *real, bastion = lab.up(spec)
        _gpuprov("provision", lab.inventory, directory, FORKS)

        def take(
            work: str, size: int, forks: int, kinds: Mapping[str, int], *, beside: bool = False, jump: str = ""
        ) -> None:  # fmt: skip
            # Connections of an earlier run are neither used nor counted. ssh refuses long paths of sockets.
            sockets = Path(tempfile.mkdtemp(prefix="cp", dir=directory))
            names = fleet.names(real, size, kinds)
            inventory = fleet.make(lab, names, _jumping(lab, bastion, directory, jump) if jump else None)
            one: dict[str, Any] = {"work": work, "names": size, "forks": forks, "load": round(os.getloadavg()[0], 1)}
            if beside:
                one["plain"] = _timed(lambda: one.update(unanswered=_ssh(lab, names, directory, forks)))
            with _looking(sockets) as looks:
                one["gpuprov"] = _timed(lambda: one.update(failed=_gpuprov("plan", inventory, sockets, forks)))
            seen = looks.memory
            one |= {"peak": max(seen, key=Counter.total, default={}), "middle": seen[len(seen) // 2] if seen else {}}
            one["serial"] = looks.seconds
            print(json.dumps(one), file=sys.stderr, flush=True)
            found.append(one)

        some, few = max(count // 10, 1), max(count // 20, min(count, 30))
        for _turn in range(turns):
            for size in sorted({some, max(count * 3 // 10, 1), count}):
                take("growth", size, FORKS, {}, beside=True)
            take("forks", some, FEW, {})
            for kind in ("", "slow"):
                take(f"one {kind}".strip(), 1, 1, {kind: 1} if kind else {})
            for forks in (FORKS, FEW):
                take("silent", some, forks, {"silent": max(some // 20, 1)})
            bastion.run(f"echo 'MaxStartups {STARTUPS}' >/etc/ssh/sshd_config.d/zz.conf; systemctl restart ssh")
            for forks, how in ((10, "plain"), (FORKS, "plain"), (FORKS, "shared")):
                take(f"bastion {how}", few, forks, {}, jump=how)
    lab.down()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found), encoding="utf-8")
    fleet_report.write(found, ROOT / "docs")


def _jumping(lab: Lab, bastion: Host, directory: Path, how: str) -> Path:
    """Return a configuration of ssh that reaches the lab's hosts through a bastion; how: plain or shared."""
    known = f"{lab.directory}/fleet_known_hosts {lab.directory}/known_hosts"
    text = f"Host bastion\n  HostName {bastion.address}\n  User root\n"
    text += SHARED.format(directory=directory) if how == "shared" else ""
    text += "Host 10.*\n  ProxyJump bastion\n"
    text += f"Host *\n  IdentityFile {lab.directory}/id_ed25519\n  UserKnownHostsFile {known}\n"
    path = directory / "ssh_config"
    path.write_text(text, encoding="utf-8")
    return path


def _timed(run: Any) -> tuple[float, float]:
    """Return the seconds of a run, and the processor seconds of its processes on this machine, past the hosts'."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    run()
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _gpuprov(command: str, inventory: Path, directory: Path, forks: int) -> int:
    """Run a command of gpuprov, and return how many hosts were not reached. Raises RuntimeError where it fails."""
    own = {
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(directory),
        "XDG_STATE_HOME": str(directory / "state"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    words = ["gpuprov", command, str(inventory), "--forks", str(forks), "--json"]
    done = subprocess.run(words, env={**os.environ, **own}, text=True, capture_output=True, check=False)
    if done.returncode not in (0, 4):
        raise RuntimeError(f"gpuprov {command} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
    return sum(one["error"] is not None for one in json.loads(done.stdout)["hosts"].values())


def _ssh(lab: Lab, names: Sequence[fleet.Name], directory: Path, forks: int) -> int:
    """Run the probe on each name by an ssh of its own, and return how many did not answer."""
    known = lab.directory / "fleet_known_hosts"
    keyrings = [f"keyring:/etc/apt/keyrings/{name}.gpg" for name in ("docker", "nvidia-docker")]
    asked = shlex.join(["sh", "-s", "0123456789abcdef", "user:alice", *keyrings])
    options = ["-i", lab.directory / "id_ed25519", "-o", f"UserKnownHostsFile={known}", "-o", "ControlPath=none"]
    ssh = shlex.join(["ssh", *map(str, options), "-o", "BatchMode=yes", "-o", "ConnectionAttempts=5", "-l", "root"])
    script = f'exec {ssh} -p "$2" "$1" {shlex.quote(asked)} <{shlex.quote(str(PROBE))} >"$0/$2"'
    answers = directory / "answers"
    answers.mkdir(exist_ok=True)
    for path in answers.iterdir():
        path.unlink()
    subprocess.run(
        ["xargs", "-P", str(forks), "-n", "2", "sh", "-c", script, str(answers)],
        input="".join(f"{one.host.address} {one.port}\n" for one in names),
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    return sum(not (answers / str(one.port)).stat().st_size for one in names)


@dataclass
class Looks:
    """Collect what gpuprov's processes take: KiB by kind at each look, and processor seconds of the two main ones."""

    memory: list[Counter[str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


@contextmanager
def _looking(directory: Path) -> Iterator[Looks]:
    """Yield what is seen while the block runs."""
    looks = Looks()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(INTERVAL):
            _look(directory, looks)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield looks
    finally:
        done.set()
        thread.join()


def _look(directory: Path, looks: Looks) -> None:
    """Add the proportional set sizes of gpuprov's processes, in which shared pages count once."""
    processes: dict[int, tuple[int, str, float]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            words = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:
            continue
        processes[int(entry.name)] = int(fields[1]), words, (int(fields[11]) + int(fields[12])) / _TICKS
    found: Counter[str] = Counter()
    for pid, (parent, words, seconds) in processes.items():
        above = parent
        while above in processes and above != os.getpid():
            above = processes[above][0]
        # A shared connection's process has left its family, and names its socket.
        shared = words.startswith(f"ssh: {directory}")
        if above == os.getpid() or shared:
            kind = _kind(words, processes.get(parent, (0, "", 0.0))[1], shared)
            found[kind] += proportional(pid)
            if kind in ("gpuprov", "ansible-playbook"):
                looks.seconds[kind] = seconds
    looks.memory.append(found)


def _kind(words: str, above: str, shared: bool) -> str:
    if shared:
        return "shared connections of ssh"
    if "ansible-playbook" in words:
        return "forks of ansible-playbook" if "ansible-playbook" in above else "ansible-playbook"
    return "gpuprov" if "gpuprov" in words and not words.startswith("ssh") else "ssh and others"


def proportional(pid: int) -> int:
    """Return the proportional set size of a process in KiB, 0 if it is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
