"""Run a playbook: ansible-runner prepares it and reads its events, which are passed on."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from gpuprov.options import Options, UsageError
from gpuprov.result import Run
from gpuprov.settings import environment
from gpuprov.shared import ansible_root, plugin

KEPT_RUNS = 20
Event = dict[str, Any]


def extra_vars(text: str) -> dict[str, Any] | Path:
    """Return the values of one -e argument, or the file that it names. Raises UsageError."""
    if text.startswith("@"):
        path = Path(text[1:]).expanduser().absolute()
        if not path.is_file():
            raise UsageError(f"the file of -e {text} does not exist")
        return path
    # The imports are slow, and only this needs them.
    if text.lstrip().startswith(("{", "[")):
        import yaml

        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" at character {mark.index + 1}" if mark else ""
            raise UsageError(f"-e is neither JSON nor YAML: {getattr(error, 'problem', error)}{where}") from None
        if not isinstance(value, dict):
            raise UsageError("-e must be a JSON or YAML object, or name=value")
        return value
    try:
        value = plugin("plugin_utils/ansible_compat").key_values(text)
    except ValueError as error:
        raise UsageError(f"-e cannot be read: {error}") from None
    if "_raw_params" in value or not value:
        raise UsageError("-e takes name=value, a JSON object, or @FILE")
    return value


def literal(value: Any) -> str:
    """Return a value as YAML whose texts Ansible does not evaluate as templates."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)}: {literal(one)}" for name, one in value.items()) + "}"
    # Ansible from 2.19 on takes !unsafe "1" for a number, which no text with a brace is.
    tag = "!unsafe " if isinstance(value, str) and "{" in value else ""
    return tag + json.dumps(value, ensure_ascii=False)


def arguments(options: Options, directory: Path) -> list[str]:
    """Return the arguments for ansible-playbook, without the playbook. Raises UsageError.

    Values of -e and passwords are written to files with mode 0600 in a directory: they may be secret and must not be in
    an argument list.
    """

    def file(name: str, text: str) -> Path:
        path = directory / name
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8", errors="surrogateescape")
        return path

    values = enumerate(extra_vars(text) for text in options.extra_vars or [])
    files = [one if isinstance(one, Path) else file(f"{number}.json", json.dumps(one)) for number, one in values]
    files += [file("gpuprov.yml", literal(options.variables))] if options.variables else []
    limit = options.limit
    if options.only is not None:
        # A file: an argument has room for about 10,000 names. Ansible takes one --limit and no list to intersect with.
        only = file("only", f"&~(?:{'|'.join(map(re.escape, options.only))})\\Z")
        limit = f"{limit}{',' if ',' in limit else ':'}@{only}" if limit else f"@{only}"
    given: list[tuple[str, object]] = [
        ("-i", options.inventory),
        ("--limit", limit),
        ("--forks", options.forks),
        ("--user", options.user),
        ("--tags", ",".join(options.tags or []) or None),
        ("--skip-tags", ",".join(options.skip_tags or []) or None),
        ("--private-key", options.private_key and options.private_key.expanduser().absolute()),
        *(("--vault-password-file", path.expanduser().absolute()) for path in options.vault_password_files or []),
        *((option, file(option.strip("-"), password)) for option, password in options.passwords.items()),
        *(("-e", f"@{path}") for path in files),
    ]
    words = [word for name, value in given if value is not None for word in (name, str(value))]
    words += [name for name, wanted in (("--check", options.check), ("--diff", options.diff)) if wanted]
    return [*words, "-" + "v" * options.verbosity] if options.verbosity else words


def runs_directory() -> Path:
    """Return the directory that has a directory for each run."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "gpuprov" / "runs"


def goes_on(directory: Path) -> bool:
    """Return whether the run of a directory goes on: its process holds a lock on the directory."""
    with contextlib.suppress(OSError):
        opened = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(opened)
    return False


def run_directory() -> Path:
    """Create the directory (0700) for a run's log and result, and delete the oldest ones."""
    runs = runs_directory()
    try:
        runs.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in sorted(runs.iterdir())[: -(KEPT_RUNS - 1)]:
            if not goes_on(old):
                shutil.rmtree(old, ignore_errors=True)
        now = time.time_ns() // 1000
        directory = runs / f"{time.strftime('%Y%m%dT%H%M%S')}.{now % 10**6:06}-{os.getpid()}"
        directory.mkdir(mode=0o700)
        fcntl.flock(os.open(directory, os.O_RDONLY), fcntl.LOCK_EX)  # until this process ends
    except OSError as error:
        raise UsageError(f"the directory for runs cannot be made: {error}") from None
    return directory


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """Yield a directory (0700) that is deleted after the run, for ansible-runner's files and for secrets.

    It is in memory if /dev/shm is writable. Directories of runs that were killed are deleted first.
    """
    memory = Path("/dev/shm")
    writable = tempfile.tempdir is None and os.access(memory, os.W_OK | os.X_OK)
    parent = memory if writable else Path(tempfile.gettempdir())
    for left in parent.glob("gpuprov-run-*"):
        if not os.path.exists(f"/proc/{left.name.split('-')[2]}"):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"gpuprov-run-{os.getpid()}-", dir=parent) as directory:
        yield Path(directory)


@contextlib.contextmanager
def interruptible(stop: Path, say: Callable[[str], None]) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM. The first ends the run before its next task, by the file stop; the second kills."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        asked.append(number)
        if len(asked) == 1:
            stop.touch()
            say("finishing the tasks in flight; once more stops at once")
        elif len(asked) == 2:
            kill_descendants()
            say("stopping at once")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def kill_descendants() -> bool:
    """Kill all descendants of this process; return whether there were any. Ansible's forks have their own groups."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(path.parent.name)] = int(parent)
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    for pid in found[1:]:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return len(found) > 1


def run(run: Run, on_event: Callable[[Event], None], say: Callable[[str], None], directory: Path) -> None:
    """Run the playbook of a command, call on_event with each of ansible-runner's events, and note in run how it ended.

    directory: a temporary_directory; the progress of transfers is written to its directory progress, or printed if that
    is missing. Raises UsageError for errors found before the start.
    """
    root, stop, progress, hosts = ansible_root(), directory / "stop", directory / "progress", directory / "hosts"

    def handle(event: Event) -> bool:
        if not run.names and str(event.get("event")).startswith("runner_") and hosts.is_file():
            run.names = hosts.read_text(encoding="utf-8").splitlines()
        run.complete |= event.get("event") == "playbook_on_stats"
        run.output += (event.get("stdout") or "").splitlines()
        on_event(event)
        return False  # Keep no event files: events may hold secrets of the hosts.

    from ansible_runner import Runner, RunnerConfig
    from ansible_runner.utils import OutputEventFilter

    config = RunnerConfig(
        private_data_dir=str(directory),
        project_dir=os.getcwd(),
        playbook=str(root / "playbooks" / run.playbook),
        cmdline=shlex.join(arguments(run.options, directory)),
        envvars=environment(os.environ, root)
        | {
            "GPUPROV_STOP": str(stop),
            "GPUPROV_HOSTS": str(hosts),
            "GPUPROV_PROGRESS": str(progress) if progress.is_dir() else "",
        },
        fact_cache_type="memory",
    )
    config.prepare()
    events = OutputEventFilter(None, Runner(config, event_handler=handle).event_callback, True)
    with interruptible(stop, say) as asked, contextlib.closing(_output(config)) as output:
        try:
            for text in output:
                events.write(text)
        except BaseException:
            stop.touch()  # Nobody can follow the run any more: it ends after the tasks in flight.
            raise
    events.close()
    run.interrupted = bool(asked)


def _output(config: Any) -> Generator[str, None, None]:
    """Run the command of a RunnerConfig and yield what it prints, until it ends.

    ansible-runner's own way to run it gives it a terminal, on which ssh would ask and wait, and sleeps at the end.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        process = subprocess.Popen(
            config.command, env=config.env, cwd=config.cwd, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except OSError as error:
        yield f"{config.command[0]} cannot be started: {error}\n"
        return
    assert process.stdout
    with process:
        while True:
            ended = process.poll() is not None
            ready = select.select([process.stdout], [], [], 0 if ended else 0.5)[0]
            read = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
            if read:
                yield decoder.decode(read)
            elif ready or ended:  # What is left of a run that was killed may keep the pipe open.
                return
