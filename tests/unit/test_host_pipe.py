"""Streams into and out of a command. Commands of this machine stand in for those of a host."""

from __future__ import annotations

import collections
import itertools
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.playbook.play_context import PlayContext
from ansible.plugins.become import BecomeBase
from ansible.plugins.loader import connection_loader
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat, host_pipe
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.host_pipe import Command


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


def sudo(password: bytes) -> Command:
    return Command(["sh", "-c", SUDO], become=Key(), password=password, success="BECOME")


def test_what_is_sent_can_depend_on_what_was_printed() -> None:
    with host_pipe.opened(Command(["sh", "-c", "echo 7; cat; exit 5"])) as pipe:
        pipe.write(b"ask" + pipe.stdout.readline())
        assert pipe.stdout.readline() == b"ask7\n"
        pipe.write(b"end")
        completed = pipe.completed()
    assert (completed.returncode, completed.stdout) == (5, "end")


def test_a_command_that_ends_early_takes_no_more_and_what_it_printed_is_there() -> None:
    with host_pipe.opened(Command(["sh", "-c", "echo full; exit 3"])) as pipe:
        with pytest.raises(BrokenPipeError):
            collections.deque(map(pipe.write, itertools.repeat(bytes(1 << 20))), maxlen=0)
        assert pipe.stdout.readline() == b"full\n"
        assert pipe.completed().returncode == 3
    answer = host_pipe.run(Command(["sh", "-c", "echo full >&2; exit 3"]), bytes(1 << 24))
    assert (answer.returncode, answer.stderr) == (3, "full\n")


def test_much_goes_in_while_much_comes_out() -> None:
    data = bytes(1 << 24)
    assert len(host_pipe.run(Command(["sh", "-c", "head -c 16777216 /dev/zero; cat"]), data).stdout) == 2 << 24


def test_a_password_is_given_once_and_a_wrong_one_is_said() -> None:
    answer = host_pipe.run(sudo(b"right"), b"data")
    # The prompt is not the command's.
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "data", "")
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
        host_pipe.run(Command(["sh", "-c", program], become=Key(), success="BECOME"), b"data")


def test_what_a_login_shell_prints_first_is_not_the_command_s() -> None:
    start = Command(["sh", "-c", "echo WELCOME; echo MARK-1; cat"], success="MARK-1")
    assert host_pipe.run(start, b"data").stdout == "data"


def test_a_run_that_must_end_leaves_no_command_behind() -> None:
    stop = threading.Event()
    with host_pipe.opened(Command(["sh", "-c", "echo $$; exec sleep 36000"]), stop.is_set) as pipe:
        number = int(pipe.stdout.readline())
        stop.set()
        with pytest.raises(host_pipe.Stopped):
            pipe.completed()
    assert not Path(f"/proc/{number}").exists()


def test_a_run_that_must_end_does_not_wait_for_the_command_to_begin() -> None:
    start = Command(["sh", "-c", "exec sleep 36000"], success="NEVER", remote=True)
    with pytest.raises(host_pipe.Stopped):
        host_pipe.run(start, stopped=lambda: True)


def test_output_fails_with_the_command_s_last_word_and_a_broken_connection_as_such() -> None:
    with pytest.raises(AnsibleError, match=r"^no such layer$"):
        list(host_pipe.output(Command(["sh", "-c", "echo 1; echo no such layer >&2; exit 3"])))
    with pytest.raises(AnsibleConnectionFailure):
        host_pipe.run(Command(["sh", "-c", "exit 255"], remote=True))


@pytest.mark.parametrize("persist", [True, False])
def test_ansible_logs_in_with_a_password_and_the_command_shares_that_connection(
    persist: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A program that runs its last word stands in for ssh."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nfor word; do :; done\necho "$*" >&2\nexec sh -c "$word"\n')
    ssh.chmod(0o755)
    connection = connection_loader.get("ssh", PlayContext(), "/dev/null")
    options = {
        "ansible_host": "192.0.2.1", "ansible_user": "carol", "ansible_password": "open sesame",
        "ansible_ssh_executable": str(ssh), "ansible_ssh_args": "-o ControlPersist=60s" if persist else "-C",
    }  # fmt: skip
    connection.set_options(var_options=options)
    connection.become = None
    logins: list[str] = []
    monkeypatch.setattr(connection, "exec_command", lambda command, **_: logins.append(command))
    action = cast(Any, SimpleNamespace(_connection=connection, _play_context=PlayContext()))
    monkeypatch.setattr(ansible_compat, "becomes", lambda _action: False)
    if not persist:
        with pytest.raises(AnsibleError, match="needs ControlPersist in ssh_args"):
            host_pipe.on_host(action, ["echo", "done"])
        return
    command = host_pipe.on_host(action, ["echo", "done"])
    assert logins == ["exit 0"]
    assert command.as_json() is None
    completed = host_pipe.run(command)
    assert (completed.returncode, completed.stdout) == (0, "done\n")
    assert "open sesame" not in completed.stderr


def test_a_command_can_be_started_by_another_process_for_another_layer_unless_it_needs_a_password() -> None:
    given = json.loads(json.dumps(Command(["echo", host_pipe.VALUE]).as_json()))
    assert host_pipe.run(Command(**given).with_value("a,b")).stdout == "a,b\n"
    assert Command(["sudo"], secret=True).as_json() is None


def test_a_host_that_says_nothing_before_the_command_begins_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_pipe, "_TIMEOUT", 2)
    start = Command(["sh", "-c", "echo welcome; exec sleep 600"], become=Key(), success="BECOME", remote=True)
    with pytest.raises(AnsibleConnectionFailure, match=r"^lock there was silent for 2 s, after: welcome$"):
        host_pipe.run(start)
