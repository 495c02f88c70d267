# SPDX-License-Identifier: MIT
"""Uses of Ansible that are not documented API. Tested under every supported ansible-core."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from types import ModuleType

import ansible.plugins.become


@functools.cache
def builtin_become(name: str) -> ModuleType:
    """Return the module of ansible-core's own become plugin of this name.

    A plain import returns our plugin where Ansible loads that one in place of its own: both have one name there.
    """
    path = Path(ansible.plugins.become.__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"gpuprov_builtin_become_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
