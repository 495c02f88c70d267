# SPDX-License-Identifier: MIT
"""Become plugin for doas."""

from __future__ import annotations

import re
from typing import Any

from ansible.plugins.become import BecomeBase

DOCUMENTATION = """
    name: doas
    short_description: Become another account by doas
    description:
      - Becomes another account by OpenDoas, without the collection community.general.
      - doas reads a password from a terminal only. Modules are not pipelined with it; ansible-core before
        2.19 does not know this, there set ansible_pipelining=false where doas asks for a password.
    author: gpuprov contributors
    extends_documentation_fragment: gpuprov.gpuprov.become.doas
"""


class BecomeModule(BecomeBase):
    """doas asks ``doas (USER@HOST) password:``, or with PAM what PAM's modules ask (OpenDoas 6.8.2)."""

    name = "doas"
    fail = ("Authentication failed",)
    missing = ("Authentication required", "a tty is required")
    pipelining = False

    def build_become_command(self, cmd: str, shell: Any) -> str:
        """Return the command; without a password, doas does not ask for one."""
        super().build_become_command(cmd, shell)
        if not cmd:
            return cmd
        self.prompt = bool(self.get_option("become_pass"))
        words = [self.get_option("become_exe") or self.name, self.get_option("become_flags") or ""]
        if not self.prompt:
            words.append("-n")
        user = self.get_option("become_user")
        if user:
            words.append(f"-u {user}")
        words.append(self._build_success_command(cmd, shell))
        return " ".join(word for word in words if word)

    def check_password_prompt(self, b_output: bytes) -> bool:
        """Return whether the output has doas's prompt."""
        return re.search(rb"^\s*(doas \([^)\n]*\) password:|Password:)", b_output, re.MULTILINE) is not None
