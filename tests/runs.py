"""The command line of gpuprov in this process, without ansible-runner."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpuprov.runner import Options, Outcome

Call = Callable[..., tuple[int, str, str]]  # the words of a command: (exit status, stdout, stderr)


class Runs:
    """Replaces gpuprov.runner.run: records each run and answers with these events."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Options, dict[str, str]]] = []
        self.events: list[dict[str, Any]] = []
        self.outcome = Outcome("successful", {}, [])

    def __call__(self, playbook: str, options: Options, on_event: Any, say: Any, passwords: Any) -> Outcome:
        self.calls.append((playbook, options, passwords))
        for event in self.events:
            on_event(event)
        return self.outcome
