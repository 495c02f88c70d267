# SPDX-License-Identifier: MIT
"""Images of a bundle: an archive for each image and architecture. Imports nothing of the collection but neighbours."""

from __future__ import annotations

import io
import json
import operator
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...module_utils.images import image_name
from . import download, registry

DIRECTORY = "images"
PARTS = ".parts"


@dataclass(frozen=True)
class Image:
    """An image of a bundle for one architecture (as dpkg names it), in an archive for ``docker load``.

    reference: what the person wrote; name: the image's name for docker in full, such as
    docker.io/library/hello-world:latest, with the digest where there is no tag; digest: of what the registry has under
    the name, an index of all architectures or one manifest.
    """

    reference: str
    name: str
    architecture: str
    digest: str
    path: Path


@dataclass(frozen=True)
class Archive:
    """An archive that a bundle lacks: its small files, and the blobs to download, by path in it."""

    path: Path
    files: Mapping[str, bytes]
    blobs: Mapping[str, download.Wanted]


def archives(
    references: Iterable[tuple[str, str]], architectures: Collection[str], directory: Path,
    earlier: Mapping[Image, bool], say: Callable[[str], None],
) -> Iterator[tuple[Image, Archive | None]]:  # fmt: skip
    """Yield each image for each architecture, with the archive where the bundle lacks it.

    references: [(reference, digest to take or "" for that of the tag)]; earlier: {image of the bundle: whether its
    archive is as it was made}. say is told of tags that moved. Raises RegistryError and ImageNameError.
    """
    names = {_full(image_name.parse_tagged(one)): (one, pinned) for one, pinned in reversed([*references])}
    for full, (reference, pinned) in sorted(names.items()):
        repository = registry.Repository(image_name.parse_tagged(reference))
        digest = pinned or repository.image.digest or repository.digest()
        known = {(one.architecture, one.digest): right for one, right in earlier.items() if one.name == full}
        for old in sorted({old for _architecture, old in known} - {digest}):
            say(f"{reference}: {old} -> {digest}")
        file = str(image_name.parse(full)).replace("/", "+").replace(":", "=")  # which no name has: none are equal
        for architecture in sorted(architectures):
            image = Image(reference, full, architecture, digest, directory / f"{file}_{architecture}.tar")
            there = known.get((architecture, digest), False)
            yield image, None if there else _archive(repository, image)


def _full(name: image_name.ImageName) -> str:
    """Return a name with its registry: the tag alone where there is one, as docker names what it loads."""
    return f"{name.registry}/{name.path}{f':{name.tag}' if name.tag else f'@{name.digest}'}"


def _archive(repository: registry.Repository, image: Image) -> Archive:
    try:
        return _described(repository, image)
    except (KeyError, TypeError, AttributeError):
        raise registry.RegistryError(f"{image.reference} is not an image, or of a kind that is not supported") from None


def _described(repository: registry.Repository, image: Image) -> Archive:
    """Return what an archive consists of. Raises KeyError and others where a manifest is not as it should be."""
    manifest, document = repository.get("manifests", image.digest)
    digest = image.digest
    if "manifests" in document:
        digest = _of_platform(document["manifests"], image)
        manifest, document = repository.get("manifests", digest)
    config, configured = repository.get("blobs", document["config"]["digest"])
    if (configured["os"], configured["architecture"]) != ("linux", image.architecture):
        raise _elsewhere(image, [configured])
    blobs, layers = {}, [_blob(layer["digest"]) for layer in document["layers"]]
    for layer in document["layers"]:
        hashed = registry.sha256_of(layer["digest"])
        url = repository.url("blobs", layer["digest"])
        target = image.path.parent / PARTS / hashed
        size = operator.index(layer["size"])
        blobs[_blob(layer["digest"])] = download.Wanted(target, (url,), hashed, size, repository.open)
    if len(layers) != len(configured["rootfs"]["diff_ids"]):
        raise KeyError
    name, config_path = image_name.parse(image.name), _blob(document["config"]["digest"])
    listed = {"Config": config_path, "RepoTags": [str(name)] if name.tag else None, "Layers": layers}
    notes = {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": name.tag}
    kind = document.get("mediaType") or f"{registry.OCI}.manifest.v1+json"
    entry = {"mediaType": kind, "digest": digest, "size": len(manifest), **({"annotations": notes} if name.tag else {})}
    index = {"schemaVersion": 2, "mediaType": f"{registry.OCI}.index.v1+json", "manifests": [entry]}
    files = {
        config_path: config,
        _blob(digest): manifest,
        "index.json": _json(index),
        # Of docker save: what engines before 25 read, and newer ones whose images are not in containerd.
        "manifest.json": _json([listed]),
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
    }
    return Archive(image.path, files, blobs)


def _of_platform(offered: list[dict[str, Any]], image: Image) -> str:
    """Return the digest of the manifest for an architecture, of the lowest variant. Raises RegistryError."""
    platforms = [(one.get("platform") or {}, one["digest"]) for one in offered]
    fit = [
        (str(platform.get("variant") or ""), digest)
        for platform, digest in platforms
        if (platform.get("os"), platform.get("architecture")) == ("linux", image.architecture)
    ]
    if not fit:
        raise _elsewhere(image, [platform for platform, _digest in platforms])
    return str(min(fit)[1])


def _elsewhere(image: Image, platforms: Iterable[dict[str, Any]]) -> registry.RegistryError:
    known = {f"{one.get('os')}/{one.get('architecture')}" for one in platforms} - {"unknown/unknown"}
    there = ", ".join(sorted(known))
    return registry.RegistryError(f"{image.reference} is not there for linux/{image.architecture}, only for {there}")


def pack(archive: Archive) -> None:
    """Write an archive whose blobs are there; equal images give equal bytes. Raises OSError."""
    new = archive.path.parent / PARTS / archive.path.name
    new.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(new, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted({**archive.files, **archive.blobs}):
            entry = tarfile.TarInfo(path)
            if path in archive.files:
                entry.size = len(archive.files[path])
                tar.addfile(entry, io.BytesIO(archive.files[path]))
                continue
            entry.size = archive.blobs[path].size
            with archive.blobs[path].path.open("rb") as file:
                tar.addfile(entry, file)
    new.rename(archive.path)


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
