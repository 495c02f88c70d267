# SPDX-License-Identifier: MIT
"""Describe the images of hosts to people, for gpuprov and for playbooks: pure functions.

``Images`` is {host: docker_image of a task's result}, in the order in which hosts are shown.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .fleet import LABEL, change_lines, counted, grouped, grouped_lines, host_ranges, natural, size_text, table_lines

Images = dict[str, dict[str, Any]]


def short_id(image_id: str) -> str:
    """Return an image's ID as Docker shortens it."""
    return image_id.rpartition(":")[2][:12]


def table(images: Images, width: int = 80) -> list[str]:
    """Return a table of the images of hosts (host_images.read), with those that differ between hosts first.

    If a name is not the same image on all hosts, or some hosts lack it, each case has a line, the first marked ≠.
    """
    if not images:
        return []
    found = {host: one["images"] for host, one in images.items()}
    rows = sorted(_image_rows(found), key=lambda row: (row[0] == 1, natural(row[1])))
    names = [name for _cases, name, _lines in rows if len(name) <= LABEL]
    column = max(map(len, ["image", *names]))
    room = max(width - column - 28, 16)
    text = [f"   {'image':<{column}}  {'ID':<12}  {'size':>7}  hosts"] if rows else []
    for cases, name, lines in rows:
        mark = " " if cases == 1 else "≠"
        if len(name) > LABEL:
            text.append(f"{mark}  {name}")
            mark, name = " ", ""
        for image_id, size, label in lines:
            for part in textwrap.wrap(label, room, break_long_words=False) or [""]:
                text.append(f"{mark}  {name:<{column}}  {image_id:<12}  {size:>7}  {part}".rstrip())
                mark, name, image_id, size = " ", "", "", ""
    differ = sum(cases > 1 for cases, _name, _lines in rows)
    same = f": {len(rows) - differ} the same on all, {differ} not" if len(found) > 1 else ""
    return [*text, f"{counted(len(found), 'host')}, {counted(len(rows), 'image')}{same}."]


def _image_rows(found: dict[str, list[dict[str, Any]]]) -> list[tuple[int, str, list[tuple[str, str, str]]]]:
    """Return (number of cases, name, [(ID, size, hosts)]) for each image name; hosts without it are a case too."""
    cases_of: dict[str, dict[str, tuple[dict[str, Any], list[str]]]] = {}
    for host, images in found.items():
        for image in images:
            names = image["tags"] or [digest[: digest.index("@") + 20] for digest in image["digests"]]
            for name in names or ["<none>"]:
                # Images without a name share one row.
                _image, having = cases_of.setdefault(name, {}).setdefault(
                    image["content"] if names else "", (image, [])
                )
                having += [host] if host not in having else []

    def where(names: list[str]) -> str:
        return "all" if len(names) == len(found) > 1 else host_ranges(names)

    rows = []
    for name, by_content in cases_of.items():
        cases = sorted(by_content.values(), key=lambda case: len(case[1]), reverse=True)
        without = [host for host in found if all(host not in having for _image, having in cases)]
        lines = [(short_id(image["id"]), size_text(image["size"]), where(having)) for image, having in cases]
        if name == "<none>":
            lines = [("", "", lines[0][2])]
        elif without:
            lines.append(("-", "", where(without)))
        rows.append((len(lines), name, lines))
    return rows


# ---- build, tag and save


def built_lines(images: Images, check: bool) -> list[str]:
    """Describe the image that each host built, and how much of the context was sent."""
    lines = []
    for host, image in images.items():
        sent = f"{counted(image['sent']['files'], 'file')} ({size_text(image['sent']['bytes'])})"
        made = "to build" if check else f"is {short_id(image['id'])}, {size_text(image['size'])}"
        lines.append(f"{host}: {image['name']} {made}; {sent} of the context {'to send' if check else 'sent'}")
    return lines


def tag_lines(changes_of: Iterable[tuple[str, list[dict[str, Any]]]], check: bool) -> list[str]:
    """List the tags that were moved, or would be, of (host, its changes)."""
    return grouped_lines(
        (
            [f"{counted(len(changes), 'tag')} {'to move' if check else 'moved'}", *change_lines(changes)]
            if changes
            else ["as wanted"],
            host,
        )
        for host, changes in changes_of
    )


def saved_lines(images: Images) -> list[str]:
    """Describe the archive that was written, and its checksum."""
    lines = []
    for image in images.values():
        lines.append("  ".join((image["names"][0], short_id(image["id"]), size_text(image["bytes"]), image["file"])))
        lines.append(f"sha256 {image['sha256']}, in {Path(image['file']).name}.sha256")
    return lines


# ---- ship and load


def transfer_lines(images: Images, check: bool, hosts: int) -> list[str]:
    """Return a table of what was sent, and which image is now on which of so many hosts, a line for each platform."""
    if not images:
        return []
    rows: list[tuple[str, ...]] = [("host", "image ID", "layers", "sent", "seconds")]
    for host, image in images.items():
        sent = "not yet" if image["sent_bytes"] is None else size_text(image["sent_bytes"])
        layers = f"{image['sent_layers']} of {image['layers']}"
        rows.append((host, short_id(image["shown_as"] or image["id"]), layers, sent, f"{image['seconds']:.1f}"))
    lines = table_lines(rows)
    if check:
        return lines
    where = f"{len(images)} of {hosts} hosts" if len(images) < hosts else f"all {hosts} hosts"
    by_id = grouped((image["id"], host) for host, image in images.items())
    names = ", ".join(next(iter(images.values()))["names"])
    for image_id, ranges in by_id.items():
        lines.append(f"{names} is {image_id} on {ranges if len(by_id) > 1 else 'the host' if hosts == 1 else where}.")
    others = {host: image["shown_as"] for host, image in images.items() if image["shown_as"] != image["id"]}
    if others:
        shown = ", ".join(sorted(set(map(short_id, others.values()))))
        lines.append(f"containerd shows it as {shown}, the digest of a manifest or an index: {host_ranges(others)}")
    return lines


# ---- prune


def going_text(decision: dict[str, Any]) -> str:
    """Return how much a decision (image_prune.decide) takes: ``2 containers, 3 images, 1.2 GB``."""
    kinds = (("containers", "container"), ("images", "image"))
    shown = [counted(len(decision[kind]), noun) for kind, noun in kinds if decision[kind]]
    return ", ".join([*shown, size_text(decision["bytes"])]) if shown else "nothing to remove"


def _decision_lines(decision: dict[str, Any]) -> list[str]:
    """Return a heading, and an aligned line for each container and image that a decision takes."""
    rows = [(f"container {one['name']}", one["why"], size_text(one["bytes"])) for one in decision["containers"]]
    for one in decision["images"]:
        names = one["names"] or [short_id(one["id"])]
        rows.append((f"image {names[0]}", one["why"], size_text(one["bytes"])))
        rows += [(f"  and {name}", "", "") for name in names[1:]]
    first, second = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    lines = [f"{what:<{first}}  {why:<{second}}  {size:>8}".rstrip() for what, why, size in rows]
    return [going_text(decision), *lines]


def prune_lines(images: Images) -> list[str]:
    """List what each host's decision takes, and how many bytes that frees."""
    taking = [one["bytes"] for one in images.values() if one["containers"] or one["images"]]
    total = f"To free: {size_text(sum(taking))}" + (f" on {counted(len(taking), 'host')}." if taking else ".")
    return [*grouped_lines((_decision_lines(one), host) for host, one in images.items()), total] if images else []


def freed_lines(images: Images) -> list[str]:
    """List what was removed on each host, what stayed nevertheless, and how many bytes that freed."""

    def lines(image: dict[str, Any]) -> list[str]:
        if "freed" not in image:
            return ["nothing to remove"]
        gone = {**image["removed"], "bytes": image["freed"]}
        is_any = gone["containers"] or gone["images"]
        heading = f"removed: {going_text(gone)}" if is_any else "nothing was removed"
        return [heading, *(f"stays: {one['name']}: {one['why']}" for one in image["stayed"])]

    total = f"Freed: {size_text(sum(image.get('freed', 0) for image in images.values()))}."
    return [*grouped_lines((lines(image), host) for host, image in images.items()), total] if images else []
