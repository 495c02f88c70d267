# SPDX-License-Identifier: MIT
"""The steps of an image transfer: describe the image, fetch the layers that hosts lack, load them."""

from __future__ import annotations

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
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import image_name
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import host_command, host_pipe, role_options
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import (
    image_archive,
    image_load,
    layer_spool,
    packing,
    transfer_progress,
)

_PROGRAM = role_options.ROLES_DIRECTORY / "docker_image_transfer/files/image_on_host.py"


class ActionModule(ActionBase):
    """One step of a transfer."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the step's result; fail with one line."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        self._vars = task_vars or {}
        args = self._task.args
        self._image: dict[str, Any] = args.get("image") or {}
        self._images = [image_archive.from_json(image) for image in self._image.get("images", [])]
        self._compression = str(args.get("compression") or "auto")
        self._connected = False
        source = str(args.get("from") or "local")
        self._kind = "local" if source == "local" else "host" if source in self._vars["groups"]["all"] else "file"
        self._source = os.path.expanduser(source) if self._kind == "file" else source
        self._label = "this machine" if self._kind == "local" else self._source
        try:
            return {**result, **getattr(self, f"_{args['step']}")()}
        except host_pipe.Stopped:
            return {**result, "failed": True, "msg": "interrupted", "interrupted": True}
        except (AnsibleError, OSError, image_name.ImageNameError) as error:
            advice = host_command.why_not_root(str(error))
            is_lost = isinstance(error, AnsibleConnectionFailure) and advice is None
            if self._task.args["step"] in ("describe", "fetch", "save"):
                return {**result, "failed": True, **self._failure_at_source(advice or str(error), is_lost)}
            if is_lost:
                raise
            return {**result, "failed": True, "msg": advice or str(error)}

    def _failure_at_source(self, message: str, is_lost: bool) -> dict[str, Any]:
        if not self._connected:
            return {"msg": message, "before_hosts": True}
        failure = {"msg": f"{self._source}: {message}", "reason": message}
        return {**failure, "source": self._source, "source_unreachable": is_lost}

    # ---- steps

    def _describe(self) -> dict[str, Any]:
        """Return the image's description. Where only an archive has it, its layers are in the spool afterwards."""
        name = self._name()
        found: dict[str, Any] = {"zstd": False, "machine": "", "id": "", "images": None}
        images: tuple[image_archive.Image, ...] = ()
        names = [name]
        if self._kind == "file":
            images, names = self._read_file(Path(self._source), name)
        else:
            found = self._inspect(name)
            if not found["images"]:
                with transfer_progress.Progress("fetching", self._label) as progress:
                    images = self._read(self._saved(name, found, progress), name)[0]
        if not (names or name):
            raise AnsibleError(
                f"the image in {self._source} has no name: say one, as in image ship NAME:TAG --from {self._source}"
            )
        # {}: the spool has all layers. None: only a task at the source can fetch them, as that needs a password.
        export = self._export("layer", host_pipe.VALUE).as_json() if found["images"] else {}
        return {
            "image": {
                **{fact: found[fact] for fact in ("zstd", "machine", "id")}, "names": [name] if name else names,
                "export": export, "images": found["images"] or [image_archive.as_json(image) for image in images],
            }
        }  # fmt: skip

    def _read_file(self, path: Path, name: str | None) -> Any:
        if not path.is_file():
            raise AnsibleError(f"{path} is not an archive here, and not a host of the inventory")
        with transfer_progress.Progress("reading", path.name, path.stat().st_size) as progress, path.open("rb") as file:
            _check_sum(path)
            form = packing.form_of(file.peek(6))
            try:
                return self._read(packing.unpacked(form, progress.counted(layer_spool.blocks_of(file))), name)
            except AnsibleError as error:
                raise AnsibleError(f"{path}: {error}") from None

    def _read(self, blocks: Iterable[bytes], name: str | None) -> Any:
        return layer_spool.read_archive(blocks, layer_spool.spool(), packing.wire_form(self._compression), name)

    def _inspect(self, name: str | None) -> dict[str, Any]:
        """Return image_on_host.py's description of the image. Raises AnsibleError."""
        if name is None:
            raise AnsibleError("say which image, as NAME:TAG")
        completed = host_pipe.run(self._export("describe", name), stopped=host_pipe.must_end)
        if not completed.returncode:
            return dict(json.loads(completed.stdout))
        reason = host_pipe.last_line(completed.stderr)
        if re.search("no such image", reason, re.IGNORECASE):
            raise AnsibleError(f"image {name} not found on {self._label}")
        raise AnsibleError(f"docker on {self._label} cannot be asked for {name}: {reason}")

    def _saved(self, name: str | None, found: dict[str, Any], progress: transfer_progress.Progress) -> Iterable[bytes]:
        """Return the output of docker save at the source."""
        form = packing.wire_form(self._compression, found["zstd"])
        blocks = host_pipe.output(self._export("save", form, str(name)), host_pipe.must_end)
        return progress.counted(packing.unpacked(form, blocks))

    def _survey(self) -> dict[str, Any]:
        """Return the layers that this host lacks."""
        return {"lacking": [layer.digest for layer in self._loaded(check_mode=True).missing]}

    def _fetch(self) -> dict[str, Any]:
        """Fetch all layers that a host lacks into the spool, where the source needs a password."""
        fetcher = self._fetcher(self._export("layer", host_pipe.VALUE))
        for layer in (layer for image in self._images for layer in image.layers):
            if layer.digest in self._task.args["lacking"]:
                fetcher.fetch(layer).close()
        return {}

    def _load(self) -> dict[str, Any]:
        """Load the layers that this host lacks, one after the other."""
        begun, names, loaded = time.monotonic(), self._image["names"], self._loaded(self._task.check_mode)
        done = {
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
        return {"changed": loaded.changed, "docker_image": done, **changes}

    def _loaded(self, check_mode: bool) -> image_load.Loaded:
        names, export, host = self._image["names"], self._image["export"], self._vars["inventory_hostname"]
        if (self._kind, self._source) == ("host", host):
            # The source has the image.
            image = image_archive.for_machine(self._images, self._image["machine"])
            return image_load.Loaded(image, (), self._image["id"], self._image["id"], changed=False)
        fetcher = self._fetcher(host_pipe.Command(**export) if export else None)
        with host_pipe.opened(self._on_host("load", *names), host_pipe.must_end) as pipe:
            return image_load.load(pipe, self._images, names, fetcher, host, check_mode)

    def _clean(self) -> dict[str, Any]:
        """Remove the layers of an image that every host has from the spool."""
        # Check mode reads archives into the spool, and fetches nothing.
        if not self._task.check_mode or self._image["export"] == {}:
            layer_spool.spool().drop(layer.digest for image in self._images for layer in image.layers)
        return {}

    def _save(self) -> dict[str, Any]:
        """Write the archive of docker save into a file, compressed by the file's name, and its checksum."""
        name = self._name()
        path = Path(self._task.args["file"]).expanduser()
        form = packing.form_by_name(path)
        if self._kind == "file":
            raise AnsibleError(f"the inventory has no host {self._source}")
        if not os.access(path.parent, os.W_OK):
            raise AnsibleError(f"the directory {path.parent} is not writable")
        found = self._inspect(name)
        if self._task.check_mode:
            return {"changed": True}
        with transfer_progress.Progress("saving", path.name, found["size"]) as progress:
            digest, size = write_archive(path, form, self._saved(name, found, progress))
        saved = {"id": found["id"], "names": [name], "file": str(path), "bytes": size, "sha256": digest}
        source = "localhost" if self._kind == "local" else self._source
        return {"changed": True, "docker_image": saved, "source": source}

    # ---- helpers of the steps

    def _fetcher(self, export: host_pipe.Command | None) -> layer_spool.Fetcher:
        form = packing.wire_form(self._compression, self._image["zstd"])
        return layer_spool.Fetcher(layer_spool.spool(), self._label, form, export)

    def _export(self, *words: str) -> host_pipe.Command:
        if self._kind == "local":
            return host_pipe.Command([sys.executable, str(_PROGRAM), *words])
        return self._on_host(*words)

    def _on_host(self, *words: str) -> host_pipe.Command:
        self._connected = True
        interpreter = host_command.interpreter(self, self._vars)
        command = host_command.python(interpreter, _PROGRAM.read_text(encoding="utf-8"), [*words])
        return host_pipe.on_host(self, command, interpreter)

    def _name(self) -> str | None:
        given = self._task.args.get("name")
        return image_name.tagged(given) if given else None


def _check_sum(path: Path) -> None:
    """Compare a file with the checksum file beside it, if there is one. Raises AnsibleError."""
    beside = path.with_name(f"{path.name}.sha256")
    if not beside.exists():
        return
    match = re.match(r"\\?([0-9a-fA-F]{64})\b", beside.read_text(encoding="utf-8", errors="replace"))
    if not match:
        raise AnsibleError(f"{beside} holds no checksum")
    with path.open("rb") as file:
        found = layer_spool.Digest(layer_spool.blocks_of(file)).consumed()
    if found.text() != f"sha256:{match[1].lower()}":
        raise AnsibleError(f"{path} is damaged: its checksum is not that of {beside.name}")


def write_archive(path: Path, form: str, data: Iterable[bytes]) -> tuple[str, int]:
    """Compress data into a file, and write its checksum beside it; return the checksum and the file's size.

    An existing file is replaced when the new one is complete.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    blocks = layer_spool.Digest(packing.packed(form, data, level={"zstd": 3}.get(form, 6)))
    try:
        with new.open("xb") as file:
            file.writelines(blocks)
        sums = path.with_name(f"{path.name}.sha256")
        sums.unlink(missing_ok=True)
        new.rename(path)
        digest = blocks.text().partition(":")[2]
        sums.write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    finally:
        new.unlink(missing_ok=True)
    return digest, blocks.size
