# SPDX-License-Identifier: MIT
"""Runs a command on a host, or here, with a stream into it and one out of it.

Ansible's connections take and give whole strings. What flows here is as large as an image, so the command is
started as Ansible's connection would start it, with all that the inventory says of it, and read as it runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import selectors
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_command, ssh_ciphers

_BLOCK = 1 << 20
# Seconds between two looks at whether the run is to end, and at whether there is more to feed.
_TICK = 0.2
_SOON = 0.004


# How long a host may say nothing before the command begins: ssh, the login shell and sudo are done by then.
_PATIENCE = 120.0
# Connection and become plugins keep in themselves what belongs to one command: its prompt, its password's pipe.
_ONE_AT_A_TIME = threading.Lock()


class Stopped(Exception):
    """The run is to end now."""


@dataclass(frozen=True)
class _Login:
    """A command over a connection whose ssh takes a password. The password is there as long as the process."""

    connection: Any
    command: str
    password: str

    @contextlib.contextmanager
    def process(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start the command; when it is left, take the password away again."""
        connection = self.connection
        with _ONE_AT_A_TIME:
            connection.shm = connection.sshpass_pipe = None
            words = _ssh_words(connection, self.command)
            options = connection._init_shm() if hasattr(connection, "_init_shm") else {}
            if hasattr(connection, "_sshpass_cmd"):
                words = [*connection._sshpass_cmd(), *words]
            memory, pipe = connection.shm, connection.sshpass_pipe
            connection.shm = connection.sshpass_pipe = None
        try:
            try:
                if pipe:
                    os.write(pipe[1], self.password.encode() + b"\n")
                    options["pass_fds"] = pipe
                process = _popen(words, **options)
            finally:
                for end in pipe or ():
                    os.close(end)
            yield process
        finally:
            if memory:
                with contextlib.suppress(FileNotFoundError):
                    memory.unlink()


@dataclass(frozen=True)
class Start:
    """How a command is started.

    login: starts the command where ssh takes a password, in place of words. become: the plugin that knows the
    prompts and errors of becoming another account, where the command does that, and password its answer. Before the
    line with success, what is printed is not the command's.
    """

    words: list[bytes]
    login: _Login | None = None
    become: Any = None
    password: bytes = b""
    success: bytes = b""
    remote: bool = False


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, what it printed where nobody took that, and its complaints."""

    status: int
    stdout: str
    stderr: str


def here(words: list[str]) -> Start:
    """A command of this machine."""
    return Start([word.encode() for word in words])


def there(action: ActionBase, words: list[str], interpreter: str | None = None) -> Start:
    """A command on the action's host, as what the task becomes. Raises AnsibleError.

    interpreter is the Python there, where the inventory names one.
    """
    connection = action._connection
    become = connection.become if host_command.becomes(action) else None
    command = host_command.portable(words)
    if become:
        with _ONE_AT_A_TIME:
            command = become.build_become_command(command, connection._shell)
            become = copy(become)
        success = str(become.success)
        if host_command.needs_terminal(action):
            command = host_command.portable(host_command.with_terminal(["/bin/sh", "-c", command], interpreter))
    else:
        # A login shell's start-up files may print something first.
        success = f"gpuprov-{secrets.token_hex(8)}"
        command = f"echo {success}; {command}"
    password = str(become.get_option("become_pass") or "").encode() if become else b""
    if connection.transport == "local":
        start = Start([b"/bin/sh", b"-c", command.encode()])
    elif _is_ssh(connection):
        start = _over_ssh(action, command)
    else:
        raise AnsibleError(f"images travel over ssh: this host's connection is {connection.transport}")
    return replace(start, become=become, password=password, success=success.encode())


def _is_ssh(connection: Any) -> bool:
    return bool(connection.transport.rpartition(".")[2] == "ssh")


def _over_ssh(action: ActionBase, command: str) -> Start:
    """A command on the action's host, as its login user."""
    connection = action._connection
    connection.host = connection.get_option("host") or action._play_context.remote_addr
    password = connection.get_option("password") or action._play_context.password
    if password:
        return Start([], _Login(connection, command, str(password)), remote=True)
    return Start(_ssh_words(connection, command), remote=True)


def _ssh_words(connection: Any, command: str) -> list[bytes]:
    # What exec_command does too, less the terminal.
    shell = f"/bin/sh -c {shlex.quote(command)}"
    built = connection._build_command(connection.get_option("ssh_executable"), "ssh", connection.host, shell)
    return ssh_ciphers.preferring_aes(built)


def log_in(action: ActionBase) -> None:
    """Have ssh log in to the action's host, for what connects to it later, and do not wait for that.

    Where it takes a password, or ssh keeps no connection, nothing is done. Whoever needs it logs in, and says what
    fails.
    """
    if not _is_ssh(action._connection):
        return
    start = _over_ssh(action, "true")
    if start.login:
        return
    kept, _path = action._connection._persistence_controls(start.words)
    if kept:
        words = [start.words[0], b"-o", b"BatchMode=yes", *start.words[1:]]
        quiet = subprocess.DEVNULL
        subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)


def repeatable(start: Start) -> dict[str, Any] | None:
    """Return a start as JSON, for other processes of the run to use; None where a password goes with it."""
    if start.login or start.password:
        return None
    return {"words": [word.decode() for word in start.words], "success": start.success.decode(), "remote": start.remote}


def repeated(given: dict[str, Any], values: dict[str, str]) -> Start:
    """Return repeatable's start, with values in place of the words of their names.

    Raises AnsibleError for a value that a shell would not take for one word.
    """
    words = given["words"]
    for name, value in values.items():
        if not _PLAIN.fullmatch(value):
            raise AnsibleError(f"{value!r} is no word that can be sent to the host")
        words = [word.replace(name, value) for word in words]
    return Start([word.encode() for word in words], success=given["success"].encode(), remote=given["remote"])


_PLAIN = re.compile(r"[A-Za-z0-9_./:=+-]+")


def run(
    start: Start,
    feed: Iterable[bytes] | None = None,
    take: Callable[[bytes], Any] | None = None,
    seen: Callable[[int], Any] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Ended:
    """Run a command to its end: feed goes into it, take gets what it prints, seen the number of bytes fed at a time.

    feed yields nothing (b"") where what is to come depends on what the command has still to print.
    Raises Stopped, AnsibleConnectionFailure where the connection broke, and AnsibleError for a wrong password.
    """
    with _started(start) as process:
        return _converse(start, process, iter(feed or ()), take, seen, stopped)


def output(start: Start, stopped: Callable[[], bool] = lambda: False) -> Iterator[bytes]:
    """Yield what a command prints. Raises AnsibleError with its complaint where it fails, and as run."""
    import queue

    blocks: queue.Queue[bytes | BaseException | Ended] = queue.Queue(16)
    abandoned = threading.Event()

    def put(block: bytes | BaseException | Ended) -> None:
        while not abandoned.is_set():
            with contextlib.suppress(queue.Full):
                blocks.put(block, timeout=_TICK)
                return
        raise Stopped

    def read() -> None:
        try:
            put(run(start, take=put, stopped=lambda: stopped() or abandoned.is_set()))
        except Stopped as error:
            if not abandoned.is_set():
                put(error)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        while True:
            block = blocks.get()
            if isinstance(block, BaseException):
                raise block
            if isinstance(block, Ended):
                if block.status:
                    raise AnsibleError(last_line(block.stderr) or f"it ended with {block.status}, without a word")
                return
            yield block
    finally:
        abandoned.set()
        thread.join()


def until_stopped(blocks: Iterable[bytes], stopped: Callable[[], bool]) -> Iterator[bytes]:
    """The same blocks. Raises Stopped where the run is to end."""
    for block in blocks:
        if stopped():
            raise Stopped
        yield block


def last_line(text: str) -> str:
    """Return the last line of a text that says something, without what ssh says when it hangs up."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith("Shared connection to")), "")


@contextlib.contextmanager
def _started(start: Start) -> Iterator[subprocess.Popen[bytes]]:
    with start.login.process() if start.login else contextlib.nullcontext(_popen(start.words)) as process:
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(OSError):
                    if pipe:
                        pipe.close()


def _popen(words: list[bytes], **options: Any) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, **options)


def _converse(
    start: Start,
    process: subprocess.Popen[bytes],
    feed: Iterator[bytes],
    take: Callable[[bytes], Any] | None,
    seen: Callable[[int], Any] | None,
    stopped: Callable[[], bool],
) -> Ended:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    printed, complaints = bytearray(), bytearray()
    # Until the account has changed, what comes is not the command's, and nothing is for it.
    ready = not start.success
    told, heard = False, (0, 0)
    pending: memoryview | None = memoryview(b"")
    looked = heard_last = time.monotonic()
    for pipe in (process.stdin, process.stdout, process.stderr):
        os.set_blocking(pipe.fileno(), False)
        # Fewer turns for as many bytes; an account has only so much of it.
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _BLOCK)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        writing = waiting = False
        while selector.get_map():
            if ready and not writing and not waiting and not process.stdin.closed:
                selector.register(process.stdin, selectors.EVENT_WRITE)
                writing = True
            events = selector.select(_SOON if waiting else _TICK)
            waiting = False
            for key, _events in events:
                if key.fileobj is process.stdin:
                    if not pending:
                        block = next(feed, None)
                        waiting = block == b""
                        pending = None if block is None else memoryview(block)
                        if waiting:
                            selector.unregister(process.stdin)
                            writing = False
                            continue
                    try:
                        count = os.write(process.stdin.fileno(), pending[:_BLOCK]) if pending else 0
                    except BlockingIOError:
                        continue
                    except BrokenPipeError:
                        count, pending = 0, None
                    if seen and count:
                        seen(count)
                    if pending is None:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    else:
                        pending = pending[count:]
                    continue
                block = os.read(key.fd, _BLOCK)
                heard_last = time.monotonic()
                if not block:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stderr:
                    complaints += block
                elif ready and take:
                    take(block)
                else:
                    printed += block
                if not ready:
                    _before, found, rest = bytes(printed).partition(start.success)
                    if found and b"\n" in rest:
                        ready = True
                        rest = rest.partition(b"\n")[2]
                        printed = bytearray()
                        if take and rest:
                            take(rest)
                        elif rest:
                            printed += rest
                    elif start.become and _is_asked(start, printed[heard[0] :], complaints[heard[1] :], told):
                        told = True
                        heard = len(printed), len(complaints)
                        os.write(process.stdin.fileno(), start.password + b"\n")
            if time.monotonic() - looked >= _TICK:
                looked = time.monotonic()
                if stopped():
                    raise Stopped
                if not ready and looked - heard_last > _PATIENCE:
                    raise AnsibleConnectionFailure(_silent(start, printed.decode(errors="replace")))
            if process.poll() is not None and writing and not process.stdin.closed and pending:
                # It ended without having read all: what it printed is still to come.
                with contextlib.suppress(KeyError):
                    selector.unregister(process.stdin)
                process.stdin.close()
    status = process.wait()
    said = complaints.decode(errors="replace")
    logged_in = ready or start.become is not None
    if start.remote and (status == 255 or status < 0 or (start.login and not logged_in)):
        raise AnsibleConnectionFailure(f"Failed to connect to the host via ssh: {last_line(said) or 'it hung up'}")
    text = printed.decode(errors="replace")
    if not ready:
        why = host_command.why_not_root(f"{text}\n{said}") if start.become else None
        raise AnsibleError(why or last_line(f"{text}\n{said}") or f"it ended with {status}, without a word")
    return Ended(status, text, said)


def _silent(start: Start, printed: str) -> str:
    """Return what to say of a host that has been silent for too long before the command began."""
    said = last_line(printed)
    who = f"{host_command.program(start.become)} there" if start.become else "the host"
    return f"{who} was silent for {_PATIENCE:.0f} s" + (f", after: {said}" if said else "")


def _is_asked(start: Start, printed: bytearray, complaints: bytearray, told: bool) -> bool:
    """Return whether the password must be given now. Raises AnsibleError where it is missing, or was wrong."""
    become = start.become
    for line in printed.splitlines() + complaints.splitlines():
        # sudo-rs prints more around the prompt that it is given.
        key = become.prompt.encode() if isinstance(become.prompt, str) and become.name == "sudo" else b""
        if become.check_password_prompt(line) or (key and key in line):
            if told or not start.password:
                raise AnsibleError(f"{'Incorrect' if told else 'Missing'} {host_command.program(become)} password")
            return True
        if become.check_incorrect_password(line):
            raise AnsibleError(f"Incorrect {host_command.program(become)} password")
        if become.check_missing_password(line):
            raise AnsibleError(f"Missing {host_command.program(become)} password")
    return False
