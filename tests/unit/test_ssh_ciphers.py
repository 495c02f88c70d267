"""Of the ciphers that a person's ssh may take, the one that costs least comes first."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible import constants
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ssh_ciphers

DEFAULT = "chacha20-poly1305@openssh.com,aes128-ctr,aes128-gcm@openssh.com,aes256-gcm@openssh.com"


@pytest.fixture(autouse=True)
def processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path))
    monkeypatch.setattr(ssh_ciphers, "_has_aes", lambda: True)


def ssh(directory: Path, says: str) -> list[bytes]:
    """The words of an ssh that answers -G with this, and is asked with the same options as it is started with."""
    program = directory / "ssh"
    program.write_text(f'#!/bin/sh\n[ "$*" = "-G -p 2222 gpu01" ] || exit 255\n{says}\n')
    program.chmod(0o755)
    return [str(program).encode(), b"-p", b"2222", b"gpu01", b"/bin/sh -c true"]


def test_aes_comes_first_where_it_may_be_taken_and_nothing_is_added(tmp_path: Path) -> None:
    words = ssh(tmp_path, f"printf 'user me\\nciphers {DEFAULT}\\n'")
    wanted = b"Ciphers=aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr"
    assert ssh_ciphers.preferring_aes(words) == [words[0], b"-o", wanted, *words[1:]]


@pytest.mark.parametrize(
    "says",
    [
        "echo ciphers aes256-ctr,chacha20-poly1305@openssh.com",  # the person's choice
        "echo ciphers aes256-gcm@openssh.com,chacha20-poly1305@openssh.com",
        "echo 'unknown option -- G' >&2; exit 255",
        "echo user me",
    ],
)
def test_other_ssh_is_started_as_it_would_be(tmp_path: Path, says: str) -> None:
    words = ssh(tmp_path, says)
    assert ssh_ciphers.preferring_aes(words) == words


def test_a_processor_without_aes_gets_what_openssh_prefers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_ciphers, "_has_aes", lambda: False)
    words = ssh(tmp_path, f"echo ciphers {DEFAULT}")
    assert ssh_ciphers.preferring_aes(words) == words
