"""Whose mark is on a host, and whether that run is over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import run_mark


@pytest.fixture
def alive() -> Iterator[int]:
    """The number of a process that runs."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def of(process: int, **more: Any) -> dict[str, Any]:
    return {**run_mark.mark("run-1", process, "alice", "ci-3"), **more}


def test_what_a_login_shell_says_is_no_part_of_the_answer() -> None:
    assert run_mark.answer("WELCOME\r\nbeware\r\ngpuprov-lock\r\nheld\r\ngone\r\n{}\r\n") == ["held", "gone", "{}"]


def test_the_mark_of_a_living_run_of_this_machine_stands_whatever_became_of_its_connection(alive: int) -> None:
    assert not run_mark.is_stale(of(alive), session_open=False)


def test_the_mark_of_a_dead_run_of_this_machine_is_stale_though_its_connection_is_open(alive: int) -> None:
    assert run_mark.is_stale(of(alive, pid=2**22 + 1), session_open=True)
    assert run_mark.is_stale(of(alive, start="1"), session_open=True)  # another process has its number


@pytest.mark.parametrize("session_open", [True, False])
def test_a_mark_of_another_machine_stands_while_its_connection_does(session_open: bool) -> None:
    elsewhere = of(os.getpid(), place="another boot pid:[1]")
    assert run_mark.is_stale(elsewhere, session_open=session_open) is not session_open


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
def test_a_mark_that_cannot_be_read_is_somebodys(text: str) -> None:
    assert run_mark.sentence(run_mark.read(text), 60.0).startswith("somebody on another machine")
    assert run_mark.is_stale(run_mark.read(text), session_open=False)


@pytest.mark.parametrize(("seconds", "words"), [(5, "for 5 s"), (-3, "for 0 s"), (600, "for 10 min")])
def test_people_are_told_who_it_is_and_since_when(seconds: int, words: str) -> None:
    other = run_mark.read(json.dumps(of(77, since=1_700_000_000)))
    text = run_mark.sentence(other, 1_700_000_000 + seconds)
    assert text.startswith("alice on ci-3 (process 77) has been at this host since 2023-11-14 22:13:20 UTC, " + words)


def test_a_zombie_does_not_run() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        while Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z":
            pass
        assert run_mark.start_of(process.pid) == ""
