# SPDX-License-Identifier: MIT
"""Send an image to a host: the layers that the host lacks, one by one, to image_on_host.py there."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Any

from ansible.errors import AnsibleError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_pipe
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import (
    image_archive,
    layer_spool,
    packing,
    transfer_progress,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images.image_archive import Held, Image, Layer
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import fleet


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
    """Return the next object from image_on_host.py. Raises AnsibleError where it failed, or could not be run."""
    text = pipe.stdout.readline()
    try:
        return dict(json.loads(text))
    except ValueError:
        completed = pipe.completed(text)
    reason = host_pipe.reason(completed)
    raise AnsibleError(reason if completed.returncode == 3 else f"the host cannot be read: {reason}")


def load(
    pipe: host_pipe.Pipe, images: Sequence[Image], names: Sequence[str], fetcher: layer_spool.Fetcher, label: str,
    check_mode: bool = False,
) -> Loaded:  # fmt: skip
    """Load the image for the host's platform. Raises AnsibleError and Stopped."""
    held = Held(**answer(pipe))
    image = image_archive.for_machine(images, held.machine)
    before, left = held.named(names[0]), held.partial_tags(names[0])
    # By any manifest or index: an index with attestations is not replaced.
    changed = not all(held.has(image, one) for one in names)
    after = image.shown_as(held.containerd) if changed else before
    missing = image_archive.lacking(image, held) if changed else ()
    if check_mode or not (changed or left):
        return Loaded(image, missing, before, None if changed else before, changed)
    need = sum(layer.size for layer in missing)
    need_text = fleet.size_text(need)
    if held.free is not None and need > held.free:
        free = f"{held.place} has {fleet.size_text(held.free)} free"
        raise AnsibleError(f"the disk is too full: {free}, the layers that are missing need {need_text}")
    parts = image_archive.parts(image, missing) if changed else []
    partial = [image_archive.partial_tag(names[0], image.id, count) for count, _new in parts[:-1]]
    tags = [*([tag] for tag in partial), names]
    with transfer_progress.Progress("sending", label, need) as progress:
        # Where the host has failed, its answer tells why.
        with contextlib.suppress(BrokenPipeError):
            _send(pipe, {"name": names[0], "gone": list(dict.fromkeys([*left, *partial]))})
            with fetcher.ahead([layer for _count, new in parts for layer in new]) as fetched:
                for (count, new), tag in zip(parts, tags, strict=False):
                    for layer in new:
                        with next(fetched) as file:
                            _send_layer(pipe, layer, file, held, progress)
                    files = image_archive.last_files(image.beginning(count), tag, held.containerd)
                    _send(pipe, {"files": [[path, base64.b64encode(data).decode()] for path, data in files]})
            _send(pipe, {"end": True})
        try:
            found = answer(pipe)["id"]
        except AnsibleError as error:
            if "no space left on device" not in str(error):
                raise
            reason = f"the disk is full: {held.place} has no room for the {need_text} that are missing"
            raise AnsibleError(reason) from None
    if found != after:
        raise AnsibleError(f"{names[0]} has {found or 'no ID'} on the host, expected {after}")
    return Loaded(image, missing, before, after, changed, sent=progress.done)


def _send(pipe: host_pipe.Pipe, document: dict[str, Any], blocks: Iterable[bytes] = ()) -> None:
    pipe.write(json.dumps(document).encode() + b"\n")
    for block in blocks:
        pipe.write(block)


def _send_layer(
    pipe: host_pipe.Pipe, layer: Layer, file: IO[bytes], held: Held, progress: transfer_progress.Progress
) -> None:
    blocks, size, form = layer_spool.blocks_of(file), os.fstat(file.fileno()).st_size, layer_spool.form_of(file)
    if form == "zstd" and not held.zstd:
        blocks, form, size = packing.unpacked(form, blocks), "none", layer.size
    progress.total += size - layer.size
    head = {"path": image_archive.layer_path(layer, held.containerd), "size": layer.size, "form": form, "bytes": size}
    _send(pipe, head, progress.counted(blocks))
