"""Streams into and out of a command. Commands of this machine stand in for those of a host."""

from __future__ import annotations

import collections
import itertools
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.playbook.play_context import PlayContext
from ansible.plugins.become import BecomeBase
from ansible.plugins.loader import connection_loader
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_command, host_pipe
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.host_pipe import Start


class Key(BecomeBase):
    """Become plugin of a program that asks for a key."""

    name = "community.general.lock"
    missing = ("no key at all",)

    def build_become_command(self, cmd: str, shell: object) -> str:
        return cmd

    def check_password_prompt(self, b_output: bytes) -> bool:
        return b_output.startswith(b"key:")


# What sudo does: asks on the terminal's behalf, says when the account has changed, and asks again.
SUDO = "printf 'key: ' >&2; read -r p; if [ \"$p\" = right ]; then echo BECOME; exec cat; fi; printf 'key: ' >&2; cat"


def started(words: list[bytes], **more: Any) -> Start:
    return host_pipe._of_words(words, **more)


def sudo(password: bytes) -> Start:
    return started([b"sh", b"-c", SUDO.encode()], become=Key(), password=password, success=b"BECOME")


def test_what_is_sent_can_depend_on_what_was_printed() -> None:
    with host_pipe.opened(host_pipe.here(["sh", "-c", "echo 7; cat; exit 5"])) as pipe:
        pipe.write(b"ask" + pipe.stdout.readline())
        assert pipe.stdout.readline() == b"ask7\n"
        pipe.write(b"end")
        ended = pipe.ended()
    assert (ended.status, ended.stdout) == (5, "end")


def test_a_command_that_ends_early_takes_no_more_and_what_it_printed_is_there() -> None:
    with host_pipe.opened(host_pipe.here(["sh", "-c", "echo full; exit 3"])) as pipe:
        with pytest.raises(BrokenPipeError):
            collections.deque(map(pipe.write, itertools.repeat(bytes(1 << 20))), maxlen=0)
        assert pipe.stdout.readline() == b"full\n"
        assert pipe.ended().status == 3
    answer = host_pipe.run(host_pipe.here(["sh", "-c", "echo full >&2; exit 3"]), bytes(1 << 24))
    assert (answer.status, answer.stderr) == (3, "full\n")


def test_much_goes_in_while_much_comes_out() -> None:
    data = bytes(1 << 24)
    assert len(host_pipe.run(host_pipe.here(["sh", "-c", "head -c 16777216 /dev/zero; cat"]), data).stdout) == 2 << 24


def test_a_password_is_given_once_and_a_wrong_one_is_said() -> None:
    answer = host_pipe.run(sudo(b"right"), b"data")
    assert (answer.status, answer.stdout) == (0, "data")
    with pytest.raises(AnsibleError, match=r"^Incorrect lock password"):
        host_pipe.run(sudo(b"wrong"), b"data")
    with pytest.raises(AnsibleError, match=r"^Missing lock password"):
        host_pipe.run(sudo(b""), b"data")


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("echo no key at all >&2; exec sleep 60", "^Missing lock password"),
        ("echo sudo: interactive authentication is required >&2; exit 1", "^sudo needs a password: give it with -K"),
        ("echo su: Authentication failure >&2; exit 1", "^su did not accept the password"),
        ("echo doas: Operation not permitted >&2; exit 1", "^the account may not use doas"),
        ("echo and now for something else; exit 3", "^and now for something else$"),
        ("exit 3", "^it ended with 3"),
    ],
)
def test_who_does_not_become_another_account_is_told_why(program: str, said: str) -> None:
    with pytest.raises(AnsibleError, match=said):
        host_pipe.run(started([b"sh", b"-c", program.encode()], become=Key(), success=b"BECOME"), b"data")


def test_what_a_login_shell_prints_first_is_not_the_command_s() -> None:
    start = started([b"sh", b"-c", b"echo WELCOME; echo MARK-1; cat"], success=b"MARK-1")
    assert host_pipe.run(start, b"data").stdout == "data"


def test_a_run_that_must_end_leaves_no_command_behind() -> None:
    stop = threading.Event()
    with host_pipe.opened(host_pipe.here(["sh", "-c", "echo $$; exec sleep 36000"]), stop.is_set) as pipe:
        number = int(pipe.stdout.readline())
        stop.set()
        with pytest.raises(host_pipe.Stopped):
            pipe.ended()
    assert not Path(f"/proc/{number}").exists()


def test_a_run_that_must_end_does_not_wait_for_the_command_to_begin() -> None:
    start = started([b"sh", b"-c", b"exec sleep 36000"], success=b"NEVER", remote=True)
    with pytest.raises(host_pipe.Stopped):
        host_pipe.run(start, stopped=lambda: True)


def test_output_fails_with_the_command_s_last_word_and_a_broken_connection_as_such() -> None:
    with pytest.raises(AnsibleError, match=r"^no such layer$"):
        list(host_pipe.output(host_pipe.here(["sh", "-c", "echo 1; echo no such layer >&2; exit 3"])))
    with pytest.raises(AnsibleConnectionFailure):
        host_pipe.run(started([b"sh", b"-c", b"exit 255"], remote=True))


def test_commands_of_a_host_that_are_made_at_once_keep_their_own_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Numbered(Key):
        number = 0

        def build_become_command(self, cmd: str, shell: object) -> str:
            self.number += 1
            self.prompt = f"[{self.number}] password:"
            time.sleep(0.001)  # where another thread would come between
            self.success = f"SUCCESS-{self.number}"
            return f"echo {self.prompt} {self.success}"

    connection = SimpleNamespace(become=Numbered(), transport="local", _shell=None)
    action = cast(Any, SimpleNamespace(_connection=connection))
    monkeypatch.setattr(host_command, "becomes", lambda _action: True)
    monkeypatch.setattr(host_command, "needs_terminal", lambda _action: False)
    with ThreadPoolExecutor(4) as pool:
        starts = list(pool.map(lambda _: host_pipe.there(action, ["true"]), range(40)))
    made = [((start.words or [b""])[-1].decode(), start.become.prompt, start.success.decode()) for start in starts]
    assert sorted(made) == sorted(
        (f"echo [{number}] password: SUCCESS-{number}", f"[{number}] password:", f"SUCCESS-{number}")
        for number in range(1, 41)
    )


def test_a_login_s_password_reaches_ssh_each_time_and_is_gone_afterwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program that asks as ssh asks stands in for ssh."""
    ssh = tmp_path / "ssh"
    ssh.write_text(
        """#!/bin/sh
for word; do :; done
printf '%s %s ' "$("$SSH_ASKPASS" "carol@host's password: ")" "$_ANSIBLE_SSH_ASKPASS_SHM" >&2
exec sh -c "$word"
"""
    )
    ssh.chmod(0o755)
    # SSH_ASKPASS is Ansible's own program, which a person has on PATH.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    connection = connection_loader.get("ssh", PlayContext(), "/dev/null")
    options = {
        "ansible_host": "192.0.2.1", "ansible_user": "carol", "ansible_password": "open sesame",
        "ansible_ssh_executable": str(ssh), "ansible_ssh_password_mechanism": "ssh_askpass",
    }  # fmt: skip
    connection.set_options(var_options=options)
    connection.become = None
    action = cast(Any, SimpleNamespace(_connection=connection, _play_context=PlayContext()))
    monkeypatch.setattr(host_command, "becomes", lambda _action: False)

    def answer(_: object) -> host_pipe.Ended:
        start = host_pipe.there(action, ["echo", "done"])
        assert host_pipe.repeatable(start) is None
        return host_pipe.run(start)

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(answer, range(6)))
    assert [(one.status, one.stdout) for one in answers] == [(0, "done\n")] * 6
    told = [one.stderr.rsplit(maxsplit=1) for one in answers]
    assert [password for password, _memory in told] == ["open sesame"] * 6
    memories = {memory for _password, memory in told}
    assert len(memories) == 6
    assert not [memory for memory in memories if Path("/dev/shm", memory).exists()]


def test_a_host_that_says_nothing_before_the_command_begins_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_pipe, "_PATIENCE", 2)
    start = started([b"sh", b"-c", b"echo welcome; exec sleep 600"], become=Key(), success=b"BECOME", remote=True)
    with pytest.raises(AnsibleConnectionFailure, match=r"^lock there was silent for 2 s, after: welcome$"):
        host_pipe.run(start)
