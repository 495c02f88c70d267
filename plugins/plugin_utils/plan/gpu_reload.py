# SPDX-License-Identifier: MIT
"""Decide whether running containers keep their GPUs at a ``systemctl daemon-reload``. Pure functions.

module_utils/gpu/gpu_containers.py says why they may lose them. Shapes of ``found``: see roles/gpu_host_probe/README.md.
"""

from __future__ import annotations

from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import gpu_containers

# The first engine with docker run --gpus.
_GPUS_FLAG = (19, 3)
FLAG_CURE = (
    "start such containers with --runtime=nvidia --gpus ..., or have docker_daemon_options make nvidia the "
    "default-runtime; Docker Engine 29.2 and newer needs neither"
)


def has_flag(engine: str | None) -> bool:
    """Return whether a version of the engine has `docker run --gpus`."""
    return (gpu_containers.version_of(engine) or ()) >= _GPUS_FLAG


def flag_gives(found: dict[str, Any]) -> str | None:
    """Return what gives a container its GPUs for `docker run --gpus`: cdi, runtime, hook, or None without that flag."""
    info = found["docker"]["info"] or {}
    if not has_flag(info.get("ServerVersion")):
        return None
    specified = any(spec["kind"] == gpu_containers.KIND and not spec["error"] for spec in found["gpu"]["cdi"])
    if specified and gpu_containers.gpus_by_cdi(found):
        return "cdi"
    return "runtime" if info.get("DefaultRuntime") == "nvidia" else "hook"


def flag_is_refused(found: dict[str, Any]) -> bool:
    """Return whether NVIDIA's hook refuses what `docker run --gpus` asks it for."""
    toolkit = found["gpu"]["toolkit"] or {}
    return flag_gives(found) == "hook" and toolkit.get("mode") == "cdi" and not toolkit.get("any_mode")


def lost_at_reload(found: dict[str, Any]) -> str:
    """Return why running containers lose their GPU at a ``systemctl daemon-reload``, or "" where they keep it."""
    if gpu_containers.cgroup_driver(found) != "systemd":
        return ""
    packages = found["apt"]["packages"]
    package = packages.get("nvidia-container-toolkit") or packages.get("nvidia-container-toolkit-base") or {}
    mode = gpu_containers.toolkit_mode(found["gpu"])
    if not gpu_containers.in_configuration(mode, gpu_containers.version_of(package.get("version"))):
        return f"a hook that systemd knows nothing of gives containers their GPU (toolkit mode {mode})"
    return _without_links(found)


def flag_lost_at_reload(found: dict[str, Any]) -> str:
    """Return why containers started with `--gpus` alone lose their GPU at a daemon-reload, or "" where they keep it."""
    way = flag_gives(found)
    if gpu_containers.cgroup_driver(found) != "systemd" or way is None:
        return ""
    if way == "runtime":
        return lost_at_reload(found)
    if way == "cdi":
        return _without_links(found)
    version = (found["docker"]["info"] or {}).get("ServerVersion") or ""
    return f"Docker Engine {version} gives GPUs for --gpus by a hook that systemd knows nothing of"


def _without_links(found: dict[str, Any]) -> str:
    unlinked = gpu_containers.unlinked_nodes(found["gpu"]) if gpu_containers.needs_links(found) else []
    return f"{' '.join(unlinked)} without a link in /dev/char, which this runc needs" if unlinked else ""


def lasting(found: dict[str, Any]) -> tuple[bool, str]:
    """Return (ok, detail): whether a GPU container keeps its GPU after a daemon-reload, and why."""
    reason = lost_at_reload(found)
    if reason:
        said = f"a systemctl daemon-reload takes the GPU from running containers: {reason}; run gpuprov provision"
        return False, said
    if gpu_containers.cgroup_driver(found) != "systemd":
        return True, "dockerd manages cgroups without systemd"
    links = ", links in /dev/char" if gpu_containers.needs_links(found) else ""
    said = f"systemd knows of the devices (toolkit mode {gpu_containers.toolkit_mode(found['gpu'])}{links})"
    of_flag = flag_lost_at_reload(found)
    if of_flag:
        said = f"with --runtime=nvidia {said}; with --gpus alone it goes: {of_flag}; {FLAG_CURE}"
    return True, said
