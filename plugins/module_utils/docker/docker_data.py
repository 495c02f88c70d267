# SPDX-License-Identifier: MIT
"""Find and remove the data of the engine. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import os
import re
import shutil

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import (
    daemon_json,
    docker_service,
    dockerd,
    dockerd_flags,
)
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import toml_text
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

DOCKER, CONTAINERD = "/var/lib/docker", "/var/lib/containerd"
CONTAINERD_CONFIG = "/etc/containerd/config.toml"
# What the engines write at the top of their directories. Source: moby, daemon/*.go and the graph drivers; containerd,
# the names of its plugins.
_ENTRIES = re.compile(
    r"(aufs|btrfs|builder|buildkit|checkpoints|containerd|containers|devicemapper|engine-id|fuse-overlayfs|image|"
    r"network|nri|nuke|overlay|overlay2|plugins|rootfs|runtimes|stargz|swarm|tmp|tmp-old|tmpmounts|trust|vfs|volumes|zfs|"
    r"\d+\.\d+|io\.containerd\..*)\Z"
)
# The arguments of apply, as a module declares them.
ARGUMENTS = {
    "state": {"type": "str", "choices": ["query", "absent"], "default": "query"},
    "roots": {"type": "dict", "default": {}},
}
# File systems that the engine itself mounts for containers.
_OF_CONTAINERS = ("overlay", "aufs", "tmpfs", "nsfs", "proc", "mqueue", "fuse.fuse-overlayfs")


def roots(config, entries, info, containerd):
    """Return {docker, containerd}: the directories that the engines keep their data in.

    config is daemon.json's object, entries are those of dockerd_flags.exec_start(), info is docker's or None,
    containerd the bytes of containerd's configuration.
    """
    docker = (info or {}).get("DockerRootDir") or dockerd_flags.value(entries, "data-root")
    return {
        "docker": without_user(docker or config.get("data-root") or config.get("graph") or DOCKER),
        "containerd": without_user(toml_text.values(containerd).get("root") or CONTAINERD),
    }


def without_user(path):
    """Return a root without its final slash and without the directory that userns-remap adds below it."""
    return re.sub(r"(?<=.)/+(\d+\.\d+/*)?\Z", "", path)


def found(read, exec_start, info):
    """Return roots() of this host; read is what docker_service.read_config() says of daemon.json."""
    try:
        config = daemon_json.parse(daemon_json.config_bytes(read), read["path"])
    except HostError:
        config = {}
    text = b""
    if os.path.isfile(CONTAINERD_CONFIG):
        with open(CONTAINERD_CONFIG, "rb") as handle:
            text = handle.read()
    return roots(config, exec_start, info, text)


def holds_data(path):
    """Return whether there is anything of an engine in a directory."""
    return os.path.isdir(path) and bool(_of_engine(path))


def _of_engine(path):
    # What is in the packages' own directories is theirs; elsewhere people may keep their own files beside it.
    own = path in (DOCKER, CONTAINERD)
    return sorted(name for name in os.listdir(path) if (own and name != "lost+found") or _ENTRIES.match(name))


def mounts(path):
    """Return [(mount point, type of its file system)] at and below a directory, the deepest first."""
    result = []
    with open("/proc/self/mountinfo") as handle:
        for line in handle:
            fields, _dash, rest = line.partition(" - ")
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), fields.split()[4])
            if (point + "/").startswith(path.rstrip("/") + "/"):
                result.append((point, rest.split()[0]))
    return sorted(result, key=lambda one: -len(one[0]))


def purge(host, path):
    """Remove an engine's data from a directory; return sentences of what is left there.

    A link's target is emptied, and the link goes; a mount point is emptied and stays. What is mounted below, and is
    not a container's, is somebody's own and stays: a volume may be a directory of theirs.
    """
    if not os.path.lexists(path):
        return []
    real = os.path.realpath(path)
    own = _of_engine(path) if os.path.isdir(path) else []
    for point, kind in mounts(real):
        if kind in _OF_CONTAINERS and point != real:
            host.run_command(["umount", "--lazy", point])
    points = [point for point, _kind in mounts(real)]
    kept = [point for point in points if point != real]
    left = []
    for name in own:
        left += _remove(os.path.join(real, name), kept)
    if os.path.isdir(real):
        others = sorted(name for name in os.listdir(real) if name not in own)
        if others:
            left.append("%s: %s, which the engine did not write" % (real, ", ".join(others)))
        if real in points:
            left.append("%s: a mount point%s" % (real, "" if os.listdir(real) else ", empty now"))
        elif not os.listdir(real):
            os.rmdir(real)
    if os.path.islink(path):
        os.unlink(path)
    return left


def _remove(path, kept):
    """Remove a file or a directory but for what is mounted in it; return what stays, as sentences."""
    inside = [point for point in kept if point == path or point.startswith(path + "/")]
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
    elif path in inside:
        return ["%s: mounted there, and left alone" % path]
    elif inside:
        left = []
        for name in sorted(os.listdir(path)):
            left += _remove(os.path.join(path, name), inside)
        return left
    else:
        shutil.rmtree(path)
    return []


def apply(host, params):
    """Return {changed, roots, docker_data_left}, or have the data gone, with changes. Raises HostError."""
    service, exec_start = docker_service.Service(host, 60).state()
    info = dockerd.ask("/info") if service["active"] == "active" else None
    where = dict(found(docker_service.read_config(), exec_start, info))
    paths = set(where.values()) | set(params["roots"].values()) | {DOCKER, CONTAINERD}
    held = sorted(path for path in paths if holds_data(path))
    if params["state"] == "query":
        left = ["%s: images, containers and volumes" % path for path in held]
        return {"changed": False, "roots": where, "docker_data_left": left}
    changes = [
        {"role": "docker_ce", "subject": "data", "from": path, "to": None, "disruption": "none"} for path in held
    ]
    left = []
    if not host.check_mode:
        try:
            for path in sorted(paths):
                left += purge(host, path)
        except (IOError, OSError) as error:
            raise HostError("the data could not be removed: %s" % error)
    return {"changed": bool(changes), "roots": where, "changes": changes, "docker_data_left": left}
