# SPDX-License-Identifier: MIT
"""Have the steps of a plan take their packages from the bundle that a variable names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

# What handles bundles is imported where there is one: it would be 6 % of the start of every run.
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.bundle import DIRECTORY
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.bundle import errors
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import lock_file
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import host_planning
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import fleet

# What is wrong with a bundle, or lacks in it: one line for people.
PROBLEMS = (errors.BundleError, lock_file.LockFileError)
Steps = list[dict[str, Any]]  # of host_planning.steps


def sets_of(steps: Steps) -> list[dict[str, Any]]:
    """Return the package sets of steps; those of which only the source is written have no packages."""
    found = []
    for params in (step["params"] for step in steps if step["concern"] == "packages"):
        nothing: dict[str, Any] = {"packages": [], "remove": []} if params.get("sources_only") else {}
        found += [{**one, **nothing} for one in params["sets"]]
    return found


def notes(action: ActionBase, steps: Steps, images: list[str], task_vars: dict[str, Any]) -> list[dict[str, str]]:
    """Ask a host what its steps need of the bundle, and return the plan's notes about it. Raises PROBLEMS."""
    sets = sets_of(steps)
    resolver = host_planning.resolver_of(action, task_vars)
    directory = resolver.bundle() if sets or images else None
    if directory is None:
        return []
    from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.bundle import sending

    bundle = sending.of(resolver, directory)
    wanted = sending.needs(action, bundle, sets, _locked(steps), images, task_vars)
    said = [f"{sentence}" for sentence in sending.expired(bundle)] if sets else []
    if wanted.files or wanted.images:
        words = [
            f"{len(some)} {kind}" for kind, some in (("packages", wanted.files), ("images", wanted.images)) if some
        ]
        said.append(f"from the bundle, over this connection: {' and '.join(words)} ({fleet.size_text(wanted.size)})")
    return [{"name": "bundle", "message": sentence} for sentence in said]


@contextlib.contextmanager
def sent(
    action: ActionBase, steps: Steps, images: list[str], task_vars: dict[str, Any]
) -> Iterator[tuple[Steps, list[str]]]:
    """Send a host what its steps need of the bundle; yield the steps with it, and the archives of images there.

    Without a bundle, and in check mode, the steps stay as they are. Raises PROBLEMS.
    """
    sets = sets_of(steps)
    resolver = host_planning.resolver_of(action, task_vars)
    directory = resolver.bundle() if (sets or images) and not action._task.check_mode else None
    if directory is None:
        yield steps, []
        return
    from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.bundle import sending

    bundle = sending.of(resolver, directory)
    needs = sending.needs(action, bundle, sets, _locked(steps), images, task_vars)
    sending.send(action, bundle, needs, task_vars)
    with_bundle = [
        {**step, "params": {**step["params"], "bundle": bundle.sources}} if step["concern"] == "packages" else step
        for step in steps
    ]
    yield with_bundle, [f"{DIRECTORY}/{path}" for path in needs.images]
    # What an interrupted run has sent stays, and the next run goes on.
    sending.remove(action)


def _locked(steps: Steps) -> dict[str, Any]:
    return next((dict(step["params"].get("locked") or {}) for step in steps if step["concern"] == "packages"), {})
