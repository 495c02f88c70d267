#!/usr/bin/env python
# SPDX-License-Identifier: MIT
"""Read an image from the dockerd beside this program, or load one into it. Python 2.7 and 3.5 syntax.

image_on_host.py describe NAME              print one JSON object: see describe()
image_on_host.py layer FORM,DIGEST,PLACE    print a layer; PLACE is what describe() says of it
image_on_host.py save FORM,NAME             print what docker save writes
image_on_host.py load NAME...               print held(), load what comes on standard input, print {"id": the image's}

FORM is none, gzip or zstd. The status is 0 only where all of it was done; else the last line of stderr says why.

What load takes are JSON objects too, a line each:
{"name": of the complete image, "gone": [names that go at the end, and where loading fails]} comes first
{"path": in the archive, "size": unpacked, "form": FORM, "bytes": N}, and N bytes: a layer
{"files": [[path, content in base64]]}: the archive's other files, with which it is complete
{"end": true} comes last; without it the input was cut off, and what was loaded stays
dockerd takes an archive's layers in while it unpacks the archive before. The other files wait until that is loaded, as
dockerd looks for the layers below then.
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
import threading
import zlib

http = importlib.import_module("http.client" if sys.version_info[0] > 2 else "httplib")
BLOCK = 1 << 18
SOCKET = "/var/run/docker.sock"
CONTAINERD_SOCKETS = ("/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock")
# Seconds for an answer about what is there.
PATIENCE = 60
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*\Z")
# A word that reaches this program through any shell as it is, and has no comma.
PLAIN = re.compile(r"^[A-Za-z0-9_./:+-]+\Z")
STDIN = io.BufferedReader(io.FileIO(0, closefd=False), BLOCK)


class Failed(Exception):
    """It cannot go on; the message is one line."""


def main(what, *words):
    """Do what the words say; return the exit status."""
    try:
        if what == "describe":
            say(describe(*words))
        elif what == "save":
            form, name = words[0].split(",")
            write(form, output("docker", "image", "save", name))
        elif what == "layer":
            form, digest, kind, where, which = words[0].split(",")
            write(form, checked(digest, layer(where, which) if kind == "overlay2" else content(where, "get", which)))
        else:
            load(*words)
    except Failed as error:
        sys.stderr.write("%s\n" % error)
        sys.stderr.flush()
        return 3
    return 0


def say(what):
    """Print an object; whoever listened may have gone."""
    try:
        os.write(1, ("%s\n" % json.dumps(what)).encode("ascii"))
    except OSError:
        pass


def one_line(text):
    """Return a text without line breaks."""
    return " ".join(str(text or "nothing").split())


# ---- programs


def has_program(name):
    """Return whether a program is there."""
    places = os.environ.get("PATH", "/usr/bin:/bin").split(":")
    return any(os.access(os.path.join(place, name), os.X_OK) for place in places)


def output(*words):
    """Start a program, and return what yields what it prints, and raises Failed where it fails. Raises Failed."""
    try:
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    except (IOError, OSError):
        raise Failed("there is no %s" % words[0])

    def printed():
        for part in iter(lambda: process.stdout.read(BLOCK), b""):
            yield part
        said = process.stderr.read().decode("utf-8", "replace").strip().splitlines()
        if process.wait():
            raise Failed(said[-1] if said else "it ended with %d, without a word" % process.returncode)

    return printed()


# ---- containerd


def containerd():
    """Return the socket of containerd, and the digests of what it holds. Raises Failed where it cannot be asked."""
    for address in CONTAINERD_SOCKETS:
        if os.path.exists(address):
            return address, b"".join(content(address, "ls", "--quiet")).decode("ascii").split()
    raise Failed("there is no containerd")


def content(address, *words):
    """Yield what containerd's client says of content. Raises Failed."""
    return output("ctr", "--address", address, "--namespace", "moby", "content", *words)


def manifests(address, digest, there):
    """Yield the manifests of images to which a digest leads and that are there completely, as bytes and document.

    What a build attested is not an image. Raises Failed, ValueError, KeyError.
    """
    if digest not in there:
        return
    found = b"".join(content(address, "get", digest))
    document = json.loads(found.decode("utf-8"))
    for one in document.get("manifests") or []:
        notes, platform = one.get("annotations") or {}, one.get("platform") or {}
        if "vnd.docker.reference.type" not in notes and platform.get("os") != "unknown":
            for manifest in manifests(address, one["digest"], there):
                yield manifest
    parts = [document["config"]] + document["layers"] if "manifests" not in document else []
    if parts and all(one["digest"] in there for one in parts):
        yield found, document


def uses_containerd(info):
    """Return whether containerd stores the images of this dockerd."""
    return ["driver-type", "io.containerd.snapshotter.v1"] in (info.get("DriverStatus") or [])


# ---- reading an image


def describe(name):
    """Return what is known of an image.

    id and size as docker shows them; machine: as uname -m has it; zstd: whether that program is there; images: for
    each platform that is there completely {config, manifest, layers}, config and manifest in base64, layers as
    {diff_id, digest, size in bytes, type, place}; None where only docker save can tell.
    """
    # Side by side: the client takes longer to start than dockerd to answer.
    asked = [output("docker", "image", "inspect", name), output("docker", "info", "--format", "{{json .}}")]
    (image,), info = (json.loads(b"".join(parts).decode("utf-8")) for parts in asked)
    images = None
    try:
        if uses_containerd(info):
            images = of_containerd(image["Id"]) or None
        elif info.get("Driver") == "overlay2" and PLAIN.match(info["DockerRootDir"]):
            images = [of_overlay2(info["DockerRootDir"], image["Id"], (image.get("RootFS") or {}).get("Layers") or [])]
    except (IOError, OSError, ValueError, KeyError, Failed):
        pass
    return {
        "id": image["Id"], "size": image.get("Size") or 0, "machine": info.get("Architecture") or os.uname()[4],
        "zstd": has_program("zstd"), "images": images,
    }  # fmt: skip


def encoded(data):
    """Return bytes as text, in base64."""
    return base64.b64encode(data).decode("ascii")


def of_containerd(digest):
    """Return an image as containerd has it, once for each platform."""
    address, there = containerd()
    images = []
    for manifest, document in manifests(address, digest, set(there)):
        config = b"".join(content(address, "get", document["config"]["digest"]))
        layers = [
            {"diff_id": diff_id, "digest": one["digest"], "size": one["size"], "type": one["mediaType"],
             "place": "containerd,%s,%s" % (address, one["digest"])}
            for diff_id, one in zip(json.loads(config.decode("utf-8"))["rootfs"]["diff_ids"], document["layers"])
        ]  # fmt: skip
        images.append({"config": encoded(config), "manifest": encoded(manifest), "layers": layers})
    return images


def of_overlay2(root, image, diff_ids):
    """Return an image, where dockerd's files may be read."""
    with open(os.path.join(root, "image/overlay2/imagedb/content/sha256", image.partition(":")[2]), "rb") as file:
        config = encoded(file.read())
    layers, chain = [], ""
    for diff_id in diff_ids:
        chain = chain_of(chain, diff_id)
        size = sum(len(part) if path is None else size for part, path, size in entries(root, chain))
        place = "overlay2,%s,%s" % (root, chain)
        layers.append({"diff_id": diff_id, "digest": diff_id, "size": size, "type": "", "place": place})
    return {"config": config, "manifest": None, "layers": layers}


def chain_of(parent, diff_id):
    """Return the hexadecimal ID of a layer on its parent (https://github.com/opencontainers/image-spec, config.md)."""
    if not parent:
        return diff_id.partition(":")[2]
    return hashlib.sha256(("sha256:%s %s" % (parent, diff_id)).encode("ascii")).hexdigest()


def entries(root, chain):
    """Yield (bytes, None, 0) and (b"", path in the layer, size) as they follow each other in a layer's archive.

    dockerd keeps layers of overlay2 as files, and beside them what it needs to make the very same archive of them
    (https://github.com/vbatts/tar-split, one JSON object a line). docker save would write all layers.
    """
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
        raise Failed("%s is not a name of a layer's files" % cache)
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
                read = file.read(min(BLOCK, left))
                if not read:
                    raise Failed("a layer's file is shorter than it was")
                left -= len(read)
                yield read


def checked(digest, parts):
    """Yield the same in larger blocks. Raises Failed where all of it together has another digest."""
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
        raise Failed("expected %s, got sha256:%s" % (digest[:19], found.hexdigest()[:12]))


def write(form, blocks):
    """Write blocks to standard output in a form. Raises Failed."""
    out = getattr(sys.stdout, "buffer", sys.stdout)
    if form == "zstd":
        packer = subprocess.Popen(("zstd", "-1", "-T0", "-q", "-c"), stdin=subprocess.PIPE)
        for block in blocks:
            packer.stdin.write(block)
        packer.stdin.close()
        if packer.wait():
            raise Failed("zstd ended with %d" % packer.returncode)
        return
    packer = zlib.compressobj(1, zlib.DEFLATED, 31) if form == "gzip" else None
    for block in blocks:
        out.write(packer.compress(block) if packer else block)
    out.write(packer.flush() if packer else b"")
    out.flush()


# ---- loading: what is there


class Dockerd(http.HTTPConnection):
    """A connection to dockerd (https://docs.docker.com/reference/api/engine/).

    The client costs a start for each of a dozen requests, and copies every byte.
    """

    def __init__(self, patience=None):
        http.HTTPConnection.__init__(self, "docker")
        self.patience = patience

    def connect(self):
        """Connect to its socket. Raises Failed."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.patience)
        try:
            self.sock.connect(SOCKET)
        except (OSError, socket.error) as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                raise Failed("permission denied on docker's socket %s" % SOCKET)
            raise Failed("docker does not answer" if has_program("docker") else "there is no docker on the host")

    def answer(self, silent="docker does not answer"):
        """Return the status and the body of its answer. Raises Failed, where none comes with the words of silent."""
        try:
            answer = self.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        except (OSError, socket.error, http.HTTPException):
            raise Failed(silent)
        finally:
            self.close()


def ask(method, path):
    """Return what dockerd answers, None where there is no such thing. Raises Failed."""
    dockerd = Dockerd(PATIENCE)
    dockerd.request(method, path)
    status, body = dockerd.answer()
    document = json.loads(body or "null")
    if status >= 400 and status != 404 and method == "GET":
        raise Failed("docker says: %s" % one_line(document.get("message")))
    return document if status < 400 else None


def held(names):
    """Return what is there.

    engine: dockerd's version, machine: as uname -m has it, containerd: whether that stores the images,
    images: {ID: [names, diff IDs]}, blobs: digests that containerd has, None where it cannot be asked,
    configs: {ID: digests of configurations} of the images in containerd that have one of names,
    place: where layers are, free: bytes there, zstd: whether that program is there.
    """
    info = ask("GET", "/info")
    place = "/var/lib/containerd" if uses_containerd(info) else info.get("DockerRootDir") or "/var/lib/docker"
    images, blobs, free, configs = {}, None, None, {}
    for one in sorted({image["Id"] for image in ask("GET", "/images/json?all=1")}):
        image = ask("GET", "/images/%s/json" % one)
        if image is not None:  # it may have gone meanwhile
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
        "engine": info.get("ServerVersion") or "", "machine": info.get("Architecture") or os.uname()[4],
        "containerd": uses_containerd(info), "images": images, "blobs": blobs, "configs": configs, "place": place,
        "free": free, "zstd": has_program("zstd"),
    }  # fmt: skip


# ---- loading: what comes


class Gone(Failed):
    """Nothing more comes."""


def load(*names):
    """Say what is there, load the archives that come, and say the ID of the image. Raises Failed."""
    # One load at a time: another one might remove what this one builds on. Nothing is left, however this ends.
    fcntl.flock(os.open(os.path.dirname(SOCKET), os.O_RDONLY), fcntl.LOCK_EX)
    say(held(names))
    try:
        told = next_line()
    except Gone:
        return
    if not all(NAME.match(name) for name in [told["name"]] + told["gone"]):
        raise Failed("what came is not an image")
    archive = Archive(None)
    try:
        while True:
            one = next_line()
            if "end" in one:
                break
            if "files" in one:
                archive.complete(one["files"])
                archive = Archive(archive)
            else:
                archive.add(one["path"], one["size"], unpacked(one["form"], one["bytes"]))
        archive.wait()
    except Failed as error:
        # What is not complete is dropped, and dockerd finishes what is.
        archive.drop()
        if not isinstance(error, Gone):
            forget(told["gone"])
        raise error
    forget(told["gone"])
    say({"id": (ask("GET", "/images/%s/json" % told["name"]) or {}).get("Id")})


def forget(names):
    """Remove names of images, and images that have no other name."""
    for name in names:
        ask("DELETE", "/images/%s" % name)


def next_line():
    """Return the next object. Raises Gone."""
    text = STDIN.readline()
    if not text.endswith(b"\n"):
        raise Gone("what came was cut off")
    return json.loads(text.decode("utf-8"))


def received(size):
    """Yield size bytes of what comes. Raises Gone."""
    while size:
        part = STDIN.read1(min(size, BLOCK))
        if not part:
            raise Gone("what came was cut off")
        size -= len(part)
        yield part


def unpacked(form, size):
    """Yield what comes in size bytes of a form, unpacked. Raises Failed."""
    if form == "zstd":
        for part in unpacked_by_zstd(size):
            yield part
        return
    unpacker = zlib.decompressobj(31) if form == "gzip" else None
    for part in received(size):
        yield unpacker.decompress(part) if unpacker else part


def unpacked_by_zstd(size):
    """Yield what comes in size bytes, unpacked. Raises Failed."""
    process = subprocess.Popen(("zstd", "-d", "-q", "-c"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def feed():
        try:
            for part in received(size):
                process.stdin.write(part)
            process.stdin.close()
        except Gone:
            process.kill()
        except (IOError, OSError):
            pass  # its exit status says why

    feeder = threading.Thread(target=feed)
    feeder.daemon = True
    feeder.start()
    for part in iter(lambda: os.read(process.stdout.fileno(), BLOCK), b""):
        yield part
    status = process.wait()
    feeder.join()
    if status < 0:
        raise Gone("what came was cut off")
    if status:
        raise Failed("zstd cannot unpack what came: it ended with %d" % status)


class Archive(object):
    """An archive on its way into dockerd, and the one before it, at which dockerd may still be."""

    def __init__(self, before):
        self.before, self.dockerd = before, None

    def begin(self):
        """Ask dockerd to take an archive in. Raises Failed."""
        self.dockerd = Dockerd()
        self.dockerd.putrequest("POST", "/images/load?quiet=1")
        self.dockerd.putheader("Content-Type", "application/x-tar")
        self.dockerd.putheader("Transfer-Encoding", "chunked")
        self.dockerd.endheaders()

    def send(self, data, end=False):
        """Send a piece, and the end after it. Raises Failed with dockerd's words where it takes no more."""
        try:
            # Apart, so that nothing large is copied.
            for piece in (b"%x\r\n" % len(data), data, b"\r\n0\r\n\r\n" if end else b"\r\n") if data else ():
                self.dockerd.send(piece)
        except (OSError, socket.error):
            self.wait()
            self.finish()
            raise Failed("docker load failed: dockerd hung up")

    def add(self, path, size, parts):
        """Add a file. Raises Failed."""
        if self.dockerd is None:
            self.begin()
        entry = tarfile.TarInfo(path)
        entry.size = size
        self.send(entry.tobuf(tarfile.GNU_FORMAT))
        for part in parts:
            self.send(part)
        self.send(b"\0" * (-size % tarfile.BLOCKSIZE))

    def complete(self, files):
        """Add the last files when the archive before is loaded. Raises Failed."""
        self.wait()
        for path, text in files:
            data = base64.b64decode(text)
            self.add(path, len(data), [data])
        self.send(b"\0" * 2 * tarfile.BLOCKSIZE, end=True)

    def wait(self):
        """Wait until the archive before is loaded. Raises Failed where it is not."""
        before, self.before = self.before, None
        if before is not None:
            before.finish()

    def finish(self):
        """Wait until this archive is loaded. Raises Failed where it is not."""
        status, body = self.dockerd.answer("docker load failed: dockerd hung up")
        said = None if status == 200 else "nothing"
        for text in body.splitlines():
            try:
                document = json.loads(text)
            except ValueError:
                continue
            said = document.get("error") or document.get("message") or said
        if said is not None:
            raise Failed("docker load failed: %s" % one_line(said))

    def drop(self):
        """Drop this archive, and wait until the one before is loaded or not."""
        if self.dockerd is not None:
            self.dockerd.close()
        try:
            self.wait()
        except Failed:
            pass


if __name__ == "__main__":
    # No clean-up at exit: a thread may still wait for input.
    os._exit(main(*sys.argv[1:]))
