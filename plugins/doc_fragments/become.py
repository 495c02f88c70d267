# SPDX-License-Identifier: MIT
"""Options of ansible-core's become plugins, which ours take over from the running ansible-core."""

from __future__ import annotations

import yaml
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.ansible_compat import builtin_become


def _options(name: str) -> str:
    documentation = yaml.safe_load(builtin_become(name).DOCUMENTATION)
    return yaml.safe_dump({"options": documentation["options"]})


class ModuleDocFragment:
    """Read by Ansible as ``gpuprov.gpuprov.become.sudo`` and ``gpuprov.gpuprov.become.su``."""

    SUDO = _options("sudo")
    SU = _options("su")
