# SPDX-License-Identifier: MIT
"""Texts about images, for gpuprov and for the filters of the collection: pure functions."""

from __future__ import annotations

from typing import Any


def size_text(number: int) -> str:
    """Return bytes as people read them: 512 B, 4.3 MB, 12.1 GB (of 1000 each, as Docker counts)."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def counted(number: int, noun: str) -> str:
    """Return a number of things: ``1 host``, ``2 hosts``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def short_id(image_id: str) -> str:
    """Return an image's ID as Docker shortens it."""
    return image_id.rpartition(":")[2][:12]


def image_lines(found: dict[str, Any]) -> list[str]:
    """Return one line for each image of a host (host_images.read)."""
    lines = []
    for image in found["images"]:
        names = ", ".join(image["tags"] or image["digests"]) or "<none>"
        lines.append(f"{names}  {short_id(image['id'])}  {size_text(image['size'])}")
    return lines


def going_rows(decision: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return (what, why, bytes) of each container and image that a decision (image_prune.decide) takes."""
    rows = [(f"container {one['name']}", one["why"], size_text(one["bytes"])) for one in decision["containers"]]
    for one in decision["images"]:
        names = one["names"] or [short_id(one["id"])]
        rows += [(f"image {name}", one["why"], size_text(one["bytes"])) for name in names[:1]]
        rows += [(f"  and {name}", "", "") for name in names[1:]]
    return rows


def going_text(decision: dict[str, Any]) -> str:
    """Return how much a decision takes: ``2 containers, 3 images, 1.2 GB``."""
    kinds = (("containers", "container"), ("images", "image"))
    shown = [counted(len(decision[kind]), noun) for kind, noun in kinds if decision[kind]]
    return ", ".join([*shown, size_text(decision["bytes"])]) if shown else "nothing to remove"


def prune_lines(decision: dict[str, Any]) -> list[str]:
    """Return an aligned line for each thing that is removed, and a sum."""
    rows = going_rows(decision)
    first, second = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    lines = [f"{what:<{first}}  {why:<{second}}  {size:>8}".rstrip() for what, why, size in rows]
    return [*lines, going_text(decision)]
