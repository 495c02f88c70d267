# SPDX-License-Identifier: MIT
"""Explain in people's words why a host could not be used. Imports nothing of the collection."""

from __future__ import annotations

import re

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
        "Ubuntu 16.04 and 18.04 need ansible-core 2.16: install gpuprov with its extra xenial (README, What it needs)",
    ),
)
# What ssh says, and what it means.
_UNREACHABLE = (
    (r"connect to host (\S+) port (\d+): Connection refused", r"connection refused by \1 port \2"),
    (r"connect to host (\S+) port (\d+): (?:Connection|Operation) timed out", r"no answer from \1 port \2"),
    (r"connect to host (\S+) port (\d+): No route to host", r"no route to \1"),
    (r"Could not resolve hostname ([^\s:]+)", r"the name \1 cannot be resolved"),
    (
        r"Host key verification failed",
        "the host key is not known, or has changed: check it, then put it into known_hosts",
    ),
    (r"(Permission denied \([^)]*\))", r"\1: see -u and --private-key, or -k for a password"),
    (r"Connection timed out", "no answer within the time allowed"),
)
_NAMED = re.compile(r"(?:Missing|Incorrect) (\S+) password|(?:^|: )(sudo|su|doas): ", re.MULTILINE)


def not_root(text: str) -> tuple[str, str] | None:
    """Return (cause, cure) of a failure to become root, given what was said, or None for another failure."""
    for pattern, cause, cure in _BECOME:
        if re.search(pattern, text, re.IGNORECASE):
            named = _NAMED.search(text)
            program = (named.group(1) or named.group(2)).rpartition(".")[2] if named else "sudo"
            return cause.format(program), cure.format(program, _PASSWORDLESS.get(program, "log in as root"))
    return None


def explain(text: str) -> tuple[str, str] | None:
    """Return (cause, cure) of a failure to become root or to run Python, or None for another failure."""
    python = ((cause, cure) for pattern, cause, cure in _PYTHON if re.search(pattern, text))
    return not_root(text) or next(python, None)


def unreachable(text: str) -> str:
    """Return why a host could not be reached, given what Ansible says of it."""
    for pattern, words in _UNREACHABLE:
        match = re.search(pattern, text)
        if match:
            return match.expand(words)
    said = text.removeprefix("Task failed: ").removeprefix("Failed to connect to the host via ssh:").strip()
    return said or "ssh ended without a message"
