# SPDX-License-Identifier: MIT
"""Show the plan of a host as lines for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import host_lines


class FilterModule:
    """The filter ``gpuprov.gpuprov.plan_lines``."""

    def filters(self) -> dict[str, Callable[[dict[str, Any]], list[str]]]:
        """Return {name: filter}."""
        return {"plan_lines": host_lines.plan_lines}
