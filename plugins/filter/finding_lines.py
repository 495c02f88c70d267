# SPDX-License-Identifier: MIT
"""The findings of a host as lines for people: a shim over plain functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import finding


class FilterModule:
    """The filter ``gpuprov.gpuprov.finding_lines``."""

    def filters(self) -> dict[str, Callable[[list[dict[str, Any]]], list[str]]]:
        """Return {name: filter}."""
        return {"finding_lines": finding.lines}
