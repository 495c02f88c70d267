"""Run a playbook on worker machines, each with a slice of the hosts.

ansible-runner carries the work: transmit packs a slice, gpuprov.workers.remote runs it at the other end of ssh, and
process reads its events, which become those of one run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import queue
import shlex
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from gpuprov import runner
from gpuprov.options import UsageError
from gpuprov.result import Host, Run, redact
from gpuprov.shared import plugin
from gpuprov.workers import machines
from gpuprov.workers.fleet import Fleet
from gpuprov.workers.machines import Worker
from gpuprov.workers.parcel import pack

_failures = plugin("plugin_utils/text/failures")
BEAT = 5  # seconds between two lines to a worker
LARGEST = 50  # hosts of a slice
TAKEN_OVER = 900  # seconds that a host's second worker waits for what the first one left at work there
OnEvent = Callable[[runner.Event], None]


def run(run: Run, on_event: OnEvent, say: Callable[[str], None], directory: Path) -> None:
    """Run the playbook of a command on the workers, as runner.run does on this machine. Raises UsageError."""
    tempfile.tempdir = str(directory)  # ansible-runner packs there, and what it packs is secret
    with runner.interruptible(directory / "stop", say) as asked:
        options = run.options
        fleet, crew = Fleet(options.inventory, options, options.limit, options.only), machines.read(options)
        for name in fleet.hosts:
            if fleet.variables.get(name, {}).get("ansible_connection") == "local":
                raise UsageError(f"{name} is this machine (ansible_connection=local): a worker cannot reach it")
        machines.prepare(crew)
        for worker in crew:
            if worker.lost:
                say(f"worker {worker.name} is not used: {worker.lost}")
        if not asked and all(worker.lost for worker in crew):
            raise UsageError(f"no worker in {options.workers} can be used")
        shift = _Shift(run, on_event, say, directory, crew, fleet)
        if run.command == "provision":
            _provision(shift)
        else:
            shift.work(run.playbook, fleet.hosts, {})
        run.complete, run.interrupted = True, bool(asked)


def _provision(shift: _Shift) -> None:
    """Plan all hosts, then apply the plans wave by wave, as provision.yml does."""
    run = shift.run
    given: dict[str, Any] = {}
    for values in map(runner.extra_vars, run.options.extra_vars or []):
        given |= values if isinstance(values, dict) else {}
    given |= run.options.variables
    full, serial = str(given.get("gpuprov_full")).lower() in ("true", "yes", "on", "1"), given.get("gpuprov_serial")
    try:
        limit = int(given.get("gpuprov_max_fail_percentage") or (0 if serial else 100))
        next(waves(serial, 1))
    except ValueError as error:
        raise UsageError(
            f"gpuprov_serial and gpuprov_max_fail_percentage are numbers, with --workers: {error}"
        ) from None
    first_play = {"gpu_host_probe_full": full, "gpu_host_probe_group_prefix": "gpuprov_", "gpuprov_quiet": True}
    # The plans are shown together, before the first task that follows them.
    shift.work("plan.yml", shift.fleet.hosts, first_play, planning=True)
    hosts = [run.by_name[name] for name in shift.fleet.hosts if name in run.by_name]
    due = [host for host in hosts if not host.error and (full or (host.plan or {}).get("steps"))]
    left, sizes = list(due), waves(serial, len(due))
    while left and not shift.stopping and sum(bool(host.error) for host in due) * 100 <= limit * len(due):
        wave = [left.pop(0) for _ in range(min(next(sizes), len(left)))]
        whole = {"gpuprov_serial": "100%", "gpuprov_max_fail_percentage": 100}
        shift.work(run.playbook, [host.name for host in wave], whole)
        if all(host.error for host in wave):
            return


def waves(serial: Any, count: int) -> Iterator[int]:
    """Yield the sizes of the waves of count hosts, as Ansible's serial counts them; the last one repeats."""
    texts = serial if isinstance(serial, list) else str(serial or "100%").split(",")
    words = [str(one).strip() for one in texts]
    sizes = [max(int(one[:-1]) * count // 100, 1) if one.endswith("%") else int(one) for one in words]
    yield from itertools.chain(sizes, itertools.repeat(sizes[-1]))


@dataclasses.dataclass(eq=False)
class _Slice:
    """Hosts that a worker works on. missed: {host that this worker cannot reach and another one may: the event}."""

    worker: Worker
    hosts: list[str]
    directory: Path
    ssh: subprocess.Popen[bytes] | None = None
    begun: bool = False
    complete: bool = False
    explanation: str = ""
    output: list[str] = dataclasses.field(default_factory=list)
    missed: dict[str, runner.Event] = dataclasses.field(default_factory=dict)

    def tell(self, line: bytes) -> None:
        """Send a line to the worker, unless the slice has not begun, or has ended."""
        if self.begun and self.ssh and self.ssh.stdin:
            with contextlib.suppress(OSError, ValueError):
                os.write(self.ssh.stdin.fileno(), line)


@dataclasses.dataclass
class _Shift:
    """The workers at work for a run."""

    run: Run
    on_event: OnEvent
    say: Callable[[str], None]
    directory: Path
    crew: list[Worker]
    fleet: Fleet

    def __post_init__(self) -> None:
        self._events: queue.SimpleQueue[tuple[_Slice, runner.Event | None]] = queue.SimpleQueue()
        self._reserved = {one.name: set[str]().union(*map(self.fleet.members, one.groups)) for one in self.crew}
        self._numbers = itertools.count(1)
        self._tried: dict[str, set[str]] = {}  # {host: names of workers}
        self._missed: dict[str, runner.Event] = {}

    @property
    def stopping(self) -> bool:
        """Return whether no more work is given out."""
        return (self.directory / "stop").exists() or bool(self.run.refusal)

    def work(self, playbook: str, hosts: list[str], variables: dict[str, Any], planning: bool = False) -> None:
        """Run a playbook on hosts; return when each has its result, or no worker is left. variables: extra ones.

        planning: another playbook follows; only events of hosts are handed on.
        """
        self._tried, self._missed = {}, {}
        self._planning = planning
        todo, running = list(hosts), list[_Slice]()
        slots = sum(worker.slots for worker in self.crew if not worker.lost)
        size = min(-(-len(hosts) // max(slots, 1)), LARGEST)
        ended, told = threading.Event(), False

        def beat() -> None:
            while not ended.wait(BEAT):
                for part in list(running):
                    part.tell(b"\n")

        threading.Thread(target=beat, daemon=True).start()
        try:
            while True:
                if not self.stopping:
                    for worker in self.crew:
                        while sum(part.worker is worker for part in running) < worker.slots and (
                            mine := self._choose(worker, todo, size)
                        ):
                            todo = [host for host in todo if host not in mine]
                            running.append(self._start(worker, mine, playbook, variables))
                elif not told:
                    told = all(part.begun for part in running)
                    for part in running:
                        part.tell(b"stop\n")
                if not running:
                    break
                with contextlib.suppress(queue.Empty):
                    part, event = self._events.get(timeout=0.2)
                    if event is not None:
                        self._take(part, event)
                        continue
                    running.remove(part)
                    self.run.output += part.output
                    todo += self._end(part)
        finally:
            ended.set()
        lost = "; ".join(f"{worker.name}: {worker.lost}" for worker in self.crew if worker.lost)
        data = {
            "task": "Find a worker",
            "res": {"msg": f"no worker is left for this host ({lost or 'none is for it'})"},
        }
        for host in [] if self.stopping else todo:
            failed = {"event": "runner_on_failed", "event_data": {**data, "host": host}}
            self.on_event(self._missed.get(host, failed))

    def _may(self, worker: Worker, host: str) -> bool:
        """Return whether a worker can be given a host: of its groups, or of no worker's groups."""
        own = self._reserved[worker.name]
        mine = host in own if worker.groups else not any(host in other for other in self._reserved.values())
        return mine and not worker.lost and worker.name not in self._tried.get(host, ())

    def _choose(self, worker: Worker, todo: list[str], size: int) -> list[str]:
        """Return the hosts of the next slice of a worker. Hosts that another worker had are not among others."""
        mine = [host for host in todo if self._may(worker, host)]
        return [host for host in mine if (host in self._tried) == (mine[0] in self._tried)][:size]

    def _start(self, worker: Worker, hosts: list[str], playbook: str, variables: dict[str, Any]) -> _Slice:
        directory = self.directory / f"slice-{next(self._numbers)}"
        directory.mkdir(mode=0o700)
        part = _Slice(worker, hosts, directory)
        given = self.run.options.variables
        if hosts[0] in self._tried:
            variables = {**variables, "gpuprov_wait": max(TAKEN_OVER, given.get("gpuprov_wait", 0))}
        options = dataclasses.replace(self.run.options, workers=None, variables={**given, **variables})
        stream = pack(directory, options, self.fleet, hosts, playbook, worker.root)
        threading.Thread(target=self._follow, args=(part, stream), daemon=True).start()
        return part

    def _follow(self, part: _Slice, stream: Path) -> None:
        """Send a slice to its worker, and queue what comes back until it ends."""
        from ansible_runner import interface

        worker, status = part.worker, dict[str, Any]()
        env = ("env", f"PYTHONPATH={worker.path}", "PYTHONNOUSERSITE=1", "PYTHONSAFEPATH=1", "LC_ALL=C.UTF-8")
        there = shlex.join([*env, worker.python, "-m", "gpuprov.workers.remote"])
        with (part.directory / "stderr").open("w+b") as errors:
            try:
                part.ssh = subprocess.Popen(
                    [*worker.ssh, there], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                    start_new_session=True,
                )  # fmt: skip
                with part.ssh as ssh, stream.open("rb") as source:
                    assert ssh.stdin
                    with contextlib.suppress(BrokenPipeError):
                        ssh.stdin.write(b"%d\n" % stream.stat().st_size)
                        shutil.copyfileobj(source, ssh.stdin)
                        ssh.stdin.flush()
                    part.begun = True
                    interface.run(
                        streamer="process", _input=ssh.stdout, private_data_dir=str(part.directory / "back"),
                        event_handler=lambda event: self._events.put((part, event)), cancel_callback=lambda: False,
                        status_handler=lambda data, **_: status.update(data), quiet=True, settings={},
                    )  # fmt: skip
                    part.begun = False
            except Exception as error:  # Whatever it is, the hosts need another worker.
                status["job_explanation"] = str(error)
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
        part.explanation = said[-1] if said else str(status.get("job_explanation", ""))
        shutil.rmtree(part.directory, ignore_errors=True)  # the end of the run deletes what is left
        self._events.put((part, None))

    def _take(self, part: _Slice, event: runner.Event) -> None:
        """Hand an event on, unless another worker may reach the host that this one cannot."""
        kind, host = event.get("event", ""), event.get("event_data", {}).get("host")
        part.output += (event.get("stdout") or "").splitlines()
        part.complete |= kind == "playbook_on_stats"
        others = (worker for worker in self.crew if worker is not part.worker)
        if kind == "runner_on_unreachable" and host not in self._tried and any(self._may(one, host) for one in others):
            part.missed[host] = event
            return
        if not (self._planning and kind.startswith("playbook_on_")):
            self.on_event(event)

    def _end(self, part: _Slice) -> list[str]:
        """Return the hosts of an ended slice that another worker should take."""
        if self.stopping:
            return []
        again = list(part.missed)
        if not part.complete:
            part.worker.lost = redact(part.explanation or _failures.not_begun(part.output, None))
            self.say(f"worker {part.worker.name} is lost: {part.worker.lost}")
            again += [name for name in part.hosts if name not in again and not self._has_result(name)]
        self._missed |= part.missed
        for host in again:
            self._tried.setdefault(host, set()).add(part.worker.name)
        return again

    def _has_result(self, name: str) -> bool:
        host = self.run.by_name.get(name) or Host(name)
        if host.error:
            return True
        of_command = {"plan": host.plan, "doctor": host.findings}
        command = "plan" if self._planning else self.run.command
        return of_command.get(command, host.verify or host.steps or None) is not None
