# SPDX-License-Identifier: MIT
"""Become plugin for doas."""

from __future__ import annotations

# Not by a fragment: Ansible reads this at each start of a checkout, also where it does not find the collection.
DOCUMENTATION = """
    name: doas
    short_description: Become another account by doas
    description:
      - Becomes another account by OpenDoas, without the collection community.general.
      - doas reads a password from a terminal only. Modules are not pipelined with it; ansible-core before
        2.19 does not know this, there set ansible_pipelining=false where doas asks for a password.
    author: gpuprov contributors (!UNKNOWN)
    options:
      become_user:
        description: The account to become.
        default: root
        type: str
        ini: [{section: privilege_escalation, key: become_user}, {section: doas_become_plugin, key: user}]
        vars: [{name: ansible_become_user}, {name: ansible_doas_user}]
        env: [{name: ANSIBLE_BECOME_USER}, {name: ANSIBLE_DOAS_USER}]
        keyword: [{name: become_user}]
      become_exe:
        description: The program.
        default: doas
        type: str
        ini: [{section: privilege_escalation, key: become_exe}, {section: doas_become_plugin, key: executable}]
        vars: [{name: ansible_become_exe}, {name: ansible_doas_exe}]
        env: [{name: ANSIBLE_BECOME_EXE}, {name: ANSIBLE_DOAS_EXE}]
        keyword: [{name: become_exe}]
      become_flags:
        description: Options for the program.
        default: ''
        type: str
        ini: [{section: privilege_escalation, key: become_flags}, {section: doas_become_plugin, key: flags}]
        vars: [{name: ansible_become_flags}, {name: ansible_doas_flags}]
        env: [{name: ANSIBLE_BECOME_FLAGS}, {name: ANSIBLE_DOAS_FLAGS}]
        keyword: [{name: become_flags}]
      become_pass:
        description: The password of the login user.
        type: str
        ini: [{section: doas_become_plugin, key: password}]
        vars: [{name: ansible_become_password}, {name: ansible_become_pass}, {name: ansible_doas_pass}]
        env: [{name: ANSIBLE_BECOME_PASS}, {name: ANSIBLE_DOAS_PASS}]
"""

import re
from typing import Any

from ansible.plugins.become import BecomeBase
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat


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
        words.append(ansible_compat.success_command(self, cmd, shell))
        return " ".join(word for word in words if word)

    def check_password_prompt(self, b_output: bytes) -> bool:
        """Return whether the output has doas's prompt."""
        return re.search(rb"^\s*(doas \([^)\n]*\) password:|Password:)", b_output, re.MULTILINE) is not None
