"""Commands that every shell passes on as they are, and why an account did not become root."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible_collections.gpuprov.gpuprov.plugins.action import gpu_host_locked
from ansible_collections.gpuprov.gpuprov.plugins.become import doas, su, sudo
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import terminal
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat, host_command, run_owner

SHELLS = [name for name in ("sh", "bash", "dash", "zsh", "fish", "tcsh") if shutil.which(name)]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    "words",
    [
        ["a", "b"], ["!x", "a!b"], ["it's", '"', "\\", "\\\\", "a\\b"], ["", " ", "\t", "a\nb\n"],
        ["$HOME", "`id`", "$(id)"],
        ["~", "=ls", "%1", "*", "{a,b}", "#", "^", "&", "|", ";", "<", ">"], ["zoë", "CORP\\bob"],
        ["plain", "a b", "plain"],
    ],
)  # fmt: skip
def test_words_arrive_as_they_are_whatever_the_shell(shell: str, words: list[str]) -> None:
    command = host_command.portable(["printf", "<%s>", *words])
    done = subprocess.run([shell, "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"<{word}>" for word in words)


def test_plain_words_at_the_end_stay_to_be_read_and_replaced() -> None:
    command = host_command.portable(["sh", "-c", 'echo "$1!"', "name", "@WHAT@"])
    assert command.endswith(" name @WHAT@")
    assert "!" not in command
    assert "\n" not in command
    done = subprocess.run(["sh", "-c", command.replace("@WHAT@", "x")], capture_output=True, text=True, check=True)
    assert done.stdout == "x!\n"


FAILED = "Failed to connect to the host via ssh: "


@pytest.mark.parametrize(
    ("said", "retried"),
    [
        ("kex_exchange_identification: read: Connection reset by peer\nConnection reset by 10.0.0.1 port 22", True),
        ("kex_exchange_identification: Connection closed by remote host", True),
        ("ssh_exchange_identification: Connection closed by remote host", True),
        ("Connection closed by 10.0.0.1 port 22", False),
        ("ssh: connect to host 10.0.0.1 port 22: Connection refused", False),
        ("ssh: connect to host 10.0.0.1 port 22: Connection timed out", False),
        ("Host key verification failed.", False),
        ("alice@10.0.0.1: Permission denied (publickey).\nConnection closed by 10.0.0.1 port 22", False),
        (
            "channel 0: open failed: connect failed: x\nkex_exchange_identification: Connection closed by remote host",
            False,
        ),
        ("Connection to 10.0.0.1 closed by remote host.", False),
    ],
)
def test_only_a_login_that_ended_before_it_began_is_tried_again(said: str, retried: bool) -> None:
    pauses: list[float] = []
    tries: list[str] = []

    def run() -> str:
        tries.append(said)
        if len(tries) < 3:
            raise AnsibleConnectionFailure(FAILED + said)
        return "in"

    if retried:
        assert host_command.with_logins(run, pauses.append) == "in"
    else:
        with pytest.raises(AnsibleConnectionFailure):
            host_command.with_logins(run, pauses.append)
    assert len(pauses) == (2 if retried else 0)


@pytest.mark.parametrize("times", [1, 2])
def test_a_change_begins_after_logins_that_were_reset(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    told = iter([AnsibleConnectionFailure(f"{FAILED}kex_exchange_identification: read: reset")] * times)

    def execute(_self: object, module_args: dict[str, Any], task_vars: object) -> dict[str, Any]:
        for error in told:
            raise error
        return {"changed": True, "given": module_args}

    monkeypatch.setattr(gpu_host_locked.ActionModule, "_execute_module", execute)
    monkeypatch.setattr(run_owner, "lock", lambda *_: "mine")
    monkeypatch.setattr(host_command, "PAUSES", (0, 0))
    task = SimpleNamespace(args={"a": 1}, async_val=0, check_mode=False, diff=False, no_log=False)
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir=None), become=None, _load_name="ssh")
    action = gpu_host_locked.ActionModule(
        task=task, connection=connection, play_context=SimpleNamespace(check_mode=False), loader=None, templar=None,
        shared_loader_obj=None,
    )  # fmt: skip
    assert action.run(task_vars={})["given"] == {"a": 1, "lock": "mine"}


def test_a_host_that_resets_every_login_is_unreachable_in_the_end() -> None:
    pauses: list[float] = []

    def run() -> str:
        raise AnsibleConnectionFailure(f"{FAILED}kex_exchange_identification: read: Connection reset by peer")

    with pytest.raises(AnsibleConnectionFailure):
        host_command.with_logins(run, pauses.append)
    assert len(pauses) == len(host_command.PAUSES)
    assert sum(pauses) <= 1.5 * 15


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("sudo: a password is required", "sudo needs a password"),
        ("Missing sudo password", "sudo needs a password"),
        ("sudo: interactive authentication is required", "sudo needs a password"),
        ("Missing su password", "su needs a password"),
        ("Missing community.general.doas password", "doas needs a password"),
        ("doas: Authentication required", "doas needs a password"),
        ("Sorry, try again.", "sudo did not accept"),
        ("noise\nsudo: Authentication failed, try again.", "sudo did not accept"),
        ("Incorrect su password", "su did not accept"),
        ("Password: \nsu: Authentication failure", "su did not accept"),
        ("Password: su: Authentication failure", "su did not accept"),
        ("doas: Authentication failed", "doas did not accept"),
        ("alice is not in the sudoers file.", "the account may not use sudo"),
        ("sudo: I'm sorry alice. I'm afraid I can't do that", "the account may not use sudo"),
        ("doas: Operation not permitted", "the account may not use doas"),
        ("sudo: sorry, you must have a tty to run sudo", "sudo asks for a terminal"),
        ("/bin/sh: 1: sudo: not found", "there is no sudo"),
        ("/bin/sh: 1: doas: not found", "there is no doas"),
    ],
)
def test_why_an_account_did_not_become_root_is_said_of_the_right_program(said: str, advice: str) -> None:
    assert str(host_command.why_not_root(said)).startswith(advice)


@pytest.mark.parametrize("said", ["", "no space left on device", "Operation not permitted", "Permission denied"])
def test_other_failures_are_not_explained(said: str) -> None:
    assert host_command.why_not_root(said) is None


@pytest.mark.parametrize(
    ("plugin", "prompt", "line", "asked"),
    [
        (sudo, "[sudo via ansible, key=abc] password:", b"[sudo via ansible, key=abc] password:", True),
        (
            sudo,
            "[sudo via ansible, key=abc] password:",
            b"[sudo: [sudo via ansible, key=abc] password:] Password: ",
            True,
        ),
        (sudo, "[sudo via ansible, key=abc] password:", b"[sudo via ansible, key=xyz] password:", False),
        (sudo, "", b"Password:", False),
        (doas, "", b"\rdoas (alice@host) password: ", True),
        (doas, "", b"Password: ", True),
        (doas, "", b"hello", False),
    ],
)
def test_prompts_are_recognised(plugin: object, prompt: str, line: bytes, asked: bool) -> None:
    become = plugin.BecomeModule()  # type: ignore[attr-defined]
    become.prompt = prompt
    assert become.check_password_prompt(line) is asked


def test_ansible_s_own_messages_and_ours_are_recognised() -> None:
    assert set(sudo.Sudo.fail) < set(sudo.BecomeModule.fail)
    assert set(sudo.Sudo.missing) < set(sudo.BecomeModule.missing)
    assert issubclass(su.BecomeModule, su.Su)


# What doas does: asks on the terminal, and leaves its input and output to what it runs.
DOAS = """\
exec 3<> /dev/tty
printf 'doas (a@b) password: ' >&3
IFS= read -r password <&3
printf '\\n' >&3
[ "$password" = right ] || { echo 'doas: Authentication failed' >&2; exit 1; }
echo BECOME
exec cat
"""


def test_a_program_that_asks_on_its_terminal_gets_one_and_its_streams_stay_whole() -> None:
    data = bytes(range(256)) * 5000
    words = [sys.executable, str(Path(str(terminal.__file__))), "sh", "-c", DOAS]
    done = subprocess.run(words, input=b"right\n" + data, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"BECOME\n" + data)
    assert b"doas (a@b) password: " in done.stderr
    done = subprocess.run(words, input=b"wrong\n" + data, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"doas: Authentication failed" in done.stderr
    done = subprocess.run([*words[:2], "sh", "-c", "exit 7"], input=b"", capture_output=True, check=False)
    assert done.returncode == 7


def other_connection(low_level: object, pipelining: object) -> Any:
    """Return an action whose connection is not Ansible's ssh."""
    connection = SimpleNamespace(get_option=dict[str, object]().__getitem__)
    return SimpleNamespace(
        _low_level_execute_command=low_level, _is_pipelining_enabled=pipelining, _connection=connection
    )


def test_what_a_command_prints_is_told_from_what_was_printed_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def low_level(command: str, **_options: object) -> dict[str, object]:
        shell = f"printf 'WELCOME\\n\\r\\n'; {command} | sed 's/$/\\r/'"
        done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, check=False)
        return {"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}

    action = other_connection(low_level, lambda _style: False)
    monkeypatch.setattr(ansible_compat, "becomes", lambda _action: False)
    monkeypatch.setattr(host_command, "needs_terminal", lambda _action: False)
    answer = host_command.execute(action, ["printf", "%s\n", "", "one", "two words"])
    assert answer["stdout"].splitlines() == ["", "one", "two words"]
    assert host_command.execute(action, ["true"])["stdout"].strip() == ""


@pytest.mark.parametrize(("pipelining", "sent"), [(True, b"\n"), (False, None)])
def test_a_command_gets_no_terminal_where_modules_get_none(
    pipelining: bool, sent: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ansible's ssh asks for a terminal where it has nothing to send."""
    seen: list[bytes | None] = []

    def low_level(_command: str, in_data: bytes | None, **_options: object) -> dict[str, object]:
        seen.append(in_data)
        return {"rc": 0, "stdout": "", "stderr": ""}

    action = other_connection(low_level, lambda _style: pipelining)
    monkeypatch.setattr(ansible_compat, "becomes", lambda _action: False)
    monkeypatch.setattr(host_command, "needs_terminal", lambda _action: False)
    host_command.execute(action, ["true"])
    host_command.execute(action, ["cat"], b"mine")
    assert seen == [sent, b"mine"]


class Login:
    """An action whose connection has ssh's options; it fails as the texts say, one after the other, then succeeds."""

    def __init__(self, *failures: str) -> None:
        self.failures, self.tried = list(failures), list[object]()
        self.options: dict[str, Any] = {"ssh_args": "-C", "timeout": 20}
        self._connection = SimpleNamespace(get_option=self.options.__getitem__, set_option=self.options.__setitem__)

    def run(self) -> str:
        self.tried.append(self.options["ssh_args"])
        if self.failures:
            raise AnsibleConnectionFailure(self.failures.pop(0))
        return "in"


SILENT = "ssh: connect to host 10.0.0.1 port 22: Connection timed out"


def test_after_one_silent_host_others_get_less_time_to_connect_but_all_of_it_to_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ansible_compat, "run_directory", lambda: tmp_path)

    def tried(*failures: str) -> list[object]:
        login = Login(*failures)
        try:
            host_command.without_long_silence(cast("Any", login), login.run)
        except AnsibleConnectionFailure as error:
            login.tried.append(str(error))
        assert login.options["ssh_args"] == "-C"
        return login.tried

    refused, slow = "ssh: connect to host x port 22: Connection refused", "Connection timed out during banner exchange"
    assert tried() == ["-C"]
    assert tried(refused) == ["-C", refused]
    assert tried(slow) == ["-C", slow]
    assert tried(SILENT) == ["-C", SILENT]
    less = "-C -o ConnectTimeout=5"
    assert tried() == [less]
    assert tried(SILENT) == [less, SILENT]
    assert tried(refused) == [less, refused]
    assert tried(slow) == [less, "-C"]
    assert tried(slow, slow) == [less, "-C", slow]


def test_a_connection_without_ssh_s_options_waits_as_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ansible_compat, "run_directory", lambda: tmp_path)
    (tmp_path / "gpuprov-silent-host").touch()
    local = Login()
    del local.options["ssh_args"]
    assert host_command.without_long_silence(cast("Any", local), lambda: "in") == "in"
    assert local.options == {"timeout": 20}
