# SPDX-License-Identifier: MIT
"""The images and containers of a host, as dockerd's API names them. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import calendar
import hashlib
import json
import re
import time

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import dockerd

# An image or a container with this label stays, whatever is asked.
KEEP_LABEL = "org.gpuprov.keep"
NOT_KEPT = ("", "false", "0", "no")

# Instructions that make no layer, as a history has them, with and without BuildKit.
_NO_LAYER = re.compile(
    r"^(?:/bin/sh -c #\(nop\)\s+)?"
    r"(?:ARG|CMD|ENTRYPOINT|ENV|EXPOSE|HEALTHCHECK|LABEL|MAINTAINER|ONBUILD|SHELL|STOPSIGNAL|USER|VOLUME)\b"
)
# What makes two images the same for whoever runs them.
_CONFIG = ("Cmd", "Entrypoint", "Env", "Labels", "User", "WorkingDir")


def read(containers=False, layers=False, known=None):
    """Return {engine, store, images} of this host. Raises dockerd.DockerdError.

    store is ``containerd`` or dockerd's storage driver. An image is {id, tags, digests, created,
    tagged, size, keep, content, layers}: seconds since 1970, bytes, whether a label protects it, and
    what is equal for equal images whichever store they lie in. With layers, that is [[chain ID, bytes]]
    from the lowest up; with containers the answer has them too: see _container. known: {id: image} of an
    earlier answer, for what an ID alone tells.
    """
    api = dockerd.api()
    info = _get(api + "/info")
    listed = _get(api + "/images/json")
    images = []
    for one in listed:
        image = _image(api, one, layers, (known or {}).get(one["Id"]))
        if image:
            images.append(image)
    found = {
        "engine": info.get("ServerVersion"),
        "store": store_of(info),
        "images": sorted(images, key=lambda image: (image["tags"][:1], image["id"])),
    }
    if containers:
        listed = _get(api + "/containers/json?all=1")
        found["containers"] = [one for one in (_container(api, one) for one in listed) if one]
    return found


def store_of(info):
    """Return ``containerd`` where dockerd keeps images there, else the name of its storage driver."""
    for row in info.get("DriverStatus") or []:
        if len(row) == 2 and row[0] == "driver-type" and "containerd.snapshotter" in row[1]:
            return "containerd"
    return info.get("Driver")


def _get(path):
    # A store of thousands of images on a slow disk takes its time.
    status, value = dockerd.request("GET", path, timeout=300)
    if status != 200:
        raise dockerd.DockerdError("dockerd answers %d to GET %s: %s" % (status, path, said(value)))
    return value


def said(value):
    """Return the message in an answer of dockerd's that is an error, on one line."""
    message = value.get("message") if isinstance(value, dict) else None
    return " ".join((message or "no reason given").split())


def _image(api, listed, layers, known):
    """Return one image, or None where it went while it was being read."""
    status, details = dockerd.request("GET", "%s/images/%s/json" % (api, listed["Id"]))
    if status == 404:
        return None
    details = details if status == 200 else {}
    diff_ids = (details.get("RootFS") or {}).get("Layers") or []
    image = {
        "id": listed["Id"],
        "tags": sorted(tag for tag in listed.get("RepoTags") or [] if not tag.startswith("<none>")),
        "digests": sorted(one for one in listed.get("RepoDigests") or [] if not one.startswith("<none>")),
        "created": int(listed.get("Created") or 0),
        "tagged": seconds_of((details.get("Metadata") or {}).get("LastTagTime")),
        "size": listed.get("Size") or 0,
        "keep": is_kept(listed.get("Labels")),
        "content": content_of(details) if diff_ids else listed["Id"],
    }
    if layers:
        if known and known.get("layers"):
            image["layers"] = known["layers"]
        else:
            status, history = dockerd.request("GET", "%s/images/%s/history" % (api, listed["Id"]))
            image["layers"] = layers_of(diff_ids, history if status == 200 else [], image["size"])
    return image


def content_of(details):
    """Return what is the same for an image in either store, where its ID is not: 12 hexadecimal digits.

    details: dockerd's answer to /images/ID/json.
    """
    config = details.get("Config") or {}
    told = [
        (details.get("RootFS") or {}).get("Layers"),
        details.get("Architecture"),
        seconds_of(details.get("Created")),
        [config.get(name) or None for name in _CONFIG],
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode("utf-8")).hexdigest()[:12]


def layers_of(diff_ids, history, size):
    """Return [[chain ID, bytes]] of an image's layers from the lowest up.

    diff_ids: those of its file system, lowest first; history: dockerd's, newest first, whose entries
    do not say which of them made a layer: those with bytes did, and those by an instruction that
    never does did not. size stands for all where the history does not fit. Of an image without a history
    dockerd's is None.
    """
    entries = list(reversed(history or []))
    surplus = len(entries) - len(diff_ids)
    sizes = None
    if surplus >= 0:
        empty = [number for number, one in enumerate(entries) if not one.get("Size")]
        # What surely makes no layer goes first, then the newest: the first instruction always makes one.
        empty.sort(key=lambda number: (not _NO_LAYER.match(entries[number].get("CreatedBy") or ""), -number))
        left = set(range(len(entries))) - set(empty[:surplus])
        sizes = [entries[number].get("Size") or 0 for number in sorted(left)]
    if sizes is None or len(sizes) != len(diff_ids):
        sizes = [size] + [0] * (len(diff_ids) - 1)
    chains = []
    for diff_id in diff_ids:
        chains.append(_chained(chains[-1], diff_id) if chains else diff_id)
    return [[chain, part] for chain, part in zip(chains, sizes)]


def _chained(parent, diff_id):
    """https://github.com/opencontainers/image-spec/blob/main/config.md#layer-chainid"""
    return "sha256:" + hashlib.sha256(("%s %s" % (parent, diff_id)).encode("ascii")).hexdigest()


def _container(api, listed):
    """Return {id, name, image, image_name, state, created, ended, bytes, keep}, or None where it went meanwhile.

    bytes is what it wrote, and known only of those that do not run.
    """
    state = listed.get("State") or "unknown"
    container = {
        "id": listed["Id"],
        "name": (listed.get("Names") or [listed["Id"][:12]])[0].lstrip("/"),
        "image": listed.get("ImageID") or "",
        "image_name": listed.get("Image") or "",
        "state": state,
        "created": int(listed.get("Created") or 0),
        "ended": 0,
        "bytes": 0,
        "keep": is_kept(listed.get("Labels")),
    }
    if state in ("created", "exited", "dead"):
        status, details = dockerd.request("GET", "%s/containers/%s/json?size=1" % (api, listed["Id"]), timeout=300)
        if status != 200:
            return None
        container["state"] = details["State"].get("Status") or state
        container["ended"] = seconds_of(details["State"].get("FinishedAt"))
        container["bytes"] = details.get("SizeRw") or 0
    return container


def is_kept(labels):
    """Return whether the labels protect an image or container from a clean-up."""
    value = (labels or {}).get(KEEP_LABEL)
    return value is not None and value.strip().lower() not in NOT_KEPT


def seconds_of(text):
    """Return seconds since 1970 of a time as Go writes it, e.g. ``2026-11-24T10:00:00.5+01:00``; 0 of none."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)\Z", text or "")
    if not match:
        return 0
    seconds = calendar.timegm(time.strptime(match.group(1), "%Y-%m-%dT%H:%M:%S"))
    zone = match.group(2)
    if zone != "Z":
        offset = int(zone[1:3]) * 3600 + int(zone[4:]) * 60
        seconds -= offset if zone[0] == "+" else -offset
    return max(seconds, 0)
