# SPDX-License-Identifier: MIT
"""Convert gpuprov_serial for Ansible's serial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import role_options


def _wave_sizes(value: Any) -> list[int | str]:
    try:
        return role_options.wave_sizes(value)
    except role_options.OptionError as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """Filters of this collection."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"wave_sizes": _wave_sizes}
