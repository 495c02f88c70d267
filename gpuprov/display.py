"""Show progress during a run: a live line per host on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from gpuprov.report import progress_text, steps_done
from gpuprov.result import Host
from gpuprov.shared import plugin

_progress = plugin("plugin_utils/images/transfer_progress")


class Plain:
    """Print plain lines, for pipes and logs. predicts: the run changes nothing."""

    def __init__(self, stream: Any, predicts: bool = False) -> None:
        self.stream = stream
        self.predicts = predicts
        self.hosts: dict[str, Host] = {}

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=self.stream, flush=True)

    def update(self, what: str, host: Host) -> None:
        """Print a line if the host was changed, failed or is unreachable."""
        self.hosts[host.name] = host
        if what == "changed":
            for done in steps_done(host) or [host.doing]:
                self.say(f"{host.name}: {'would change' if self.predicts else 'changed'}: {done}")
        self.tell_failure(what, host)
        if what != "start" and host.applying:
            self.say(progress_text(self.hosts.values()))

    def tell_failure(self, what: str, host: Host) -> None:
        """Print a line if the host has just failed or is unreachable."""
        if what == host.failure and host.error:
            self.say(f"{host.name}: {what}: {host.error['message'].splitlines()[0]}")


class Live(Plain):
    """Show a line for each active host, as many as fit on the terminal, or a bar for each running transfer.

    directory: the temporary directory of the run.
    """

    def __init__(self, stream: Any, directory: Path) -> None:
        super().__init__(stream)
        self.transfers = directory / "progress"  # ansible-playbook writes there
        self.transfers.mkdir()

    def __enter__(self) -> Live:
        from rich.console import Console
        from rich.live import Live as RichLive

        self.console = Console(file=self.stream, highlight=False)
        self.live = RichLive(
            console=self.console, get_renderable=self._render, refresh_per_second=4, transient=True,
            redirect_stdout=False,
        )  # fmt: skip
        self.live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.__exit__(None, None, None)

    def say(self, text: str) -> None:
        self.live.console.print(text, markup=False, emoji=False, highlight=False)

    def update(self, what: str, host: Host) -> None:
        self.hosts[host.name] = host
        self.tell_failure(what, host)

    def _render(self) -> Any:
        return self._bars() or self._hosts()

    def _hosts(self) -> Any:
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

    def _bars(self) -> Any:
        """Return a bar for each running transfer and one for all sending, or None where nothing is transferred."""
        from rich.progress_bar import ProgressBar
        from rich.table import Column, Table

        found = _progress.read(self.transfers)
        running = [one for one in found if not one.ended][: max(self.console.height - 4, 3)]
        sent = [one for one in found if one.what == "sending"]
        if running and sent:
            done, total, begun = (sum(one.done for one in sent), sum(one.total for one in sent), sent[0].begun)
            running.append(_progress.Transfer("sending", "all", done, total, begun))
        table = Table.grid(Column(), Column(no_wrap=True), padding=(0, 1))
        for one in running:
            bar = ProgressBar(total=one.total or None, completed=one.done, width=20)
            table.add_row(bar, _progress.line(one, time.time()))
        return table if running else None
