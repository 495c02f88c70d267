# SPDX-License-Identifier: MIT
"""Run a command on a host, or here, with a stream into it and one out of it.

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
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, replace
from io import BufferedRandom
from typing import Any, cast

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_command

BLOCK = 1 << 20
# Seconds between two looks at whether the run must end.
_TICK = 0.2
# How long a host may say nothing before the command begins: ssh, the login shell and sudo are done by then.
_PATIENCE = 120.0
# Connection and become plugins keep in themselves what belongs to one command: its prompt, its password's pipe.
_ONE_AT_A_TIME = threading.Lock()
_PLAIN = re.compile(r"[A-Za-z0-9_./:=+,-]+")


class Stopped(Exception):
    """The run must end now."""


@dataclass(frozen=True)
class Start:
    """How a command is started.

    process: starts it, and ends what must not outlive it. words: it, where another process may start it too. become:
    the plugin that knows the prompts and errors of becoming another account, where the command does that, and password
    its answer. Before the line with success, what is printed is not the command's.
    """

    process: Callable[[], AbstractContextManager[subprocess.Popen[bytes]]]
    words: list[bytes] | None = None
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
    """Return a command of this machine."""
    return _of_words([word.encode() for word in words])


def _of_words(words: list[bytes], **more: Any) -> Start:
    return Start(lambda: _popen(words), words, **more)


def there(action: ActionBase, words: list[str], interpreter: str | None = None) -> Start:
    """Return a command on the action's host, as what the task becomes. Raises AnsibleError.

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
        start = here(["/bin/sh", "-c", command])
    elif connection.transport.rpartition(".")[2] == "ssh":
        connection.host = connection.get_option("host") or action._play_context.remote_addr
        login = connection.get_option("password") or action._play_context.password
        if login:
            start = Start(lambda: _logged_in(connection, command, str(login)), remote=True)
        else:
            start = _of_words(_ssh_words(connection, command), remote=True)
    else:
        raise AnsibleError(f"images travel over ssh: this host's connection is {connection.transport}")
    return replace(start, become=become, password=password, success=success.encode())


def _ssh_words(connection: Any, command: str) -> list[bytes]:
    # As exec_command builds them, less the terminal.
    shell = f"/bin/sh -c {shlex.quote(command)}"
    return list(connection._build_command(connection.get_option("ssh_executable"), "ssh", connection.host, shell))


@contextlib.contextmanager
def _logged_in(connection: Any, command: str, password: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command where ssh takes a password, which is there as long as the process."""
    with _ONE_AT_A_TIME:
        connection.shm = connection.sshpass_pipe = None
        words = _ssh_words(connection, command)
        options = connection._init_shm() if hasattr(connection, "_init_shm") else {}
        if hasattr(connection, "_sshpass_cmd"):
            words = [*connection._sshpass_cmd(), *words]
        memory, pipe = connection.shm, connection.sshpass_pipe
        connection.shm = connection.sshpass_pipe = None
    try:
        try:
            if pipe:
                os.write(pipe[1], password.encode() + b"\n")
                options["pass_fds"] = pipe
            process = _popen(words, **options)
        finally:
            for end in pipe or ():
                os.close(end)
        with process:
            yield process
    finally:
        if memory:
            with contextlib.suppress(FileNotFoundError):
                memory.unlink()


def repeatable(start: Start) -> dict[str, Any] | None:
    """Return a start as JSON, for other processes of the run to use; None where a password goes with it."""
    if start.words is None or start.password:
        return None
    return {"words": [word.decode() for word in start.words], "success": start.success.decode(), "remote": start.remote}


def repeated(given: dict[str, Any], name: str, value: str) -> Start:
    """Return repeatable's start with a value in place of name. Raises AnsibleError unless it is one word to a shell."""
    if not _PLAIN.fullmatch(value):
        raise AnsibleError(f"{value!r} cannot be sent to the host as a word")
    words = [word.replace(name, value).encode() for word in given["words"]]
    return _of_words(words, success=given["success"].encode(), remote=given["remote"])


# ---- running it


class Pipe:
    """A command that runs. write() and stdout block; where the run must end, they end with the command."""

    def __init__(self, start: Start, process: subprocess.Popen[bytes], stopped: Callable[[], bool]) -> None:
        self.start, self._process, self._stopped = start, process, stopped
        pipes = (process.stdin, process.stdout, process.stderr)
        self.stdin, self.stdout, self._stderr = (cast(BufferedRandom, pipe) for pipe in pipes)
        self.complaints = bytearray()
        self.over = threading.Event()
        self._was_stopped = False
        self._reader = threading.Thread(target=self._complain, daemon=True)
        threading.Thread(target=self._watch, daemon=True).start()

    def write(self, data: bytes) -> None:
        """Send data. Raises BrokenPipeError where the command takes no more: ended() says why."""
        self.stdin.write(data)
        self.stdin.flush()

    def ended(self) -> Ended:
        """Close its input, wait for its end and return it, with what is left of its output.

        Raises Stopped, and AnsibleConnectionFailure where the connection broke.
        """
        with contextlib.suppress(OSError):
            self.stdin.close()
        printed = self.stdout.read().decode(errors="replace")
        status = self._process.wait()
        self._reader.join()
        if self._was_stopped:
            raise Stopped
        said = self.complaints.decode(errors="replace")
        if self.start.remote and (status == 255 or status < 0):
            raise _disconnected(said)
        return Ended(status, printed, said)

    def begin(self) -> None:
        """Wait for the command itself to begin, and give the password that is asked for before that."""
        start = self.start
        printed = self._prelude() if start.success else bytearray()
        self._reader.start()
        if start.success in printed:
            return
        ended = self.ended()
        if start.words is None and start.become is None:
            raise _disconnected(ended.stderr)
        text = f"{printed.decode(errors='replace')}\n{ended.stderr}"
        why = host_command.why_not_root(text) if start.become else None
        raise AnsibleError(why or last_line(text) or f"it ended with {ended.status}, without a word")

    def _watch(self) -> None:
        while not self.over.wait(_TICK):
            if self._stopped():
                self._was_stopped = True
                self._process.kill()
                return

    def _complain(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while block := os.read(self._stderr.fileno(), BLOCK):
                self.complaints += block

    def _prelude(self) -> bytearray:
        """Return what is printed before the command itself prints something."""
        start, printed, told, seen = self.start, bytearray(), False, [0, 0]
        with selectors.DefaultSelector() as selector:
            selector.register(self.stdout, selectors.EVENT_READ)
            selector.register(self._stderr, selectors.EVENT_READ)
            while not (printed.endswith(b"\n") and start.success in printed):
                ready = selector.select(_PATIENCE)
                if not ready:
                    who = f"{host_command.program(start.become)} there" if start.become else "the host"
                    said = last_line(printed.decode(errors="replace"))
                    after = f", after: {said}" if said else ""
                    raise AnsibleConnectionFailure(f"{who} was silent for {_PATIENCE:.0f} s{after}")
                for key, _events in ready:
                    # What follows the line with success is for others to read.
                    text, most = (printed, 1) if key.fileobj is self.stdout else (self.complaints, BLOCK)
                    block = os.read(key.fd, most)
                    text.extend(block)
                    if not block and text is printed:
                        return printed
                    if not block:
                        selector.unregister(key.fileobj)
                if start.become:
                    asked = _is_asked(start, printed[seen[0] :], self.complaints[seen[1] :], told)
                    for number, text in enumerate((printed, self.complaints)):
                        seen[number] = len(text) if asked else max(seen[number], text.rfind(b"\n") + 1)
                    if asked:
                        told = True
                        self.write(start.password + b"\n")
        return printed


@contextlib.contextmanager
def opened(start: Start, stopped: Callable[[], bool] = lambda: False) -> Iterator[Pipe]:
    """Start a command, and end it when it is left.

    Raises Stopped, AnsibleConnectionFailure where the connection breaks, and AnsibleError for a wrong password.
    """
    with start.process() as process:
        pipe = Pipe(start, process, stopped)
        try:
            pipe.begin()
            yield pipe
        finally:
            pipe.over.set()
            process.kill()
            # Popen's own end would write what is left, to nobody.
            with contextlib.suppress(OSError):
                pipe.stdin.close()


@contextlib.contextmanager
def _fed(pipe: Pipe, blocks: Iterable[bytes]) -> Iterator[None]:
    """Write blocks into a command meanwhile. Raises what kept them from coming."""
    failed: list[BaseException] = []

    def give() -> None:
        try:
            # Where the command takes no more, its exit status says why.
            with contextlib.suppress(BrokenPipeError), pipe.stdin:
                for block in blocks:
                    pipe.stdin.write(block)
        except BaseException as error:
            failed.append(error)

    feeder = threading.Thread(target=give, daemon=True)
    feeder.start()
    yield
    feeder.join()
    if failed:
        raise failed[0]


def run(start: Start, feed: bytes = b"", stopped: Callable[[], bool] = lambda: False) -> Ended:
    """Run a command to its end, with feed as its input. Raises as opened does."""
    with opened(start, stopped) as pipe:
        with _fed(pipe, [feed]):
            printed = pipe.stdout.read().decode(errors="replace")
        return replace(pipe.ended(), stdout=printed)


def output(
    start: Start, stopped: Callable[[], bool] = lambda: False, feed: Iterable[bytes] = (),
    failure: Callable[[str], Exception] = AnsibleError,
) -> Iterator[bytes]:  # fmt: skip
    """Yield what a command prints, with feed as its input. Raises failure with its complaint, and as opened."""
    with opened(start, stopped) as pipe:
        with _fed(pipe, feed):
            while block := pipe.stdout.read1(BLOCK):
                yield block
        ended = pipe.ended()
        if ended.status:
            raise failure(last_line(ended.stderr) or f"it ended with {ended.status}, without a word")


def last_line(text: str) -> str:
    """Return the last line of a text that says something, without what ssh says when it hangs up."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith("Shared connection to")), "")


def _popen(words: list[bytes], **options: Any) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=BLOCK, **options)
    for end in (process.stdin, process.stdout):
        # Fewer turns for as many bytes; an account has only so much of it.
        with contextlib.suppress(OSError):
            fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, BLOCK)  # type: ignore[arg-type]
    return process


def _disconnected(said: str) -> AnsibleConnectionFailure:
    return AnsibleConnectionFailure(f"Failed to connect to the host via ssh: {last_line(said) or 'it hung up'}")


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
