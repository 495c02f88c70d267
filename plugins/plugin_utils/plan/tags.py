# SPDX-License-Identifier: MIT
"""Apply Ansible's --tags and --skip-tags to the parts of the roles that a plan names.

The tags of a part are its role, and role and part joined by an underscore: docker_ce and docker_ce_packages. The tasks
of the roles carry the same tags. Imports nothing of the collection.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Ansible's own words: https://docs.ansible.com/ansible/latest/playbook_guide/playbooks_tags.html
_EVERYTHING = frozenset(("all", "tagged"))

# The parts of the roles with their names for people, in the order of the roles on a host that has an engine.
PARTS = {
    "docker_ce": {
        "source": "Write keyrings and sources",
        "packages": "Install the pinned set",
        "service": "Start docker now and at boot",
    },
    "nvidia_docker": {
        "source": "Write keyrings and sources",
        "v1": "Clean up after nvidia-docker v1",
        "packages": "Install the pinned stack",
        "toolkit": "Set up GPUs for containers",
    },
    "docker_daemon": {"settings": "Configure dockerd"},
    "docker_group": {"members": "Add users to the group docker"},
    "dockerrun": {"launcher": "Write the launcher dockerrun"},
}
NAMES = frozenset([*PARTS, *(f"{role}_{part}" for role, parts in PARTS.items() for part in parts)])


@dataclass(frozen=True)
class Tags:
    """The tags that a run was given."""

    run: frozenset[str] = _EVERYTHING
    skip: frozenset[str] = frozenset()

    @classmethod
    def of(cls, variables: Mapping[str, Any], inherited: Collection[str]) -> Tags:
        """Return the tags of a run. inherited are those of the task that asks.

        A run that chooses the task by a tag of a person's own playbook chooses all parts.
        """
        run = frozenset(variables.get("ansible_run_tags") or _EVERYTHING)
        skip = frozenset(variables.get("ansible_skip_tags") or ())
        return cls(_EVERYTHING if run & set(inherited) else run, skip)

    def choose(self, role: str, parts: Iterable[str]) -> bool:
        """Return whether the run includes one of these parts of a role."""
        every_tags = [{role, f"{role}_{part}"} for part in parts]
        return any(self.run & (tags | _EVERYTHING) and not self.skip & (tags | _EVERYTHING) for tags in every_tags)
