"""Record a run on lab hosts as docs/demo.svg: ``./dev record``. The text is what gpuprov printed on a terminal.

Record it again when tests/unit/test_pages.py says that it is old: when a pin moved.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs/demo.svg"
WIDTH, HEIGHT = 88, 200
# Each command as a person sees it; the last statuses are 0, and 2 where a plan has changes.
SCRIPT = """
cd "$1" && for command in provision plan; do
  printf '\\033[1m$ gpuprov %s hosts.ini\\033[0m\\n' "$command"
  gpuprov "$command" hosts.ini
  status=$?
  printf '\\n'
done
tmux -L "$2" wait-for -S "status-$status"
sleep 60
"""


def main(arguments: list[str]) -> int:
    """Run the commands on the hosts of an inventory, in a terminal of tmux, and write the picture."""
    directory, server = Path(arguments[0]).parent, f"gpuprov-record-{os.getpid()}"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TERM": "xterm-256color",
    }
    environment.pop("NO_COLOR", None)

    def tmux(*words: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", server, *words], env=environment, text=True, capture_output=True, check=True
        )
        return done.stdout

    size = ("-x", str(WIDTH), "-y", str(HEIGHT))
    tmux("-f", os.devnull, "new-session", "-d", *size, "sh", "-c", SCRIPT, "sh", str(directory), server)
    try:
        # Only a last plan without changes is a demonstration.
        tmux("wait-for", "status-0")
        text = tmux("capture-pane", "-e", "-p")
    finally:
        tmux("kill-server")
    PICTURE.write_text(svg(text), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))
    return 0


def svg(text: str) -> str:
    """Return terminal output, with its colours, as an SVG that fetches nothing."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text.rstrip()))
    picture = console.export_svg(title="gpuprov", unique_id="gpuprov")
    # rich has fonts fetched from a content delivery network.
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
