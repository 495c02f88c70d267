"""``python -m gpuprov``."""

from gpuprov.cli import main

main()
