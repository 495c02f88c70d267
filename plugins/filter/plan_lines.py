# SPDX-License-Identifier: MIT
"""The plan of a host as lines for people: a shim over plain functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_plan


class FilterModule:
    """The filter ``gpuprov.gpuprov.plan_lines``."""

    def filters(self) -> dict[str, Callable[[dict[str, Any]], list[str]]]:
        """Return {name: filter}."""
        return {"plan_lines": host_plan.lines}
