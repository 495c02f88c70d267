"""Show progress during a run: a live line per host on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from gpuprov.report import MANY, progress_text, screen_lines, steps_done
from gpuprov.result import Host, Run
from gpuprov.shared import plugin

_progress = plugin("plugin_utils/images/transfer_progress")


# (pattern, style of rich) on a terminal. What a colour says, a word says too.
_STYLES = (
    (r"(?m)^  .*?  (?P<new>\+ .*)$", "green"),
    (r"(?m)^  .*?  (?P<gone>- .*)$", "red"),
    (r"\((?:reload|restart)\)|\b(?:reload|restart) needed\b|\bnot reached\b|\binterrupted\b", "yellow"),
    (r"(?m)^(?:\S.*?: |\S.*  )(?:failed|unreachable)(?:: | at: ).*$|\bNO\b|  (?:failed|unreachable)\b", "red"),
    (r"(?m)^  error \S+:|\b[1-9]\d* (?:failed|unreachable)\b", "red"),
    (r"(?m)^  warning \S+:", "yellow"),
    (r"(?m)^  (?:What to do|  cure): |^(?:Plan|Doctor): .*$|^host  .*$|^step  .*$", "bold"),
)


def painted(text: str) -> Any:
    """Return text with colours for a terminal: rich leaves them out where NO_COLOR is set or the terminal has none."""
    from rich.text import Text

    shown = Text(text)
    for pattern, style in _STYLES:
        for match in re.finditer(pattern, text):
            shown.stylize(style, *match.span(match.lastgroup or 0))
    return shown


def show(stream: Any, text: str) -> None:
    """Print text, with colours on a terminal."""
    if stream.isatty():
        from rich.console import Console

        Console(file=stream, highlight=False).print(painted(text), end="", soft_wrap=True)
    else:
        stream.write(text)
    stream.flush()


class Plain:
    """Print plain lines, for pipes and logs. brief: with many hosts, no line for each host that was changed."""

    def __init__(self, run: Run, stream: Any, brief: bool = False) -> None:
        self.run, self.stream, self.brief = run, stream, brief
        self.said = ""

    def say(self, text: str) -> None:
        """Print a line."""
        print(text, file=self.stream, flush=True)

    def update(self, what: str, host: Host) -> None:
        """Print a line if the host was changed, failed or is unreachable, and then how far the run is."""
        many = self.brief and max(len(self.run.names), len(self.run.by_name)) > MANY
        if what == "changed" and not many:
            for done in steps_done(host) or [host.doing]:
                self.say(f"{host.name}: {'would change' if self.run.options.check else 'changed'}: {done}")
        self.tell_failure(what, host)
        if what != "start" and (many or host.applying):
            word, through, total, _failures = self.run.progress()
            # Of many hosts, each twentieth part of the way is a line.
            said = f"{word} {20 * through // total if many else through}"
            if word and said != self.said:
                self.said = said
                self.say(progress_text(self.run))

    def tell_failure(self, what: str, host: Host) -> None:
        """Print a line if the host has just failed or is unreachable."""
        if what == host.failure and host.error:
            self.say(f"{host.name}: {what}: {host.error['message'].splitlines()[0]}")


class Live(Plain):
    """Show how far the run is and the slowest hosts, as many as fit on the terminal, or a bar for each transfer.

    directory: the temporary directory of the run.
    """

    def __init__(self, run: Run, stream: Any, directory: Path) -> None:
        super().__init__(run, stream)
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
        self.live.console.print(painted(text))

    def update(self, what: str, host: Host) -> None:
        self.tell_failure(what, host)

    def _render(self) -> Any:
        from rich.text import Text

        width, height = self.console.size
        return self._bars() or Text("\n".join(screen_lines(self.run, time.monotonic(), width, height - 2)))

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
