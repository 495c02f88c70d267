# SPDX-License-Identifier: MIT
"""Fetch layers from the source into the spool: each layer once, by the first process of a run that needs it."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ansible.errors import AnsibleError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import (
    host_pipe,
    image_archive,
    layer_frames,
    layer_spool,
    packing,
    transfer_progress,
)

# How many layers come from the source at once, for all processes of a run together.
AT_ONCE = 2
_PAUSE = 0.03  # seconds


@dataclass
class Fetch:
    """The source of an image's layers.

    name: the image's name at the source. label: the source, in messages. compression: see layer_frames.form_for.
    zstd: whether the source and this machine have zstd. export: starts export_image.py with the given words, None
    where the spool already has all layers.
    """

    spool: layer_spool.Spool
    name: str
    label: str
    compression: str
    zstd: bool
    export: Callable[..., host_pipe.Start] | None
    stopped: Callable[[], bool]
    failed: list[BaseException] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def form(self, zstd: bool) -> str:
        """Return the form in which layers travel to a host. zstd: whether the host has it."""
        return layer_frames.form_for(self.compression, self.zstd, zstd)

    def sizes(self, layers: Iterable[image_archive.Layer]) -> dict[str, int]:
        """Return {digest: bytes} of blobs, 0 where the size is not known yet."""
        return {layer.digest: layer.size or self.spool.size(layer.digest) or 0 for layer in layers}

    def on_way(self, layer: image_archive.Layer, form: str, about: dict[str, int]) -> int:
        """Return how many bytes of a layer travel, or an estimate while it is not in the spool."""
        with contextlib.suppress(OSError):
            return self.spool.path(layer.digest, form).stat().st_size
        return about[layer.digest]

    def measure(self, layers: Iterable[image_archive.Layer]) -> None:
        """Read the sizes of layers that nobody fetches: a manifest has to name them."""
        for layer in layers:
            if self.spool.size(layer.digest) is None and self.export is not None:
                _what, place, which = layer.place.split(" ")
                answer = host_pipe.run(self.export("sizes", place, which), stopped=self.stopped)
                if answer.status:
                    raise AnsibleError(f"the size of a layer cannot be read: {host_pipe.last_line(answer.stderr)}")
                self.spool.remember(layer.digest, int(answer.stdout))

    def bring(self, layers: Sequence[image_archive.Layer], forms: Sequence[str]) -> None:
        """Return when the spool has all layers in all forms."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for form in forms:
                list(pool.map(lambda layer, form=form: self._have(layer, form), layers))

    @contextlib.contextmanager
    def ahead(self, layers: Sequence[image_archive.Layer], form: str) -> Iterator[None]:
        """Fetch layers in the background, in order, while those that are already here are sent."""

        def work() -> None:
            for layer in layers:
                if not self.over.is_set():
                    self._have_unless_claimed(layer, form)

        self._begin(*[work] * AT_ONCE)
        try:
            yield
        finally:
            self.over.set()
            for thread in self.threads:
                thread.join()

    def _begin(self, *works: Callable[[], None]) -> None:
        for work in works:
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self.threads.append(thread)

    def _have_unless_claimed(self, layer: image_archive.Layer, form: str) -> None:
        with self.spool.claimed(f"{layer.digest}-{form}") as mine:
            try:
                if mine:
                    self._have(layer, form)
            except BaseException as error:
                # Before the claim ends, so that no other process starts what has just failed.
                self.failed.append(error)

    def stream(self, layer: image_archive.Layer, form: str) -> Iterator[bytes]:
        """Yield a layer's frames, and b"" as long as the layer is not complete in the spool.

        The size of its blob is known once the first frame came. Raises what kept the layer from coming.
        """
        path = self.spool.path(layer.digest, form)
        while True:
            if self.spool.has(layer.digest, [form]):
                with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                    yield from host_pipe.until_stopped(layer_spool.blocks_of(file), self._stopped)
                    return
            if self.failed:
                raise self.failed[0]
            if self._stopped():
                raise host_pipe.Stopped
            # Another process may have begun to fetch it and ended early.
            with self.spool.claimed(f"{layer.digest}-{form}") as abandoned:
                pass
            if abandoned and not any(thread.is_alive() for thread in self.threads) and not self.failed:
                self._begin(functools.partial(self._have_unless_claimed, layer, form))
            yield b""

    def _stopped(self) -> bool:
        return self.over.is_set() or self.stopped()

    def _have(self, layer: image_archive.Layer, form: str) -> None:
        if self.spool.has(layer.digest, [form]):
            return
        for other in layer_spool.FORMS:
            if self.spool.has(layer.digest, [other]):
                with self.spool.path(layer.digest, other).open("rb") as file:
                    blocks = host_pipe.until_stopped(layer_spool.blocks_of(file), self._stopped)
                    layer_spool.keep(self.spool, layer_frames.unpacked(blocks), form, layer.digest)
                return
        if self.export is None or not layer.place:
            raise AnsibleError("the layers that were read are gone: run it again")
        what, place, which = layer.place.split(" ")
        with self._turn(), transfer_progress.Progress("fetching", f"{self.label} {layer.digest[7:15]}") as progress:
            blocks = progress.counted(host_pipe.output(self.export(what, form, place, which), self._stopped))
            with contextlib.suppress(AnsibleError, image_archive.ArchiveError, packing.PackingError):
                layer_spool.take(self.spool, blocks, form, layer.digest)
                return
        # dockerd keeps its layers in a way that export_image.py does not know: docker save gives all of them.
        self._have_saved(layer, form)

    def _have_saved(self, layer: image_archive.Layer, form: str) -> None:
        while not self._stopped():
            with self.spool.claimed(f"save-{form}") as mine:
                if mine and not self.spool.has(layer.digest, [form]):
                    self.saved(form)
                if self.spool.has(layer.digest, [form]):
                    return
                if mine:
                    raise AnsibleError(f"{self.label} does not give a layer of the image")
            time.sleep(_PAUSE)
        raise host_pipe.Stopped

    def saved(self, form: str) -> tuple[image_archive.Image, ...]:
        """Read the whole image into the spool, as docker save writes it."""
        assert self.export is not None
        with transfer_progress.Progress("fetching", self.label) as progress:
            start = self.export("save", layer_frames.form_for(self.compression, self.zstd), self.name)
            blocks = progress.counted(host_pipe.output(start, self._stopped))
            stream = layer_frames.Stream(layer_frames.unpacked(blocks))
            try:
                return layer_spool.read_archive(stream, self.spool, form, self.name)[0]
            except (AnsibleError, image_archive.ArchiveError, packing.PackingError) as error:
                # The source failed, not the host that waits for the image.
                raise AnsibleError(f"{self.label} does not give the image: {error}") from None

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """Wait for one of the AT_ONCE turns at the source."""
        while not self._stopped():
            for number in range(AT_ONCE):
                with self.spool.claimed(f"turn-{number}") as mine:
                    if mine:
                        yield
                        return
            time.sleep(_PAUSE)
        raise host_pipe.Stopped
