# SPDX-License-Identifier: MIT
"""Options of ansible-core's become plugins, which ours take over from the running ansible-core."""

from __future__ import annotations

import re

import yaml
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.ansible_compat import builtin_become


def _options(name: str) -> str:
    documentation = yaml.safe_load(builtin_become(name).DOCUMENTATION)
    return yaml.safe_dump({"options": documentation["options"]})


def _doas() -> str:
    """Return the options of su under doas's names: ansible-core has no doas, and the two differ in prompts only."""
    options = yaml.safe_load(_options("su"))["options"]
    del options["prompt_l10n"]
    text = yaml.safe_dump({"options": {name: {**option, "type": "str"} for name, option in options.items()}})
    word = re.compile(r"(?<![a-z])su(?![a-z])", re.IGNORECASE)
    return word.sub(lambda found: "DOAS" if found[0] == "SU" else "doas", text)


class ModuleDocFragment:
    """Read by Ansible as ``gpuprov.gpuprov.become.sudo``, ``….su`` and ``….doas``."""

    SUDO = _options("sudo")
    SU = _options("su")
    DOAS = _doas()
