# SPDX-License-Identifier: MIT
"""Explain in people's words what ssh, sudo, Python and Ansible say of a failure. Imports nothing of the collection.

Everything that depends on the wording of their messages is here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_PASSWORDLESS = {
    "sudo": "allow the account passwordless sudo (NOPASSWD)",
    "doas": "allow it in /etc/doas.conf without one (nopass)",
}
# What sudo, sudo-rs, su and doas say, and what Ansible says of them: (pattern, cause, cure). {0} is the program.
_BECOME = (
    (
        (
            r"(sudo|su|become)[^\n]*password is required|Missing (\S+) password|a terminal is required"
            r"|sudo: interactive authentication is required|doas: Authentication required|doas: a tty is required"
        ),
        "{0} needs a password",
        "give it with -K (--ask-become-pass), or {1}",
    ),
    (
        (
            r"Incorrect (\S+) password|Sorry, try again|incorrect (password|authentication) attempt"
            r"|sudo: Authentication failed|doas: Authentication failed|su: Authentication failure"
        ),
        "{0} did not accept the password given with -K",
        "give the password that {0} asks for (su: that of root; sudo and doas: that of the login user)",
    ),
    (
        (
            r"not in the sudoers file|not allowed to execute|I'm afraid I can't do that"
            r"|doas: Operation not permitted|su: Permission denied"
        ),
        "the account may not use {0}",
        "log in with one that may, or as root",
    ),
    (
        r"must have a tty",
        "sudo asks for a terminal (requiretty)",
        "take that away for this account, or set ansible_pipelining=false",
    ),
    (
        r"(sudo|doas): (command )?not found|(sudo|doas): No such file",
        "there is no {0}",
        "log in as root, or set ansible_become_method",
    ),
)
# What the shell and Ansible say of a host without a suitable Python: (pattern, cause, cure).
_PYTHON = (
    (
        r"/usr/bin/python\S*: (No such file|not found)|interpreter .* not found",
        "there is no Python on the host",
        "install python3 there: apt-get install python3",
    ),
    # Must be last: Ansible prints this for other failures too.
    (
        r"No start of json char found|Module result deserialization failed",
        "the Python on the host is not one that this ansible-core manages",
        "Ubuntu 16.04 and 18.04 need ansible-core 2.16: install gpuprov with its extra xenial (README, Install)",
    ),
)
# What ssh says, and what it means: (pattern, cause, cure).
_UNREACHABLE = (
    (
        r"connect to host (\S+) port (\d+): Connection refused",
        r"connection refused by \1 port \2",
        "see that sshd runs there, and that ansible_host and ansible_port are right",
    ),
    (
        r"connect to host (\S+) port (\d+): (?:Connection|Operation) timed out",
        r"no answer from \1 port \2",
        "see that the host is on, and that no firewall is in between",
    ),
    (
        r"connect to host (\S+) port (\d+): No route to host",
        r"no route to \1",
        "see that the host is on, and that this machine has a way to its network",
    ),
    (
        r"Could not resolve hostname ([^\s:]+)",
        r"the name \1 cannot be resolved",
        "correct it, or give the address as ansible_host",
    ),
    (
        r"open failed: connect failed: ([^\r\n]+)",
        r"the bastion does not reach the host: \1",
        "log in to the bastion, and try the host from there",
    ),
    (
        r"(?:kex|ssh)_exchange_identification: ",
        "the host, or a bastion before it, ended every login before it began",
        "check that it is sshd which listens there; if so, use fewer --forks, or raise its MaxStartups",
    ),
    (
        r"Host key for (\S+) has changed",
        r"the host key of \1 has changed",
        r"if it was installed anew: ssh-keygen -R '\1', and log in once with ssh; if not, find out who answers there",
    ),
    (
        r"Host key verification failed",
        "the host key is not known",
        "log in once with ssh; compare the key that it shows with /etc/ssh/ssh_host_*_key.pub there (ssh-keygen -lf)",
    ),
    (
        r"(Permission denied \([^)]*\))",
        r"\1",
        "log in as another account (-u), with its key (--private-key) or a password (-k)",
    ),
    (r"Connection timed out", "no answer within the time allowed", "see that the host is on, and not overloaded"),
)
_NO_HOSTS = "the inventory names no hosts: each is a line of its own, without ; or # before it"
_NAMED = re.compile(r"(?:Missing|Incorrect) (\S+) password|(?:^|: )(sudo|su|doas): ", re.MULTILINE)


def not_root(text: str) -> tuple[str, str] | None:
    """Return (cause, cure) of a failure to become root, given what was said, or None for another failure."""
    for pattern, cause, cure in _BECOME:
        if re.search(pattern, text, re.IGNORECASE):
            named = _NAMED.search(text)
            program = (named.group(1) or named.group(2)).rpartition(".")[2] if named else "sudo"
            return cause.format(program), cure.format(program, _PASSWORDLESS.get(program, "log in as root"))
    return None


def unreachable(result: dict[str, Any]) -> tuple[str, str]:
    """Return (cause, cure) of a host that could not be reached, given the result of a task."""
    text = result.get("msg", "")
    for pattern, words, cure in _UNREACHABLE:
        match = re.search(pattern, text)
        if match:
            return match.expand(words), match.expand(cure)
    said = text.removeprefix("Task failed: ").removeprefix("Failed to connect to the host via ssh:").strip()
    return said or "ssh ended without a message", ""


def failed(result: dict[str, Any]) -> tuple[str, str]:
    """Return (cause, cure) of a failed task, given its result. The cure is "" where the cause says enough."""
    if "censored" in result:
        return "the task keeps its output to itself (no_log)", ""
    for item in result.get("results") or []:
        if isinstance(item, dict) and item.get("failed"):
            return failed(item)
    text = {
        name: str(result.get(name) or "").strip()
        for name in ("msg", "stderr", "module_stderr", "stdout", "module_stdout")
    }
    said = "\n".join(text.values())
    python = ((cause, cure) for pattern, cause, cure in _PYTHON if re.search(pattern, said))
    known = not_root(said) or next(python, None)
    if known:
        return known
    message, of_module = text["msg"], text["module_stderr"] or text["module_stdout"]
    if message.startswith("MODULE FAILURE") and of_module:
        message = of_module.splitlines()[-1]
    if message in ("", "non-zero return code", "MODULE FAILURE"):
        # With a terminal, stderr holds only the last line of ssh itself.
        stderr = re.sub(r"^Shared connection to \S+ closed\.\s*$", "", text["stderr"], flags=re.M).strip()
        message = stderr or text["stdout"] or message or "it failed without a message"
    message = re.sub(r"^((Task|Module|Action) failed: )+", "", message)
    if "Traceback (most recent call last)" in message:
        message = message.splitlines()[-1]
    return message, ""


def not_begun(output: Iterable[str], limit: str | None) -> str:
    """Return in one line why Ansible did not get as far as a host, given its output."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in output]
    text = " ".join(line for line in lines if line)
    # ansible-core 2.16 says "Failed to parse PATH with ini plugin: …", newer ones "inventory with 'ini' plugin".
    match = re.search(
        r"Failed to parse (\S+) with '?\w+'? plugin: (.+?)(?= Failed to parse| \[WARNING\]| \[ERROR\]| ERROR!|$)", text
    )
    if match:
        origin = re.search(r"Origin: (/\S+)", text)
        path = match.group(1) if match.group(1) != "inventory" else origin.group(1) if origin else ""
        reason = re.sub(r"^(?:Failed to parse inventory|YAML parsing failed): ", "", match.group(2))
        return f"the inventory {path} cannot be read: {reason.removeprefix(f'{path}:')}"
    if "no hosts to target" in text or "Could not match supplied host pattern" in text:
        return f"no host of the inventory matches --limit {limit}" if limit else _NO_HOSTS
    errors = [line for line in lines if re.match(r"(\[?ERROR\]?[:!]?|fatal:)", line)]
    if not errors and ("no hosts matched" in text or "provided hosts list is empty" in text):
        return _NO_HOSTS
    return [*errors, *lines[-1:], "ansible-playbook did not start"][0]
