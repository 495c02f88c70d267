"""``gpuprov init``: write a commented inventory to start from."""

from __future__ import annotations

import contextlib
import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument

from gpuprov.options import UsageError
from gpuprov.shared import ansible_root

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def init(directory: Annotated[Path, Argument(metavar="[DIR]", help="Created if it is missing.")] = Path(".")) -> None:
    """Write a commented inventory to start from.

    hosts.ini, with the hosts that ssh knows, and group_vars/all.yml. Overwrites nothing.
    """
    example, found = ansible_root() / "inventory", sorted(set(_hosts_of_ssh()))
    title = ["From your ssh configuration and known_hosts:"] if found else []
    known = "".join(f"; {line}\n" for line in title + found)
    # The example's hosts become comments: nothing is provisioned that a person did not name.
    hosts = re.sub(r"^(?=[a-z])", "; ", (example / "hosts.ini").read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = {
        "hosts.ini": hosts.replace("[gpu]\n", f"[gpu]\n{known}", 1),
        "group_vars/all.yml": (example / "group_vars/all.yml").read_text(encoding="utf-8"),
    }
    for name, text in texts.items():
        typer.echo(f"{'written' if _write(directory / name, text) else 'kept as it is'}: {directory / name}")
    hosts_file = directory / "hosts.ini"
    typer.echo(
        f"Next: name your hosts in {hosts_file} ({len(found)} that ssh knows are there as comments: remove the ;), then"
        f"\n  gpuprov plan {hosts_file}       # shows what would change; changes nothing"
        f"\n  gpuprov provision {hosts_file}"
    )


def _write(path: Path, text: str) -> bool:
    """Write a new file, and return whether it was new. Raises UsageError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # O_EXCL: neither an existing file nor the target of a link is touched.
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        if path.parent.is_dir():
            return False
        raise UsageError(f"{path.parent} is not a directory") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
    return True


def _hosts_of_ssh() -> Iterator[str]:
    """Yield each host that ~/.ssh/config and known_hosts name; not patterns and hashed names."""
    ssh = Path.home() / ".ssh"
    for keyword, names in _ssh_config(ssh / "config"):
        if keyword == "host":
            yield from (name for name in names if _NAME.fullmatch(name))
    for line in _lines(ssh / "known_hosts"):
        name, _, port = line.split(",")[0].split(" ")[0].strip("[").partition("]:")
        if _NAME.fullmatch(name):
            yield f"{name} ansible_port={port}" if port.isdecimal() else name


def _ssh_config(file: Path, depth: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Yield (keyword in lower case, values) of each line, with the files that Include names."""
    for line in _lines(file):
        keyword, *values = line.replace("=", " ").split() or [""]
        if keyword.lower() == "include" and depth < 16:  # ssh's own limit
            for name in values:
                for path in sorted(glob.glob(str(Path.home() / ".ssh" / Path(name).expanduser()))):
                    yield from _ssh_config(Path(path), depth + 1)
        else:
            yield keyword.lower(), values


def _lines(file: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    return []
