# SPDX-License-Identifier: MIT
"""Images as archives: what is in one, which layers a host lacks, and archives with only some of the layers.

``docker load`` takes an archive without the layers that the host has already: dockerd looks for the chain of
layers before it looks into the archive, containerd for the blob. So a layer is loaded by an image of its own,
which holds it until the whole image is there. See docs of roles/docker_image_transfer.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

OCI = "application/vnd.oci.image"
PARTIAL = "gpuprov-partial"
# A layer of at least this many bytes is loaded by itself, so that it need never travel again.
PART = 4 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ArchiveError(Exception):
    """What was read is no image, or a damaged one; the message says so in one line."""


@dataclass(frozen=True)
class Layer:
    """One layer: diff_id is the digest of its archive, digest and size are those of the blob, packed or not.

    size is None where nobody has looked. place is what export_image.py needs to find it.
    """

    diff_id: str
    digest: str
    size: int | None = None
    type: str = ""
    place: str = ""


@dataclass(frozen=True)
class Image:
    """An image without its layers' content. manifest is None where it is made here."""

    config: bytes
    layers: tuple[Layer, ...]
    manifest: bytes | None = None

    @property
    def id(self) -> str:
        """Its ID where dockerd keeps layers itself: the digest of its configuration."""
        return digest_of(self.config)


@dataclass(frozen=True)
class Held:
    """What a host has. images: {ID: (tags, diff IDs)}; blobs is None where nobody can tell."""

    containerd: bool
    images: dict[str, tuple[list[str], list[str]]]
    blobs: frozenset[str] | None = None

    def tagged(self, image_id: str, name: str) -> bool:
        """Whether the image is there under this name."""
        return name in self.images.get(image_id, ([], []))[0]

    def partial_tags(self, name: str) -> list[str]:
        """The tags of what an interrupted transfer left of any image of this name, whatever its tag."""
        prefix = partial_tag(name, "", 0).rpartition("-")[0].rpartition("-")[0]
        return sorted(tag for tags, _ in self.images.values() for tag in tags if tag.startswith(f"{prefix}-"))


def digest_of(data: bytes) -> str:
    """Return the digest of data, as OCI writes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def partial_tag(name: str, image_id: str, count: int) -> str:
    """Return the name under which the first count layers of an image wait for the others."""
    return f"{PARTIAL}:{repository_digest(name)}-{image_id.removeprefix('sha256:')[:12]}-{count}"


def repository_digest(name: str) -> str:
    """Return a short word for all names that differ in their tags only."""
    return hashlib.sha256(repository_of(name).encode()).hexdigest()[:8]


def repository_of(name: str) -> str:
    """Return a name without its tag; the colon of a registry's port stays."""
    head, slash, last = name.rpartition("/")
    return head + slash + last.partition(":")[0]


# ---- what is to travel


def lacking(image: Image, held: Held) -> tuple[Layer, ...]:
    """Return the layers that a host lacks, in order.

    Where dockerd keeps them, a layer counts only on those below it, so these are the last ones of the image.
    """
    if held.containerd:
        missing = [layer for layer in image.layers if held.blobs is None or layer.digest not in held.blobs]
        return tuple(dict.fromkeys(missing))
    wanted = [layer.diff_id for layer in image.layers]
    there = max((_common(wanted, diff_ids) for _, diff_ids in held.images.values()), default=0)
    return image.layers[there:]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many items two lists have in common at their beginning."""
    count = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        count += 1
    return count


def parts(image: Image, missing: Sequence[Layer], size: dict[str, int]) -> list[tuple[int, list[Layer]]]:
    """Return what is loaded one after the other: (number of layers that are there then, the new ones).

    size: about how many bytes each layer's digest has. Small layers go along with big ones.
    """
    found: list[tuple[int, list[Layer]]] = []
    pending: list[Layer] = []
    waiting = {layer.digest: size[layer.digest] for layer in missing}
    for count, layer in enumerate(image.layers, 1):
        if layer.digest in waiting:
            del waiting[layer.digest]
            pending.append(layer)
        if sum(size[one.digest] for one in pending) >= PART and sum(waiting.values()) >= PART:
            found.append((count, pending))
            pending = []
    return [*found, (len(image.layers), pending)]


# ---- archives for docker load


def members(
    image: Image, count: int, new: Sequence[Layer], names: Sequence[str], containerd: bool,
    sizes: Callable[[Iterable[Layer]], dict[str, int]],
) -> Iterator[tuple[str, bytes | Layer]]:  # fmt: skip
    """Yield the files of an archive with the first count layers of an image, of which it has only new ones.

    The file that docker load begins with comes last: an archive that was cut off is none. sizes returns bytes of
    layers' blobs; it is asked after the layers, of all up to count, where containerd keeps them.
    """
    part = image if count == len(image.layers) else _beginning(image, count)
    sent = set()
    for layer in new:
        if layer.digest not in sent:
            sent.add(layer.digest)
            yield (blob_path(layer.digest) if containerd else _layer_path(layer)), layer
    if not containerd:
        config = f"{part.id.partition(':')[2]}.json"
        yield config, part.config
        entry = {"Config": config, "RepoTags": list(names), "Layers": [_layer_path(layer) for layer in part.layers]}
        yield "manifest.json", _json([entry])
        return
    manifest = manifest_of(part, sizes(part.layers))
    descriptors = [
        {
            "mediaType": json.loads(manifest).get("mediaType") or f"{OCI}.manifest.v1+json",
            "digest": digest_of(manifest),
            "size": len(manifest),
            "annotations": {
                "io.containerd.image.name": full_name(name),
                "org.opencontainers.image.ref.name": name.rpartition(":")[2],
            },
        }
        for name in names
    ]
    yield blob_path(part.id), part.config
    yield blob_path(digest_of(manifest)), manifest
    yield "oci-layout", _json({"imageLayoutVersion": "1.0.0"})
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": descriptors}
    yield "index.json", _json(index)


def _layer_path(layer: Layer) -> str:
    return f"{layer.digest.partition(':')[2]}/layer.tar"


def blob_path(digest: str) -> str:
    """Return where an OCI layout has a blob."""
    return f"blobs/sha256/{digest.partition(':')[2]}"


def full_name(name: str) -> str:
    """Return a name with its registry, as containerd wants it."""
    first, slash, _rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        return name
    return f"docker.io/{name if slash else f'library/{name}'}"


def _beginning(image: Image, count: int) -> Image:
    """An image of the first layers of another one, the same whoever makes it."""
    whole = json.loads(image.config)
    config = {
        "architecture": whole.get("architecture", ""),
        "os": whole.get("os", ""),
        "created": "1970-01-01T00:00:00Z",
        "config": {"Labels": {"gpuprov.partial": "true"}},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in image.layers[:count]]},
        "history": [],
    }
    if whole.get("variant"):
        config["variant"] = whole["variant"]
    return Image(_json(config), image.layers[:count])


def manifest_of(image: Image, size: dict[str, int]) -> bytes:
    """Return the manifest of an image: its own, or one that is the same whoever makes it. size: of each blob."""
    if image.manifest is not None:
        return image.manifest
    layers = [
        {
            "mediaType": layer.type or f"{OCI}.layer.v1.tar",
            "digest": layer.digest,
            "size": size[layer.digest] if layer.size is None else layer.size,
        }
        for layer in image.layers
    ]
    config = {"mediaType": f"{OCI}.config.v1+json", "digest": image.id, "size": len(image.config)}
    manifest = {"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": config, "layers": layers}
    return _json(manifest)


def id_on(image: Image, containerd: bool, size: dict[str, int]) -> str:
    """Return the ID by which a host shows the image: where containerd stores it, that is the manifest's digest."""
    return digest_of(manifest_of(image, size)) if containerd else image.id


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def header(path: str, size: int) -> bytes:
    """Return the header of a file in an archive."""
    entry = tarfile.TarInfo(path)
    entry.size = size
    return entry.tobuf(tarfile.GNU_FORMAT)


def padding(size: int) -> bytes:
    """Return what follows a file of this size in an archive."""
    return bytes(-size % tarfile.BLOCKSIZE)


END = bytes(2 * tarfile.BLOCKSIZE)


# ---- what an archive holds


def image_in(
    files: dict[str, bytes], digests: dict[str, tuple[str, str, int]], name: str | None = None
) -> tuple[Image, list[str]]:
    """Return the image of an archive, and its names.

    files: {path: content} of the small ones; digests: {path: (digest, diff ID, size)} of all. name chooses among
    several images. Raises ArchiveError.
    """
    if "manifest.json" in files:
        entry, names = _chosen(_document(files, "manifest.json"), name)
        config = _file(files, entry.get("Config"))
        paths = entry.get("Layers")
        manifest = _own_manifest(files, digest_of(config))
    elif "index.json" in files and "oci-layout" in files:
        manifest, names = _of_layout(files, name)
        document = json.loads(manifest)
        config = _file(files, blob_path(str(document["config"]["digest"])))
        paths = [blob_path(str(layer["digest"])) for layer in document["layers"]]
    else:
        raise ArchiveError(
            "it is no archive of an image, or a damaged one: neither manifest.json nor index.json is in it"
        )
    try:
        diff_ids = json.loads(config)["rootfs"]["diff_ids"]
    except (ValueError, KeyError, TypeError):
        raise ArchiveError("it is no archive of an image: the configuration names no layers") from None
    if not isinstance(paths, list) or len(paths) != len(diff_ids):
        raise ArchiveError("the archive is damaged: its lists of layers differ in length")
    layers = []
    for number, (path, diff_id) in enumerate(zip(paths, diff_ids, strict=True), 1):
        if path not in digests:
            raise ArchiveError(f"the archive is damaged: layer {number} of {len(paths)} is not in it")
        digest, found, size = digests[path]
        if found != diff_id or not _DIGEST.fullmatch(str(diff_id)):
            raise ArchiveError(f"the archive is damaged: layer {number} of {len(paths)} has not the digest it should")
        layers.append(Layer(diff_id, digest, size))
    return with_manifest(config, layers, manifest), names


def with_manifest(config: bytes, layers: Sequence[Layer], manifest: bytes | None) -> Image:
    """Return the image. A manifest is kept where its layers are packed: only then does it say more than we do."""
    if manifest is None or all(layer.digest == layer.diff_id for layer in layers):
        return Image(config, tuple(layers))
    types = [(one["digest"], one["size"], one["mediaType"]) for one in json.loads(manifest)["layers"]]
    if [digest for digest, _, _ in types] != [layer.digest for layer in layers]:
        return Image(config, tuple(layers))
    typed = [
        Layer(layer.diff_id, layer.digest, int(size), str(kind), layer.place)
        for layer, (_, size, kind) in zip(layers, types, strict=True)
    ]
    return Image(config, tuple(typed), manifest)


def _chosen(entries: Any, name: str | None) -> tuple[dict[str, Any], list[str]]:
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise ArchiveError("it is no archive of an image: manifest.json lists none")
    named = [(entry, [str(tag) for tag in entry.get("RepoTags") or []]) for entry in entries]
    return _one_of(named, name)


def _one_of(named: list[tuple[Any, list[str]]], name: str | None) -> tuple[Any, list[str]]:
    if name is not None:
        for one, names in named:
            if name in names:
                return one, names
    if len(named) > 1 or (name is not None and named[0][1]):
        known = ", ".join(sorted(tag for _, names in named for tag in names)) or "images without names"
        if name is not None:
            raise ArchiveError(f"{name} is not in the archive; it has {known}")
        raise ArchiveError(f"the archive holds {len(named)} images ({known}): say which one")
    return named[0]


def _own_manifest(files: dict[str, bytes], config: str) -> bytes | None:
    """The manifest that goes with a configuration, where the archive is a layout of OCI as well."""
    for content in files.values():
        if content[:1] == b"{" and config.encode() in content:
            document = _parsed(content)
            if isinstance(document, dict) and (document.get("config") or {}).get("digest") == config:
                return content
    return None


def _of_layout(files: dict[str, bytes], name: str | None) -> tuple[bytes, list[str]]:
    found: list[tuple[Any, list[str]]] = []
    index = _document(files, "index.json")
    entries = index.get("manifests") if isinstance(index, dict) else None
    waiting = [(entry, _names(entry)) for entry in entries or []]
    for descriptor, names in waiting:
        content = files.get(blob_path(str(descriptor.get("digest"))))
        document = _parsed(content) if content is not None else None
        if isinstance(document, dict) and "manifests" in document:
            waiting += [(entry, names) for entry in document["manifests"]]
            continue
        # What a build attests is no image: its platform is unknown.
        attested = (descriptor.get("platform") or {}).get("os") == "unknown"
        if isinstance(document, dict) and {"layers", "config"} <= document.keys() and not attested:
            found.append((content, names))
    if not found:
        raise ArchiveError("it is no archive of an image: index.json lists none")
    return _one_of(found, name)


def _names(descriptor: dict[str, Any]) -> list[str]:
    notes = descriptor.get("annotations") or {}
    full = str(notes.get("io.containerd.image.name") or "")
    return [full.removeprefix("docker.io/").removeprefix("library/")] if full else []


def _document(files: dict[str, bytes], path: str) -> Any:
    document = _parsed(files[path])
    if document is None:
        raise ArchiveError(f"it is no archive of an image: {path} is not JSON")
    return document


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _file(files: dict[str, bytes], path: Any) -> bytes:
    if not isinstance(path, str) or path not in files:
        raise ArchiveError("the archive is damaged: the configuration of the image is not in it")
    return files[path]
