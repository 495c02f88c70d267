# SPDX-License-Identifier: MIT
"""Become plugin for su, which says at once that a password is missing."""

from __future__ import annotations

DOCUMENTATION = """
    name: su
    short_description: Become another account by su
    description:
      - As ansible.builtin.su, and reports a missing password at the prompt instead of waiting for a timeout.
    author: gpuprov contributors (!UNKNOWN)
    extends_documentation_fragment: gpuprov.gpuprov.become.su
"""

from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.ansible_compat import builtin_become

Su: Any = builtin_become("su").BecomeModule


class BecomeModule(Su):
    """su without a password works for root, and where PAM trusts the account."""

    def build_become_command(self, cmd: str, shell: Any) -> str:
        """Expect a prompt only where there is a password to answer it with."""
        command: str = super().build_become_command(cmd, shell)
        self.prompt = bool(self.get_option("become_pass"))
        return command

    def check_missing_password(self, b_output: bytes) -> bool:
        """Return whether su asks for a password that nobody gave."""
        return not self.get_option("become_pass") and bool(self.check_password_prompt(b_output))
