# SPDX-License-Identifier: MIT
"""Import what needs Python packages beside Ansible, which gpuprov brings and a bare ansible-playbook may lack."""

from __future__ import annotations

import importlib
from types import ModuleType

from ansible.errors import AnsibleError


def image_versions() -> ModuleType:
    """Return plugin_utils.images.image_versions. Raises AnsibleError where the package semver is not installed."""
    return _imported("images.image_versions", "semver")


def resolved() -> ModuleType:
    """Return plugin_utils.lock.resolved. Raises AnsibleError where the package python-debian is not installed."""
    return _imported("lock.resolved", "python-debian")


def _imported(name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(f"ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.{name}")
    except ImportError as error:
        raise AnsibleError(
            f"the Python that runs ansible-playbook lacks the package {package}: pip install {package} ({error})"
        ) from None
