"""Write the result of a run to files for other programs: each format is a pure function of the JSON document."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gpuprov.options import Options, UsageError
from gpuprov.page import page

# {the option: the format's function}
_FORMATS: dict[str, Callable[[dict[str, Any]], str]] = {"html": page}


def write(options: Options, document: dict[str, Any]) -> None:
    """Write the files that the options ask for. Raises UsageError."""
    for name, text in _FORMATS.items():
        path: Path | None = getattr(options, name)
        if path:
            _replace(path.expanduser(), text(document))


def _replace(path: Path, text: str) -> None:
    """Write a file at once: a reader finds the former text or all of the new one."""
    try:
        # A link stays; a device or a pipe cannot be replaced.
        path = path.resolve()
        new = path.with_name(f".{path.name}.{os.getpid()}") if path.is_file() or not path.exists() else path
        new.write_text(text, encoding="utf-8")
        if new != path:
            new.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None
