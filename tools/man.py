"""Write the man pages from the command line: gpuprov(1), and gpuprov-COMMAND(1) for each command."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from gpuprov.cli import app

MAN = Path(__file__).resolve().parents[1] / "build/man"


def write() -> None:
    """Write the pages into build/man, where a wheel takes them from."""
    if MAN.exists():
        shutil.rmtree(MAN)
    MAN.mkdir(parents=True)
    for name, text in man_pages().items():
        (MAN / name).write_text(text, encoding="utf-8")


def man_pages() -> dict[str, str]:
    """Return {file name: text in man's macros}."""
    return {f"{name.replace(' ', '-')}.1": _man(name, command) for name, command in _commands("gpuprov", None)}


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(app)
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from _commands(f"{name} {word}", below)


def _man(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=name)
    paragraphs = (command.help or "").strip().split("\n\n")
    title = name.replace(" ", "-")
    lines = [f'.TH "{title.upper()}" "1" "" "gpuprov" "User Commands"', ".SH NAME"]
    lines += [f"{_escaped(title)} \\- {_escaped(_line(paragraphs[0]).rstrip('.'))}", ".SH SYNOPSIS"]
    lines += [
        f"\\fB{_escaped(name)}\\fP {_escaped(' '.join(command.collect_usage_pieces(context)))}",
        ".SH DESCRIPTION",
    ]
    for paragraph in [*paragraphs, command.epilog or ""]:
        lines += [_escaped(_line(paragraph)), ".PP"] if paragraph else []
    records = [record for one in command.get_params(context) if (record := one.get_help_record(context))]
    lines += [".SH OPTIONS", *_entries(records)]
    below = [(f"{title}-{word}(1)", _line((one.help or "").split("\n\n")[0])) for word, one in _below(command)]
    return "\n".join([*lines, *([".SH COMMANDS", *_entries(below)] if below else [])]) + "\n"


def _below(command: Any) -> list[tuple[str, Any]]:
    return list(getattr(command, "commands", {}).items())


def _entries(records: list[tuple[str, str]]) -> list[str]:
    return [line for name, text in records for line in (".TP", f"\\fB{_escaped(name)}\\fP", _escaped(_line(text)))]


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _escaped(text: str) -> str:
    """Return text that man shows as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = re.sub(r"[^\x00-\x7f]", lambda match: f"\\[u{ord(match[0]):04X}]", text)
    return f"\\&{text}" if text[:1] in (".", "'") else text
