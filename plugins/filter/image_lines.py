# SPDX-License-Identifier: MIT
"""Images, and what a clean-up takes, as lines for people: shims over plain functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import image_text


class FilterModule:
    """The filters ``gpuprov.gpuprov.image_lines`` and ``gpuprov.gpuprov.prune_lines``."""

    def filters(self) -> dict[str, Callable[[dict[str, Any]], list[str]]]:
        """Return {name: filter}."""
        return {"image_lines": image_text.image_lines, "prune_lines": image_text.prune_lines}
