# SPDX-License-Identifier: MIT
"""Tags at the newest versions: read on the host, decided here, done there."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import image_name
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import requirements
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import image_versions


class ActionModule(ActionBase):
    """Move the tags of one image."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return changes and docker_image; fail where the host does not have the version."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        requirements.need("semver", "semver")
        try:
            image = image_name.parse(self._task.args.get("name"))
            image_versions.read(image.tag or "")
        except (image_name.ImageNameError, image_versions.VersionError) as error:
            raise AnsibleActionFail(str(error)) from None
        found = self._execute_module("gpuprov.gpuprov.docker_images", {}, task_vars=task_vars)
        if found.get("failed") or found.get("unreachable"):
            return {**result, **found}
        present = _tags(found["docker_image"]["images"], image)
        if image.tag not in present:
            there = _releases(present)
            raise AnsibleActionFail(
                f"{image} is not on this host, which has {', '.join(there[-3:]) or 'no version of it'}: "
                "ship it or build it there first"
            )
        moves = image_versions.moves(image.tag, present)
        if moves:
            done = self._execute_module(
                "gpuprov.gpuprov.docker_image_tag",
                {"name": str(image), "moves": [move._asdict() for move in moves]},
                task_vars=task_vars,
            )
            if done.get("failed") or done.get("unreachable"):
                return {**result, **done}
        after = {**present, **{move.tag: move.after for move in moves}}
        return {
            **result,
            "changed": bool(moves),
            "changes": [_change(image, move, present) for move in moves],
            "docker_image": {
                "name": str(image),
                "id": present[image.tag],
                "tags": sorted(tag for tag, has in after.items() if has == present[image.tag]),
            },
        }


def _tags(images: list[dict[str, Any]], image: image_name.ImageName) -> dict[str, str]:
    """{tag: image's ID} of all tags of an image's name."""
    parsed = [(image_name.parse(tag), one["id"]) for one in images for tag in one["tags"]]
    return {name.tag: found for name, found in parsed if (name.registry, name.path) == (image.registry, image.path)}


def _change(image: image_name.ImageName, move: Any, present: dict[str, str]) -> dict[str, Any]:
    """A move in the shape of a plan's changes: versions where there are some, else the image's ID."""
    before = move.before and next(
        (tag for tag in _releases(present) if present[tag] == move.before),
        move.before.rpartition(":")[2][:12],
    )
    return {
        "role": "docker_image",
        "subject": str(image.with_tag(move.tag)),
        "from": before,
        "to": move.version,
        "disruption": "none",
    }


def _releases(present: dict[str, str]) -> list[str]:
    """The releases among the tags, oldest first."""
    return [tag for tag, one in image_versions.known(present).items() if one.kind == "release"]
