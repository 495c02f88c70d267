"""Complete host and group names of --limit from the inventory on the command line. Prints nothing but names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

# Seconds that ansible-inventory may take for what is not a plain file.
_LIMIT = 5
_NOT_INVENTORY = {"group_vars", "host_vars"}


def limit_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the words that may complete a value of --limit: names of the inventory after the last separator."""
    before = incomplete.removesuffix(re.split("[,:&!]", incomplete)[-1])
    try:
        # Without a value after --limit nothing is parsed: ctx.args has the arguments, INVENTORY as the last.
        names = _names(ctx.params.get("inventory") or ctx.args[-1])
    except Exception:  # What is wrong with an inventory is said by the command, not while a person types.
        return []
    return sorted(before + name for name in {"all", *names} if name.startswith(incomplete[len(before) :]))


def _names(inventory: str) -> set[str]:
    """Return the names of hosts and groups. Raises anything where the inventory cannot be read."""
    if "," in inventory and not os.path.exists(inventory):
        return {name.strip() for name in inventory.split(",") if name.strip()}
    path = Path(inventory)
    files = [path] if path.is_file() else [one for one in path.iterdir() if one.name not in _NOT_INVENTORY]
    try:
        return {name for file in files for name in _of_file(file)}
    except ValueError:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "ansible-inventory"), "-i", inventory, "--list"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_LIMIT, check=True,
        )  # fmt: skip
        listed = json.loads(done.stdout)
        del listed["_meta"]
        return {*listed, *(host for group in listed.values() for host in group.get("hosts", []))}


def _of_file(file: Path) -> Iterator[str]:
    """Yield the names in an INI or YAML file. Raises ValueError where only Ansible can read it."""
    if not file.is_file() or os.access(file, os.X_OK):
        raise ValueError("a directory or a script")
    text = file.read_text(encoding="utf-8")
    if file.suffix in (".yml", ".yaml", ".json"):
        import yaml

        class Loader(yaml.SafeLoader):
            pass

        Loader.add_multi_constructor("!", lambda *_: None)  # !vault and the like
        yield from _of_groups(yaml.load(text, Loader))
        return
    section = ""
    for line in text.splitlines():
        header = re.match(r"\s*\[([^]:]+)(:\w+)?\]", line)
        if header:
            yield header[1]
            section = header[2] or ""
        elif line.strip() and line.lstrip()[0] not in "#;" and section in ("", ":children"):
            yield from _expanded(line.split()[0])


def _of_groups(groups: Any) -> Iterator[str]:
    if not isinstance(groups, dict) or "plugin" in groups:
        raise ValueError("a plugin's configuration")
    for name, group in groups.items():
        yield name
        for host in (group or {}).get("hosts") or {}:
            yield from _expanded(str(host))
        yield from _of_groups((group or {}).get("children") or {})


def _expanded(name: str) -> Iterator[str]:
    """Yield the names of a range such as gpu[01:16]. Raises ValueError for other forms than numbers."""
    before, bracket, rest = name.partition("[")
    if not bracket:
        yield re.sub(r":\d+$", "", name)
        return
    bounds, _, after = rest.partition("]")
    first, last, *step = bounds.split(":")
    for number in range(int(first), int(last) + 1, int(*step or (1,))):
        yield from _expanded(f"{before}{number:0{len(first)}}{after}")
