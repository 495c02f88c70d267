# SPDX-License-Identifier: MIT
"""Progress of transfers: lines of Ansible's output, or files that gpuprov shows as bars.

The environment variable GPUPROV_PROGRESS names the directory for the files, one for each transfer.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..text import fleet

# Seconds between two writes of a file, and between two lines.
_EVERY, _LINES_EVERY = 0.2, 5.0


@dataclass
class Transfer:
    """Progress of a transfer in bytes. total is 0 where it is unknown; begun is in epoch seconds."""

    what: str
    label: str
    done: int
    total: int
    begun: float
    ended: bool = False


class Progress(Transfer):
    """The progress of a transfer of this process."""

    def __init__(self, what: str, label: str, total: int = 0) -> None:
        super().__init__(what, label, 0, total, time.time())
        directory = os.environ.get("GPUPROV_PROGRESS")
        self._path = Path(directory, f"{what}-{label}.json".replace("/", "-")) if directory else None
        self._written = time.monotonic()

    def __enter__(self) -> Progress:
        self._write()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True
        self._write()

    def counted(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the same blocks, and count each."""
        for block in blocks:
            self.done += len(block)
            if time.monotonic() - self._written >= (_EVERY if self._path else _LINES_EVERY):
                self._written = time.monotonic()
                self._write()
                if not self._path:
                    from ansible.utils.display import Display

                    Display().display(line(self, time.time()))
            yield block

    def _write(self) -> None:
        if self._path is not None:
            new = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            with contextlib.suppress(OSError):
                new.write_text(json.dumps(asdict(self)), encoding="utf-8")
                new.rename(self._path)


def line(transfer: Transfer, now: float) -> str:
    """Describe a transfer in one line: bytes done, total, rate and remaining time."""
    host, _space, part = transfer.label.partition(" ")
    done, total = transfer.done / 1e6, transfer.total / 1e6
    rate = done / max(now - transfer.begun, 0.1)
    words = [f"{done:.1f} of {total:.1f} MB" if total else f"{done:.1f} MB", f"{rate:.1f} MB/s"]
    if rate and total > done:
        words.append(f"{fleet.duration((total - done) / rate)} left")
    return f"{host} | {f'{transfer.what} {part}'.strip()}: {', '.join(words)}"


def read(directory: Path) -> list[Transfer]:
    """Return the transfers in a directory, the oldest first."""
    found = []
    for path in directory.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append(Transfer(**json.loads(path.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda one: (one.begun, one.label))
