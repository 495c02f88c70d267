# SPDX-License-Identifier: MIT
"""Take packages of a set from local files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import package_files


class FilterModule:
    """The filter ``gpuprov.gpuprov.package_files``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return {name: filter}."""
        return {"package_files": package_files.chosen}
