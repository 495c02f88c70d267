# SPDX-License-Identifier: MIT
"""Import what needs Python packages beside Ansible, which gpuprov brings and a bare ansible-playbook may lack."""

from __future__ import annotations

from types import ModuleType

from ansible.errors import AnsibleError


def image_versions() -> ModuleType:
    """Return plugin_utils.images.image_versions. Raises AnsibleError where the package semver is not installed."""
    try:
        from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import image_versions
    except ImportError as error:
        raise AnsibleError(
            f"the Python that runs ansible-playbook lacks the package semver: pip install semver ({error})"
        ) from None
    return image_versions
