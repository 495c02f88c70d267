"""``python -m tests.bench``: measure, and write docs/performance.md and its plot."""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench import contenders, fleet, fleet_report, offline, report, ship
from tests.lab.cgroups import processor_seconds
from tests.lab.lab import Host, Lab, podman

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / ".dev" / "bench.json"


def main() -> int:
    """Measure what was asked for, keep it in .dev/bench.json, and write the report of all that is there."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--sizes", default="1,5,10,20", help="numbers of hosts")
    parser.add_argument("--idle-sizes", default="50", help="numbers of hosts for the second run alone")
    parser.add_argument("--turns", type=int, default=5, help="measurements of each second run and changed mirror")
    parser.add_argument("--first-turns", type=int, default=3, help="measurements of each first install")
    parser.add_argument("--images", action="store_true", help="only the shipping of an image; keeps the rest")
    parser.add_argument("--offline", type=int, metavar="HOSTS", help="only hosts without a network; keeps the rest")
    parser.add_argument("--add", action="store_true", help="to what was measured before")
    parser.add_argument("--report", action="store_true", help="only write the report of what was measured")
    parser.add_argument(
        "--fleet", type=int, metavar="N", help="only gpuprov plan on N names; 500 or more for docs/scale.md"
    )
    parser.add_argument("--fleet-hosts", default="debian12:5", help="the hosts of --fleet; the last is a bastion")
    parser.add_argument("--fleet-turns", type=int, default=1, help="measurements of each size of --fleet")
    arguments = parser.parse_args()
    if arguments.fleet and arguments.report:
        fleet_report.write(json.loads(fleet.RESULTS.read_text(encoding="utf-8")), ROOT / "docs")
        return 0
    if arguments.fleet:
        fleet.measure(arguments.fleet, arguments.fleet_hosts, arguments.fleet_turns)
        return 0
    if arguments.images and not arguments.report:
        _measure_images(arguments.first_turns)
    elif arguments.offline and not arguments.report:
        _measure_offline(arguments.offline, arguments.first_turns)
    elif not arguments.report:
        RESULTS.parent.mkdir(exist_ok=True)
        if not arguments.add:
            RESULTS.write_text("[]", encoding="utf-8")
        _measure(_numbers(arguments.sizes), _numbers(arguments.idle_sizes), arguments.turns, arguments.first_turns)
    report.write(json.loads(RESULTS.read_text(encoding="utf-8")), ROOT / "docs")
    return 0


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number]


def _measure(sizes: list[int], idle_sizes: list[int], turns: int, first_turns: int) -> None:
    lab = Lab("bench", ssh_options="")
    lab.up(f"debian12:{max([*sizes, *idle_sizes])}", pristine=True)
    hosts = lab.hosts()
    mirrors, others = [lab.mirror], [lab.mirror, "http://second.invalid"]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        fast = contenders.gpuprov()
        fast(lab, hosts[:1], mirrors)
        state = contenders.state_of(hosts[0], directory)
        every: dict[str, contenders.Run] = {
            "gpuprov": fast,
            "gpuprov --full": contenders.gpuprov("--full"),
            "pyinfra": contenders.pyinfra(state, directory),
            "shell script": contenders.shell(state),
        }
        for size in sizes:
            some = hosts[:size]
            for _turn in range(first_turns):
                for who, run in {
                    **every,
                    report.WITHOUT_GPU: contenders.gpuprov("-e", "gpu_host_verify_gpu=false"),
                }.items():
                    lab.reset(*some)
                    _take("first install", who, run, lab, some, mirrors)
                    _check(fast, lab, some, mirrors, who)
            _second_runs(every, lab, some, mirrors, turns)
            for _turn in range(turns):
                for who, run in every.items():
                    fast(lab, some, mirrors)
                    _take("changed mirror", who, run, lab, some, others)
                    _check(fast, lab, some, others, who)
        for size in idle_sizes:
            fast(lab, hosts[:size], mirrors)
            _second_runs(every, lab, hosts[:size], mirrors, turns)
            with _memory() as peak:
                fast(lab, hosts[:size], mirrors)
            _keep(work="memory", who="gpuprov", hosts=size, mib=peak[0])
    lab.down()


def _measure_offline(size: int, turns: int) -> None:
    _forget("offline", "bundle")
    lab = Lab("bench-offline", ssh_options="")
    offline.measure(lab, size, turns, _take, _keep)
    lab.down()


def _forget(*beginnings: str) -> None:
    """Keep what was measured but works whose names begin so."""
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    RESULTS.parent.mkdir(exist_ok=True)
    others = [one for one in kept if not one["work"].startswith(beginnings)]
    RESULTS.write_text(json.dumps(others), encoding="utf-8")


def _measure_images(turns: int) -> None:
    _forget("ship")
    lab = Lab("bench-images", ssh_options="")
    ship.measure(lab, many=10, turns=turns, keep=_keep)
    lab.down()


def _second_runs(
    every: dict[str, contenders.Run], lab: Lab, hosts: Sequence[Host], mirrors: list[str], turns: int
) -> None:
    for run in every.values():
        run(lab, hosts, mirrors)  # once unmeasured: package lists and caches are as they will be
    for _turn in range(turns):
        for who, run in every.items():
            _take("second run", who, run, lab, hosts, mirrors)


def _take(work: str, who: str, run: contenders.Run, lab: Lab, hosts: Sequence[Host], mirrors: list[str]) -> None:
    """Measure one run: seconds, and processor seconds of this machine's processes and of the hosts."""
    containers = [host.container for host in hosts]
    pids = [int(pid) for pid in podman("inspect", "--format", "{{.State.Pid}}", *containers).stdout.split()]
    used = _processor_seconds(pids)
    begun = time.monotonic()
    run(lab, hosts, mirrors)
    seconds = round(time.monotonic() - begun, 3)
    controller, on_hosts = (
        round(after - before, 3) for after, before in zip(_processor_seconds(pids), used, strict=True)
    )
    _keep(work=work, who=who, hosts=len(hosts), seconds=seconds, controller=controller, on_hosts=on_hosts)


def _processor_seconds(pids: Sequence[int]) -> tuple[float, float]:
    """Return the processor time used so far by the children of this process that have ended, and by the hosts.

    pids: those of the hosts' containers.
    """
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return ended.ru_utime + ended.ru_stime, sum(processor_seconds(pid) for pid in pids)


def _keep(**measured: Any) -> None:
    print(json.dumps(measured), flush=True)
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))
    RESULTS.write_text(json.dumps([*kept, measured]), encoding="utf-8")


def _check(fast: contenders.Run, lab: Lab, hosts: Sequence[Host], mirrors: list[str], who: str) -> None:
    """Raise RuntimeError unless the hosts are as wanted, as gpuprov's plan sees it."""
    words = [
        str(Path(sys.executable).parent / "gpuprov"), "plan", str(lab.inventory),
        "--limit", ",".join(host.name for host in hosts),
        "-e", json.dumps({"docker_daemon_registry_mirrors": mirrors}),
    ]  # fmt: skip
    done = subprocess.run(words, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{who} did not reach the state: {done.stdout[-3000:]}")


@contextmanager
def _memory() -> Iterator[list[int]]:
    """The peak of the memory, in MiB, of this process's descendants; shared pages are counted once."""
    peak = [0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.3):
            peak[0] = max(peak[0], sum(fleet.proportional(pid) for pid in _descendants(os.getpid())) // 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _descendants(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found: list[int] = []
    for pid in parents:
        above = pid
        while above in parents and above != root:
            above = parents[above]
        if above == root and pid != root:
            found.append(pid)
    return found


if __name__ == "__main__":
    sys.exit(main())
