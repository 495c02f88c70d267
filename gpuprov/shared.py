"""Load the pure functions that gpuprov shares with the collection, from plugins/module_utils and plugin_utils."""

from __future__ import annotations

import functools
import importlib.util
import sys
from types import ModuleType

from gpuprov.runner import ansible_root


def module_utils(name: str) -> ModuleType:
    """Return plugins/module_utils/NAME.py, which imports nothing of the collection."""
    return _loaded("module_utils", name)


def plugin_utils(name: str) -> ModuleType:
    """Return plugins/plugin_utils/NAME.py, which imports nothing of the collection."""
    return _loaded("plugin_utils", name)


@functools.cache
def _loaded(kind: str, name: str) -> ModuleType:
    # Loaded by path: an `ansible` package beside gpuprov would hide our collection from a plain import.
    collection = ansible_root() / "playbooks" / "collections" / "ansible_collections" / "gpuprov" / "gpuprov"
    spec = importlib.util.spec_from_file_location(f"gpuprov._{name}", collection / "plugins" / kind / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks for its module
    spec.loader.exec_module(module)
    return module
