"""How long tests wait. The limits only end what hangs: none of them is near what a slow, busy machine takes."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds for one step: a command of a person, a host that boots, a condition on a host.
PATIENCE = 1800


def until(holds: Callable[[], object], what: str, patience: float = PATIENCE) -> None:
    """Wait until a condition holds. Raises TimeoutError that says what was waited for."""
    end = time.monotonic() + patience
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"after {patience:.0f} s still waiting until {what}")
        time.sleep(0.1)
