# SPDX-License-Identifier: MIT
"""The steps of a transfer of one image: describe it, fetch what hosts lack, load it."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import image_name
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import (
    host_command,
    host_pipe,
    image_archive,
    image_load,
    layer_spool,
    packing,
    transfer_progress,
)

# Stands for the layer in the command that fetches one.
_LAYER = "@LAYER@"


class Failure(Exception):
    """The step failed; the message is for people."""


_ERRORS = (
    Failure, AnsibleError, OSError, image_archive.ArchiveError, image_load.LoadError, image_name.ImageNameError,
    packing.PackingError,
)  # fmt: skip


class ActionModule(ActionBase):
    """One step of a transfer."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the step's result; fail with one line."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        self._vars = task_vars or {}
        args = self._task.args
        self._image: dict[str, Any] = args.get("image") or {}
        self._compression = str(args.get("compression") or "auto")
        self._asked = False
        # local, host or file, and which.
        source = str(args.get("from") or "local")
        self._kind = "local" if source == "local" else "host" if source in self._vars["groups"]["all"] else "file"
        if args.get("archive"):
            self._kind, source = "file", args["archive"]
        self._source = os.path.expanduser(source) if self._kind == "file" else source
        self._label = "this machine" if self._kind == "local" else self._source
        try:
            return {**result, **getattr(self, f"_{args['step']}")()}
        except host_pipe.Stopped:
            return {**result, **self._failure("interrupted"), "interrupted": True}
        except AnsibleConnectionFailure as error:
            advice = host_command.why_not_root(str(error))
            if advice is None and "source" not in self._failure(""):
                raise
            return {**result, **self._failure(advice or str(error)), "source_unreachable": advice is None}
        except _ERRORS as error:
            return {**result, **self._failure(host_command.why_not_root(str(error)) or str(error))}

    def _failure(self, message: str) -> dict[str, Any]:
        """Return the result of a failure: before_hosts where no host was asked anything, source where that failed."""
        failed = {"failed": True, "msg": message}
        if self._task.args["step"] not in ("describe", "fetch", "save"):
            return failed
        if not self._asked:
            return {**failed, "before_hosts": True}
        return {**failed, "msg": f"{self._source}: {message}", "source": self._source, "reason": message}

    # ---- steps

    def _describe(self) -> dict[str, Any]:
        """Return what the image consists of. Where only an archive tells that, all of it is in the spool then."""
        name = self._name()
        found: dict[str, Any] = {"zstd": False, "machine": "", "id": "", "images": None}
        if self._kind == "file":
            images, names = self._read_file(Path(self._source), name)
        else:
            found = self._look(name)
            names = [name]
            if found["images"]:
                images = tuple(image_archive.from_json(one) for one in found["images"])
            else:
                form = packing.wire_form(self._compression, found["zstd"], packing.has_zstd())
                with transfer_progress.Progress("fetching", self._label) as progress:
                    blocks = host_pipe.output(self._export("save", f"{form},{name}"), _stopped)
                    images, _ = self._read(packing.unpacked(form, progress.counted(blocks)), name)
        if not (names or name):
            raise Failure(
                f"the image in {self._source} has no name: say one, as in image ship NAME:TAG --from {self._source}"
            )
        # Loading fetches as it goes on, unless that takes a password, or all of it is in the spool.
        again = host_pipe.repeatable(self._export("layer", _LAYER)) if found["images"] else {}
        told = {"names": [name] if name else names, "again": again}
        told |= {fact: found[fact] for fact in ("zstd", "machine", "id")}
        return {"image": {**told, "images": [image_archive.as_json(image) for image in images]}}

    def _read_file(self, path: Path, name: str | None) -> Any:
        if not path.is_file():
            raise Failure(
                f"there is no file {path}" if self._task.args.get("archive")
                else f"{path} is neither local nor a host of the inventory nor a file"
            )  # fmt: skip
        with transfer_progress.Progress("reading", path.name, path.stat().st_size) as progress, path.open("rb") as file:
            _check_sum(path)
            form = packing.form_of(file.peek(6))
            try:
                return self._read(packing.unpacked(form, progress.counted(layer_spool.blocks_of(file, _stopped))), name)
            except (image_archive.ArchiveError, packing.PackingError) as error:
                raise Failure(f"{path}: {error}") from None

    def _read(self, blocks: Iterable[bytes], name: str | None) -> Any:
        form = packing.wire_form(self._compression, packing.has_zstd())
        return layer_spool.read_archive(blocks, layer_spool.spool(), form, name)

    def _look(self, name: str | None) -> dict[str, Any]:
        """Return what image_on_host.py says of the image."""
        if name is None:
            raise Failure("say which image, as NAME:TAG")
        answer = host_pipe.run(self._export("describe", name), stopped=_stopped)
        if not answer.status:
            return dict(json.loads(answer.stdout))
        where = "on this machine" if self._kind == "local" else f"on {self._source}"
        said = host_pipe.last_line(answer.stderr)
        if re.search("no such image", said, re.IGNORECASE):
            raise Failure(f"there is no image {name} {where}")
        raise Failure(f"docker {where} cannot be asked for {name}: {said}")

    def _reading(self) -> dict[str, Any]:
        """Return what this host has."""
        with host_pipe.opened(self._there("load"), _stopped) as pipe:
            return {"held": vars(image_load.held_by(pipe))}

    def _fetch(self) -> dict[str, Any]:
        """Bring all layers that some host lacks into the spool: for a source that asks for a password."""
        fetch = self._fetching(functools.partial(self._export, "layer"))
        wanted: dict[str, image_archive.Layer] = {}
        for name in set(self._vars["ansible_play_hosts"]) - {self._source}:
            held = image_archive.Held(**self._vars["hostvars"][name][self._task.args["hosts"]]["held"])
            # Loading says it where no image is for a host.
            with contextlib.suppress(image_archive.ArchiveError):
                image = image_archive.for_machine(self._images, held.machine)
                wanted |= {layer.digest: layer for layer in image_archive.lacking(image, held)}
        for layer in () if self._task.check_mode else wanted.values():
            fetch.fetch(layer)
        return {}

    def _load(self) -> dict[str, Any]:
        """Load on this host what it lacks, layer by layer."""
        begun = time.monotonic()
        names, again, host = self._image["names"], self._image["again"], self._vars["inventory_hostname"]
        if (self._kind, self._source) == ("host", host):
            # The source has the image, and is left as it is.
            image = image_archive.for_machine(self._images, self._image["machine"])
            loaded = image_load.Loaded(image, (), self._image["id"], self._image["id"], changed=False)
        else:
            fetch = self._fetching(functools.partial(host_pipe.repeated, again, _LAYER) if again else None)
            with host_pipe.opened(self._there("load", *names), _stopped) as pipe:
                loaded = image_load.load(pipe, self._images, names, fetch, host, self._task.check_mode)
        told = {
            "id": loaded.image.id, "names": names, "layers": len(loaded.image.layers),
            "sent_layers": len(loaded.missing), "shown_as": loaded.after,
            "sent_bytes": None if loaded.changed and self._task.check_mode else loaded.sent,
            "seconds": round(time.monotonic() - begun, 2) if loaded.changed else 0.0,
        }  # fmt: skip
        change = {
            "role": "docker_image_transfer", "subject": f"image {names[0]}", "disruption": "none",
            "from": loaded.before, "to": loaded.after,
        }  # fmt: skip
        changes = {"changes": [change]} if loaded.changed and not self._task.check_mode else {}
        return {"changed": loaded.changed, "docker_image": told, **changes}

    def _tidy(self) -> dict[str, Any]:
        """Empty the spool of an image that every host has."""
        # A check reads archives too, and fetches nothing.
        if not self._task.check_mode or self._image["again"] == {}:
            layer_spool.spool().drop(layer.digest for image in self._images for layer in image.layers)
        return {}

    def _save(self) -> dict[str, Any]:
        """Write docker save's archive into a file, packed as its name says, and its checksum beside it."""
        name = self._name()
        path = Path(self._task.args["file"]).expanduser()
        form = packing.form_by_name(path)
        for wrong, message in (
            (name is None, "say which image, as NAME:TAG"),
            (self._kind == "file", f"the inventory has no host {self._source}"),
            (form is None, f"the name {path.name} must end in {', '.join(packing.ENDINGS)}"),
            (
                form == "zstd" and not packing.has_zstd(),
                "zstd is not on this machine: install zstd, or name the file .tar.gz",
            ),
            (not os.access(path.parent, os.W_OK), f"nothing can be written into the directory {path.parent}"),
        ):
            if wrong:
                raise Failure(message)
        found = self._look(name)
        if self._task.check_mode:
            return {"changed": True}
        wire = packing.wire_form(self._compression, found["zstd"], packing.has_zstd())
        with transfer_progress.Progress("saving", path.name, found["size"]) as progress:
            blocks = host_pipe.output(self._export("save", f"{wire},{name}"), _stopped)
            digest, size = write_archive(path, str(form), progress.counted(packing.unpacked(wire, blocks)))
        saved = {"id": found["id"], "names": [name], "file": str(path), "bytes": size, "sha256": digest}
        source = "localhost" if self._kind == "local" else self._source
        return {"changed": True, "docker_image": saved, "source": source}

    # ---- what the steps need

    @property
    def _images(self) -> list[image_archive.Image]:
        return [image_archive.from_json(one) for one in self._image["images"]]

    def _fetching(self, export: Any) -> layer_spool.Fetch:
        form = packing.wire_form(self._compression, self._image["zstd"], packing.has_zstd())
        return layer_spool.Fetch(layer_spool.spool(), self._label, form, export, _stopped)

    def _export(self, *words: str) -> host_pipe.Start:
        if self._kind == "local":
            return host_pipe.here([sys.executable, "-c", self._program(), *words])
        return self._there(*words)

    def _there(self, *words: str) -> host_pipe.Start:
        self._asked = True
        interpreter = host_command.interpreter(self, self._vars)
        return host_pipe.there(self, host_command.python(interpreter, self._program(), [*words]), interpreter)

    def _program(self) -> str:
        return Path(self._find_needle("files", "image_on_host.py")).read_text(encoding="utf-8")

    def _name(self) -> str | None:
        given = self._task.args.get("name")
        if not given:
            return None
        name = image_name.parse_tagged(given)
        if name.digest is not None:
            raise Failure(f"{given} names a digest: say NAME:TAG")
        return str(name)


def _stopped() -> bool:
    return bool(os.environ.get("GPUPROV_STOP")) and os.path.exists(os.environ["GPUPROV_STOP"])


def _check_sum(path: Path) -> None:
    """Compare a file with the checksum beside it, where there is one. Raises Failure."""
    beside = path.with_name(f"{path.name}.sha256")
    if not beside.exists():
        return
    match = re.match(r"\\?([0-9a-fA-F]{64})\b", beside.read_text(encoding="utf-8", errors="replace"))
    if not match:
        raise Failure(f"{beside} holds no checksum")
    found = hashlib.sha256()
    with path.open("rb") as file:
        for block in layer_spool.blocks_of(file, _stopped):
            found.update(block)
    if found.hexdigest() != match[1].lower():
        raise Failure(f"{path} is damaged: its checksum is not that of {beside.name}")


def write_archive(path: Path, form: str, data: Iterable[bytes]) -> tuple[str, int]:
    """Write data to a file in a form, and its checksum beside it; return that and the file's size.

    A file of that name stays until the new one is complete.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    found, size = hashlib.sha256(), 0
    try:
        with new.open("xb") as file:
            for block in packing.packed(form, data, level={"zstd": 3}.get(form, 6)):
                file.write(block)
                found.update(block)
                size += len(block)
        sums = path.with_name(f"{path.name}.sha256")
        sums.unlink(missing_ok=True)
        new.rename(path)
        sums.write_text(f"{found.hexdigest()}  {path.name}\n", encoding="utf-8")
    finally:
        new.unlink(missing_ok=True)
    return found.hexdigest(), size
