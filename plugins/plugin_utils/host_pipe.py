# SPDX-License-Identifier: MIT
"""Run a command on a host or on this machine, with a stream into it and one out of it.

Ansible's connections pass whole strings, and an image is too large for that. So the command is started as Ansible's
ssh connection starts it, with all settings of the inventory, and read while it runs.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import selectors
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from io import BufferedRandom
from typing import Any, cast

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat, host_command

BLOCK = 1 << 20
# Stands for a value in the words of a command.
VALUE = "@VALUE@"
# Seconds between two checks whether the run must end.
_POLL = 0.2
# Seconds without output after which ssh, the login shell and sudo have failed.
_TIMEOUT = 120.0


class Stopped(Exception):
    """The run must end now."""


def must_end() -> bool:
    """Return whether the run must end now: gpuprov makes this file at the first Ctrl-C."""
    return os.path.exists(os.environ.get("GPUPROV_STOP", ""))


@dataclass(frozen=True)
class Command:
    """A command to start.

    become: the become plugin, where the command becomes another account, and password its password. success: the line
    before the command's own output. secret: whether another process cannot start it, because it needs a password.
    """

    words: list[str]
    become: Any = None
    password: bytes = b""
    success: str = ""
    remote: bool = False
    secret: bool = False

    def with_value(self, value: str) -> Command:
        """Return the command with a value, which no shell changes, in place of VALUE."""
        return replace(self, words=[word.replace(VALUE, value) for word in self.words])

    def as_json(self) -> dict[str, Any] | None:
        """Return the fields of the command for another process of the run; None where it needs a password."""
        return None if self.secret else {"words": self.words, "success": self.success, "remote": self.remote}


def on_host(action: ActionBase, words: list[str], interpreter: str | None = None) -> Command:
    """Return a command on the action's host, as the account that the task becomes. Raises AnsibleError.

    interpreter is the host's Python, where the inventory names one.
    """
    connection = action._connection
    become = connection.become if ansible_compat.becomes(action) else None
    command = host_command.portable(words)
    if become:
        command = ansible_compat.become_command(action, command)
        success = str(become.success)
        if host_command.needs_terminal(action):
            command = host_command.portable(host_command.with_terminal(["/bin/sh", "-c", command], interpreter))
    else:
        # The start-up files of a login shell may print something first.
        success = f"gpuprov-{secrets.token_hex(8)}"
        command = f"echo {success}; {command}"
    password = str(become.get_option("become_pass") or "").encode() if become else b""
    found = Command(["/bin/sh", "-c", command], become, password, success, secret=bool(password))
    if connection.transport == "local":
        return found
    if connection.transport.rpartition(".")[2] != "ssh":
        raise AnsibleError(f"this needs a connection by ssh: this host's connection is {connection.transport}")
    ssh = [os.fsdecode(word) for word in ansible_compat.ssh_words(action, f"/bin/sh -c {shlex.quote(command)}")]
    login = ansible_compat.has_login_password(action)
    if login:
        if not any("ControlPersist" in word for word in ssh):
            raise AnsibleError("this needs ControlPersist in ssh_args where ssh logs in with a password")
        # Ansible gives the password; the command shares that connection. Before 2.19 sshpass comes first in the words.
        connection.exec_command("exit 0", sudoable=False)
        ssh = ssh[ssh.index(connection.get_option("ssh_executable")) :]
    return replace(found, words=ssh, remote=True, secret=login or bool(password))


# ---- running it


class Pipe:
    """A running command. write() and stdout block; when the run must end, the command is killed."""

    def __init__(self, command: Command, process: subprocess.Popen[bytes], stopped: Callable[[], bool]) -> None:
        self.command, self._process, self._stopped = command, process, stopped
        pipes = (process.stdin, process.stdout, process.stderr)
        self.stdin, self.stdout, self._stderr = (cast(BufferedRandom, pipe) for pipe in pipes)
        self.errors = bytearray()
        self.over = threading.Event()
        self._feeder: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        threading.Thread(target=self._watch, daemon=True).start()

    def write(self, data: bytes) -> None:
        """Send data. Raises BrokenPipeError where the command has ended: completed() tells why."""
        self.stdin.write(data)
        self.stdin.flush()

    def feed(self, blocks: Iterable[bytes]) -> None:
        """Send blocks in the background, then close the input. completed() raises the errors of blocks."""

        def write() -> None:
            try:
                # Where the command has ended, its exit status tells why.
                with contextlib.suppress(BrokenPipeError), self.stdin:
                    for block in blocks:
                        self.write(block)
            except BaseException as error:
                self._failure = error

        self._feeder = threading.Thread(target=write, daemon=True)
        self._feeder.start()

    def completed(self, before: bytes = b"") -> subprocess.CompletedProcess[str]:
        """Wait for the end of the command, and return it with the rest of its output, after what was read before.

        Raises Stopped, and AnsibleConnectionFailure for a lost connection.
        """
        if self._feeder is None:
            with contextlib.suppress(OSError):
                self.stdin.close()
        printed = (before + self.stdout.read()).decode(errors="replace")
        if self._feeder is not None:
            self._feeder.join()
        status = self._process.wait()
        self._reader.join()
        if self._stopped():
            raise Stopped
        if self._failure is not None:
            raise self._failure
        errors = self.errors.decode(errors="replace")
        if self.command.remote and (status == 255 or status < 0):
            reason = last_line(errors) or "the connection was closed"
            raise AnsibleConnectionFailure(f"Failed to connect to the host via ssh: {reason}")
        return subprocess.CompletedProcess(self.command.words, status, printed, errors)

    def begin(self) -> None:
        """Wait until the command itself begins, and answer a password prompt before that."""
        printed = self._prelude() if self.command.success else None
        self._reader.start()
        if printed is not None:
            raise AnsibleError(reason(self.completed(printed)))

    def _watch(self) -> None:
        while not self.over.wait(_POLL):
            if self._stopped():
                self._process.kill()
                return

    def _read_errors(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.errors += self._stderr.read()

    def _prelude(self) -> bytes | None:
        """Read the output before the command's own; return it where it ends before the command begins."""
        command, printed, answered = self.command, bytearray(), False
        success = command.success.encode()
        with selectors.DefaultSelector() as selector:
            selector.register(self.stdout, selectors.EVENT_READ, printed)
            selector.register(self._stderr, selectors.EVENT_READ, self.errors)
            while not (printed.endswith(b"\n") and success in printed):
                ready = selector.select(_TIMEOUT)
                if not ready:
                    program = f"{host_command.program(command.become)} there" if command.become else "the host"
                    after = last_line(printed.decode(errors="replace"))
                    raise AnsibleConnectionFailure(
                        f"{program} was silent for {_TIMEOUT:.0f} s" + (f", after: {after}" if after else "")
                    )
                for key, _events in ready:
                    # Byte by byte: the output after the line with success is for others to read.
                    block = os.read(key.fd, 1 if key.data is printed else BLOCK)
                    key.data.extend(block)
                    if not block and key.data is printed:
                        return bytes(printed)
                    if not block:
                        selector.unregister(key.fileobj)
                if command.become and _is_asked(command, [printed, self.errors], answered):
                    answered = True
                    printed.clear()
                    self.errors.clear()
                    self.write(command.password + b"\n")
        return None


@contextlib.contextmanager
def opened(command: Command, stopped: Callable[[], bool] = lambda: False) -> Iterator[Pipe]:
    """Start a command, and kill it when the context is left.

    Raises Stopped, AnsibleConnectionFailure for a lost connection, and AnsibleError for a wrong password.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(command.words, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=BLOCK) as process:
        running = Pipe(command, process, stopped)
        for end in (running.stdin, running.stdout):
            # Fewer switches between processes; an account may have used up its share of large pipes.
            with contextlib.suppress(OSError):
                fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, BLOCK)
        try:
            running.begin()
            yield running
        finally:
            running.over.set()
            process.kill()
            # Popen's own exit would write the rest of the buffer.
            with contextlib.suppress(OSError):
                running.stdin.close()


def run(
    command: Command, feed: bytes = b"", stopped: Callable[[], bool] = lambda: False
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with feed as its input. Raises as opened does."""
    with opened(command, stopped) as pipe:
        pipe.feed([feed])
        return pipe.completed()


def output(
    command: Command, stopped: Callable[[], bool] = lambda: False, feed: Iterable[bytes] = (), failure: str = ""
) -> Iterator[bytes]:
    """Yield the output of a command, with feed as its input. Raises AnsibleError: failure, and its last line."""
    with opened(command, stopped) as pipe:
        pipe.feed(feed)
        while block := pipe.stdout.read1(BLOCK):
            yield block
        completed = pipe.completed()
        if completed.returncode:
            raise AnsibleError(failure + reason(completed))


def reason(completed: subprocess.CompletedProcess[str]) -> str:
    """Return why a command failed: what to do to become root, or the last line that it printed."""
    text = f"{completed.stdout}\n{completed.stderr}"
    unknown = f"it ended with {completed.returncode}, without a message"
    return host_command.why_not_root(text) or last_line(text) or unknown


def last_line(text: str) -> str:
    """Return the last line of a text that is not empty, without ssh's message of a closed connection."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if not line.startswith("Shared connection to")), "")


def _is_asked(command: Command, texts: list[bytearray], answered: bool) -> bool:
    """Return whether the password is asked for now. Raises AnsibleError where it is missing or was wrong."""
    become = command.become
    program = host_command.program(become)
    # sudo-rs prints more around the prompt that it is given.
    key = become.prompt.encode() if isinstance(become.prompt, str) and become.name == "sudo" else b""
    for line in (line for text in texts for line in text.splitlines()):
        is_prompt = become.check_password_prompt(line) or (key and key in line)
        if is_prompt and command.password and not answered:
            return True
        if (is_prompt and answered) or become.check_incorrect_password(line):
            raise AnsibleError(f"Incorrect {program} password")
        if is_prompt or become.check_missing_password(line):
            raise AnsibleError(f"Missing {program} password")
    return False
