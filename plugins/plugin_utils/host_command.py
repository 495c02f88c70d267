# SPDX-License-Identifier: MIT
"""Run a command on a host, whatever the login shell there, and say in people's words why it did not become root."""

from __future__ import annotations

import base64
import gzip
import random
import re
import secrets
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import terminal
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import failures

SUDO_RS = (
    "sudo on this host is sudo-rs, whose password prompt this ansible-core does not recognise: set "
    "ansible_become_method=gpuprov.gpuprov.sudo, or ansible_become_exe=sudo.ws (the former sudo, on Ubuntu), or allow "
    "the account passwordless sudo"
)
# Seconds before another login, once the host or a bastion has ended one before it began.
PAUSES = (1, 2, 4, 8)
# OpenSSH's messages where the other side ends a connection before it has named itself, as sshd does to logins past
# MaxStartups. A bastion that does not reach the host ends the connection too, but says so.
_RESET = re.compile(r"(kex|ssh)_exchange_identification: |Exceeded MaxStartups")
_NOT_REACHED = re.compile(r"open failed: |Permission denied|Host key verification failed")
# ssh's message where nothing answers at all. Where ssh connected and the rest was slow, it says another one.
_SILENT = re.compile(r"connect to host \S+ port \d+: (Connection|Operation) timed out")
# The part of the timeout that a host gets to accept a connection once another one was silent, and its least seconds: in
# three seconds the kernel asks three times.
_LATER_PART, _LATER_LEAST = 4, 4
_T = TypeVar("_T")
# A word of these is one word to every shell, and to none of them more than that.
_PLAIN = re.compile(r"[A-Za-z0-9_./:@+-][A-Za-z0-9_./:@+=-]*")


def why_not_root(text: str) -> str | None:
    """Return what to do about a failure to become root, given what was said, or None for another failure."""
    found = failures.not_root(text)
    return ": ".join(found) if found else None


def login_was_reset(text: str) -> bool:
    """Return whether a login ended before it began, given what ssh said. Nothing ran, and another may succeed."""
    return bool(_RESET.search(text)) and not _NOT_REACHED.search(text)


def with_logins(run: Callable[[], _T], sleep: Callable[[float], None] = time.sleep) -> _T:
    """Run what logs in to a host, again after a pause where the login was reset.

    The option retries of Ansible's ssh would repeat every failure of ssh: it multiplies the time of hosts that do not
    answer, and repeats commands that ran. Raises AnsibleConnectionFailure.
    """
    for pause in PAUSES:
        try:
            return run()
        except AnsibleConnectionFailure as error:
            if not login_was_reset(str(error)):
                raise
        # At random, or the logins that were reset together come together again.
        sleep(pause * random.uniform(0.5, 1.5))
    return run()


def without_long_silence(action: ActionBase, run: Callable[[], _T]) -> _T:
    """Run what logs in to the action's host, with less time to connect once another host of this run was silent.

    Each silent host keeps a fork for the whole timeout: many would keep all forks again and again. A host that accepts
    the connection has the whole timeout for the rest. Raises AnsibleConnectionFailure.
    """
    connection, directory = action._connection, ansible_compat.run_directory()
    try:
        arguments, timeout = connection.get_option("ssh_args"), int(connection.get_option("timeout"))
    except KeyError:  # not Ansible's ssh
        return run()
    if directory is None:
        return run()
    silent = directory / "gpuprov-silent-host"
    hurried = silent.exists()
    if hurried:
        seconds = min(timeout, max(timeout // _LATER_PART, _LATER_LEAST))
        # ssh takes the first of several values, so a person's own stays.
        connection.set_option("ssh_args", f"{arguments or ''} -o ConnectTimeout={seconds}")
    try:
        return run()
    except AnsibleConnectionFailure as error:
        if _SILENT.search(str(error)):
            silent.touch()
            raise
        if not hurried or "timed out" not in str(error):
            raise
    finally:
        connection.set_option("ssh_args", arguments)
    return run()


def portable(words: list[str]) -> str:
    """Return a command of these words that every login shell passes on as it is.

    csh expands ``!`` and refuses a line end within quotes, fish takes ``\\\\`` within them for one character: what is
    not plain travels as base64. Plain words at the end stay readable, after the first word.
    """
    plain = len(words)
    while plain > 1 and _PLAIN.fullmatch(words[plain - 1]):
        plain -= 1
    if plain == 1 and _PLAIN.fullmatch(words[0]):
        return " ".join(words)
    text = f'exec {shlex.join(words[:plain])} "$@"'.encode("utf-8", "surrogateescape")
    packed = base64.b64encode(gzip.compress(text, mtime=0)).decode("ascii")
    return " ".join(["sh -c 'eval \"$(echo", packed, "| base64 -d | gzip -d)\"' sh", *words[plain:]])


def program(become: Any) -> str:
    """Return the name of a become plugin's program, without the collection: doas for community.general.doas."""
    return str(become.name).rpartition(".")[2]


def needs_terminal(action: ActionBase) -> bool:
    """Return whether a password is given to a program that reads it from a terminal only."""
    become = action._connection.become
    return ansible_compat.becomes(action) and program(become) == "doas" and bool(become.get_option("become_pass"))


def with_terminal(words: list[str], interpreter: str | None) -> list[str]:
    """Return words that run a command with a controlling terminal, its input and output left alone."""
    return python(interpreter, Path(str(terminal.__file__)).read_text(encoding="utf-8"), words)


_PYTHON = (
    'for python in "$@"; do shift; [ "$python" != -- ] || break; if command -v "${python%% *}" >/dev/null 2>&1; then '
    'found=${found:-$python}; fi; done; [ -n "${found-}" ] || { echo "there is no Python" >&2; exit 3; }; '
    'exec $found -c "$@"'
)


def python(interpreter: str | None, script: str, words: list[str]) -> list[str]:
    """Return words that run a script by the interpreter that the inventory names, or the first that there is."""
    candidates = [interpreter] if interpreter else ["python3", "python2.7", "python2", "python"]
    return ["sh", "-c", _PYTHON, "gpuprov-python", *candidates, "--", script, *words]


def interpreter(action: ActionBase, variables: dict[str, Any]) -> str | None:
    """Return the Python there that the inventory or the configuration names, None where Ansible looks for one."""
    named = variables.get("ansible_python_interpreter")
    if named is None:
        named = ansible_compat.interpreter_setting()
    value = str(ansible_compat.render(action, named) or "").strip()
    return None if value.partition("_")[0] in ("auto", "") else value


def execute(
    action: ActionBase, words: list[str], stdin: bytes | None = None, interpreter: str | None = None
) -> dict[str, Any]:
    """Run a command on the action's host as what the task becomes, and return Ansible's {rc, stdout, stderr}.

    stdout has what the command prints, and nothing of a login shell's start-up files or of a password prompt.
    stdin must not be empty: Ansible would leave it open. interpreter as for host_pipe.on_host. Raises
    AnsibleConnectionFailure, and AnsibleActionFail where the account did not become another one, with the cure.
    """
    return without_long_silence(action, lambda: _execute(action, words, stdin, interpreter))


def _execute(action: ActionBase, words: list[str], stdin: bytes | None, interpreter: str | None) -> dict[str, Any]:
    check_become(action)
    begin = f"gpuprov-{secrets.token_hex(8)}"
    try:
        if stdin is not None and needs_terminal(action):
            from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_pipe

            completed = host_pipe.run(host_pipe.on_host(action, words, interpreter), stdin)
            return {"rc": completed.returncode, "stdout": completed.stdout, "stderr": completed.stderr}
        command = portable(["sh", "-c", 'echo "$0"; exec "$@"', begin, *words])
        if stdin is None and ansible_compat.uses_pipelining(action):
            # Without something to send Ansible asks for a terminal, and sudo-rs loses bytes on their way through it.
            stdin = b"\n"
        answer = with_logins(lambda: ansible_compat.run_command(action, command, stdin))
    except AnsibleConnectionFailure as error:
        advice = why_not_root(str(error))
        if advice is None:
            raise
        raise AnsibleActionFail(advice) from error
    except AnsibleError as error:
        raise AnsibleActionFail(why_not_root(str(error)) or str(error)) from error
    if answer["rc"] != 0 and ansible_compat.becomes(action):
        advice = why_not_root(f"{answer['stdout']}\n{answer['stderr']}")
        if advice:
            raise AnsibleActionFail(advice)
    before, found, own = str(answer["stdout"]).partition(begin)
    return {**answer, "stdout": own.lstrip("\r").removeprefix("\n") if found else before}


def check_become(action: ActionBase) -> None:
    """Raise AnsibleActionFail at once where this ansible-core would wait for a prompt until its timeout, or fail.

    Asks the host only where its program decides: sudo with a password whose prompt may be of another form, su without.
    """
    if not ansible_compat.becomes(action):
        return
    become = action._connection.become
    password = become.get_option("become_pass")
    name = program(become)
    if name == "sudo" and password:
        ansible_compat.become_command(action, "true")
        if become.check_password_prompt(f"[sudo: {become.prompt}] Password: ".encode()):
            return
        asked = shlex.join([become.get_option("become_exe") or "sudo", "--version"])
        if "sudo-rs" in ansible_compat.run_command(action, asked, become=False)["stdout"]:
            raise AnsibleActionFail(SUDO_RS)
    elif name == "su" and not password and getattr(become, "prompt", None) is not False:
        command = ansible_compat.become_command(action, "true")
        if become.prompt and ansible_compat.run_command(action, f"{command} </dev/null", become=False)["rc"]:
            raise AnsibleActionFail(why_not_root("Missing su password"))
    elif needs_terminal(action) and ansible_compat.uses_pipelining(action):
        raise AnsibleActionFail(
            "doas reads its password from a terminal, which ansible-core "
            f"{ansible_compat.CORE_VERSION} does not give it with pipelining: set ansible_pipelining=false for this "
            "host, or allow it in /etc/doas.conf without a password"
        )
