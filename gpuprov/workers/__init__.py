"""Run a playbook on worker machines, each with a slice of the hosts.

ansible-runner carries the work: transmit packs a slice, gpuprov.workers.remote runs it at the other end of ssh, and
process reads its events, which become those of one run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import queue
import shlex
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from gpuprov import runner
from gpuprov.options import Options, UsageError
from gpuprov.result import Host, Run, redact
from gpuprov.shared import plugin
from gpuprov.workers import machines
from gpuprov.workers.fleet import Fleet, chosen
from gpuprov.workers.machines import Worker
from gpuprov.workers.parcel import pack

_failures = plugin("plugin_utils/text/failures")
BEAT = 1  # seconds between two lines to a worker
LARGEST = 50  # hosts of a slice
TAKEN_OVER = 900  # seconds that a host's second worker waits for what the first one left at work there
OnEvent = Callable[[runner.Event], None]


def run(run: Run, on_event: OnEvent, say: Callable[[str], None], directory: Path) -> None:
    """Run the playbook of a command on the workers, as runner.run does on this machine. Raises UsageError."""
    tempfile.tempdir = str(directory)  # ansible-runner packs there, and what it packs is secret
    with runner.interruptible(directory / "stop", say) as asked:
        options = run.options
        with ThreadPoolExecutor() as pool:
            reads = pool.submit(Fleet, options.inventory, options), pool.submit(machines.read, options)
            run.names = chosen(options)
            fleet, crew = reads[0].result(), reads[1].result()
        for name in run.names:
            if fleet.variables.get(name, {}).get("ansible_connection") == "local":
                raise UsageError(f"{name} is this machine (ansible_connection=local): a worker cannot reach it")
        machines.prepare(crew)
        for worker in crew:
            if worker.lost:
                say(f"worker {worker.name} is not used: {worker.lost}")
        if not asked and all(worker.lost for worker in crew):
            raise UsageError(f"no worker in {options.workers} can be used")
        shift = _Shift(run, on_event, say, directory, crew, fleet)
        threading.Thread(target=shift.beat, daemon=True).start()
        if run.command == "provision":
            _provision(shift)
        else:
            shift.work(run.playbook, run.names, {})
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
    shift.work("plan.yml", run.names, first_play, planning=True)
    hosts = [run.by_name[name] for name in run.names if name in run.by_name]
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
    """Hosts that a worker works on."""

    worker: Worker
    hosts: list[str]
    stdin: IO[bytes] | None = None  # the worker's, once it has the slice
    complete: bool = False
    explanation: str = ""
    output: list[str] = dataclasses.field(default_factory=list)


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
        self._running: list[_Slice] = []
        self._tried: dict[str, set[str]] = {}  # {host: names of workers}
        self._missed: dict[str, runner.Event] = {}  # {host that its first worker could not reach: the event}

    @property
    def stopping(self) -> bool:
        """Return whether no more work is given out."""
        return (self.directory / "stop").exists() or bool(self.run.refusal)

    def beat(self) -> None:
        """Tell the workers again and again that this machine is there, and when to stop."""
        while True:
            time.sleep(BEAT)
            for stdin in [part.stdin for part in self._running if part.stdin]:
                with contextlib.suppress(OSError, ValueError):  # the slice has ended
                    stdin.write(b"stop\n" if self.stopping else b"\n")
                    stdin.flush()

    def work(self, playbook: str, hosts: list[str], variables: dict[str, Any], planning: bool = False) -> None:
        """Run a playbook on hosts; return when each has its result, or no worker is left. variables: extra ones.

        planning: another playbook follows; only events of hosts are handed on.
        """
        self._tried, self._missed, self._planning = {}, {}, planning
        todo = list(hosts)
        slots = sum(worker.slots for worker in self.crew if not worker.lost)
        size = min(-(-len(hosts) // max(slots, 1)), LARGEST)
        while True:
            for worker in [] if self.stopping else self.crew:
                while sum(part.worker is worker for part in self._running) < worker.slots and (
                    mine := self._choose(worker, todo, size)
                ):
                    todo = [host for host in todo if host not in mine]
                    self._start(worker, mine, playbook, variables)
            if not self._running:
                break
            with contextlib.suppress(queue.Empty):
                part, event = self._events.get(timeout=0.2)
                if event is not None:
                    self._take(part, event)
                else:
                    self._running.remove(part)
                    todo += self._end(part)
        lost = "; ".join(f"{worker.name}: {worker.lost}" for worker in self.crew if worker.lost)
        message = f"no worker is left for this host ({lost or 'none is for it'})"
        for host in [] if self.stopping else todo:
            failed = {"host": host, "task": "Find a worker", "res": {"msg": message}}
            self.on_event(self._missed.get(host, {"event": "runner_on_failed", "event_data": failed}))

    def _may(self, worker: Worker, host: str) -> bool:
        """Return whether a worker can be given a host: of its groups, or of no worker's groups."""
        own = self._reserved[worker.name]
        mine = host in own if worker.groups else not any(host in other for other in self._reserved.values())
        return mine and not worker.lost and worker.name not in self._tried.get(host, ())

    def _choose(self, worker: Worker, todo: list[str], size: int) -> list[str]:
        """Return the hosts of the next slice of a worker. Hosts that another worker had are not among others."""
        mine = [host for host in todo if self._may(worker, host)]
        return [host for host in mine if (host in self._tried) == (mine[0] in self._tried)][:size]

    def _start(self, worker: Worker, hosts: list[str], playbook: str, variables: dict[str, Any]) -> None:
        given = {**self.run.options.variables, **variables}
        if hosts[0] in self._tried:
            given["gpuprov_wait"] = max(TAKEN_OVER, given.get("gpuprov_wait", 0))
        options = dataclasses.replace(self.run.options, workers=None, variables=given)
        self._running.append(_Slice(worker, hosts))
        threading.Thread(target=self._follow, args=(self._running[-1], options, playbook), daemon=True).start()

    def _follow(self, part: _Slice, options: Options, playbook: str) -> None:
        """Send a slice to its worker, and queue what comes back until it ends."""
        from ansible_runner import interface

        worker, status = part.worker, dict[str, Any]()
        env = ("env", f"PYTHONPATH={worker.path}", "PYTHONNOUSERSITE=1", "PYTHONSAFEPATH=1", "LC_ALL=C.UTF-8")
        there = shlex.join([*env, worker.python, "-m", "gpuprov.workers.remote"])
        with tempfile.TemporaryFile() as errors:
            try:
                with (
                    tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory,
                    subprocess.Popen(
                        [*worker.ssh, there], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                        start_new_session=True,
                    ) as ssh,
                ):  # fmt: skip
                    assert ssh.stdin
                    pack(Path(directory), options, self.fleet, part.hosts, playbook, worker.path, ssh.stdin)
                    part.stdin = ssh.stdin
                    interface.run(
                        streamer="process", _input=ssh.stdout, private_data_dir=f"{directory}/back",
                        event_handler=lambda event: self._events.put((part, event)), cancel_callback=lambda: False,
                        status_handler=lambda data, **_: status.update(data), quiet=True, settings={},
                    )  # fmt: skip
            except Exception as error:  # Whatever it is, the hosts need another worker.
                status["job_explanation"] = str(error)
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
        part.explanation = said[-1] if said else str(status.get("job_explanation", ""))
        self._events.put((part, None))

    def _take(self, part: _Slice, event: runner.Event) -> None:
        """Hand an event on, unless another worker may reach the host that this one cannot."""
        kind, host = event.get("event", ""), event.get("event_data", {}).get("host")
        part.output += (event.get("stdout") or "").splitlines()
        part.complete |= kind == "playbook_on_stats"
        others = (worker for worker in self.crew if worker is not part.worker)
        if kind == "runner_on_unreachable" and host not in self._tried and any(self._may(one, host) for one in others):
            self._missed[host] = event
        elif not (self._planning and kind.startswith("playbook_on_")):
            self.on_event(event)

    def _end(self, part: _Slice) -> list[str]:
        """Return the hosts of an ended slice that another worker should take."""
        if self.stopping:
            return []
        again = [host for host in part.hosts if host in self._missed and host not in self._tried]
        if not part.complete:
            part.worker.lost = redact(part.explanation or _failures.not_begun(part.output, None))
            self.say(f"worker {part.worker.name} is lost: {part.worker.lost}")
            again += [host for host in part.hosts if host not in again and not self._has_result(host)]
        for host in again:
            self._tried.setdefault(host, set()).add(part.worker.name)
        return again

    def _has_result(self, name: str) -> bool:
        host, command = self.run.by_name.get(name) or Host(name), "plan" if self._planning else self.run.command
        of_command = {"plan": host.plan, "doctor": host.findings}
        return bool(host.error) or of_command.get(command, host.verify or host.steps or None) is not None
