"""The command line of gpuprov in this process, without ansible-runner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuprov.options import Options
from gpuprov.result import Run

Call = Callable[..., tuple[int, str, str]]  # the words of a command: (exit status, stdout, stderr)


class Runs:
    """Replaces gpuprov.runner.run: records each run and answers with these events."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Options, dict[str, str]]] = []
        self.events: list[dict[str, Any]] = []
        self.interrupted = False
        self.names: list[str] = []

    def __call__(self, run: Run, on_event: Any, say: Any, directory: Any) -> None:
        self.calls.append((run.playbook, run.options, run.options.passwords))
        run.names = self.names
        for event in self.events:
            run.output += (event.get("stdout") or "").splitlines()
            on_event(event)
        run.complete, run.interrupted = True, self.interrupted
