"""Show the progress of image transfers: a bar per host and one for all, or a line every few seconds."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from gpuprov.display import Live, Plain
from gpuprov.shared import plugin_utils

_text: Any = plugin_utils("image_text")
_progress: Any = plugin_utils("transfer_progress")

# Seconds between two lines about one transfer, without a terminal.
EVERY = 5.0


def text_of(transfer: Any, now: float) -> str:
    """Describe a transfer in one line: bytes done, total, rate and remaining time."""
    done, total, size = transfer.done, transfer.total, _text.size_text
    head = f"{transfer.label}: {transfer.what}"
    if total and done >= total:
        return f"{head} {size(done)}: all of it is there, and is unpacked"
    rate = done / max(now - transfer.begun, 0.1)
    parts = [f"{size(done)} of {size(total)}" if total else size(done), f"{size(int(rate))}/s"]
    if rate and total > done:
        parts.append(f"{(total - done) / rate:.0f} s left")
    return f"{head} {', '.join(parts)}"


class Lines(Plain):
    """Print a line every few seconds about each longer transfer."""

    def __init__(self, stream: Any, directory: Path) -> None:
        super().__init__(stream)
        self.directory = directory
        self.over = threading.Event()

    def __enter__(self) -> Lines:
        self.thread = threading.Thread(target=self._tell, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _tell(self) -> None:
        told: dict[tuple[str, str], float] = {}
        while not self.over.wait(0.5):
            now = time.time()
            for one in _progress.read(self.directory):
                if not one.ended and now - told.setdefault((one.what, one.label), one.begun) >= EVERY:
                    told[(one.what, one.label)] = now
                    self.say(text_of(one, now))


class Bars(Live):
    """Show a bar for each running transfer, and one for all sending."""

    def __init__(self, stream: Any, directory: Path) -> None:
        super().__init__(stream)
        self.directory = directory
        self.tasks: dict[tuple[str, str], Any] = {}

    @functools.cached_property
    def bars(self) -> Any:
        """Return the bars, which are drawn as part of Live."""
        from rich import progress

        return progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.DownloadColumn(),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
            console=self.console,
            auto_refresh=False,
        )

    def _bar(self, key: tuple[str, str], done: int, total: int, visible: bool) -> None:
        if key not in self.tasks:
            self.tasks[key] = self.bars.add_task(" ".join(key), total=total or None)
        self.bars.update(self.tasks[key], completed=done, total=total or None, visible=visible)

    def _render(self) -> Any:
        found = _progress.read(self.directory)
        room = max(self.console.height - 4, 3)
        busy = [one for one in found if not one.ended]
        for one in found:
            self._bar((one.label, one.what), one.done, one.total, one in busy[:room])
        sent = [one for one in found if one.what == "sending"]
        if sent:
            self._bar(("all", "hosts"), sum(one.done for one in sent), sum(one.total for one in sent), bool(busy))
        if busy:
            return self.bars.get_renderable()
        return super()._render()


@contextlib.contextmanager
def transfers(stream: TextIO) -> Iterator[Plain]:
    """Yield the display that fits a stream, for one run."""
    with tempfile.TemporaryDirectory(prefix="gpuprov-progress-") as name:
        os.environ["GPUPROV_PROGRESS"] = name
        try:
            yield Bars(stream, Path(name)) if stream.isatty() else Lines(stream, Path(name))
        finally:
            del os.environ["GPUPROV_PROGRESS"]
