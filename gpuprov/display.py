"""Show progress during a run: a live line per host on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from gpuprov.report import Host, progress_text, steps_done


class Plain:
    """Print plain lines, for pipes and logs."""

    def __init__(self, stream: Any, predicts: bool = False) -> None:
        self.stream = stream
        self.predicts = predicts
        self.hosts: dict[str, Host] = {}

    def __enter__(self) -> Plain:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=self.stream, flush=True)

    def update(self, what: str, host: Host) -> None:
        """Print a line if the host was changed, failed or is unreachable."""
        self.hosts[host.name] = host
        if what == "changed":
            for done in steps_done(host.steps) or [host.doing]:
                self.say(f"{host.name}: {'would change' if self.predicts else 'changed'}: {done}")
        elif what in ("failed", "unreachable") and host.error:
            self.say(f"{host.name}: {what}: {host.error['message'].splitlines()[0]}")
        if what != "start" and host.applying:
            self.say(progress_text(self.hosts.values()))


class Live(Plain):
    """Show one line for each active host, as many as fit on the terminal."""

    def __enter__(self) -> Live:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.console = Console(file=self.stream, highlight=False)
        self.live = RichLive(
            console=self.console,
            get_renderable=self._render,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )
        self.live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.__exit__(None, None, None)

    def say(self, text: str) -> None:
        self.live.console.print(text, markup=False, emoji=False, highlight=False)

    def update(self, what: str, host: Host) -> None:
        self.hosts[host.name] = host
        if what in ("failed", "unreachable") and host.error:
            self.say(f"{host.name}: {what}: {host.error['message'].splitlines()[0]}")

    def _render(self) -> Any:
        from rich.text import Text

        progress = progress_text(self.hosts.values())
        lines = [progress] if progress else []
        room = max(self.console.height - 3 - len(lines), 3)
        busy = [host for host in list(self.hosts.values()) if not host.error and not host.steps]
        # Hosts with nothing to change are not at work any more.
        busy = [host for host in busy if host.applying or not progress]
        width = max((len(host.name) for host in busy), default=0)
        lines += [
            f"{host.name:<{width}}  {time.monotonic() - host.began:4.0f} s  {host.doing}"[: self.console.width - 1]
            for host in busy[:room]
        ]
        if len(busy) > room:
            lines.append(f"… and {len(busy) - room} more")
        return Text("\n".join(lines))


def display(stream: Any = None, predicts: bool = False) -> Plain:
    """Return the display that fits a stream. predicts: the run is a check that changes nothing."""
    stream = stream or sys.stderr
    return Live(stream, predicts) if stream.isatty() else Plain(stream, predicts)
