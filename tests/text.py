"""Text for tests."""

from __future__ import annotations

from typing import AnyStr


def replaced(text: AnyStr, old: AnyStr, new: AnyStr) -> AnyStr:
    """Return a text with another text in place of old. Fails where old is not in it: the test would test nothing."""
    assert old in text, f"{old!r} is not in the text"
    return text.replace(old, new)
