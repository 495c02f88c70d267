#!/usr/bin/env python
# SPDX-License-Identifier: MIT
"""Read one image, layer by layer, from the store of the dockerd beside it. Python 2.7 and 3.5 syntax.

``docker save`` writes every layer: a minute of disk for the few bytes that a new version adds. dockerd keeps each layer
of overlay2 as files, and what it needs to make the very same archive of them (tar-split:
https://github.com/vbatts/tar-split, one JSON object a line). containerd keeps layers as archives.

export_image.py describe NAME              one JSON object on stdout: see describe()
export_image.py layer FORM,DIGEST,PLACE    a layer, where PLACE is what describe() said of it
export_image.py save FORM,NAME             what docker save writes

FORM is none, gzip or zstd. The status is 0 only where everything was written, and has the digest.
"""

from __future__ import absolute_import, division, print_function

import base64
import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import zlib

BLOCK = 1 << 18
SOCKETS = ("/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock")
# A word that reaches this program through any shell as it is, and has no comma.
PLAIN = re.compile(r"^[A-Za-z0-9_./:+-]+\Z")


class Refused(Exception):
    """It cannot be done this way; the message is one line."""


def main(words):
    """Do what the words say; return the exit status."""
    try:
        if words[0] == "describe":
            print(json.dumps(describe(words[1])))
        elif words[0] == "save":
            form, _, name = words[1].partition(",")
            write(form, output("docker", "image", "save", name))
        else:
            form, digest, kind, where, which = words[1].split(",")
            write(form, checked(digest, layer(where, which) if kind == "overlay2" else blob(where, which)))
    except Refused as error:
        sys.stderr.write("%s\n" % error)
        return 3
    return 0


def describe(name):
    """Return what is known of an image.

    id and size as docker shows them; machine: as uname -m has it; zstd: whether that program is there; images: for
    each platform that is there completely {config, manifest, layers}, config and manifest in base64, layers as
    {diff_id, digest, size in bytes, type, place}; None where only docker save can tell.
    """
    # Side by side: the client takes longer to start than dockerd to answer.
    asked = [started("docker", "image", "inspect", name), started("docker", "info", "--format", "{{json .}}")]
    (image,), info = (json.loads(b"".join(printed(process)).decode("utf-8")) for process in asked)
    images = None
    try:
        if ["driver-type", "io.containerd.snapshotter.v1"] in (info.get("DriverStatus") or []):
            images = of_containerd(image["Id"])
        elif info.get("Driver") == "overlay2" and PLAIN.match(info["DockerRootDir"]):
            images = of_overlay2(info["DockerRootDir"], image["Id"], (image.get("RootFS") or {}).get("Layers") or [])
    except (IOError, OSError, ValueError, KeyError, StopIteration, Refused):
        pass
    return {
        "id": image["Id"],
        "machine": info.get("Architecture") or os.uname()[4],
        "size": image.get("Size") or 0,
        "zstd": any(os.access(os.path.join(place, "zstd"), os.X_OK) for place in os.environ["PATH"].split(":")),
        "images": images,
    }


def of_overlay2(root, image, diff_ids):
    """Return the image, where dockerd's files may be read."""
    with open(os.path.join(root, "image/overlay2/imagedb/content/sha256", image.partition(":")[2]), "rb") as file:
        config = base64.b64encode(file.read()).decode("ascii")
    layers, chain = [], ""
    for diff_id in diff_ids:
        chain = chain_of(chain, diff_id)
        size = sum(len(part) if path is None else size for part, path, size in entries(root, chain))
        place = "overlay2,%s,%s" % (root, chain)
        layers.append({"diff_id": diff_id, "digest": diff_id, "size": size, "type": "", "place": place})
    return [{"config": config, "manifest": None, "layers": layers}]


def chain_of(parent, diff_id):
    """Return the hexadecimal ID of a layer on its parent (https://github.com/opencontainers/image-spec, config.md)."""
    if not parent:
        return diff_id.partition(":")[2]
    return hashlib.sha256(("sha256:%s %s" % (parent, diff_id)).encode("ascii")).hexdigest()


def of_containerd(digest):
    """Return the image as containerd has it, for each platform; None where none is complete."""
    address = next(one for one in SOCKETS if os.path.exists(one))
    words = ("ctr", "--address", address, "--namespace", "moby", "content", "ls", "--quiet")
    there = set(b"".join(output(*words)).decode("ascii").split())
    images = []
    for manifest in manifests(address, digest, there):
        document = json.loads(manifest.decode("utf-8"))
        if not all(one["digest"] in there for one in [document["config"]] + document["layers"]):
            continue
        config = b"".join(blob(address, document["config"]["digest"]))
        layers = [
            {"diff_id": diff_id, "digest": one["digest"], "size": one["size"], "type": one["mediaType"],
             "place": "containerd,%s,%s" % (address, one["digest"])}
            for diff_id, one in zip(json.loads(config.decode("utf-8"))["rootfs"]["diff_ids"], document["layers"])
        ]  # fmt: skip
        encoded = [base64.b64encode(one).decode("ascii") for one in (config, manifest)]
        images.append({"config": encoded[0], "manifest": encoded[1], "layers": layers})
    return images or None


def manifests(address, digest, there):
    """Yield the manifests of images that a digest leads to, without what a build attested."""
    if digest not in there:
        return
    found = b"".join(blob(address, digest))
    document = json.loads(found.decode("utf-8"))
    if "manifests" not in document:
        yield found
        return
    for one in document["manifests"]:
        notes, platform = one.get("annotations") or {}, one.get("platform") or {}
        if "vnd.docker.reference.type" not in notes and platform.get("os") != "unknown":
            for manifest in manifests(address, one["digest"], there):
                yield manifest


# ---- layers


def blob(address, digest):
    """Yield a blob of containerd, by its own client."""
    return output("ctr", "--address", address, "--namespace", "moby", "content", "get", digest)


def entries(root, chain):
    """Yield (bytes, None, 0) and (b"", path in the layer, size) as they follow each other in the archive."""
    place = os.path.join(root, "image/overlay2/layerdb/sha256", chain, "tar-split.json.gz")
    with io.BufferedReader(gzip.open(place, "rb"), BLOCK) as lines:
        for line in lines:
            entry = json.loads(line.decode("utf-8"))
            if entry["type"] == 2:
                yield base64.b64decode(entry.get("payload") or ""), None, 0
            elif entry.get("size"):
                raw = entry.get("name_raw")
                yield b"", base64.b64decode(raw) if raw else entry["name"].encode("utf-8"), entry["size"]


def layer(root, chain):
    """Yield a layer's archive, as it was before dockerd unpacked it."""
    with open(os.path.join(root, "image/overlay2/layerdb/sha256", chain, "cache-id")) as file:
        cache = file.read().strip()
    if not re.match(r"^[0-9a-z]+\Z", cache):
        raise Refused("%s is not a name of a layer's files" % cache)
    files = os.path.join(root, "overlay2", cache, "diff").encode("utf-8")
    for part, name, left in entries(root, chain):
        if name is None:
            yield part
            continue
        path = os.path.normpath(os.path.join(files, name))
        if not path.startswith(files + b"/") or os.path.islink(path):
            raise Refused("a layer names a file outside of it")
        with open(path, "rb") as file:
            while left > 0:
                read = file.read(min(BLOCK, left))
                if not read:
                    raise Refused("a layer's file is shorter than it was")
                left -= len(read)
                yield read


def checked(digest, parts):
    """Yield the same in larger blocks. Raises Refused where all of it together has another digest."""
    found, kept, size = hashlib.sha256(), [], 0
    for part in parts:
        kept.append(part)
        size += len(part)
        if size >= BLOCK:
            found.update(b"".join(kept))
            yield b"".join(kept)
            kept, size = [], 0
    found.update(b"".join(kept))
    yield b"".join(kept)
    if digest != "sha256:" + found.hexdigest():
        raise Refused("expected %s, got sha256:%s" % (digest[:19], found.hexdigest()[:12]))


def write(form, blocks):
    """Write blocks to standard output in a form. Raises Refused."""
    out = getattr(sys.stdout, "buffer", sys.stdout)
    if form == "zstd":
        packer = subprocess.Popen(("zstd", "-1", "-T0", "-q", "-c"), stdin=subprocess.PIPE)
        for block in blocks:
            packer.stdin.write(block)
        packer.stdin.close()
        if packer.wait():
            raise Refused("zstd ended with %d" % packer.returncode)
        return
    packer = zlib.compressobj(1, zlib.DEFLATED, 31) if form == "gzip" else None
    for block in blocks:
        out.write(packer.compress(block) if packer else block)
    out.write(packer.flush() if packer else b"")
    out.flush()


# ---- programs


def started(*words):
    """Start a program. Raises Refused where there is none."""
    try:
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except (IOError, OSError):
        raise Refused("there is no %s" % words[0])


def printed(process):
    """Yield what a program prints. Raises Refused where it fails."""
    while True:
        part = process.stdout.read(BLOCK)
        if not part:
            break
        yield part
    said = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
    if process.wait():
        raise Refused(said[-1] if said else "it ended with %d, without a word" % process.returncode)


def output(*words):
    """Yield what a program prints. Raises Refused where it fails."""
    return printed(started(*words))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
