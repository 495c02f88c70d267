"""Find the playbooks, and load the pure functions that gpuprov shares with the collection."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType


def ansible_root() -> Path:
    """Return the directory with playbooks/ and ansible.cfg: in the installed package, or the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "ansible"
    return installed if installed.is_dir() else package.parent


@functools.cache
def plugin(path: str) -> ModuleType:
    """Return the module plugins/PATH.py, which imports nothing else of the collection."""
    # Loaded by path: an `ansible` package beside gpuprov would hide our collection from a plain import.
    collection = ansible_root() / "playbooks" / "collections" / "ansible_collections" / "gpuprov" / "gpuprov"
    name = f"gpuprov._{path.rpartition('/')[2]}"
    spec = importlib.util.spec_from_file_location(name, collection / "plugins" / f"{path}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where a dataclass looks for its module
    spec.loader.exec_module(module)
    return module
