# SPDX-License-Identifier: MIT
"""Layers from the source into the spool, each once, by whichever process of a run comes to it first."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ansible.errors import AnsibleError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import (
    host_pipe,
    image_archive,
    layer_spool,
    packing,
    transfer_progress,
)

# How many layers come from the source at once, for all processes of a run together.
AT_ONCE = 3
_PAUSE = 0.03  # seconds


@dataclass
class Fetch:
    """Where layers come from.

    name: of the image at the source, label: of that; wire: the form in which layers come from there; export gives
    the start of export_image.py with some words, None where all that there is lies in the spool already.
    """

    spool: layer_spool.Spool
    name: str
    label: str
    wire: str
    export: Callable[..., host_pipe.Start] | None
    stopped: Callable[[], bool]
    failed: list[BaseException] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def sizes(self, layers: Iterable[image_archive.Layer]) -> dict[str, int]:
        """Return {digest: bytes} of blobs as far as they are known, else 0."""
        return {layer.digest: layer.size or self.spool.size(layer.digest) or 0 for layer in layers}

    def on_way(self, layer: image_archive.Layer, form: str, about: dict[str, int]) -> int:
        """Return how many bytes a layer has on its way, or about so many."""
        with contextlib.suppress(OSError):
            return self.spool.path(layer.digest, form).stat().st_size
        return about[layer.digest]

    def measure(self, layers: Iterable[image_archive.Layer]) -> None:
        """Find out the sizes of layers that nobody fetches: a manifest has to name them."""
        for layer in layers:
            if self.spool.size(layer.digest) is None and self.export is not None:
                _what, place, which = layer.place.split(" ")
                answer = host_pipe.run(self.export("sizes", place, which), stopped=self.stopped)
                if answer.status:
                    raise AnsibleError(f"the size of a layer cannot be read: {host_pipe.last_line(answer.stderr)}")
                self.spool.remember(layer.digest, int(answer.stdout))

    def bring(self, layers: Sequence[image_archive.Layer], forms: Sequence[str]) -> None:
        """Have all layers in the spool in all forms when this returns."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for form in forms:
                list(pool.map(lambda layer, form=form: self._have(layer, form), layers))

    @contextlib.contextmanager
    def ahead(self, layers: Sequence[image_archive.Layer], form: str) -> Iterator[None]:
        """Fetch layers in the background, in order, while others that are here are sent."""

        def work() -> None:
            try:
                for layer in layers:
                    if self.over.is_set():
                        return
                    with self.spool.claimed(f"{layer.digest}-{form}") as mine:
                        if mine:
                            self._have(layer, form)
            except BaseException as error:
                self.failed.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.over.set()
            for thread in threads:
                thread.join()

    def wait(self, layer: image_archive.Layer, form: str) -> Path:
        """Return where a layer lies, once it is there. Raises what kept it from coming."""
        while not self.spool.has(layer.digest, [form]):
            if self.failed:
                raise self.failed[0]
            if self._stopped():
                raise host_pipe.Stopped
            # Whoever was at it may have gone, so this looks itself as well.
            with self.spool.claimed(f"{layer.digest}-{form}") as mine:
                if mine:
                    self._have(layer, form)
                    break
            time.sleep(_PAUSE)
        return self.spool.path(layer.digest, form)

    def _stopped(self) -> bool:
        return self.over.is_set() or self.stopped()

    def _have(self, layer: image_archive.Layer, form: str) -> None:
        if self.spool.has(layer.digest, [form]):
            return
        for other in ("zstd", "gzip"):
            if self.spool.has(layer.digest, [other]):
                with self.spool.path(layer.digest, other).open("rb") as file:
                    blocks = self._until_stopped(layer_spool.blocks_of(file, lambda _: None))
                    layer_spool.keep(self.spool, packing.unpacked(other, blocks), "raw", [form], layer.digest)
                return
        if self.export is None or not layer.place:
            raise AnsibleError("the layers that were read are gone: start anew")
        what, place, which = layer.place.split(" ")
        with self._turn(), transfer_progress.Progress("fetching", f"{self.label} {layer.digest[7:15]}") as progress:
            blocks = self._counted(
                host_pipe.output(self.export(what, self.wire, place, which), self._stopped), progress
            )
            with contextlib.suppress(AnsibleError, image_archive.ArchiveError, packing.PackingError):
                layer_spool.keep(self.spool, blocks, self.wire, [form], layer.digest)
                return
        # dockerd keeps its layers in another way than we know: it gives them all, and slower.
        self._have_saved(layer, form)

    def _have_saved(self, layer: image_archive.Layer, form: str) -> None:
        while not self._stopped():
            with self.spool.claimed(f"save-{form}") as mine:
                if mine and not self.spool.has(layer.digest, [form]):
                    self.saved([form])
                if self.spool.has(layer.digest, [form]):
                    return
                if mine:
                    raise AnsibleError(f"{self.label} does not give a layer of the image")
            time.sleep(_PAUSE)
        raise host_pipe.Stopped

    def saved(self, forms: Sequence[str]) -> image_archive.Image:
        """Read the whole image into the spool, as docker save gives it."""
        assert self.export is not None
        with transfer_progress.Progress("fetching", self.label) as progress:
            start = self.export("save", self.wire, self.name)
            blocks = self._counted(host_pipe.output(start, self._stopped), progress)
            stream = layer_spool.Stream(packing.unpacked(self.wire, blocks))
            try:
                return layer_spool.read_archive(stream, self.spool, forms, self.name)[0]
            except (AnsibleError, image_archive.ArchiveError, packing.PackingError) as error:
                # Not the host's that waits for it, though that is at work now.
                raise AnsibleError(f"{self.label} does not give the image: {error}") from None

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One of the few turns that a source has at a time."""
        while not self._stopped():
            for number in range(AT_ONCE):
                with self.spool.claimed(f"turn-{number}") as mine:
                    if mine:
                        yield
                        return
            time.sleep(_PAUSE)
        raise host_pipe.Stopped

    def _counted(self, blocks: Iterable[bytes], progress: transfer_progress.Progress) -> Iterator[bytes]:
        for block in blocks:
            progress.add(len(block))
            yield block

    def _until_stopped(self, blocks: Iterable[bytes]) -> Iterator[bytes]:
        for block in blocks:
            if self._stopped():
                raise host_pipe.Stopped
            yield block
