# SPDX-License-Identifier: MIT
"""What a run leaves on the hosts that it works on, and whether such a run is alive still."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

_NOBODY = {
    "run": "",
    "account": "somebody",
    "machine": "another machine",
    "place": "",
    "pid": 0,
    "start": "",
    "since": 0,
}


def mark(run: str, pid: int, account: str, machine: str) -> dict[str, Any]:
    """Return the mark of a run: its id, its process on this machine, whose it is, and since when in epoch seconds."""
    return {
        "run": run,
        "account": account,
        "machine": machine,
        "place": place(),
        "pid": pid,
        "start": start_of(pid),
        "since": int(time.time()),
    }


def answer(output: str) -> list[str]:
    """Return the lines of lock.sh's answer, without what a login shell said before it."""
    lines = output.splitlines()
    return lines[lines.index("gpuprov-lock") + 1 :] if "gpuprov-lock" in lines else lines


def read(text: str) -> dict[str, Any]:
    """Return the mark in a text; one of somebody unknown where it is none."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    return {**_NOBODY, **found} if isinstance(found, dict) else dict(_NOBODY)


def is_stale(other: dict[str, Any], session_open: bool) -> bool:
    """Return whether the run of a mark is over, though its mark is there.

    session_open: whether the ssh connection is open on the host through which it was left.
    """
    if other["place"] and other["place"] == place():
        return not other["start"] or start_of(other["pid"]) != other["start"]
    return not session_open


def sentence(other: dict[str, Any], now: float) -> str:
    """Return who is at the host and since when; now in epoch seconds."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(other["since"]))
    seconds = max(int(now - other["since"]), 0)
    ago = f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
    return (
        f"{other['account']} on {other['machine']} (process {other['pid']}) has been at this host since {since}, "
        f"for {ago}; wait for that run with --wait, or stop it"
    )


def place() -> str:
    """Return what names the process numbers of this machine, or "" where the system does not say.

    Containers of one machine have the same boot, and numbers of their own.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def start_of(pid: int) -> str:
    """Return when a process began, in the kernel's ticks since boot, or "" where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *numbers = stat.rpartition(")")[2].split()
    return "" if state in ("Z", "X") else numbers[18]
