"""``./dev bench --fleet N``: gpuprov plan on N names with nothing to do, beside plain ssh with the same probe."""

from __future__ import annotations

import os
import resource
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab import fleet
from tests.lab.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
PROBE = ROOT / "roles/gpu_host_probe/files/probe.sh"
FORKS = 50
# Seconds between two looks at the memory: each look reads the page tables of all forks.
INTERVAL = 1.0


def measure(count: int, hosts: str, turns: int) -> None:
    """Bring a fleet up, measure a tenth of it and all of it, and print what was found."""
    lab = Lab("bench-fleet")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        # ssh refuses long paths of sockets.
        (directory / "cp").mkdir()
        real = lab.up(hosts)
        _gpuprov("provision", lab.inventory, directory)
        sizes = sorted({max(count // 10, 1), count})
        found: list[dict[str, Any]] = []
        for size in sizes:
            names = fleet.names(real, size, {})
            inventory = fleet.make(lab, names)
            for _turn in range(turns):
                print(f"{size} names, load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
                plain = _timed(lambda names=names: _ssh(lab, names, directory))
                with _memory(directory) as peak:
                    ours = _timed(lambda inventory=inventory: _gpuprov("plan", inventory, directory))
                found.append({"names": size, "plain": plain, "gpuprov": ours, "peak": dict(peak)})
        print(report(found))
    lab.down()


def report(found: Sequence[dict[str, Any]]) -> str:
    """Return the tables of what was measured: of the turns of one size, the one with the lowest ratio of times."""
    sizes = sorted({one["names"] for one in found})
    best = [min((one for one in found if one["names"] == size), key=_ratio) for size in sizes]
    lines = ["| names | gpuprov, s (CPU s) | plain ssh, s (CPU s) | ratio | peak, MiB |", "|---|---|---|---|---|"]
    for one in best:
        times = " | ".join("{:.1f} ({:.1f})".format(*one[who]) for who in ("gpuprov", "plain"))
        lines.append(f"| {one['names']} | {times} | {_ratio(one):.2f} | {sum(one['peak'].values()) / 1024:.0f} |")
    if len(best) > 1:
        per_name = [one["gpuprov"][0] / one["names"] for one in best]
        lines += ["", f"Seconds per name grow by a factor of {per_name[-1] / per_name[0]:.2f}."]
    lines += ["", f"Memory at its peak, at {sizes[-1]} names:", "", "| processes | MiB |", "|---|---|"]
    lines += [f"| {what} | {kib / 1024:.0f} |" for what, kib in Counter(best[-1]["peak"]).most_common()]
    return "\n".join(lines)


def _ratio(one: dict[str, Any]) -> float:
    return float(one["gpuprov"][0] / one["plain"][0])


def _timed(run: Any) -> tuple[float, float]:
    """Return the seconds of a run, and the processor seconds of its processes on this machine, past the hosts'."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    run()
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _gpuprov(command: str, inventory: Path, directory: Path) -> None:
    own = {
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(directory / "cp"),
        "XDG_STATE_HOME": str(directory / "state"),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    words = ["gpuprov", command, str(inventory), "--forks", str(FORKS)]
    done = subprocess.run(words, env={**os.environ, **own}, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"gpuprov {command} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")


def _ssh(lab: Lab, names: Sequence[fleet.Name], directory: Path) -> None:
    """Run the probe on each name by an ssh of its own, FORKS at a time."""
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
        ["xargs", "-P", str(FORKS), "-n", "2", "sh", "-c", script, str(answers)],
        input="".join(f"{one.host.address} {one.port}\n" for one in names),
        text=True, capture_output=True, check=False,
    )  # fmt: skip
    silent = [one.name for one in names if not (answers / str(one.port)).stat().st_size]
    if silent:
        print(f"plain ssh: no answer from {len(silent)} names", file=sys.stderr)


@contextmanager
def _memory(directory: Path) -> Iterator[Counter[str]]:
    """Yield the KiB of gpuprov's processes by kind, at their peak; filled in at the end. Shared pages count once."""
    peak: Counter[str] = Counter()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(INTERVAL):
            now = _kinds(directory)
            if now.total() > peak.total():
                peak.clear()
                peak.update(now)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _kinds(directory: Path) -> Counter[str]:
    """Return the proportional set size in KiB of gpuprov's processes by kind."""
    processes: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[1])
            processes[int(entry.name)] = parent, (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:
            continue
    found: Counter[str] = Counter()
    for pid, (parent, words) in processes.items():
        above = parent
        while above in processes and above != os.getpid():
            above = processes[above][0]
        # A shared connection's process has left its family, and names its socket.
        shared = words.startswith(f"ssh: {directory}")
        if above == os.getpid() or shared:
            found[_kind(words, processes.get(parent, (0, ""))[1], shared)] += proportional(pid)
    return found


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
