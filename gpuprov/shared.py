"""Find the playbooks, and load the pure functions that gpuprov shares with the collection."""

from __future__ import annotations

import functools
import importlib
import sys
from pathlib import Path
from types import ModuleType

_PLUGINS = "gpuprov._plugins"


def ansible_root() -> Path:
    """Return the directory with playbooks/ and ansible.cfg: in the installed package, or the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "ansible"
    return installed if installed.is_dir() else package.parent


@functools.cache
def plugin(path: str) -> ModuleType:
    """Return the module plugins/PATH.py, which imports nothing else of the collection but by relative imports."""
    # Under a name of our own: an `ansible` package beside gpuprov would hide our collection from a plain import.
    if _PLUGINS not in sys.modules:
        collection = ansible_root() / "playbooks" / "collections" / "ansible_collections" / "gpuprov" / "gpuprov"
        sys.modules[_PLUGINS] = ModuleType(_PLUGINS)
        sys.modules[_PLUGINS].__path__ = [str(collection / "plugins")]
    return importlib.import_module(f"{_PLUGINS}.{path.replace('/', '.')}")
