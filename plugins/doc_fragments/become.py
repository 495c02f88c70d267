# SPDX-License-Identifier: MIT
"""Options of ansible-core's become plugins, which ours take over from the running ansible-core."""

from __future__ import annotations

import yaml
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.ansible_compat import builtin_become


def _options(name: str) -> str:
    options = yaml.safe_load(builtin_become(name).DOCUMENTATION)["options"]
    for option in options.values():
        option.pop("version_added", None)  # a version of ansible-core, where one of this collection is expected
    return yaml.safe_dump({"options": options})


class ModuleDocFragment:
    """Read by Ansible as ``gpuprov.gpuprov.become.sudo`` and ``gpuprov.gpuprov.become.su``."""

    # With types: in a plain assignment, ansible-test expects a text.
    SUDO: str = _options("sudo")
    SU: str = _options("su")
