# SPDX-License-Identifier: MIT
"""Show the findings of a host as lines for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import host_lines


class FilterModule:
    """The filter ``gpuprov.gpuprov.finding_lines``."""

    def filters(self) -> dict[str, Callable[[list[dict[str, Any]]], list[str]]]:
        """Return {name: filter}."""
        return {"finding_lines": host_lines.finding_lines}
