# SPDX-License-Identifier: MIT
"""Send an image to a host: the layers that the host lacks, one by one, to image_on_host.py there."""

from __future__ import annotations

import base64
import contextlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_command, host_pipe
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import (
    image_archive,
    layer_spool,
    packing,
    transfer_progress,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images.image_archive import Held, Image, Layer
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import image_text


class LoadError(Exception):
    """The host did not take the image; the message is one line."""


@dataclass(frozen=True)
class Loaded:
    """An image on a host: before and after are the IDs that the host shows for its name, sent is in bytes."""

    image: Image
    missing: Sequence[Layer]
    before: str | None
    after: str | None
    changed: bool
    sent: int = 0


def answer(pipe: host_pipe.Pipe) -> dict[str, Any]:
    """Return the next object from image_on_host.py. Raises LoadError where it failed, or could not be run."""
    text = pipe.stdout.readline()
    try:
        document: dict[str, Any] = json.loads(text)
    except ValueError:
        completed = pipe.completed()
        whole = f"{text.decode(errors='replace')}{completed.stdout}\n{completed.stderr}"
        reason = host_pipe.last_line(whole) or f"it ended with {completed.returncode}, without a message"
        if completed.returncode != 3:
            reason = host_command.why_not_root(whole) or f"the host cannot be read: {reason}"
        raise LoadError(reason) from None
    return document


def held_by(pipe: host_pipe.Pipe) -> Held:
    """Return what the host has. Raises LoadError."""
    held = Held(**answer(pipe))
    if not re.match(r"\d+\.", held.engine):
        raise LoadError("docker does not answer")
    return held


def load(
    pipe: host_pipe.Pipe, images: Sequence[Image], names: Sequence[str], fetcher: layer_spool.Fetcher, label: str,
    check_mode: bool = False,
) -> Loaded:  # fmt: skip
    """Load the image for the host's platform. Raises LoadError, ArchiveError, and as fetch does."""
    held = held_by(pipe)
    image = image_archive.for_machine(images, held.machine)
    before = held.named(names[0])
    left = held.partial_tags(names[0])
    if all(held.has(image, one) for one in names):
        # By any manifest or index: an index with attestations is not replaced.
        if left and not check_mode:
            _send(pipe, {"name": names[0], "gone": left})
            _send(pipe, {"end": True})
            answer(pipe)
        return Loaded(image, (), before, before, changed=False)
    missing = image_archive.lacking(image, held)
    if check_mode:
        return Loaded(image, missing, before, None, changed=True)
    need = sum(layer.size for layer in missing)
    if held.free is not None and need > held.free:
        free = f"{held.place} has {image_text.size_text(held.free)} free"
        raise LoadError(f"the disk is too full: {free}, the layers that are missing need {image_text.size_text(need)}")
    parts = image_archive.parts(image, missing)
    partial = [image_archive.partial_tag(names[0], image.id, count) for count, _ in parts[:-1]]
    tags = [*([tag] for tag in partial), names]
    with transfer_progress.Progress("sending", label, need) as progress:
        # Where the host has failed, its answer tells why.
        with contextlib.suppress(BrokenPipeError):
            _send(pipe, {"name": names[0], "gone": list(dict.fromkeys([*left, *partial]))})
            with fetcher.ahead([layer for _, new in parts for layer in new]) as fetched:
                for (count, new), tag in zip(parts, tags, strict=True):
                    for _ in new:
                        _send_layer(pipe, next(fetched), held, fetcher, progress)
                    files = image_archive.last_files(image.beginning(count), tag, held.containerd)
                    _send(pipe, {"files": [[path, base64.b64encode(data).decode()] for path, data in files]})
            _send(pipe, {"end": True})
        try:
            found = answer(pipe)["id"]
        except LoadError as error:
            if "no space left on device" not in str(error):
                raise
            reason = f"the disk is full: {held.place} has no room for the {image_text.size_text(need)} that are missing"
            raise LoadError(reason) from None
    after = image.shown_as(held.containerd)
    if found != after:
        raise LoadError(f"{names[0]} has {found or 'no ID'} on the host, expected {after}")
    return Loaded(image, missing, before, after, changed=True, sent=progress.done)


def _send(pipe: host_pipe.Pipe, document: dict[str, Any], blocks: Iterable[bytes] = ()) -> None:
    pipe.write(json.dumps(document).encode() + b"\n")
    for block in blocks:
        pipe.write(block)


def _send_layer(
    pipe: host_pipe.Pipe, layer: Layer, held: Held, fetcher: layer_spool.Fetcher, progress: transfer_progress.Progress
) -> None:
    while (found := fetcher.spool.find(layer.digest)) is None:  # removed by another run
        fetcher.fetch(layer)
    path, form = found
    with path.open("rb") as file:
        blocks, size = layer_spool.blocks_of(file), path.stat().st_size
        if form == "zstd" and not held.zstd:
            blocks, form, size = packing.unpacked(form, blocks), "none", layer.size
        progress.total += size - layer.size
        inside = image_archive.layer_path(layer, held.containerd)
        head = {"path": inside, "size": layer.size, "form": form, "bytes": size}
        _send(pipe, head, progress.counted(blocks))
