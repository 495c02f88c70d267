# SPDX-License-Identifier: MIT
"""Look up the URL of a vendor's apt repository on a mirror."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import mirrors


class FilterModule:
    """The filter ``gpuprov.gpuprov.mirror_url``."""

    def filters(self) -> dict[str, Callable[[str, str], str]]:
        """Return {name: filter}."""
        return {"mirror_url": mirrors.url}
