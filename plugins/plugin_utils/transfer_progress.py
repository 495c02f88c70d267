# SPDX-License-Identifier: MIT
"""Tells gpuprov how far a transfer is: a small file for each, in the directory that GPUPROV_PROGRESS names."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

# Seconds between two words.
_EVERY = 0.2


class Progress:
    """How far a transfer is. total is 0 where nobody knows it."""

    def __init__(self, what: str, label: str, total: int = 0) -> None:
        place = os.environ.get("GPUPROV_PROGRESS")
        self._path = Path(place, f"{what}-{label}.json".replace("/", "-")) if place else None
        self._said = {"what": what, "label": label, "begun": time.time()}
        self._lock = threading.Lock()
        self._told = 0.0
        self.done, self.total = 0, total

    def __enter__(self) -> Progress:
        self._tell(ended=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._tell(ended=True)

    def add(self, count: int) -> None:
        """So many bytes more went their way."""
        with self._lock:
            self.done += count
            if time.monotonic() - self._told >= _EVERY:
                self._told = time.monotonic()
                self._tell(ended=False)

    def counted(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        """The same blocks, each added when it is taken."""
        for block in blocks:
            self.add(len(block))
            yield block

    def _tell(self, ended: bool) -> None:
        if self._path is not None:
            said = {**self._said, "done": self.done, "total": self.total, "ended": ended}
            new = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            with contextlib.suppress(OSError):
                new.write_text(json.dumps(said), encoding="utf-8")
                new.rename(self._path)
