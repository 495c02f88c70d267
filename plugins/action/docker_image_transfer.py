# SPDX-License-Identifier: MIT
"""The steps of an image transfer: describe the image, fetch the layers that hosts lack, load them."""

from __future__ import annotations

import contextlib
import functools
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

# Stands for the layer in the command that fetches one.
_LAYER = "@LAYER@"


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
            return {**result, **self._failure("interrupted"), "interrupted": True}
        except AnsibleConnectionFailure as error:
            advice = host_command.why_not_root(str(error))
            if advice is None and "source" not in self._failure(""):
                raise
            return {**result, **self._failure(advice or str(error)), "source_unreachable": advice is None}
        except (AnsibleError, OSError, image_name.ImageNameError) as error:
            return {**result, **self._failure(host_command.why_not_root(str(error)) or str(error))}

    def _failure(self, message: str) -> dict[str, Any]:
        """Return the result of a failure: before_hosts where no host took part, source where the source failed."""
        failed = {"failed": True, "msg": message}
        if self._task.args["step"] not in ("describe", "fetch", "save"):
            return failed
        if not self._connected:
            return {**failed, "before_hosts": True}
        return {**failed, "msg": f"{self._source}: {message}", "source": self._source, "reason": message}

    # ---- steps

    def _describe(self) -> dict[str, Any]:
        """Return the image's description. Where only an archive has it, its layers are in the spool afterwards."""
        name = self._name()
        found: dict[str, Any] = {"zstd": False, "machine": "", "id": "", "images": None}
        names = [name]
        if self._kind == "file":
            images, names = self._read_file(Path(self._source), name)
        else:
            found = self._inspect(name)
            if found["images"]:
                images = tuple(image_archive.from_json(image) for image in found["images"])
            else:
                with transfer_progress.Progress("fetching", self._label) as progress:
                    images, _ = self._read(self._saved(name, found, progress), name)
        if not (names or name):
            raise AnsibleError(
                f"the image in {self._source} has no name: say one, as in image ship NAME:TAG --from {self._source}"
            )
        # {}: the spool has all layers. None: only a task at the source can fetch them, as that needs a password.
        export = host_pipe.as_json(self._export("layer", _LAYER)) if found["images"] else {}
        return {
            "image": {
                **{fact: found[fact] for fact in ("zstd", "machine", "id")}, "names": [name] if name else names,
                "export": export, "images": [image_archive.as_json(image) for image in images],
            }
        }  # fmt: skip

    def _read_file(self, path: Path, name: str | None) -> Any:
        if not path.is_file():
            raise AnsibleError(f"{path} is not an archive here, and not a host of the inventory")
        with transfer_progress.Progress("reading", path.name, path.stat().st_size) as progress, path.open("rb") as file:
            _check_sum(path)
            form = packing.form_of(file.peek(6))
            try:
                return self._read(packing.unpacked(form, progress.counted(layer_spool.blocks_of(file, _stopped))), name)
            except AnsibleError as error:
                raise AnsibleError(f"{path}: {error}") from None

    def _read(self, blocks: Iterable[bytes], name: str | None) -> Any:
        form = packing.wire_form(self._compression, packing.has_zstd())
        return layer_spool.read_archive(blocks, layer_spool.spool(), form, name)

    def _inspect(self, name: str | None) -> dict[str, Any]:
        """Return image_on_host.py's description of the image. Raises AnsibleError."""
        if name is None:
            raise AnsibleError("say which image, as NAME:TAG")
        completed = host_pipe.run(self._export("describe", name), stopped=_stopped)
        if not completed.returncode:
            return dict(json.loads(completed.stdout))
        where = "on this machine" if self._kind == "local" else f"on {self._source}"
        reason = host_pipe.last_line(completed.stderr)
        if re.search("no such image", reason, re.IGNORECASE):
            raise AnsibleError(f"image {name} not found {where}")
        raise AnsibleError(f"docker {where} cannot be asked for {name}: {reason}")

    def _saved(self, name: str | None, found: dict[str, Any], progress: transfer_progress.Progress) -> Iterable[bytes]:
        """Return the output of docker save at the source."""
        form = self._wire_form(found)
        blocks = host_pipe.output(self._export("save", form, str(name)), _stopped)
        return progress.counted(packing.unpacked(form, blocks))

    def _survey(self) -> dict[str, Any]:
        """Return what this host has."""
        with host_pipe.opened(self._on_host("load"), _stopped) as pipe:
            return {"held": image_load.answer(pipe)}

    def _fetch(self) -> dict[str, Any]:
        """Fetch all layers that a host lacks into the spool, where the source needs a password."""
        fetch = self._fetcher(functools.partial(self._export, "layer"))
        lacking: dict[str, image_archive.Layer] = {}
        for name in set(self._vars["ansible_play_hosts"]) - {self._source}:
            held = image_archive.Held(**self._vars["hostvars"][name][self._task.args["hosts"]]["held"])
            # Loading fails where the image is not for the host.
            with contextlib.suppress(AnsibleError):
                image = image_archive.for_machine(self._images, held.machine)
                lacking |= {layer.digest: layer for layer in image_archive.lacking(image, held)}
        for layer in () if self._task.check_mode else lacking.values():
            fetch.fetch(layer).close()
        return {}

    def _load(self) -> dict[str, Any]:
        """Load the layers that this host lacks, one after the other."""
        begun = time.monotonic()
        names, export, host = self._image["names"], self._image["export"], self._vars["inventory_hostname"]
        if (self._kind, self._source) == ("host", host):
            # The source has the image.
            image = image_archive.for_machine(self._images, self._image["machine"])
            loaded = image_load.Loaded(image, (), self._image["id"], self._image["id"], changed=False)
        else:
            fetch = self._fetcher(functools.partial(host_pipe.from_json, export, _LAYER) if export else None)
            with host_pipe.opened(self._on_host("load", *names), _stopped) as pipe:
                loaded = image_load.load(pipe, self._images, names, fetch, host, self._task.check_mode)
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
        for wrong, message in (
            (name is None, "say which image, as NAME:TAG"),
            (self._kind == "file", f"the inventory has no host {self._source}"),
            (form is None, f"the name {path.name} must end in {', '.join(packing.ENDINGS)}"),
            (
                form == "zstd" and not packing.has_zstd(),
                "zstd is not on this machine: install zstd, or name the file .tar.gz",
            ),
            (not os.access(path.parent, os.W_OK), f"the directory {path.parent} is not writable"),
        ):
            if wrong:
                raise AnsibleError(message)
        found = self._inspect(name)
        if self._task.check_mode:
            return {"changed": True}
        with transfer_progress.Progress("saving", path.name, found["size"]) as progress:
            digest, size = write_archive(path, str(form), self._saved(name, found, progress))
        saved = {"id": found["id"], "names": [name], "file": str(path), "bytes": size, "sha256": digest}
        source = "localhost" if self._kind == "local" else self._source
        return {"changed": True, "docker_image": saved, "source": source}

    # ---- helpers of the steps

    def _wire_form(self, found: dict[str, Any]) -> str:
        return packing.wire_form(self._compression, found["zstd"], packing.has_zstd())

    def _fetcher(self, export: Any) -> layer_spool.Fetcher:
        return layer_spool.Fetcher(layer_spool.spool(), self._label, self._wire_form(self._image), export, _stopped)

    def _export(self, *words: str) -> host_pipe.Command:
        if self._kind == "local":
            return host_pipe.local([sys.executable, "-c", self._program(), *words])
        return self._on_host(*words)

    def _on_host(self, *words: str) -> host_pipe.Command:
        self._connected = True
        interpreter = host_command.interpreter(self, self._vars)
        return host_pipe.on_host(self, host_command.python(interpreter, self._program(), [*words]), interpreter)

    def _program(self) -> str:
        program = role_options.ROLES_DIRECTORY / "docker_image_transfer/files/image_on_host.py"
        return program.read_text(encoding="utf-8")

    def _name(self) -> str | None:
        given = self._task.args.get("name")
        if not given:
            return None
        name = image_name.parse_tagged(given)
        if name.digest is not None:
            raise AnsibleError(f"{given} names a digest: say NAME:TAG")
        return str(name)


def _stopped() -> bool:
    return bool(os.environ.get("GPUPROV_STOP")) and os.path.exists(os.environ["GPUPROV_STOP"])


def _check_sum(path: Path) -> None:
    """Compare a file with the checksum file beside it, if there is one. Raises AnsibleError."""
    beside = path.with_name(f"{path.name}.sha256")
    if not beside.exists():
        return
    match = re.match(r"\\?([0-9a-fA-F]{64})\b", beside.read_text(encoding="utf-8", errors="replace"))
    if not match:
        raise AnsibleError(f"{beside} holds no checksum")
    with path.open("rb") as file:
        found = layer_spool.Digest(layer_spool.blocks_of(file, _stopped)).consumed()
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
