#!/usr/bin/env python
# SPDX-License-Identifier: MIT
"""Reads one image, layer by layer, out of the store of the dockerd beside it. Python 2.7 and 3.5 syntax.

``docker save`` writes every layer, whatever is asked for: a minute of disk for the few bytes that a new version
adds. dockerd keeps each layer of overlay2 as files, and what it needs to make the very same archive of them
(tar-split: https://github.com/vbatts/tar-split, one JSON object a line). containerd keeps them as archives.
Who reads compares the digest of what comes out, and takes ``docker save`` where this does not work. A word that
is only a hyphen stands for none.

export_image.py describe NAME        one JSON object on stdout: see describe()
export_image.py sizes ROOT CHAIN...  the size in bytes of each layer's archive, a line each
export_image.py layer FORM ROOT CHAIN     a layer's archive; FORM is raw, gzip or zstd
export_image.py blob FORM ADDRESS DIGEST  a blob of containerd
export_image.py save FORM NAME       what docker save writes
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

BLOCK = 1 << 20
SOCKETS = ("/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock")
INDEXES = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")


def main(words):
    """Do what the words say; return the exit status."""
    out = getattr(sys.stdout, "buffer", sys.stdout)
    try:
        if words[0] == "describe":
            print(json.dumps(describe(words[1])))
        elif words[0] == "sizes":
            for chain in (word for word in words[2:] if word != "-"):
                print(sum(len(part) if kind == "bytes" else size for kind, part, size in entries(words[1], chain)))
        else:
            write = writer(out, words[1])
            source = {"layer": layer, "blob": blob, "save": save}[words[0]]
            for part in source(*[word for word in words[2:] if word != "-"]):
                write(part)
            write(None)
            out.flush()
    except Refused as error:
        sys.stderr.write("%s\n" % error)
        return 3
    return 0


class Refused(Exception):
    """It cannot be done this way; the message is one line."""


def docker(*words):
    """Return what docker prints. Raises Refused."""
    try:
        process = subprocess.Popen(("docker",) + words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except (IOError, OSError):
        raise Refused("there is no docker")
    out, said = process.communicate()
    if process.returncode:
        lines = said.decode("utf-8", "replace").strip().splitlines() or ["docker failed without a word"]
        raise Refused(lines[-1])
    return out.decode("utf-8")


def describe(name):
    """Return what is known of an image.

    id and diff_ids as docker shows them, tags, platform, containerd: whether that stores it, zstd: whether that
    program is there; config and manifest in base64 and layers as {digest, size, type, chain}, all three None
    where only docker save can tell. size is a guess where layers are files.
    """
    image = json.loads(docker("image", "inspect", name))[0]
    info = json.loads(docker("info", "--format", "{{json .}}"))
    found = {
        "id": image["Id"],
        "diff_ids": (image.get("RootFS") or {}).get("Layers") or [],
        "tags": image.get("RepoTags") or [],
        "size": image.get("Size") or 0,
        "root": info.get("DockerRootDir") or "",
        "containerd": ["driver-type", "io.containerd.snapshotter.v1"] in (info.get("DriverStatus") or []),
        "address": "",
        "zstd": any(os.access(os.path.join(place, "zstd"), os.X_OK) for place in os.environ["PATH"].split(":")),
        "config": None,
        "manifest": None,
        "layers": None,
    }
    try:
        if found["containerd"]:
            of_containerd(found, image)
        elif info.get("Driver") == "overlay2":
            of_overlay2(found)
    except (IOError, OSError, ValueError, KeyError, Refused):
        found["layers"] = None
    return found


def of_overlay2(found):
    """Add config and layers, where dockerd's files may be read."""
    home = os.path.join(found["root"], "image", "overlay2")
    with open(os.path.join(home, "imagedb", "content", "sha256", found["id"].partition(":")[2]), "rb") as file:
        found["config"] = base64.b64encode(file.read()).decode("ascii")
    layers, chain = [], ""
    for diff_id in found["diff_ids"]:
        chain = chain_of(chain, diff_id)
        place = os.path.join(home, "layerdb", "sha256", chain)
        os.stat(os.path.join(place, "tar-split.json.gz"))
        with open(os.path.join(place, "size")) as file:
            layers.append({"digest": diff_id, "size": int(file.read()), "type": None, "chain": chain})
    found["layers"] = layers


def chain_of(parent, diff_id):
    """Return the hexadecimal ID of a layer on its parent (https://github.com/opencontainers/image-spec, config.md)."""
    if not parent:
        return diff_id.partition(":")[2]
    return hashlib.sha256(("sha256:%s %s" % (parent, diff_id)).encode("ascii")).hexdigest()


def of_containerd(found, image):
    """Add config, manifest and layers as containerd has them."""
    for address in SOCKETS:
        if os.path.exists(address):
            found["address"] = address
            break
    manifest = content(found["address"], found["id"])
    document = json.loads(manifest.decode("utf-8"))
    if document.get("mediaType") in INDEXES or "manifests" in document:
        for one in document["manifests"]:
            platform = one.get("platform") or {}
            if (platform.get("os"), platform.get("architecture")) == (image["Os"], image["Architecture"]):
                manifest = content(found["address"], one["digest"])
                document = json.loads(manifest.decode("utf-8"))
                break
    config = content(found["address"], document["config"]["digest"])
    layers = [
        {"digest": one["digest"], "size": one["size"], "type": one["mediaType"], "chain": ""}
        for one in document["layers"]
    ]
    found["diff_ids"] = json.loads(config.decode("utf-8"))["rootfs"]["diff_ids"]
    found["manifest"] = base64.b64encode(manifest).decode("ascii")
    found["config"] = base64.b64encode(config).decode("ascii")
    found["layers"] = layers


def content(address, digest):
    """Return a small blob of containerd."""
    return b"".join(blob(address, digest))


def blob(address, digest):
    """Yield a blob of containerd, by its own client."""
    return output("ctr", "--address", address, "--namespace", "moby", "content", "get", digest)


def save(name):
    """Yield what docker save writes."""
    return output("docker", "image", "save", name)


def output(*words):
    """Yield what a program prints. Raises Refused where it fails."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while True:
        part = process.stdout.read(BLOCK)
        if not part:
            break
        yield part
    said = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
    if process.wait():
        raise Refused(said[-1] if said else "%s failed without a word" % words[0])


def entries(root, chain):
    """Yield ("bytes", bytes, 0) and ("file", path in the layer, size) as they follow each other in the archive."""
    place = os.path.join(root, "image", "overlay2", "layerdb", "sha256", chain, "tar-split.json.gz")
    with io.BufferedReader(gzip.open(place, "rb"), BLOCK) as lines:
        for line in lines:
            entry = json.loads(line.decode("utf-8"))
            if entry["type"] == 2:
                yield "bytes", base64.b64decode(entry.get("payload") or ""), 0
            elif entry.get("size"):
                raw = entry.get("name_raw")
                yield "file", base64.b64decode(raw) if raw else entry["name"].encode("utf-8"), entry["size"]


def layer(root, chain):
    """Yield a layer's archive, as it was before dockerd unpacked it."""
    with open(os.path.join(root, "image", "overlay2", "layerdb", "sha256", chain, "cache-id")) as file:
        cache = file.read().strip()
    if not re.match(r"^[0-9a-z]+\Z", cache):
        raise Refused("%s is no name of a layer's files" % cache)
    files = os.path.join(root, "overlay2", cache, "diff").encode("utf-8")
    for kind, part, size in entries(root, chain):
        if kind == "bytes":
            yield part
            continue
        path = os.path.normpath(os.path.join(files, part))
        if not path.startswith(files + b"/") or os.path.islink(path):
            raise Refused("a layer names a file outside of it")
        with open(path, "rb") as file:
            left = size
            while left > 0:
                read = file.read(min(BLOCK, left))
                if not read:
                    raise Refused("a layer's file is shorter than it was")
                left -= len(read)
                yield read


def writer(out, form):
    """Return a function that writes parts, and at None their end, in this form: raw, gzip or zstd."""
    kept, sizes = [], [0]
    packer = None
    if form == "zstd":
        packer = subprocess.Popen(["zstd", "-1", "-T0", "-q", "-c"], stdin=subprocess.PIPE)
        out = packer.stdin

    def write(part):
        if part:
            kept.append(part)
            sizes[0] += len(part)
        if (part is None and kept) or sizes[0] >= BLOCK:
            whole = b"".join(kept)
            del kept[:]
            sizes[0] = 0
            out.write(member(whole) if form == "gzip" else whole)
        if part is None and packer:
            packer.stdin.close()
            if packer.wait():
                raise Refused("zstd ended with %d" % packer.returncode)

    return write


def member(data):
    """Return data as one member of gzip; what hardly shrinks is only stored, for that costs a fortieth."""
    middle = len(data) // 2
    sample = data[:8192] + data[middle : middle + 8192] + data[-8192:]
    level = 1 if len(zlib.compress(sample, 1)) < 0.9 * len(sample) else 0
    packer = zlib.compressobj(level, zlib.DEFLATED, 31)
    return packer.compress(data) + packer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
