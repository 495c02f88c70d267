"""The hosts of an inventory and their variables, as Ansible on this machine resolves them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuprov import runner
from gpuprov.options import Options, UsageError
from gpuprov.settings import environment
from gpuprov.shared import ansible_root, plugin


def chosen(options: Options) -> list[str]:
    """Return the hosts that a run is for, in the inventory's order. Raises UsageError."""
    limit = ("--limit", options.limit) if options.limit else ()
    listed = _ansible(options.inventory, options, "ansible", "all", "--list-hosts", *limit).splitlines()
    names = [line.strip() for line in listed if line.startswith("    ")]
    return [name for name in names if options.only is None or name in options.only]


class Fleet:
    """An inventory. variables: those of every host."""

    def __init__(self, inventory: str, options: Options) -> None:
        """Read an inventory. Raises UsageError."""
        self._groups: dict[str, Any] = json.loads(_ansible(inventory, options, "ansible-inventory", "--list"))
        self.variables: dict[str, dict[str, Any]] = self._groups.pop("_meta")["hostvars"]

    def members(self, group: str) -> set[str]:
        """Return the hosts of a group and of the groups below it."""
        node = self._groups.get(group, {})
        return set(node.get("hosts", [])).union(*map(self.members, node.get("children", [])))

    def inventory(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inventory with these variables of the hosts, as Ansible's inventory plugin yaml reads it."""
        groups: dict[str, Any] = {
            name: {kind: {one: {} for one in node.get(kind, [])} for kind in ("hosts", "children")}
            for name, node in self._groups.items()
        }
        top = groups.pop("all", {"children": {}})
        names = set[str]().union(*map(self.members, self._groups))
        hosts = {name: variables.get(name, {}) for name in sorted(names)}
        return {"all": {"hosts": hosts, "children": {**top["children"], **groups}}}


def _ansible(inventory: str, options: Options, program: str, *words: str) -> str:
    """Return what a program of Ansible prints about an inventory. Raises UsageError."""
    vault = "--vault-password-file"
    files = [path.expanduser() for path in options.vault_password_files or []]
    with runner.temporary_directory() as directory:
        if vault in options.passwords:
            files.append(directory / "vault")
            files[-1].touch(mode=0o600)
            files[-1].write_text(options.passwords[vault], encoding="utf-8")
        secrets = [word for path in files for word in (vault, str(path))]
        env = {**os.environ, **environment(os.environ, ansible_root())}
        done = quiet([str(Path(sys.executable).parent / program), *words, "-i", inventory, *secrets], env=env)
    if done.returncode:
        output = (done.stderr + done.stdout).decode(errors="replace").splitlines()
        raise UsageError(plugin("plugin_utils/text/failures").not_begun(output, options.limit))
    return done.stdout.decode(errors="replace")


def quiet(words: list[str], data: bytes = b"", **more: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a command without a terminal; Ctrl-C does not reach it."""
    return subprocess.run(words, input=data, capture_output=True, check=False, start_new_session=True, **more)
