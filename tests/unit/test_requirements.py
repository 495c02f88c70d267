"""Python packages beside Ansible: a message where one is missing, and files that can be imported without it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import requirements


def test_a_missing_package_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules stands for a module that is not there.
    monkeypatch.setitem(sys.modules, "debian.deb822", None)
    with pytest.raises(AnsibleError, match="lacks the package python-debian: pip install python-debian"):
        requirements.need("python-debian", "debian.deb822")


@pytest.mark.parametrize(
    ("file", "module"), [("images/image_versions.py", "semver"), ("lock/resolved.py", "debian.deb822")]
)
def test_ansible_test_can_import_what_needs_a_package(
    file: str, module: str, checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    source = (checkout / "plugins/plugin_utils" / file).read_text()
    found: dict[str, object] = {"__name__": "imported"}
    exec(compile(source, file, "exec"), found)
    assert module.rpartition(".")[2] not in found
