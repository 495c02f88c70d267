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
export_image.py layer FORM ROOT CHAIN     a layer's archive
export_image.py blob FORM ADDRESS DIGEST  a blob of containerd
export_image.py save FORM NAME       what docker save writes

The last three write frames: a letter, the length of the content in four bytes, the content. D is data as it is, P data
as raw deflate (RFC 1951), Y a piece of what zstd packed and an empty one its end; T is the size in decimal and the
digest of all data, unpacked. FORM is none (D), gzip (P, or D where a sample hardly shrinks) or zstd (Y).
"""

from __future__ import absolute_import, division, print_function

import base64
import gzip
import hashlib
import io
import json
import os
import re
import struct
import subprocess
import sys
import threading
import zlib

BLOCK = 1 << 18
SOCKETS = ("/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock")


def main(words):
    """Do what the words say; return the exit status."""
    out = getattr(sys.stdout, "buffer", sys.stdout)
    try:
        if words[0] == "describe":
            print(json.dumps(describe(words[1])))
        elif words[0] == "sizes":
            for chain in (word for word in words[2:] if word != "-"):
                print(size_of(words[1], chain))
        else:
            export(out, words[0], words[1], [word for word in words[2:] if word != "-"])
    except Refused as error:
        sys.stderr.write("%s\n" % error)
        return 3
    return 0


class Refused(Exception):
    """It cannot be done this way; the message is one line."""


def docker(*words):
    """Begin to run docker; return what gives what it prints, and raises Refused. Raises Refused."""
    try:
        process = subprocess.Popen(("docker",) + words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except (IOError, OSError):
        raise Refused("there is no docker")

    def printed():
        out, said = process.communicate()
        if process.returncode:
            lines = said.decode("utf-8", "replace").strip().splitlines() or ["docker failed without a word"]
            raise Refused(lines[-1])
        return out.decode("utf-8")

    return printed


def describe(name):
    """Return what is known of an image.

    id and size as docker shows them, machine: as uname -m has it, containerd: whether that stores it, zstd: whether
    that program is there; images: {config, manifest, diff_ids, layers} for each platform that is there completely,
    config and manifest in base64, layers as {digest, size, type, chain}; None where only docker save can tell.
    size is a guess where layers are files.
    """
    # Side by side: the client takes longer to start than dockerd to answer.
    inspection, information = docker("image", "inspect", name), docker("info", "--format", "{{json .}}")
    image, info = json.loads(inspection())[0], json.loads(information())
    found = {
        "id": image["Id"],
        "machine": info.get("Architecture") or os.uname()[4],
        "size": image.get("Size") or 0,
        "root": info.get("DockerRootDir") or "",
        "containerd": ["driver-type", "io.containerd.snapshotter.v1"] in (info.get("DriverStatus") or []),
        "address": "",
        "zstd": any(os.access(os.path.join(place, "zstd"), os.X_OK) for place in os.environ["PATH"].split(":")),
        "images": None,
    }
    try:
        if found["containerd"]:
            of_containerd(found)
        elif info.get("Driver") == "overlay2":
            of_overlay2(found, (image.get("RootFS") or {}).get("Layers") or [])
    except (IOError, OSError, ValueError, KeyError, Refused):
        pass
    return found


def of_overlay2(found, diff_ids):
    """Add the image, where dockerd's files may be read."""
    home = os.path.join(found["root"], "image", "overlay2")
    with open(os.path.join(home, "imagedb", "content", "sha256", found["id"].partition(":")[2]), "rb") as file:
        config = base64.b64encode(file.read()).decode("ascii")
    layers, chain = [], ""
    for diff_id in diff_ids:
        chain = chain_of(chain, diff_id)
        place = os.path.join(home, "layerdb", "sha256", chain)
        os.stat(os.path.join(place, "tar-split.json.gz"))
        with open(os.path.join(place, "size")) as file:
            layers.append({"digest": diff_id, "size": int(file.read()), "type": None, "chain": chain})
    found["images"] = [{"config": config, "manifest": None, "diff_ids": diff_ids, "layers": layers}]


def chain_of(parent, diff_id):
    """Return the hexadecimal ID of a layer on its parent (https://github.com/opencontainers/image-spec, config.md)."""
    if not parent:
        return diff_id.partition(":")[2]
    return hashlib.sha256(("sha256:%s %s" % (parent, diff_id)).encode("ascii")).hexdigest()


def of_containerd(found):
    """Add the image as containerd has it, for each platform."""
    for address in SOCKETS:
        if os.path.exists(address):
            found["address"] = address
            break
    words = ("ctr", "--address", found["address"], "--namespace", "moby", "content", "ls", "--quiet")
    there = set(b"".join(output(*words)).decode("ascii").split())
    images = []
    for manifest in manifests(found["address"], found["id"], there):
        document = json.loads(manifest.decode("utf-8"))
        digests = [one["digest"] for one in [document["config"]] + document["layers"]]
        if not all(digest in there for digest in digests):
            continue
        config = content(found["address"], digests[0])
        image = {
            "config": base64.b64encode(config).decode("ascii"),
            "manifest": base64.b64encode(manifest).decode("ascii"),
            "diff_ids": json.loads(config.decode("utf-8"))["rootfs"]["diff_ids"],
            "layers": [
                {"digest": one["digest"], "size": one["size"], "type": one["mediaType"], "chain": ""}
                for one in document["layers"]
            ],
        }
        images.append(image)
    found["images"] = images or None


def manifests(address, digest, there):
    """Yield the manifests of images that a digest leads to, without what a build attested."""
    if digest not in there:
        return
    found = content(address, digest)
    document = json.loads(found.decode("utf-8"))
    if "manifests" not in document:
        yield found
        return
    for one in document["manifests"]:
        notes, platform = one.get("annotations") or {}, one.get("platform") or {}
        if "vnd.docker.reference.type" not in notes and platform.get("os") != "unknown":
            for manifest in manifests(address, one["digest"], there):
                yield manifest


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


def size_of(root, chain):
    """Return the size in bytes of a layer's archive."""
    return sum(len(part) if kind == "bytes" else size for kind, part, size in entries(root, chain))


def export(out, what, form, words):
    """Write a layer, a blob or an image to out, as frames."""
    seen = Seen()
    blocks = joined({"layer": layer, "blob": blob, "save": save}[what](*words), seen)
    if form == "zstd":
        zstd(out, blocks)
    else:
        for block in blocks:
            frame(out, *(deflated(block) if form == "gzip" else (b"D", block)))
    frame(out, b"T", ("%d sha256:%s" % (seen.size, seen.digest.hexdigest())).encode("ascii"))


class Seen(object):
    """Size and digest of what was read."""

    def __init__(self):
        self.size, self.digest = 0, hashlib.sha256()

    def update(self, data):
        """Count a piece."""
        self.size += len(data)
        self.digest.update(data)


def frame(out, letter, content):
    """Write a frame."""
    out.write(struct.pack(">cI", letter, len(content)))
    out.write(content)
    out.flush()


def joined(parts, seen):
    """Yield the same in blocks of at most BLOCK bytes, which seen gets too."""
    kept, size = [], 0
    for part in parts:
        kept.append(part)
        size += len(part)
        if size >= BLOCK:
            whole = b"".join(kept)
            seen.update(whole)
            for start in range(0, size, BLOCK):
                yield whole[start : start + BLOCK] if size > BLOCK else whole
            kept, size = [], 0
    if kept:
        whole = b"".join(kept)
        seen.update(whole)
        yield whole


def deflated(data):
    """Return letter and content of a frame, packed unless a sample of the data hardly shrinks."""
    middle = len(data) // 2
    sample = data[:2048] + data[middle : middle + 2048] + data[-2048:]
    if len(zlib.compress(sample, 1)) < 0.9 * len(sample):
        packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        return b"P", packer.compress(data) + packer.flush()
    return b"D", data


def zstd(out, blocks):
    """Write blocks as frames of what zstd makes of them. Raises Refused."""
    packer = subprocess.Popen(["zstd", "-1", "-T0", "-q", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    failed = []

    def feed():
        try:
            for block in blocks:
                packer.stdin.write(block)
        except Exception as error:
            failed.append(error)
        finally:
            packer.stdin.close()

    feeder = threading.Thread(target=feed)
    feeder.start()
    while True:
        piece = packer.stdout.read(BLOCK)
        if not piece:
            break
        frame(out, b"Y", piece)
    feeder.join()
    if failed:
        raise failed[0]
    if packer.wait():
        raise Refused("zstd ended with %d" % packer.returncode)
    frame(out, b"Y", b"")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
