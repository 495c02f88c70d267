# SPDX-License-Identifier: MIT
"""The output of docker build as lines that can be shown."""

from __future__ import annotations

import re

# What moves the cursor or colours; and what else a terminal would act on.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)?")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# A shorter value is no secret, and would turn up everywhere.
_SHORTEST = 4
# Why a build failed, as BuildKit, buildx and the classic builder end with it.
_REASON = re.compile(r"(?i)\b(error|failed to|non-zero code)\b")


class Lines:
    """Takes output in pieces and gives whole lines, without escapes and without secrets.

    A line that may be the reason of a failure waits in held until more follows: where nothing does, whoever reports
    the failure says it.
    """

    def __init__(self, secrets: list[str]) -> None:
        self.secrets = sorted((secret for secret in secrets if len(secret) >= _SHORTEST), key=len, reverse=True)
        self.rest = ""
        self.last = ""
        self.held: list[str] = []

    def take(self, text: str, ended: bool) -> list[str]:
        """Return the lines that are whole with text; the rest too where the output has ended."""
        *whole, self.rest = (self.rest + text).split("\n")
        if ended:
            whole.append(self.rest)
            self.rest = ""
        lines = [self._shown(line) for line in whole]
        if ended and not lines[-1]:
            lines.pop()
        said = [number for number, line in enumerate(lines) if line.strip()]
        if not said:
            self.held += lines if self.held else []
            return [] if self.held else lines
        self.last = lines[said[-1]].strip()
        lines, self.held = self.held + lines, []
        if _REASON.search(self.last):
            at = max(number for number, line in enumerate(lines) if line.strip())
            lines, self.held = lines[:at], lines[at:]
        return lines

    def _shown(self, line: str) -> str:
        # What a carriage return replaced on a terminal nobody saw for long.
        line = next((part for part in reversed(line.split("\r")) if part), "")
        line = _CONTROL.sub("", _ESCAPES.sub("", line))
        for secret in self.secrets:
            line = line.replace(secret, "***")
        return line
