# SPDX-License-Identifier: MIT
"""Note what is worth knowing about a host's daemon.json and does not block its changes. Pure functions.

settings are docker_daemon_desired; docker is host_plan.daemon(found).
"""

from __future__ import annotations

from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_json, daemon_keys
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import host_images


def hook_note(settings: dict[str, Any], docker: dict[str, Any]) -> str | None:
    """Return that --gpus works only after a restart that running containers or the policy prevent, or None."""
    if not daemon_json.runs(docker) or not docker.get("info"):
        return None
    try:
        current = daemon_json.current_config(settings, docker)
    except HostError:
        return None
    after = daemon_json.merge(current, daemon_keys.converted(settings["options"]))
    if not daemon_json.brings_hook(current, after, docker) or daemon_json.may_restart(settings, docker):
        return None
    return (
        "docker run --gpus works after the next restart of dockerd, which looks for NVIDIA's hook only when it starts; "
        "--runtime=nvidia works at once. Until then verify fails its check of --gpus. "
        "docker_daemon_restart: always restarts it now"
    )


def unread_note(settings: dict[str, Any], docker: dict[str, Any]) -> str | None:
    """Return that somebody else changed a daemon.json that has the settings, or None.

    dockerd does not show whether such a change is in effect, and gpuprov does not act on it.
    """
    if not daemon_json.runs(docker) or not docker.get("info") or not daemon_json.is_newer_than_daemon(docker):
        return None
    try:
        changes = daemon_json.decide(settings, docker)[0]
    except HostError:
        return None
    if any(change["disruption"] != "none" for change in changes):
        return None
    options = daemon_keys.converted(settings["options"])
    current = daemon_json.current_config(settings, docker)
    seen = daemon_json.judged(options, current, docker["info"])[0]
    unseen = sorted(key for key, value in options.items() if value is not None and key not in seen)
    said = "what gpuprov sets is in effect, and other keys may not be"
    if unseen:
        said = f"dockerd does not show whether {', '.join(unseen)}, or other keys, are in effect"
    return (
        f"{docker['config']['path']} was changed after dockerd read it, by somebody else; {said}: "
        "systemctl reload docker, or a restart for what a reload does not take over"
    )


def data_root_note(options: dict[str, Any], info: dict[str, Any] | None, engine: tuple[int, ...] = ()) -> str | None:
    """Return that data-root does not move images under the containerd image store, or None.

    engine is the version that will be installed, where dockerd does not run yet. Sources: docs.docker.com, "containerd
    image store" (images lie in containerd's root); release notes of 29.0 (the default of new installations).
    """
    if not options.get("data-root"):
        return None
    chosen = daemon_json.image_store(options)
    if chosen is None:
        chosen = host_images.store_of(info) == "containerd" if info else tuple(engine) >= (29,)
    if not chosen:
        return None
    return (
        f"data-root {daemon_json.shown(options['data-root'])} does not move images: with the containerd image store "
        "they lie in containerd's root, /var/lib/containerd unless /etc/containerd/config.toml names another"
    )
