# SPDX-License-Identifier: MIT
"""One image on its way into one host: what load_image.py there says, and what it is sent."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import (
    host_command,
    host_pipe,
    image_archive,
    layer_fetch,
    layer_frames,
    transfer_progress,
)


class LoadError(Exception):
    """The host did not take the image; the message is one line."""


@dataclass(frozen=True)
class Reading:
    """What a host has of images.

    place: where layers lie, free: bytes there, None where nobody can tell; zstd: whether that program is there;
    machine: as uname -m has it.
    """

    held: image_archive.Held
    place: str
    free: int | None
    zstd: bool
    machine: str


def as_reading(said: dict[str, Any]) -> Reading:
    """Return load_image.py's reading as one. Raises LoadError."""
    if not re.match(r"\d+\.", said["engine"]):
        raise LoadError("docker does not answer")
    images = {one: (names, layers) for one, names, layers in said["images"]}
    blobs = frozenset(said["blobs"]) if said["blobs"] is not None else None
    held = image_archive.Held(said["containerd"], images, blobs, said["configs"])
    return Reading(held, said["place"], said["free"], said["zstd"], said["machine"])


class Listener:
    """Takes what load_image.py prints, among what a login may print too."""

    def __init__(self) -> None:
        self.said: dict[str, Any] = {}
        self._left = b""

    def hear(self, block: bytes) -> None:
        """Take a piece of it."""
        *lines, self._left = (self._left + block).split(b"\n")
        for line in lines:
            if line.startswith(b"gpuprov {"):
                self.said |= json.loads(line.partition(b" ")[2])

    @property
    def reading(self) -> Reading | None:
        """What the host has, once it said so. Raises LoadError."""
        said = self.said.get("reading")
        return None if said is None else as_reading(said)

    def check(self, answer: host_pipe.Ended) -> None:
        """Raise LoadError where load_image.py failed, or could not be run."""
        if "failed" in self.said:
            raise LoadError(self.said["failed"])
        if answer.status or "reading" not in self.said:
            text = f"{answer.stdout}\n{answer.stderr}"
            reason = host_pipe.last_line(text) or f"it ended with {answer.status}, without a word"
            raise LoadError(host_command.why_not_root(text) or f"the host cannot be read: {reason}")


class Load(Listener):
    """What a host lacks of an image, sent to it.

    images: the image for each platform; about: {digest: bytes} as far as the source told; label: the host's name.
    After frames() has ended, image is the one for the host's platform, before the ID of the image of that name that
    was there, after the ID that must be there then, changed whether that takes a change.
    """

    def __init__(
        self, images: Sequence[image_archive.Image], names: Sequence[str], about: dict[str, int],
        fetch: layer_fetch.Fetch, label: str,
    ) -> None:  # fmt: skip
        super().__init__()
        self._images, self._names, self._fetch, self._label = images, list(names), fetch, label
        self._told = about
        self._about: dict[str, int] = {}
        self._host: Reading | None = None
        self._form = "none"
        self._progress: transfer_progress.Progress | None = None
        self.image = images[0]
        self.missing: tuple[image_archive.Layer, ...] = ()
        self.before: str | None = None
        self.after: str | None = None
        self.changed = True

    def frames(self, check_mode: bool = False) -> Generator[bytes]:
        """Yield what load_image.py is to get, and nothing while it has not said what is there. Raises LoadError."""
        while (host := self.reading) is None:
            yield b""
        self._host, self._form = host, self._fetch.form(host.zstd)
        held, fetch = host.held, self._fetch
        name = self._names[0]
        image = self.image = image_archive.for_machine(self._images, host.machine)
        self.before = held.named(name)
        left = held.partial_tags(name)
        if all(held.has(image, one) for one in self._names):
            # However the host came to it. An index with attestations stays what it is.
            self.after, self.changed = self.before, False
            if left and not check_mode:
                yield _begin(name, left)
                yield layer_frames.frame(b"Z")
            return
        self.missing = image_archive.lacking(image, held)
        if check_mode:
            return
        if held.containerd:
            digests = {layer.digest for layer in self.missing}
            fetch.measure(layer for layer in image.layers if layer.size is None and layer.digest not in digests)
        self._about = {
            digest: size or self._told.get(digest) or 0 for digest, size in fetch.sizes(image.layers).items()
        }
        need = sum(self._about[layer.digest] for layer in self.missing)
        if host.free is not None and need > host.free:
            raise LoadError(
                f"the disk is too full: {host.place} has {_megabytes(host.free)} free, "
                f"the layers that are missing need {_megabytes(need)}"
            )
        parts = image_archive.parts(image, self.missing, self._about)
        left += [image_archive.partial_tag(name, image.id, reached) for reached, _new in parts[:-1]]
        yield _begin(name, left)
        with contextlib.ExitStack() as stack:
            # Only now: what went before would be taken for a very slow line.
            self._progress = stack.enter_context(transfer_progress.Progress("sending", self._label, self._total()))
            stack.enter_context(fetch.ahead(self.missing, self._form))
            for reached, new in parts:
                whole = reached == len(image.layers)
                partial = [image_archive.partial_tag(name, image.id, reached)]
                yield from self._archive(host, reached, new, self._names if whole else partial)
            self.after = image_archive.id_on(image, held.containerd, fetch.sizes(image.layers))
            yield layer_frames.frame(b"Z")

    def _total(self) -> int:
        """How many bytes the host gets, as far as that is known now."""
        return sum(self._fetch.on_way(layer, self._form, self._about) for layer in self.missing)

    def count(self, number: int) -> None:
        """Take down that so many bytes went their way."""
        if self._progress is not None:
            self._progress.add(number)

    @property
    def sent(self) -> int:
        """How many bytes the host got."""
        return self._progress.done if self._progress else 0

    def check(self, answer: host_pipe.Ended) -> None:
        """Raise LoadError where the image is not there as it should be."""
        if "no space left on device" in str(self.said.get("failed")) and self._host is not None:
            need = _megabytes(sum(self._about[layer.digest] for layer in self.missing))
            raise LoadError(f"the disk is full: {self._host.place} has no room for the {need} that are missing")
        super().check(answer)
        if "id" in self.said and self.said["id"] != self.after:
            shown = self.said["id"] or "no ID"
            raise LoadError(f"{self._names[0]} has {shown} there, and should have {self.after}")

    def _archive(
        self, host: Reading, count: int, new: Sequence[image_archive.Layer], names: Sequence[str]
    ) -> Iterator[bytes]:
        """An archive as load_image.py takes it, with the layers as they lie in the spool."""
        fetch, form, progress = self._fetch, self._form, self._progress
        layers = True
        for path, content in image_archive.members(self.image, count, new, names, host.held.containerd, fetch.sizes):
            if isinstance(content, bytes):
                if layers:
                    layers = False
                    yield layer_frames.frame(b"W")
                whole = image_archive.header(path, len(content)) + content + image_archive.padding(len(content))
                yield layer_frames.frame(b"D", whole)
                continue
            size = None
            for block in fetch.stream(content, form):
                if block and size is None:
                    size = fetch.sizes([content])[content.digest]
                    yield layer_frames.frame(b"D", image_archive.header(path, size))
                if block and progress is not None:
                    progress.total = self._total()
                yield block
            if size is None:
                raise LoadError(f"layer {content.digest[:19]} is empty")
            if tail := image_archive.padding(size):
                yield layer_frames.frame(b"D", tail)
        yield layer_frames.frame(b"D", image_archive.END)
        yield layer_frames.frame(b"E")


def _begin(name: str, gone: Sequence[str]) -> bytes:
    """The first frame: whose image comes, and which names go at the end."""
    return layer_frames.frame(b"J", json.dumps({"name": name, "gone": list(dict.fromkeys(gone))}).encode())


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
