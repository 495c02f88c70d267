"""The lines of docker build's output that are shown."""

from __future__ import annotations

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images.build_output import Lines


def test_lines_are_shown_whole_and_the_rest_at_the_end() -> None:
    lines = Lines([])
    assert lines.take("one\ntw", ended=False) == ["one"]
    assert lines.take("o\n\nthr", ended=False) == ["two", ""]
    assert lines.take("ee", ended=True) == ["three"]
    assert lines.last == "three"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("10%\r50%\r100%\r", "100%"),
        ("\x1b[1;31mred\x1b[0m \x1b]0;title\x07end\x1b", "red end"),
        ("bell\x07 and \x9b31m", "bell and 31m"),
        ("a\tb \u00fc", "a\tb \u00fc"),
    ],
)
def test_what_a_terminal_would_act_on_is_taken_out(said: str, shown: str) -> None:
    assert Lines([]).take(said + "\n", ended=False) == [shown]


def test_secrets_are_taken_out_the_longest_first_and_short_ones_are_none() -> None:
    lines = Lines(["s3cr3t", "s3cr3t-and-more", "1"])
    assert lines.take("1 s3cr3t-and-more s3cr3t\n", ended=True) == ["1 *** ***"]


@pytest.mark.parametrize(
    "reason",
    [
        'ERROR: failed to build: failed to solve: process "/bin/sh -c exit 7" did not complete: exit code: 7',
        "failed to solve with frontend dockerfile.v0: failed to create LLB definition: no such host",
        "The command '/bin/sh -c exit 7' returned a non-zero code: 7",
        "ERROR: Cannot connect to the Docker daemon at unix:///var/run/docker.sock.",
        "error: unable to prepare context",
    ],
)
@pytest.mark.parametrize("pieces", [1, 2, 3])
def test_the_reason_of_a_failure_is_left_to_whoever_reports_it_however_it_comes(reason: str, pieces: int) -> None:
    lines = Lines([])
    said = [f"#3 ERROR: exit 7\n------\n{reason}\n", "\n", ""]
    text = ["".join(said[: 4 - pieces]), *said[4 - pieces :]]
    shown = [line for number, part in enumerate(text, 1) for line in lines.take(part, ended=number == len(text))]
    assert shown == ["#3 ERROR: exit 7", "------"]
    assert (lines.last, lines.held[0]) == (reason, reason)


def test_what_looked_like_a_reason_is_shown_once_more_comes() -> None:
    lines = Lines([])
    assert lines.take("an error is handled\n", ended=False) == []
    assert lines.take("\n", ended=False) == []
    assert lines.take("go on\n", ended=False) == ["an error is handled", "", "go on"]


def test_the_last_line_that_says_something_is_kept_for_the_end() -> None:
    lines = Lines([])
    lines.take("ERROR: no\n", ended=False)
    lines.take(" \n\n", ended=True)
    assert lines.last == "ERROR: no"
