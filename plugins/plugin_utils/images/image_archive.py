# SPDX-License-Identifier: MIT
"""Image archives: the images in one, the layers that a host lacks, and archives with only some of the layers.

``docker load`` takes an archive without the layers that the host has already: dockerd looks for the chain of
layers before it looks into the archive, containerd for the blob. So a partial image of its own holds each layer until
the whole image is loaded. See roles/docker_image_transfer/README.md.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from ansible.errors import AnsibleError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import image_name

OCI = "application/vnd.oci.image"
PARTIAL = "gpuprov-partial"
# A layer of at least this many bytes is loaded by itself, so that it need never travel again.
PART = 4 << 20
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Layer:
    """A layer: diff_id is the digest of its archive; digest, size and media type are those of its blob.

    The blob may be compressed. place: where image_on_host.py finds it.
    """

    diff_id: str
    digest: str
    size: int
    type: str = ""
    place: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Image:
    """An image without the content of its layers. manifest is None where manifest_of generates it."""

    config: bytes
    layers: tuple[Layer, ...]
    manifest: bytes | None = None

    @property
    def id(self) -> str:
        """The ID where dockerd stores layers itself: the digest of the configuration."""
        return digest_of(self.config)

    @property
    def platform(self) -> tuple[str, str, str]:
        """Operating system, architecture and variant, as Go names them; empty where not configured."""
        return _platform(json.loads(self.config))

    def beginning(self, count: int) -> Image:
        """Return a reproducible image of the first count layers; the image itself where that is all of them."""
        if count == len(self.layers):
            return self
        parent = json.loads(self.config)
        config = {key: parent[key] for key in ("os", "architecture", "variant") if parent.get(key)}
        layers = {"type": "layers", "diff_ids": [layer.diff_id for layer in self.layers[:count]]}
        fixed = {"created": "1970-01-01T00:00:00Z", "config": {"Labels": {"gpuprov.partial": "true"}}, "history": []}
        return Image(_json({**config, **fixed, "rootfs": layers}), self.layers[:count])

    def shown_as(self, containerd: bool) -> str:
        """Return the ID that a host shows: where containerd stores the image, the manifest's digest."""
        return digest_of(manifest_of(self)) if containerd else self.id


def as_json(image: Image) -> dict[str, Any]:
    """Return an image in the form of image_on_host.py."""
    config, manifest = (base64.b64encode(one).decode() if one else None for one in (image.config, image.manifest))
    return {"config": config, "manifest": manifest, "layers": [asdict(layer) for layer in image.layers]}


def from_json(given: dict[str, Any]) -> Image:
    """Return the image that image_on_host.py describes."""
    config, manifest = (base64.b64decode(given[key]) if given[key] else None for key in ("config", "manifest"))
    return with_manifest(config or b"", [Layer(**layer) for layer in given["layers"]], manifest)


@dataclass(frozen=True)
class Held:
    """The images of a host: see held() in image_on_host.py.

    images: {ID: (tags, diff IDs)}; configs: {ID of a manifest or index: digests of configurations}.
    """

    containerd: bool
    images: Mapping[str, Sequence[Sequence[str]]]
    blobs: Iterable[str] | None = None
    configs: dict[str, list[str]] = field(default_factory=dict)
    machine: str = ""
    place: list[str] = field(default_factory=list)
    free: int | None = None
    zstd: bool = False

    def named(self, name: str) -> str | None:
        """Return the ID of the image with this name."""
        return next((one for one, (tags, _layers) in self.images.items() if name in tags), None)

    def has(self, image: Image, name: str) -> bool:
        """Return whether the host has the image under this name, by any manifest or index."""
        found = self.named(name)
        return found is not None and (found == image.id or image.id in self.configs.get(found, []))

    def partial_tags(self, name: str) -> list[str]:
        """Return the tags that interrupted transfers of this repository left."""
        return sorted(
            tag for tags, _layers in self.images.values() for tag in tags if tag.startswith(partial_prefix(name))
        )


def _platform(config: dict[str, Any]) -> tuple[str, str, str]:
    system, architecture, variant = (str(config.get(key) or "") for key in ("os", "architecture", "variant"))
    return system, architecture, variant


def digest_of(data: bytes) -> str:
    """Return the digest of data, as OCI writes it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def partial_tag(name: str, image_id: str, count: int) -> str:
    """Return the name of the partial image of the first count layers."""
    return f"{partial_prefix(name)}{image_id.removeprefix('sha256:')[:12]}-{count}"


def partial_prefix(name: str) -> str:
    """Return how the names of the partial images of a name's repository begin."""
    return f"{PARTIAL}:{hashlib.sha256(image_name.parse(name).repository.encode()).hexdigest()[:8]}-"


# ---- what must travel


def lacking(image: Image, held: Held) -> tuple[Layer, ...]:
    """Return the layers that a host lacks, in order, each once.

    Where dockerd stores them, a layer counts only on those below it, so these are the last ones of the image.
    """
    if held.containerd:
        blobs = {*(held.blobs or ())}
        missing = [layer for layer in image.layers if layer.digest not in blobs]
    else:
        wanted = [layer.diff_id for layer in image.layers]
        chains = [[*diff_ids] for _tags, diff_ids in held.images.values()]
        counts = (n for n in range(len(wanted) + 1) if any(chain[:n] == wanted[:n] for chain in chains))
        missing = [*image.layers[max(counts, default=0) :]]
    return tuple({layer.digest: layer for layer in missing}.values())


def parts(image: Image, missing: Sequence[Layer]) -> list[tuple[int, list[Layer]]]:
    """Return the archives to load in order: (number of layers loaded by then, the layers in the archive).

    Small layers go along with big ones. dockerd needs a layer that an image has twice in each archive.
    """
    lacked = {layer.digest for layer in missing}
    found: list[tuple[int, list[Layer]]] = []
    pending: dict[str, Layer] = {}
    for count, layer in enumerate(image.layers, 1):
        if layer.digest in lacked:
            pending[layer.digest] = layer
        later = sum(one.size for one in image.layers[count:] if one.digest in lacked)
        if sum(one.size for one in pending.values()) >= PART and later >= PART:
            found.append((count, [*pending.values()]))
            pending = {}
    return [*found, (len(image.layers), [*pending.values()])]


# ---- archives for docker load


def layer_path(layer: Layer, containerd: bool) -> str:
    """Return the path of a layer in an archive for docker load."""
    return blob_path(layer.digest) if containerd else f"{layer.digest.partition(':')[2]}/layer.tar"


def last_files(image: Image, names: Sequence[str], containerd: bool) -> list[tuple[str, bytes]]:
    """Return the files of an archive that are not layers, the list that docker load reads first at the end."""
    if not containerd:
        config = f"{image.id.partition(':')[2]}.json"
        layers = [layer_path(layer, containerd) for layer in image.layers]
        entry = {"Config": config, "RepoTags": list(names), "Layers": layers}
        return [(config, image.config), ("manifest.json", _json([entry]))]
    manifest = manifest_of(image)
    kind = json.loads(manifest).get("mediaType") or f"{OCI}.manifest.v1+json"
    descriptor = {"mediaType": kind, "digest": digest_of(manifest), "size": len(manifest)}
    notes = [
        {"io.containerd.image.name": full_name(name), "org.opencontainers.image.ref.name": name.rpartition(":")[2]}
        for name in names
    ]
    descriptors = [{**descriptor, "annotations": one} for one in notes]
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": descriptors}
    return [
        (blob_path(image.id), image.config),
        (blob_path(digest_of(manifest)), manifest),
        ("oci-layout", _json({"imageLayoutVersion": "1.0.0"})),
        ("index.json", _json(index)),
    ]


def blob_path(digest: str) -> str:
    """Return the path of a blob in an OCI layout."""
    return f"blobs/sha256/{digest.partition(':')[2]}"


def full_name(name: str) -> str:
    """Return a name with its registry, for containerd."""
    image = image_name.parse(name)
    return f"{image.registry}/{image.path}:{image.tag}"


def manifest_of(image: Image) -> bytes:
    """Return the manifest of an image: its own, or a reproducible one."""
    if image.manifest is not None:
        return image.manifest
    layers = [
        {"mediaType": layer.type or f"{OCI}.layer.v1.tar", "digest": layer.digest, "size": layer.size}
        for layer in image.layers
    ]
    config = {"mediaType": f"{OCI}.config.v1+json", "digest": image.id, "size": len(image.config)}
    return _json({"schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json", "config": config, "layers": layers})


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


# ---- platforms

# Architectures that a machine (uname -m) runs, the best first; of arm the newest version that it supports.
_MACHINES = {
    "x86_64": ["amd64", "386"], "i686": ["386"], "aarch64": ["arm64", "arm"], "armv7l": ["arm"], "armv6l": ["arm"],
}  # fmt: skip
_ARM = {"aarch64": 8, "armv7l": 7, "armv6l": 6}


def for_machine(images: Sequence[Image], machine: str) -> Image:
    """Return the image for a machine (uname -m) running Linux. Raises AnsibleError.

    An image without an architecture fits any machine, as for dockerd.
    """
    runs = _MACHINES.get(machine, [machine])
    ranked = []
    for image in images:
        system, architecture, variant = image.platform
        version = int(variant[1:]) if re.fullmatch(r"v[0-9]", variant) else 0
        is_newer = architecture == "arm" and version > _ARM.get(machine, 0)
        if system in ("", "linux") and architecture in ("", *runs) and not is_newer:
            # Of amd64 the lowest level, which every processor supports.
            level = -version if architecture == "arm" else version
            ranked.append(((runs.index(architecture) if architecture else len(runs), level), image))
    if not ranked:
        platforms = ", ".join(sorted(platform_text(image) for image in images))
        raise AnsibleError(f"the image is for {platforms}, and this host is linux/{runs[0]}")
    return min(ranked, key=lambda one: one[0])[1]


def platform_text(image: Image) -> str:
    """Return a platform as docker writes it: ``linux/arm64``, ``linux/arm/v7``."""
    return "/".join(part for part in image.platform if part) or "an unknown platform"


# ---- the images in an archive


class Blob(NamedTuple):
    """A file of an archive: its digest, the digest of its decompressed content, its size in bytes and compression."""

    digest: str
    diff_id: str
    size: int
    form: str


Blobs = dict[str, Blob]  # by path


@dataclass
class _Entry:
    """An image for one platform in an archive, with its names, or with tags alone."""

    config: str
    paths: list[str]
    manifest: bytes | None
    names: list[str]
    tags: list[str]


def images_in(files: dict[str, bytes], blobs: Blobs, name: str | None = None) -> tuple[tuple[Image, ...], list[str]]:
    """Return an archive's image, once for each complete platform, and its names as docker shows them.

    files: {path: content} of the small files. name chooses among several images. Raises AnsibleError.
    """
    try:
        chosen = _chosen(_entries(files), files, name)
    except (AttributeError, KeyError, TypeError):
        raise AnsibleError("it is not an archive of an image: its list of images is malformed") from None
    # docker save omits the content of platforms that it does not have.
    complete = [one for one in chosen if one.config in files and all(path in blobs for path in one.paths)]
    images = {image.platform: image for image in (_image(files, blobs, entry) for entry in complete or chosen)}
    return tuple(images.values()), list(dict.fromkeys(one for entry in chosen for one in entry.names))


def _parsed(files: dict[str, bytes], path: str) -> Any:
    """Return a document, {} where it is missing or not JSON."""
    try:
        return json.loads(files.get(path, b""))
    except ValueError:
        return {}


def _entries(files: dict[str, bytes]) -> list[_Entry]:
    """Return the images that an archive lists. Raises AnsibleError."""
    found = []
    # Archives of docker save 25 and newer have both lists; manifest.json has one platform of each image.
    if "oci-layout" in files:
        listed = _parsed(files, "index.json").get("manifests") or []
        found = [entry for one in listed for entry in _of_layout(files, one)]
    if not found:
        # https://github.com/moby/docker-image-spec, v1.2
        found = [
            _Entry(one["Config"], [*one["Layers"]], None, _known_names(one.get("RepoTags") or []), [])
            for one in _parsed(files, "manifest.json")
        ]
    if not found:
        why = "index.json lists none" if "index.json" in files else "neither manifest.json nor index.json lists one"
        raise AnsibleError(f"it is not an archive of an image, or a damaged one: {why}")
    return found


def _of_layout(files: dict[str, bytes], entry: dict[str, Any]) -> Iterator[_Entry]:
    """Yield the images of an entry of index.json."""
    notes = entry.get("annotations") or {}
    name = str(notes.get("io.containerd.image.name") or "")
    reference = str(notes.get("org.opencontainers.image.ref.name") or "")
    # skopeo and podman put a whole name there, others a tag.
    names = _known_names([name or reference] if name or re.search("[:/]", reference) else [])
    tags = [] if names or not reference else [reference]
    for content, document in _manifests(files, entry):
        config, *paths = (blob_path(str(one["digest"])) for one in [document["config"], *document["layers"]])
        yield _Entry(config, paths, content, names, tags)


def _manifests(files: dict[str, bytes], descriptor: dict[str, Any]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield the image manifests that a descriptor leads to.

    Attestations (BuildKit: docs/attestations/attestation-storage.md) and signatures are not images.
    """
    notes, platform = descriptor.get("annotations") or {}, descriptor.get("platform") or {}
    path = blob_path(str(descriptor.get("digest")))
    document = _parsed(files, path)
    if "vnd.docker.reference.type" in notes or platform.get("os") == "unknown":
        return
    for one in document.get("manifests") or []:
        yield from _manifests(files, one)
    kinds = [str(layer.get("mediaType") or ".layer.") for layer in document.get("layers") or []]
    if "config" in document and all(".layer." in kind or ".rootfs." in kind for kind in kinds):
        yield files[path], document


def _known_names(names: Sequence[Any]) -> list[str]:
    """Return names as docker shows them: ``docker.io/library/train:1.9.1`` is ``train:1.9.1``."""
    found = []
    for name in names:
        with contextlib.suppress(image_name.ImageNameError):
            found.append(str(image_name.parse_tagged(name)._replace(digest=None)))
    return found


def _chosen(entries: Sequence[_Entry], files: dict[str, bytes], name: str | None) -> list[_Entry]:
    """Return the entries of the image with this name, as docker compares names. Raises AnsibleError."""
    unnamed = [entry for entry in entries if not entry.names and not entry.tags]
    # Without names, images for different platforms are one image.
    platforms = {_platform(_parsed(files, entry.config)) for entry in unnamed}
    one_image = len(platforms) == len(unnamed)
    # Platforms and names of one image may have an entry each.
    labels: dict[str, list[str]] = {}
    for entry in entries:
        labels.setdefault(entry.config, []).extend([*entry.names, *entry.tags])
    by_label: dict[Any, list[_Entry]] = {}
    for entry in entries:
        by_label.setdefault(min(labels[entry.config], default=one_image or entry.config), []).append(entry)
    groups = [*by_label.values()]
    known = ", ".join(sorted({label for some in labels.values() for label in some})) or "images without names"
    if name is None:
        if len(groups) > 1:
            raise AnsibleError(f"the archive holds {len(groups)} images ({known}): say which one")
        return groups[0]
    wanted = image_name.parse_tagged(name)
    # podman's names for images that were built without a registry.
    local = wanted._replace(registry="localhost", path=wanted.path.removeprefix("library/"))
    for fits in (
        lambda one: str(wanted) in one.names,
        lambda one: wanted.registry == image_name.DEFAULT_REGISTRY and str(local) in one.names,
        lambda one: not one.names and wanted.tag in one.tags,
        lambda one: not one.names and len(groups) == 1,
    ):
        matches = [group for group in groups if any(fits(entry) for entry in group)]
        if len(matches) == 1:
            return matches[0]
    raise AnsibleError(f"{name} is not in the archive; it has {known}")


def _image(files: dict[str, bytes], blobs: Blobs, entry: _Entry) -> Image:
    """Return the image of an entry. Raises AnsibleError."""
    if entry.config not in files:
        raise AnsibleError("the archive is damaged: the configuration of the image is not in it")
    try:
        diff_ids = _parsed(files, entry.config)["rootfs"]["diff_ids"]
    except (KeyError, TypeError):
        raise AnsibleError("it is not an archive of an image: the configuration names no layers") from None
    total = len(entry.paths)
    if total != len(diff_ids):
        raise AnsibleError("the archive is damaged: its lists of layers differ in length")
    layers = []
    for number, (path, diff_id) in enumerate(zip(entry.paths, diff_ids, strict=True), 1):
        if path not in blobs:
            raise AnsibleError(f"the archive is damaged: layer {number} of {total} is not in it")
        blob = blobs[path]
        is_renamed = entry.manifest is not None and path != blob_path(blob.digest)
        if is_renamed or blob.diff_id != diff_id or not _DIGEST.fullmatch(str(diff_id)):
            raise AnsibleError(f"the archive is damaged: layer {number} of {total} does not have the digest it should")
        kind = "" if blob.form == "none" else f"{OCI}.layer.v1.tar+{blob.form}"
        layers.append(Layer(diff_id, blob.digest, blob.size, kind))
    return with_manifest(files[entry.config], layers, entry.manifest)


def with_manifest(config: bytes, layers: Sequence[Layer], manifest: bytes | None) -> Image:
    """Return the image, with its manifest where its layers are compressed: else the generated one says the same."""
    is_compressed = any(layer.digest != layer.diff_id for layer in layers)
    return Image(config, tuple(layers), manifest if is_compressed else None)
