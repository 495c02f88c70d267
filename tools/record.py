"""Record a run on lab hosts as docs/demo.svg: ``./dev record``. The text is what gpuprov printed.

Record it again when tests/unit/test_forge.py says that it is old: when a pin moved.
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
COMMANDS = (("plan",), ("provision",), ("plan",))
WIDTH = 100


def main(arguments: list[str]) -> int:
    """Run the commands on the hosts of an inventory and write the picture; return an exit status."""
    inventory = arguments[0]
    program = Path(sys.executable).with_name("gpuprov")
    text = ""
    for words in COMMANDS:
        done = subprocess.run(
            [str(program), *words, inventory],
            env={**os.environ, "COLUMNS": str(WIDTH), "FORCE_COLOR": "1"}, cwd=ROOT, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        text += f"$ gpuprov {' '.join(words)} hosts.ini\n{done.stdout}\n"
        if done.returncode not in (0, 2):
            print(text, file=sys.stderr)
            return done.returncode
    PICTURE.write_text(svg(text), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))
    return 0


def svg(text: str) -> str:
    """Return terminal output, with its colours, as an SVG that fetches nothing."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(text.rstrip("\n")))
    picture = console.export_svg(title="gpuprov", unique_id="gpuprov")
    # rich has fonts fetched from a content delivery network.
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
