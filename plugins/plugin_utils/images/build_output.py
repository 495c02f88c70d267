# SPDX-License-Identifier: MIT
"""The output of docker build as lines for display."""

from __future__ import annotations

import re

# Escape sequences for cursor and colours, and control characters.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Shorter values are not replaced: they would match everywhere.
_SHORTEST = 4
# The last line of a failed build, from BuildKit, buildx and the classic builder.
_REASON = re.compile(r"(?i)\b(error|failed to|non-zero code)\b")


class Lines:
    """Collects output in pieces, and returns complete lines without escapes and secrets.

    A line that may be the reason of a failure stays in held until another one follows: the last one is reported with
    the failure, and not twice.
    """

    def __init__(self, secrets: list[str]) -> None:
        self.secrets = sorted((secret for secret in secrets if len(secret) >= _SHORTEST), key=len, reverse=True)
        self.rest = ""
        self.last = ""
        self.held: list[str] = []

    def take(self, text: str, ended: bool) -> list[str]:
        """Return the complete lines after adding text; at the end the rest too."""
        *whole, self.rest = (self.rest + text).split("\n")
        if ended:
            whole.append(self.rest)
            self.rest = ""
        lines = [self._shown(line) for line in whole]
        if ended and not lines[-1]:
            lines.pop()
        filled = [number for number, line in enumerate(lines) if line.strip()]
        if not filled:
            self.held += lines if self.held else []
            return [] if self.held else lines
        self.last = lines[filled[-1]].strip()
        lines, self.held = self.held + lines, []
        if _REASON.search(self.last):
            at = max(number for number, line in enumerate(lines) if line.strip())
            lines, self.held = lines[:at], lines[at:]
        return lines

    def _shown(self, line: str) -> str:
        # A carriage return overwrites a line on a terminal; the last version counts.
        line = next((part for part in reversed(line.split("\r")) if part), "")
        line = _CONTROL.sub("", _ESCAPES.sub("", line))
        for secret in self.secrets:
            line = line.replace(secret, "***")
        return line
