# SPDX-License-Identifier: MIT
"""Become plugin for sudo and for sudo-rs, the sudo of Ubuntu since 25.10."""

from __future__ import annotations

DOCUMENTATION = """
    name: sudo
    short_description: Become another account by sudo or sudo-rs
    description:
      - As ansible.builtin.sudo, and recognises the password prompt and the errors of sudo-rs too.
    author: gpuprov contributors (!UNKNOWN)
    extends_documentation_fragment: gpuprov.gpuprov.become.sudo
"""

from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.ansible_compat import builtin_become

Sudo: Any = builtin_become("sudo").BecomeModule


class BecomeModule(Sudo):
    """sudo prints the prompt that -p names; sudo-rs prints ``[sudo: PROMPT] Password:`` (seen in 0.2.15)."""

    fail = (*Sudo.fail, "Authentication failed, try again.", "incorrect authentication attempt")
    missing = (*Sudo.missing, "interactive authentication is required")

    def check_password_prompt(self, b_output: bytes) -> bool:
        """Return whether the output has the prompt; it contains a random key, so no other text matches."""
        return bool(self.prompt) and str(self.prompt).encode() in b_output
