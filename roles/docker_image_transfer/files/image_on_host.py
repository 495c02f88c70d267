#!/usr/bin/env python
# SPDX-License-Identifier: MIT
"""Read an image from the local dockerd, or load one into it. Python 2.7 and 3.5 syntax.

image_on_host.py describe NAME              print describe() as one JSON object
image_on_host.py layer LAYER                print a layer: a JSON list of FORM, digest and place of it, in base64
image_on_host.py save FORM NAME             print the output of docker save
image_on_host.py load NAME...               print held(), load an image from standard input, print {"id": its ID}

FORM is none, gzip or zstd. The exit status is 0 on success; otherwise the last line of stderr gives the reason.

load reads JSON objects, one a line:
{"name": of the whole image, "gone": [names to remove at the end, or when loading fails]} comes first
{"path": in the archive, "size": uncompressed, "form": FORM, "bytes": N}, then N bytes: a layer
{"files": [[path, content in base64]]}: the other files of the archive, which complete it
{"end": true} comes last; without it the input was cut off, and the loaded layers stay
dockerd receives the layers of an archive while it unpacks the previous archive. The other files wait until that is
loaded, because dockerd then looks for the layers below.
"""

from __future__ import absolute_import, division, print_function

import base64
import errno
import fcntl
import gzip
import hashlib
import importlib
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile

http = importlib.import_module("http.client" if sys.version_info[0] > 2 else "httplib")
BLOCK = 1 << 18
SOCKET = "/var/run/docker.sock"
CONTAINERD_SOCKETS = ("/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock")
# Seconds to wait for dockerd's answer to a query.
TIMEOUT = 60
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*\Z")
STDIN = io.BufferedReader(io.FileIO(0, closefd=False), BLOCK)


class Failed(Exception):
    """The command failed; the message is one line."""


class CutOff(Failed):
    """Standard input ended too early."""


def main(command, *words):
    """Run a command; return the exit status."""
    try:
        if command == "describe":
            say(describe(*words))
        elif command == "save":
            form, name = words
            write(form, output("docker", "image", "save", name))
        elif command == "layer":
            form, digest, kind, where, which = decoded(base64.urlsafe_b64decode(words[0]))
            blocks = overlay2_layer(where, which) if kind == "overlay2" else content(where, "get", which)
            write(form, checked(digest, blocks))
        else:
            load(*words)
    except Failed as error:
        sys.stderr.write("%s\n" % error)
        sys.stderr.flush()
        return 3
    return 0


def say(document):
    """Print a JSON object."""
    os.write(1, ("%s\n" % json.dumps(document)).encode("ascii"))


def decoded(data):
    """Return the value of JSON in bytes."""
    return json.loads(data.decode("utf-8"))


def encoded(data):
    """Return bytes as base64 text."""
    return base64.b64encode(data).decode("ascii")


# ---- programs


def has_program(name):
    """Return whether a program is installed."""
    directories = os.environ.get("PATH", "/usr/bin:/bin").split(":")
    return any(os.access(os.path.join(directory, name), os.X_OK) for directory in directories)


def started(words, out=subprocess.PIPE):
    """Start a program with a pipe to its input. Raises Failed where the program is missing."""
    try:
        return subprocess.Popen(words, bufsize=0, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.PIPE)
    except (IOError, OSError):
        raise Failed("there is no %s" % words[0])


def feed(process, blocks):
    """Send blocks to a program; return whether it took them all."""
    try:
        for block in blocks:
            process.stdin.write(block)
    except (IOError, OSError) as error:
        if error.errno != errno.EPIPE:
            raise
        return False
    return True


def ended(process):
    """Close a program's input, wait for its end, and return its exit status and its last line of stderr."""
    process.stdin.close()
    lines = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
    return process.wait(), lines[-1] if lines else ""


def finish(process):
    """Wait for the end of a program. Raises Failed."""
    status, reason = ended(process)
    if status:
        raise Failed(reason or "a program ended with %d, without a message" % status)


def output(*words):
    """Start a program, and return a generator of its output. Raises Failed, as the generator does."""
    process = started(words)

    def blocks():
        block = os.read(process.stdout.fileno(), BLOCK)
        while block:
            yield block
            block = os.read(process.stdout.fileno(), BLOCK)
        finish(process)

    return blocks()


def send_through(words, blocks, out):
    """Send blocks through a program into a file, None for standard output. Raises Failed, and the errors of blocks."""
    process = started(words, out)
    try:
        feed(process, blocks)
    except Exception:
        process.kill()
        raise
    finish(process)


def write(form, blocks):
    """Compress blocks to standard output. Raises Failed."""
    if form != "none":
        send_through((form, "-1", "-q", "-c") + (("-T0",) if form == "zstd" else ()), blocks, None)
        return
    out = getattr(sys.stdout, "buffer", sys.stdout)
    for block in blocks:
        out.write(block)
    out.flush()


# ---- containerd


def containerd():
    """Return containerd's socket, and the digests of its blobs. Raises Failed where it does not answer."""
    for address in CONTAINERD_SOCKETS:
        if os.path.exists(address):
            return address, b"".join(content(address, "ls", "--quiet")).decode("ascii").split()
    raise Failed("there is no containerd")


def content(address, *words):
    """Yield the output of a content command of containerd's client. Raises Failed."""
    return output("ctr", "--address", address, "--namespace", "moby", "content", *words)


def manifests(address, digest, blobs):
    """Return the complete image manifests that a digest leads to, as bytes and document, without attestations.

    Raises Failed, ValueError, KeyError.
    """
    if digest not in blobs:
        return []
    manifest = b"".join(content(address, "get", digest))
    document = decoded(manifest)
    found = []
    for one in document.get("manifests") or []:
        notes, platform = one.get("annotations") or {}, one.get("platform") or {}
        if "vnd.docker.reference.type" not in notes and platform.get("os") != "unknown":
            found += manifests(address, one["digest"], blobs)
    parts = [document["config"]] + document["layers"] if "manifests" not in document else []
    if parts and all(one["digest"] in blobs for one in parts):
        found.append((manifest, document))
    return found


def uses_containerd(info):
    """Return whether dockerd stores images in containerd."""
    return ["driver-type", "io.containerd.snapshotter.v1"] in (info.get("DriverStatus") or [])


# ---- reading an image


def describe(name):
    """Return {id, size, machine, zstd, images} of an image. Raises Failed.

    id, size: as docker shows them; machine: as uname -m; zstd: whether the program is installed; images: for each
    complete platform {config, manifest, layers}, config and manifest in base64, layers as {diff_id, digest, size in
    bytes, type, place}; None where only docker save can read the image.
    """
    # Both at once: the client takes longer to start than dockerd to answer.
    asked = [output("docker", "image", "inspect", name), output("docker", "info", "--format", "{{json .}}")]
    (image,), info = (decoded(b"".join(blocks)) for blocks in asked)
    images = None
    try:
        if uses_containerd(info):
            images = of_containerd(image["Id"]) or None
        elif info.get("Driver") == "overlay2":
            images = [of_overlay2(info["DockerRootDir"], image["Id"], (image.get("RootFS") or {}).get("Layers") or [])]
    except (IOError, OSError, ValueError, KeyError, Failed):
        pass
    machine = info.get("Architecture") or os.uname()[4]
    found = {"id": image["Id"], "size": image.get("Size") or 0, "machine": machine}
    return dict(found, zstd=has_program("zstd"), images=images)


def of_containerd(digest):
    """Return an image in containerd, once for each platform."""
    address, blobs = containerd()
    images = []
    for manifest, document in manifests(address, digest, set(blobs)):
        config = b"".join(content(address, "get", document["config"]["digest"]))
        layers = [
            {"diff_id": diff_id, "digest": one["digest"], "size": one["size"], "type": one["mediaType"],
             "place": ["containerd", address, one["digest"]]}
            for diff_id, one in zip(decoded(config)["rootfs"]["diff_ids"], document["layers"])
        ]  # fmt: skip
        images.append({"config": encoded(config), "manifest": encoded(manifest), "layers": layers})
    return images


def of_overlay2(root, image, diff_ids):
    """Return an image in dockerd's own store. Raises IOError where its files are not readable."""
    with open(os.path.join(root, "image/overlay2/imagedb/content/sha256", image.partition(":")[2]), "rb") as file:
        config = encoded(file.read())
    layers, chain = [], ""
    for diff_id in diff_ids:
        chain = chain_of(chain, diff_id)
        size = sum(len(part) if path is None else size for part, path, size in entries(root, chain))
        place = ["overlay2", root, chain]
        layers.append({"diff_id": diff_id, "digest": diff_id, "size": size, "type": "", "place": place})
    return {"config": config, "manifest": None, "layers": layers}


def chain_of(parent, diff_id):
    """Return the hexadecimal ID of a layer on its parent (https://github.com/opencontainers/image-spec, config.md)."""
    if not parent:
        return diff_id.partition(":")[2]
    return hashlib.sha256(("sha256:%s %s" % (parent, diff_id)).encode("ascii")).hexdigest()


def entries(root, chain):
    """Yield (bytes, None, 0) and (b"", path in the layer, size) in the order of a layer's archive.

    dockerd keeps layers of overlay2 as files, and next to them the data to restore the identical archive
    (https://github.com/vbatts/tar-split, one JSON object a line). docker save would write all layers.
    """
    path = os.path.join(root, "image/overlay2/layerdb/sha256", chain, "tar-split.json.gz")
    with io.BufferedReader(gzip.open(path, "rb"), BLOCK) as lines:
        for entry in map(decoded, lines):
            if entry["type"] == 2:
                yield base64.b64decode(entry.get("payload") or ""), None, 0
            elif entry.get("size"):
                raw = entry.get("name_raw")
                yield b"", base64.b64decode(raw) if raw else entry["name"].encode("utf-8"), entry["size"]


def overlay2_layer(root, chain):
    """Yield a layer's archive, restored from its unpacked files. Raises Failed."""
    with open(os.path.join(root, "image/overlay2/layerdb/sha256", chain, "cache-id")) as file:
        cache = file.read().strip()
    if not re.match(r"^[0-9a-z]+\Z", cache):
        raise Failed("%s is not the name of a layer directory" % cache)
    files = os.path.join(root, "overlay2", cache, "diff").encode("utf-8")
    for part, name, left in entries(root, chain):
        if name is None:
            yield part
            continue
        path = os.path.normpath(os.path.join(files, name))
        if not path.startswith(files + b"/") or os.path.islink(path):
            raise Failed("a layer names a file outside of it")
        with open(path, "rb") as file:
            while left > 0:
                block = file.read(min(BLOCK, left))
                if not block:
                    raise Failed("a file of a layer is shorter than recorded")
                left -= len(block)
                yield block


def checked(digest, blocks):
    """Yield the same blocks. Raises Failed at the end where their digest differs."""
    found = hashlib.sha256()
    for block in blocks:
        found.update(block)
        yield block
    if digest != "sha256:" + found.hexdigest():
        raise Failed("expected %s, got sha256:%s" % (digest[:19], found.hexdigest()[:12]))


# ---- loading: what the host has


def ask(path):
    """Return dockerd's answer to GET (https://docs.docker.com/reference/api/engine/), None for 404. Raises Failed.

    The docker client takes longer to start than dockerd to answer.
    """
    connection = http.HTTPConnection("docker", timeout=TIMEOUT)
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.settimeout(TIMEOUT)
    try:
        connection.sock.connect(SOCKET)
        connection.request("GET", path)
        answer = connection.getresponse()
        document = decoded(answer.read() or b"null")
    except (OSError, socket.error, http.HTTPException) as error:
        if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM):
            raise Failed("permission denied on docker's socket %s" % SOCKET)
        raise Failed("docker does not answer" if has_program("docker") else "there is no docker on the host")
    finally:
        connection.close()
    if answer.status >= 400 and answer.status != 404:
        raise Failed("docker says: %s" % " ".join(document.get("message", "").split()))
    return document if answer.status < 400 else None


def held(names):
    """Return what the host has.

    machine: as uname -m; containerd: whether it stores the images; images: {ID: [names,
    diff IDs]}; blobs: digests in containerd, None where it does not answer; configs: {ID: digests of configurations}
    of the images in containerd with one of names; place: the directory of layers; free: bytes free there; zstd: whether
    the program is installed.
    """
    info = ask("/info")
    place = "/var/lib/containerd" if uses_containerd(info) else info.get("DockerRootDir") or "/var/lib/docker"
    images, blobs, free, configs = {}, None, None, {}
    for one in sorted({image["Id"] for image in ask("/images/json?all=1")}):
        image = ask("/images/%s/json" % one)
        if image is not None:  # removed meanwhile
            images[one] = [image.get("RepoTags") or [], (image.get("RootFS") or {}).get("Layers") or []]
    try:
        disk = os.statvfs(place)
        free = disk.f_bavail * disk.f_frsize
    except OSError:
        pass
    try:
        if uses_containerd(info):
            address, blobs = containerd()
            for one in images:
                if set(names) & set(images[one][0]):
                    found = manifests(address, one, set(blobs))
                    configs[one] = [document["config"]["digest"] for _manifest, document in found]
    except (ValueError, KeyError, Failed):
        pass
    return {
        "machine": info.get("Architecture") or os.uname()[4],
        "containerd": uses_containerd(info), "images": images, "blobs": blobs, "configs": configs, "place": place,
        "free": free, "zstd": has_program("zstd"),
    }  # fmt: skip


# ---- loading: the image


def load(*names):
    """Print what the host has, load the archives from standard input, and print the image's ID. Raises Failed."""
    # One load at a time: another one might remove the layers that this one needs. The kernel frees the lock.
    fcntl.flock(os.open(os.path.dirname(SOCKET), os.O_RDONLY), fcntl.LOCK_EX)
    say(held(names))
    try:
        order = next_line()
    except CutOff:
        return
    if not all(NAME.match(name) for name in [order["name"]] + order["gone"]):
        raise Failed("the input does not describe an image")
    coming = loading = None  # docker load of the archive that comes in, and of the one before
    try:
        for line in iter(next_line, {"end": True}):
            coming = coming or started(("docker", "load", "-q"))
            if "files" not in line:
                add(coming, line["path"], line["size"], received(line["bytes"]), line["form"])
                continue
            wait(loading)
            for path, text in line["files"]:
                data = base64.b64decode(text)
                add(coming, path, len(data), [data])
            feed(coming, [b"\0" * 2 * tarfile.BLOCKSIZE])
            coming.stdin.close()
            coming, loading = None, coming
        wait(loading)
    except Failed as error:
        if coming is not None:
            coming.kill()
        before, now = [ended(one) if one is not None else (0, "") for one in (loading, coming)]
        if isinstance(error, CutOff):
            raise error
        remove(order["gone"])
        reason = (before[0] and before[1]) or now[1]
        raise Failed("docker load failed: %s" % reason) if reason else error
    remove(order["gone"])
    say({"id": (ask("/images/%s/json" % order["name"]) or {}).get("Id")})


def add(process, path, size, blocks, form="none"):
    """Send a file to docker load. Raises Failed."""
    entry = tarfile.TarInfo(path)
    entry.size = size
    taken = feed(process, [entry.tobuf(tarfile.GNU_FORMAT)])
    if taken and form != "none":
        send_through((form, "-d", "-q", "-c"), blocks, process.stdin)
    elif taken:
        taken = feed(process, blocks)
    if not (taken and feed(process, [b"\0" * (-size % tarfile.BLOCKSIZE)])):
        raise Failed("dockerd closed the connection")


def wait(process):
    """Wait until an archive is loaded. Raises Failed."""
    if process is not None and process.wait():
        raise Failed("docker load failed without a reason")


def remove(names):
    """Remove names of images, and images that have no other name."""
    if names:
        words = ["docker", "image", "rm"] + names
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).communicate()


def next_line():
    """Return the next object of standard input. Raises CutOff."""
    text = STDIN.readline()
    if not text.endswith(b"\n"):
        raise CutOff("the input was cut off")
    return decoded(text)


def received(size):
    """Yield size bytes of standard input. Raises CutOff."""
    while size:
        block = STDIN.read1(min(size, BLOCK))
        if not block:
            raise CutOff("the input was cut off")
        size -= len(block)
        yield block


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
