# SPDX-License-Identifier: MIT
"""The steps of a transfer of one image: reach hosts, describe it, fetch what they lack, load it."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import re
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
    layer_fetch,
    layer_frames,
    layer_spool,
    packing,
    transfer_progress,
)


class Failure(Exception):
    """The step failed; the message is for people. early: no host was asked anything."""

    def __init__(self, message: str, early: bool = False) -> None:
        super().__init__(message)
        self.early = early


_ERRORS = (image_load.LoadError, image_archive.ArchiveError, packing.PackingError, OSError)


class ActionModule(ActionBase):
    """One step of a transfer."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the step's result; fail with one line."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        self._vars = task_vars or {}
        step = getattr(self, f"_{self._task.args['step']}")
        try:
            return {**result, **step()}
        except host_pipe.Stopped:
            return {**result, **self._failure("interrupted"), "interrupted": True}
        except AnsibleConnectionFailure as error:
            advice = host_command.why_not_root(str(error))
            if advice is None and "source" not in self._failure(""):
                raise
            return {**result, **self._failure(advice or str(error)), "source_unreachable": advice is None}
        except (Failure, AnsibleError, *_ERRORS) as error:
            message = host_command.why_not_root(str(error)) or str(error)
            early = isinstance(error, Failure) and error.early
            return {**result, **self._failure(message, early)}

    def _failure(self, message: str, early: bool = False) -> dict[str, Any]:
        """The result of a failure. before_hosts: no host was asked anything; source: the host that it is of."""
        step, (kind, source) = self._task.args["step"], self._source()
        failed = {"failed": True, "msg": message}
        if early or (step in ("describe", "save") and kind != "host"):
            return {**failed, "before_hosts": True}
        if step in ("describe", "fetch", "save") and kind == "host":
            return {**failed, "msg": f"{source}: {message}", "source": source, "reason": message}
        return failed

    # ---- reach

    def _reach(self) -> dict[str, Any]:
        """Have ssh log in to this host while the image is described; see what is there if that is to be fetched for."""
        kind, source = self._source()
        try:
            name = self._name()
        except Failure:
            name = None
        # What shows here shows before a host is asked: a local image that is not there, a name that is none.
        if kind != "host" or name is None or self._vars["inventory_hostname"] == source:
            return {}
        if not self._asks_password(source):
            place = self._vars["ansible_play_hosts"].index(self._vars["inventory_hostname"])
            if place < self._vars["ansible_forks"]:  # the others' turn comes later
                host_pipe.log_in(self)
            return {}
        listener = image_load.Listener()
        listener.check(host_pipe.run(self._load_image(name), take=listener.hear, stopped=_stopped))
        return {"reading": listener.said["reading"]}

    def _asks_password(self, host: str) -> bool:
        """Whether a password may be needed there."""
        names = self._vars["hostvars"][host]
        prompted = self._play_context.password or self._play_context.become_pass
        return bool(prompted) or any(_PASSWORD.fullmatch(name) for name in names)

    # ---- describe

    def _describe(self) -> dict[str, Any]:
        """What the image consists of. Where that shows only in an archive, all of it is in the spool then."""
        kind, source = self._source()
        name = self._name()
        spool = layer_spool.spool()
        found: dict[str, Any] = {"zstd": packing.has_zstd()}
        described = None
        if kind == "file":
            images, names = self._read_file(Path(source), spool, name)
        else:
            if name is None:
                raise Failure("say which image, as NAME:TAG")
            answer = host_pipe.run(self._export("describe", name), stopped=_stopped)
            if answer.status:
                raise Failure(_no_image(name, host_pipe.last_line(answer.stderr), kind, source))
            found = json.loads(answer.stdout)
            names = [name]
            described = _described(found)
            images = described or self._fetching(spool, name, found["zstd"], self._export).saved(self._form())
        if name is not None:
            names = [name]
        if not names:
            raise Failure(f"the image in {source} has no name: say one, as in image ship NAME:TAG --from {source}")
        told = {
            "images": [_as_json(image) for image in images],
            "names": names,
            "found": {fact: found.get(fact) for fact in _SOURCE_FACTS},
        }
        # Whoever loads fetches as well, unless that takes a password, or all of it is in the spool.
        again = self._export("@WHAT@", "@FORM@", "@FROM@", "@WHICH@") if described else None
        told["again"] = host_pipe.repeatable(again) if again else {}
        told["about"] = {one["digest"]: one["size"] for image in found.get("images") or [] for one in image["layers"]}
        return {"image": told}

    def _read_file(self, path: Path, spool: layer_spool.Spool, name: str | None) -> Any:
        if not path.is_file():
            raise Failure(
                f"there is no file {path}" if self._task.args.get("archive")
                else f"{path} is neither local nor a host of the inventory nor a file"
            )  # fmt: skip
        with transfer_progress.Progress("reading", path.name, path.stat().st_size) as progress:
            _check_sum(path)
            with path.open("rb") as file:
                form = packing.form_of(file.read(6))
                file.seek(0)
                blocks = packing.unpacked(
                    form, host_pipe.until_stopped(progress.counted(layer_spool.blocks_of(file)), _stopped)
                )
                stream = layer_frames.Stream(blocks)
                try:
                    return layer_spool.read_archive(stream, spool, self._form(), name)
                except (image_archive.ArchiveError, packing.PackingError) as error:
                    raise Failure(f"{path}: {error}") from None

    def _fetching(self, spool: layer_spool.Spool, name: str, zstd: bool, export: Any) -> layer_fetch.Fetch:
        return layer_fetch.Fetch(
            spool, name, self._label(), self._compression(), zstd and packing.has_zstd(), export, _stopped
        )

    def _compression(self) -> str:
        return str(self._task.args.get("compression") or "auto")

    def _form(self) -> str:
        """The form in which the spool keeps what is read here."""
        return layer_frames.form_for(self._compression(), packing.has_zstd())

    # ---- fetch

    def _fetch(self) -> dict[str, Any]:
        """Bring all layers that some host lacks into the spool, before any is loaded.

        That is for sources that ask for a password, and for docker save; else loading fetches as it goes on.
        """
        given = self._task.args["image"]
        images = _images(given)
        source = self._source()[1]
        reached = [
            self._vars["hostvars"][name].get(self._task.args["hosts"])
            for name in self._vars["ansible_play_hosts"]
            if name != source
        ]
        fetch = self._fetching(layer_spool.spool(), given["names"][0], given["found"]["zstd"], self._export)
        readings = [image_load.as_reading(one["reading"]) if one and "reading" in one else None for one in reached]
        wanted: set[image_archive.Layer] = set()
        forms: set[str] = set()
        for host in readings:
            # A host of which nothing is known gets all.
            lacking = {layer for image in images for layer in image.layers}
            if host is not None:
                try:
                    image = image_archive.for_machine(images, host.machine)
                except image_archive.ArchiveError:  # loading says so
                    continue
                lacking = {*image_archive.lacking(image, host.held)}
            wanted |= lacking
            if lacking:
                forms.add(fetch.form(host is not None and host.zstd))
        layers = [layer for image in images for layer in dict.fromkeys(image.layers) if layer in wanted]
        if self._task.check_mode:
            return {"fetched": 0}
        fetch.bring(list(dict.fromkeys(layers)), sorted(forms))
        if any(host is None or host.held.containerd for host in readings):
            fetch.measure(layer for image in images for layer in image.layers if layer.size is None)
        return {"fetched": len(layers)}

    # ---- load

    def _load(self) -> dict[str, Any]:
        """Load on this host what it lacks, layer by layer, and see that the image is there."""
        begun = time.monotonic()
        given = self._task.args["image"]
        images, names = _images(given), list(given["names"])
        if self._source() == ("host", self._vars["inventory_hostname"]):
            # The source has the image, and is left as it is.
            image = image_archive.for_machine(images, given["found"]["machine"])
            sent = {"shown_as": given["found"]["id"], "sent_layers": 0, "sent_bytes": 0, "seconds": 0.0}
            told = {"id": image.id, "names": names, "layers": len(image.layers), **sent}
            return {"changed": False, "docker_image": told}
        again = functools.partial(_again, given["again"]) if given["again"] else None
        fetch = self._fetching(layer_spool.spool(), names[0], given["found"]["zstd"], again)
        load = image_load.Load(images, names, given["about"], fetch, self._vars["inventory_hostname"])
        with contextlib.closing(load.frames(self._task.check_mode)) as frames:
            load.check(host_pipe.run(self._load_image(*names), frames, load.hear, load.count, _stopped))
        layers = {"layers": len(load.image.layers), "sent_layers": len(load.missing)}
        told = {"id": load.image.id, "names": names, **layers}
        if self._task.check_mode:
            return {"changed": load.changed, "docker_image": {**told, "shown_as": None, "sent_bytes": None}}
        if not load.changed:
            told |= {"shown_as": load.before, "sent_bytes": 0, "seconds": 0.0}
            return {"changed": False, "docker_image": told}
        told |= {"shown_as": load.after, "sent_bytes": load.sent, "seconds": round(time.monotonic() - begun, 2)}
        change = {"role": "docker_image_transfer", "subject": f"image {names[0]}", "disruption": "none"}
        return {
            "changed": True,
            "changes": [{**change, "from": load.before, "to": load.after}],
            "docker_image": told,
        }

    def _tidy(self) -> dict[str, Any]:
        """Empty the spool of an image that every host has."""
        given = self._task.args["image"]
        # A check reads archives too, and fetches nothing.
        if not self._task.check_mode or given["again"] == {}:
            layer_spool.spool().drop(layer["digest"] for image in given["images"] for layer in image["layers"])
        return {}

    # ---- save

    def _save(self) -> dict[str, Any]:
        """Write docker save's archive into a file, packed as its name says, and its checksum beside it."""
        name = self._name()
        path = Path(self._task.args["file"]).expanduser()
        form = packing.form_by_name(path)
        kind, source = self._source()
        if name is None or kind == "file":
            raise Failure(
                "say which image, as NAME:TAG" if name is None else f"the inventory has no host {source}", True
            )
        if form is None:
            raise Failure(f"the name {path.name} is to end in {', '.join(packing.ENDINGS)}", early=True)
        if form == "zstd" and not packing.has_zstd():
            raise Failure("zstd is not on this machine: install zstd, or name the file .tar.gz", early=True)
        if not os.access(path.parent, os.W_OK):
            raise Failure(f"nothing can be written into the directory {path.parent}", early=True)
        answer = host_pipe.run(self._export("describe", name), stopped=_stopped)
        if answer.status:
            raise Failure(_no_image(name, host_pipe.last_line(answer.stderr), kind, source))
        found = json.loads(answer.stdout)
        if self._task.check_mode:
            return {"changed": True}
        wire = layer_frames.form_for(self._compression(), found["zstd"], packing.has_zstd())
        with transfer_progress.Progress("saving", path.name, found["size"]) as progress:
            blocks = host_pipe.output(self._export("save", wire, name), _stopped)
            digest, size = write_archive(path, form, progress.counted(layer_frames.unpacked(blocks)))
        saved = {"id": found["id"], "names": [name], "file": str(path), "bytes": size, "sha256": digest}
        return {"changed": True, "docker_image": saved, "source": source or "localhost"}

    # ---- the source

    def _source(self) -> tuple[str, str]:
        """local, host or file, and which."""
        if self._task.args.get("archive"):
            return "file", os.path.expanduser(self._task.args["archive"])
        given = str(self._task.args.get("from") or "local")
        if given == "local":
            return "local", ""
        if given in self._vars["groups"]["all"]:
            return "host", given
        return "file", os.path.expanduser(given)

    def _label(self) -> str:
        kind, source = self._source()
        return "this machine" if kind == "local" else source

    def _export(self, *words: str) -> host_pipe.Start:
        script = self._script("export_image.py")
        if self._source()[0] == "local":
            return host_pipe.here([sys.executable, "-c", script, *words])
        return self._there(script, list(words))

    def _load_image(self, *names: str) -> host_pipe.Start:
        word = image_archive.repository_digest(names[0])
        return self._there(self._script("load_image.py"), [word, *names])

    def _there(self, script: str, words: list[str]) -> host_pipe.Start:
        interpreter = host_command.interpreter(self, self._vars)
        return host_pipe.there(self, host_command.python(interpreter, script, words), interpreter)

    def _script(self, name: str) -> str:
        return Path(self._find_needle("files", name)).read_text(encoding="utf-8")

    def _name(self) -> str | None:
        given = self._task.args.get("name")
        if not given:
            return None
        try:
            name = image_name.parse_tagged(given)
        except image_name.ImageNameError as error:
            raise Failure(str(error)) from None
        if name.digest is not None:
            raise Failure(f"{given} names a digest: say NAME:TAG")
        return str(name)


_SOURCE_FACTS = ("zstd", "machine", "id")
# Variables of an inventory that hold passwords of a login, or of becoming root.
_PASSWORD = re.compile(r"ansible_(\w+_)?pass(word)?")


def _stopped() -> bool:
    return bool(os.environ.get("GPUPROV_STOP")) and os.path.exists(os.environ["GPUPROV_STOP"])


def _no_image(name: str, said: str, kind: str, source: str) -> str:
    where = "on this machine" if kind == "local" else f"on {source}"
    if re.search("no such image", said, re.IGNORECASE):
        return f"there is no image {name} {where}"
    return f"docker {where} cannot be asked for {name}: {said}"


def _check_sum(path: Path) -> None:
    """Compare a file with the checksum beside it, where there is one. Raises Failure."""
    import hashlib

    beside = path.with_name(f"{path.name}.sha256")
    if not beside.exists():
        return
    match = re.match(r"\\?([0-9a-fA-F]{64})\b", beside.read_text(encoding="utf-8", errors="replace"))
    if not match:
        raise Failure(f"{beside} holds no checksum")
    found = hashlib.sha256()
    with path.open("rb") as file:
        for block in host_pipe.until_stopped(layer_spool.blocks_of(file), _stopped):
            found.update(block)
    if found.hexdigest() != match[1].lower():
        raise Failure(f"{path} is damaged: its checksum is not that of {beside.name}")


def write_archive(path: Path, form: str, data: Iterable[bytes]) -> tuple[str, int]:
    """Write data to a file in a form, and its checksum beside it; return that and the file's size.

    A file of that name stays until the new one is complete.
    """
    import hashlib
    import secrets

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


def _again(given: dict[str, Any], *words: str) -> host_pipe.Start:
    """export_image.py at the source, as describe began it."""
    what, form, place, which = (*words, "-", "-")[:4]
    return host_pipe.repeated(given, {"@WHAT@": what, "@FORM@": form, "@FROM@": place, "@WHICH@": which})


def _described(found: dict[str, Any]) -> tuple[image_archive.Image, ...] | None:
    """The image of export_image.py's answer, for each platform; None where it knows too little."""
    root = found["address"] if found["containerd"] else found["root"]
    if not found["images"] or " " in root:
        return None
    place = f"blob {found['address']} " if found["containerd"] else f"layer {found['root']} "
    images = []
    for one in found["images"]:
        if len(one["layers"]) != len(one["diff_ids"]):
            return None
        layers = [
            image_archive.Layer(
                diff_id, layer["digest"], layer["size"] if found["containerd"] else None, layer["type"] or "",
                place + (layer["digest"] if found["containerd"] else layer["chain"]),
            )
            for diff_id, layer in zip(one["diff_ids"], one["layers"], strict=True)
        ]  # fmt: skip
        manifest = base64.b64decode(one["manifest"]) if one["manifest"] else None
        images.append(image_archive.with_manifest(base64.b64decode(one["config"]), layers, manifest))
    return tuple(images)


def _as_json(image: image_archive.Image) -> dict[str, Any]:
    return {
        "config": base64.b64encode(image.config).decode(),
        "manifest": base64.b64encode(image.manifest).decode() if image.manifest is not None else None,
        "layers": [vars(layer) for layer in image.layers],
    }


def _images(given: dict[str, Any]) -> tuple[image_archive.Image, ...]:
    return tuple(
        image_archive.Image(
            base64.b64decode(one["config"]),
            tuple(image_archive.Layer(**layer) for layer in one["layers"]),
            base64.b64decode(one["manifest"]) if one["manifest"] else None,
        )
        for one in given["images"]
    )
