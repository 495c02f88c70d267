# SPDX-License-Identifier: MIT
"""Layers from the source into the spool, each once, by whichever process of a run comes to it first."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

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
# Bytes a second: on a line that is faster, packing with deflate gains little, and costs both ends much.
FAST = 40e6


class LayerLost(AnsibleError):
    """What was read of a layer while it came is worth nothing: it did not come to its end, or came anew."""

    def __init__(self) -> None:
        super().__init__("a layer came anew while it was read here: run it again")


@dataclass
class Fetch:
    """Where layers come from.

    name: of the image at the source, label: of that; zstd: whether that is there and here; export gives the start
    of export_image.py with some words, None where all that there is lies in the spool already; patient: whether
    layers are sent on only when they are here completely; speed: bytes a second at which layers go on from
    here; running: how many threads run on this machine.
    """

    spool: layer_spool.Spool
    name: str
    label: str
    zstd: bool
    export: Callable[..., host_pipe.Start] | None
    stopped: Callable[[], bool]
    patient: bool = False
    speed: float = FAST
    running: float = 0.0
    failed: list[BaseException] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

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
                # Before others see that nobody is at it.
                self.failed.append(error)

    def stream(self, layer: image_archive.Layer, form: str) -> Iterator[bytes]:
        """Yield a layer's frames, also while it still comes, and nothing (b"") where there is nothing yet.

        The size of its blob is known once something came. Raises LayerLost, and what kept it from coming.
        """
        path, part = self.spool.path(layer.digest, form), self.spool.part(layer.digest, form)
        file = None
        while file is None:
            self._go_on()
            if self.spool.has(layer.digest, [form]):
                with contextlib.suppress(FileNotFoundError):
                    file = path.open("rb")
                continue
            # Whoever was at it may have gone.
            with self.spool.claimed(f"{layer.digest}-{form}") as abandoned:
                pass
            if abandoned and not any(thread.is_alive() for thread in self.threads):
                self._begin(functools.partial(self._have_unless_claimed, layer, form))
            if not self.patient and self.spool.size(layer.digest) is not None:
                with contextlib.suppress(FileNotFoundError):
                    file = part.open("rb")
                    break
            self.speed = FAST
            yield b""
        with file:
            while True:
                self._go_on()
                # In this order: what was complete before there was nothing more to read is read completely.
                complete = path.exists()
                if block := file.read(packing.BLOCK):
                    begun = time.monotonic()
                    yield block
                    speed = len(block) / max(time.monotonic() - begun, 1e-6)
                    self.speed += (min(speed, 2 * FAST) - self.speed) / 8
                elif complete:
                    if not _same(file, path):
                        raise LayerLost
                    return
                else:
                    with self.spool.claimed(f"{layer.digest}-{form}") as abandoned:
                        if abandoned and not path.exists():
                            raise LayerLost
                    self.speed = FAST
                    yield b""

    def _go_on(self) -> None:
        """Raise what speaks against going on."""
        if self.failed:
            raise self.failed[0]
        if self._stopped():
            raise host_pipe.Stopped

    def hurried(self) -> bool:
        """Whether layers go on as fast as they come, or everything here is busy: there is no time to pack them."""
        return self.speed >= FAST or self._busy()

    def _busy(self) -> bool:
        with contextlib.suppress(OSError, ValueError, IndexError):
            # What runs or could run now (proc_loadavg(5)), this thread too.
            running = int(Path("/proc/loadavg").read_text(encoding="ascii").split()[3].partition("/")[0])
            self.running += (running - self.running) / 8
        return self.running > (os.cpu_count() or 1)

    def _stopped(self) -> bool:
        return self.over.is_set() or self.stopped()

    def _have(self, layer: image_archive.Layer, form: str) -> None:
        if self.spool.has(layer.digest, [form]):
            return
        for other in layer_spool.FORMS:
            if self.spool.has(layer.digest, [other]):
                with self.spool.path(layer.digest, other).open("rb") as file:
                    blocks = host_pipe.until_stopped(layer_spool.blocks_of(file), self._stopped)
                    layer_spool.keep(self.spool, layer_frames.unpacked(blocks), [form], layer.digest)
                return
        if self.export is None or not layer.place:
            raise AnsibleError("the layers that were read are gone: start anew")
        what, place, which = layer.place.split(" ")
        wire = form if form != "zstd" or self.zstd else "zlib"
        with self._turn(), transfer_progress.Progress("fetching", f"{self.label} {layer.digest[7:15]}") as progress:
            blocks = progress.counted(host_pipe.output(self.export(what, wire, place, which), self._stopped))
            with contextlib.suppress(AnsibleError, image_archive.ArchiveError, packing.PackingError):
                if wire == form:
                    layer_spool.take(self.spool, blocks, form, layer.digest, layer.size, self.hurried)
                else:
                    layer_spool.keep(self.spool, layer_frames.unpacked(blocks), [form], layer.digest)
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
            start = self.export("save", "zstd" if self.zstd else "zlib", self.name)
            blocks = progress.counted(host_pipe.output(start, self._stopped))
            stream = layer_frames.Stream(layer_frames.unpacked(blocks))
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


def _same(file: IO[bytes], path: Path) -> bool:
    """Whether an open file is the one at a path."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
