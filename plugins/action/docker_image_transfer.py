# SPDX-License-Identifier: MIT
"""The steps of a transfer of one image: describe it, see what hosts have, fetch what they lack, load it."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import image_name
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import (
    host_pipe,
    host_probe,
    image_archive,
    layer_fetch,
    layer_spool,
    packing,
    transfer_progress,
)

# Engines from this one unpack zstd themselves.
_ZSTD_ENGINE = 23
_PYTHON = (
    'for python in python3 python2.7 python2 python; do if command -v "$python" >/dev/null 2>&1; then '
    'exec "$python" -c "$@"; fi; done; echo "there is no Python" >&2; exit 3'
)


class Failure(Exception):
    """The step failed; the message is for people. early: no host was asked anything."""

    def __init__(self, message: str, early: bool = False) -> None:
        super().__init__(message)
        self.early = early


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
            advice = host_probe.why_not_root(str(error))
            if advice is None and "source" not in self._failure(""):
                raise
            return {**result, **self._failure(advice or str(error)), "source_unreachable": advice is None}
        except (Failure, AnsibleError, image_archive.ArchiveError, packing.PackingError, OSError) as error:
            message = host_probe.why_not_root(str(error)) or str(error)
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

    # ---- describe

    def _describe(self) -> dict[str, Any]:
        """What the image consists of. Where that shows only in an archive, all of it is in the spool then."""
        kind, source = self._source()
        name = self._name()
        spool = layer_spool.spool()
        found: dict[str, Any] = {}
        if kind == "file":
            image, names = self._read_file(Path(source), spool, name)
        else:
            if name is None:
                raise Failure("say which image, as NAME:TAG")
            answer = host_pipe.run(self._export("describe", name), stopped=_stopped)
            if answer.status:
                raise Failure(_no_image(name, host_pipe.last_line(answer.stderr), kind, source))
            found = json.loads(answer.stdout)
            names = [name]
            described = _described(found)
            image = described or self._fetching(spool, name, found["zstd"], self._export).saved(_forms())
        if name is not None:
            names = [name]
        if not names:
            raise Failure(f"the image in {source} has no name: save it by its name, not by its ID")
        told = {**_as_json(image), "names": names, "found": {fact: found.get(fact) for fact in _SOURCE_FACTS}}
        # Whoever loads fetches as well, unless that takes a password, or all of it is in the spool.
        again = self._export("@WHAT@", "@FORM@", "@FROM@", "@WHICH@") if found and described else None
        told["again"] = host_pipe.repeatable(again) if again else {}
        told["about"] = {one["digest"]: one["size"] for one in (found.get("layers") or [])}
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
                blocks = packing.unpacked(form, _until_stopped(layer_spool.blocks_of(file, progress.add)))
                stream: Any = layer_spool.Stream(blocks)
                try:
                    return layer_spool.read_archive(stream, spool, _forms(), name)
                except (image_archive.ArchiveError, packing.PackingError) as error:
                    raise Failure(f"{path}: {error}") from None

    def _fetching(self, spool: layer_spool.Spool, name: str, zstd: bool, export: Any) -> layer_fetch.Fetch:
        here = self._source()[0] == "local"
        wire = "raw" if here else "zstd" if zstd and packing.has_zstd() else "gzip"
        return layer_fetch.Fetch(spool, name, self._label(), wire, export, _stopped)

    # ---- read

    def _read(self) -> dict[str, Any]:
        """What of the image this host lacks, and in which form it takes it."""
        image, names = _image(self._task.args["image"])
        script = self._script("read_images.sh")
        answer = self._low_level_execute_command(shlex.join(["sh", "-c", script, "gpuprov-images"]), sudoable=True)
        text = f"{answer['stdout']}\n{answer['stderr']}"
        host = parse_reading(str(answer["stdout"]))
        if "problem" in host:
            raise Failure(host["problem"])
        if "end" not in host:
            raise Failure(host_probe.why_not_root(text) or f"the host cannot be read: {host_pipe.last_line(text)}")
        if not re.match(r"\d+\.", host.get("engine", "")):
            denied = re.search("permission denied[^\n]*", text)
            raise Failure(denied[0] if denied else "docker does not answer")
        held = held_of(host)
        missing = image_archive.lacking(image, held)
        zstd = packing.has_zstd() and int(host["engine"].partition(".")[0]) >= _ZSTD_ENGINE
        return {
            "host": {
                "containerd": held.containerd,
                "missing": [layer.digest for layer in missing],
                "form": "zstd" if zstd else "gzip",
                "partial": held.partial_tags(names[0]),
                "before": next((one for one, (tags, _) in held.images.items() if names[0] in tags), None),
                "names": [name for name in names if any(name in tags for tags, _ in held.images.values())],
                "free": int(host.get("free") or 0) * 1024,
                "place": host.get("place", ""),
            }
        }

    # ---- fetch

    def _fetch(self) -> dict[str, Any]:
        """Bring all layers that some host lacks into the spool, before any is loaded.

        That is for sources that ask for a password, and for docker save; else loading fetches as it goes on.
        """
        given = self._task.args["image"]
        image, _names = _image(given)
        hosts = [
            self._vars["hostvars"][name].get(self._task.args["hosts"]) for name in self._vars["ansible_play_hosts"]
        ]
        hosts = [one["host"] for one in hosts if one and "host" in one]
        wanted = {digest for host in hosts for digest in host["missing"]}
        forms = sorted({host["form"] for host in hosts if host["missing"]})
        layers = [layer for layer in dict.fromkeys(image.layers) if layer.digest in wanted]
        if self._task.check_mode:
            return {"fetched": 0}
        fetch = self._fetching(layer_spool.spool(), given["names"][0], given["found"]["zstd"], self._export)
        fetch.bring(layers, forms)
        if any(host["containerd"] for host in hosts):
            fetch.measure(layer for layer in image.layers if layer.size is None)
        return {"fetched": len(layers)}

    # ---- load

    def _load(self) -> dict[str, Any]:
        """Load on this host what it lacks, layer by layer, and see that the image is there."""
        begun = time.monotonic()
        given = self._task.args["image"]
        image, names = _image(given)
        host = self._task.args["host"]
        by_digest = {layer.digest: layer for layer in image.layers}
        missing = [by_digest[digest] for digest in host["missing"]]
        told = {"id": image.id, "names": names, "layers": len(image.layers), "sent_layers": len(missing)}
        if self._task.check_mode:
            there = not missing and set(names) <= set(host["names"])
            return {"changed": not there, "docker_image": {**told, "shown_as": None, "sent_bytes": None}}
        again = functools.partial(_again, given["again"]) if given["again"] else None
        fetch = self._fetching(layer_spool.spool(), names[0], given["found"]["zstd"], again)
        if host["containerd"]:
            fetch.measure(layer for layer in image.layers if layer.size is None and layer.digest not in host["missing"])
        there = not missing and set(names) <= set(host["names"]) and not host["partial"]
        if there and host["before"] == image_archive.id_on(image, host["containerd"], fetch.sizes(image.layers)):
            told |= {"shown_as": host["before"], "sent_bytes": 0, "seconds": 0.0}
            return {"changed": False, "docker_image": told}
        about = fetch.sizes(image.layers)
        about = {digest: size or given["about"].get(digest) or 0 for digest, size in about.items()}
        need = sum(about[layer.digest] for layer in missing)
        if host["free"] and need > host["free"]:
            raise Failure(
                f"the disk is too full: {host['place']} has {_megabytes(host['free'])} free, "
                f"the layers that are missing need {_megabytes(need)}"
            )
        with fetch.ahead(missing, host["form"]):
            sent = self._send(image, names, host, missing, fetch, about)
        wanted = image_archive.id_on(image, host["containerd"], fetch.sizes(image.layers))
        shown = sent.pop("shown")
        if shown != wanted:
            raise Failure(f"{names[0]} has the ID {shown} there, and should have {wanted}")
        told |= {"shown_as": shown, **sent, "seconds": round(time.monotonic() - begun, 2)}
        change = {"role": "docker_image_transfer", "subject": f"image {names[0]}", "from": host["before"], "to": shown}
        return {"changed": True, "changes": [{**change, "disruption": "none"}], "docker_image": told}

    def _send(
        self, image: image_archive.Image, names: list[str], host: dict[str, Any], missing: list[image_archive.Layer],
        fetch: layer_fetch.Fetch, about: dict[str, int],
    ) -> dict[str, Any]:  # fmt: skip
        left = list(host["partial"])
        script, shown = self._script("load_image.sh"), ""
        with transfer_progress.Progress("sending", self._vars["inventory_hostname"]) as progress:

            def count(number: int) -> None:
                progress.total = sum(fetch.on_way(layer, host["form"], about) for layer in missing)
                progress.add(number)

            for reached, new in image_archive.parts(image, missing, about):
                whole = reached == len(image.layers)
                names_now = names if whole else [image_archive.partial_tag(names[0], image.id, reached)]
                feed = _pieces(image, reached, new, names_now, host, fetch)
                words = [names[0], *dict.fromkeys(left)] if whole else ["-"]
                start = self._there(["sh", "-c", script, "gpuprov-load", *words])
                left += [] if whole else names_now
                answer = host_pipe.run(start, feed, None, count, _stopped)
                if answer.status:
                    self._forget(left)
                    said = host_pipe.last_line(answer.stderr or answer.stdout)
                    raise Failure(_not_loaded(said, host, sum(about[layer.digest] for layer in missing)))
                shown = host_pipe.last_line(answer.stdout)
        return {"sent_bytes": progress.done, "shown": shown}

    def _forget(self, tags: list[str]) -> None:
        """Take away what a host that failed has of an image."""
        if tags:
            host_pipe.run(self._there(["docker", "image", "rm", *tags]))

    def _tidy(self) -> dict[str, Any]:
        """Empty the spool of an image that every host has."""
        given = self._task.args["image"]
        # A check reads archives too, and fetches nothing.
        if not self._task.check_mode or given["again"] == {}:
            layer_spool.spool().drop(layer["digest"] for layer in given["layers"])
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
        wire = "raw" if kind == "local" else "zstd" if found["zstd"] and packing.has_zstd() else "gzip"
        with transfer_progress.Progress("saving", path.name, found["size"]) as progress:
            blocks = host_pipe.output(self._export("save", wire, name), _stopped)
            digest, size = write_archive(path, form, _counted(packing.unpacked(wire, blocks), progress.add))
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
        return self._there(["sh", "-c", _PYTHON, "gpuprov-export", script, *words])

    def _there(self, words: list[str]) -> host_pipe.Start:
        return host_pipe.there(self, words)

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


_SOURCE_FACTS = ("zstd",)


def _stopped() -> bool:
    return bool(os.environ.get("GPUPROV_STOP")) and os.path.exists(os.environ["GPUPROV_STOP"])


def _until_stopped(blocks: Iterable[bytes]) -> Iterator[bytes]:
    for block in blocks:
        if _stopped():
            raise host_pipe.Stopped
        yield block


def _counted(blocks: Iterable[bytes], seen: Callable[[int], Any]) -> Iterator[bytes]:
    for block in blocks:
        seen(len(block))
        yield block


def _forms() -> list[str]:
    return ["zstd" if packing.has_zstd() else "gzip"]


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _no_image(name: str, said: str, kind: str, source: str) -> str:
    where = "on this machine" if kind == "local" else f"on {source}"
    if re.search("no such image", said, re.IGNORECASE):
        return f"there is no image {name} {where}"
    return f"docker {where} cannot be asked for {name}: {said}"


def _not_loaded(said: str, host: dict[str, Any], need: int) -> str:
    if "no space left on device" in said:
        return f"the disk is full: {host['place']} has no room for the {_megabytes(need)} that are missing"
    return f"docker load failed: {said}"


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
        for block in _until_stopped(layer_spool.blocks_of(file, lambda _: None)):
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
            for block in packing.packed(form, data, level={"zstd": 3, "gzip": 6}.get(form, 1)):
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


def _pieces(
    image: image_archive.Image, count: int, new: list[image_archive.Layer], names: list[str],
    host: dict[str, Any], fetch: layer_fetch.Fetch,
) -> Iterator[bytes]:  # fmt: skip
    """An archive as a host takes it, with the layers as they lie in the spool.

    dockerd unpacks each layer that it finds packed in an archive; containerd wants blobs as they are, so there the
    whole archive is packed, the little that is around the layers being only stored.
    """
    form, containerd = host["form"], host["containerd"]
    files = {layer.digest: fetch.wait(layer, form) for layer in new} if containerd else {}
    for path, content in image_archive.members(image, count, new, names, containerd, fetch.sizes(image.layers)):
        if isinstance(content, bytes):
            whole = image_archive.header(path, len(content)) + content + image_archive.padding(len(content))
            yield packing.stored(form, whole) if containerd else whole
            continue
        lies = files.get(content.digest) or fetch.wait(content, form)
        length = fetch.sizes([content])[content.digest] if containerd else lies.stat().st_size
        head, tail = image_archive.header(path, length), image_archive.padding(length)
        yield packing.stored(form, head) if containerd else head
        with lies.open("rb") as file:
            yield from layer_spool.blocks_of(file, lambda _: None)
        if tail:
            yield packing.stored(form, tail) if containerd else tail
    yield packing.stored(form, image_archive.END) if containerd else image_archive.END


def _again(given: dict[str, Any], *words: str) -> host_pipe.Start:
    """export_image.py at the source, as describe began it."""
    what, form, place, which = (*words, "-", "-")[:4]
    return host_pipe.repeated(given, {"@WHAT@": what, "@FORM@": form, "@FROM@": place, "@WHICH@": which})


def parse_reading(text: str) -> dict[str, Any]:
    """Return what read_images.sh printed: {word: rest}, with images as a list of [ID, tags, layers]."""
    found: dict[str, Any] = {"images": []}
    for line in text.replace("\r", "").splitlines():
        word, _tab, rest = line.partition("\t")
        if word == "image":
            found["images"].append([json.loads(part) if part[:1] in "[n" else part for part in rest.split("\t")])
        elif _tab:
            found[word] = rest
    return found


def held_of(host: dict[str, Any]) -> image_archive.Held:
    """Return what a host has, from parse_reading's answer."""
    return image_archive.Held(
        containerd="io.containerd.snapshotter" in host.get("store", ""),
        images={one: (tags or [], layers or []) for one, tags, layers in host["images"]},
        blobs=frozenset(host["blobs"].split()) if "blobs" in host else None,
    )


def _described(found: dict[str, Any]) -> image_archive.Image | None:
    """The image of export_image.py's answer, None where it knows too little."""
    root = found["address"] if found["containerd"] else found["root"]
    if found["layers"] is None or len(found["layers"]) != len(found["diff_ids"]) or " " in root:
        return None
    place = f"blob {found['address']} " if found["containerd"] else f"layer {found['root']} "
    layers = [
        image_archive.Layer(
            diff_id, one["digest"], one["size"] if found["containerd"] else None, one["type"] or "",
            place + (one["digest"] if found["containerd"] else one["chain"]),
        )
        for diff_id, one in zip(found["diff_ids"], found["layers"], strict=True)
    ]  # fmt: skip
    manifest = base64.b64decode(found["manifest"]) if found["manifest"] else None
    return image_archive.with_manifest(base64.b64decode(found["config"]), layers, manifest)


def _as_json(image: image_archive.Image) -> dict[str, Any]:
    return {
        "id": image.id,
        "config": base64.b64encode(image.config).decode(),
        "manifest": base64.b64encode(image.manifest).decode() if image.manifest is not None else None,
        "layers": [vars(layer) for layer in image.layers],
    }


def _image(given: dict[str, Any]) -> tuple[image_archive.Image, list[str]]:
    layers = tuple(image_archive.Layer(**layer) for layer in given["layers"])
    manifest = base64.b64decode(given["manifest"]) if given["manifest"] else None
    return image_archive.Image(base64.b64decode(given["config"]), layers, manifest), list(given["names"])
