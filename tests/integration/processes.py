"""Commands that a test starts, disturbs and ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests import waiting
from tests.integration.conftest import Answer, environment
from tests.lab import registry

Process = subprocess.Popen[str]


@contextlib.contextmanager
def started(words: list[str], directory: Path) -> Iterator[tuple[Process, Callable[[], Answer]]]:
    """Start a command; yield its process and a function that waits for its Answer. Kill what is left at the end."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            words, cwd=directory, env=environment(directory), text=True,
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

        def ended() -> Answer:
            status = process.wait(waiting.PATIENCE)
            out.seek(0)
            return Answer(status, out.read(), "")

        try:
            yield process, ended
        finally:
            kill(process)


@contextlib.contextmanager
def local_registry(directory: Path) -> Iterator[str]:
    """Serve the lab's registry on this machine, where it is asked without TLS; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    config, name = directory / "registry.yml", f"127.0.0.1:{address[1]}"
    storage = {"filesystem": {"rootdirectory": str(registry.directory() / "data")}}
    config.write_text(json.dumps({"version": 0.1, "http": {"addr": name}, "storage": storage}))
    program = registry.directory() / "program/usr/bin/docker-registry"
    with subprocess.Popen([program, "serve", config], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server:

        def listens() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(address):
                return True
            return server.poll() is not None

        try:
            waiting.until(listens, "the registry listens")
            yield name
        finally:
            server.terminate()


@contextlib.contextmanager
def argument_lists() -> Iterator[set[str]]:
    """Collect the argument lists of all processes, those of lab hosts too: these are containers."""
    seen: set[str] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def descendants(root: int) -> list[int]:
    """Return the processes below a process."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], text=True, capture_output=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in (line.split() for line in listed.splitlines())}
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def command_line(pid: int) -> str:
    """Return the command line of a process, or "" if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def left_of(processes: list[int], seconds: float = 60) -> list[int]:
    """Wait until processes have ended; return those that still run after that time."""
    with contextlib.suppress(TimeoutError):
        waiting.until(lambda: not any(map(command_line, processes)), "the processes have ended", seconds)
    return [pid for pid in processes if command_line(pid)]


def kill(process: Process) -> None:
    """Kill a process with its descendants, unless it has ended: then its number may be another process's."""
    if process.poll() is None:
        for pid in [process.pid, *descendants(process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
