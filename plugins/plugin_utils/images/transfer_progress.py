# SPDX-License-Identifier: MIT
"""Progress of transfers, a file for each in the directory that GPUPROV_PROGRESS names. gpuprov displays them."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

# Seconds between two writes.
_EVERY = 0.2


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
        self._written = 0.0

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
            if time.monotonic() - self._written >= _EVERY:
                self._write()
            yield block

    def _write(self) -> None:
        self._written = time.monotonic()
        if self._path is not None:
            new = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            with contextlib.suppress(OSError):
                new.write_text(json.dumps(asdict(self)), encoding="utf-8")
                new.rename(self._path)


def read(directory: Path) -> list[Transfer]:
    """Return the transfers in a directory, the oldest first."""
    found = []
    for path in directory.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append(Transfer(**json.loads(path.read_text(encoding="utf-8"))))
    return sorted(found, key=lambda one: (one.begun, one.label))
