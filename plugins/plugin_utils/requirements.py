# SPDX-License-Identifier: MIT
"""Python packages beside Ansible, which gpuprov brings and a bare ansible-playbook may lack.

Files that need one suppress the error of its import, because ansible-test imports every file without it. Callers of
such a file call need() first.
"""

from __future__ import annotations

import importlib

from ansible.errors import AnsibleError


def need(package: str, module: str) -> None:
    """Raise AnsibleError where a module of a Python package cannot be imported."""
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise AnsibleError(
            f"the Python that runs ansible-playbook lacks the package {package}: pip install {package} ({error})"
        ) from None
