#!/usr/bin/env python
# SPDX-License-Identifier: MIT
"""Load one image into the dockerd beside it, as it comes on standard input. Python 2.7 and 3.5 syntax.

load_image.py WORD NAME...: a run under a word waits until other runs under the same word have ended.

It asks dockerd's socket itself: the client costs a start for each of a dozen requests, and copies every byte.
It prints JSON objects, a line each: first reading(), then, where an image came, {"id": its ID}; or {"failed": why}.

Standard input has JSON objects as well, a line each:
{"name": of the complete image, "gone": [names that go at the end, and where loading fails]} comes first
{"path": in the archive, "size": unpacked, "form": none, gzip or zstd, "bytes": N}, and N bytes: a layer
{"files": [[path, content in base64]]}: the archive's other files, with which it is complete
{"end": true} comes last

dockerd takes an archive's layers in while it unpacks the archive before; the other files wait until that is loaded, as
dockerd looks for the layers below then. Input without an end was cut off: what was loaded stays.
"""

from __future__ import absolute_import, division, print_function

import base64
import errno
import io
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import threading
import time
import zlib

try:
    from http.client import HTTPConnection, HTTPException
except ImportError:
    from httplib import HTTPConnection, HTTPException

BLOCK = 1 << 18
SOCKET = "/var/run/docker.sock"
CONTAINERD_SOCKETS = ("/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock")
# Seconds for an answer about what is there, and for others to end: what they wait for can be a layer of many gigabytes.
PATIENCE = 60
OTHERS = 1800
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*\Z")
STDIN = io.BufferedReader(io.FileIO(0), BLOCK)


class Failed(Exception):
    """It cannot go on; the message is one line."""


class Gone(Exception):
    """Nothing more comes."""


def main():
    """Say what is there, load what comes; return the exit status."""
    try:
        alone = claim(sys.argv[1])
        say(reading(sys.argv[2:]))
        found = load()
        if found is not None:
            say({"id": found})
        alone.close()
    except Failed as error:
        say({"failed": str(error)})
        return 3
    except Gone:
        return 4
    return 0


def claim(word):
    """Return what keeps others of this word away as long as it is open. Raises Failed."""
    # A name that is not in the file system: nothing of it is left, however this ends.
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    until = time.time() + OTHERS
    while True:
        try:
            found.bind("\0gpuprov-load-" + word)
            return found
        except (OSError, socket.error) as error:
            if error.errno != errno.EADDRINUSE or time.time() > until:
                raise Failed("another run brings versions of this image to the host: wait until it has ended")
        time.sleep(0.1)


def say(what):
    """Print an object; whoever listened may have gone."""
    try:
        os.write(1, ("%s\n" % json.dumps(what)).encode("ascii"))
    except OSError:
        pass


# ---- what is there


class Dockerd(HTTPConnection):
    """A connection to dockerd (https://docs.docker.com/reference/api/engine/)."""

    def __init__(self, patience=None):
        HTTPConnection.__init__(self, "docker")
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

    def answer(self):
        """Return the status and the body of its answer. Raises Failed."""
        try:
            answer = self.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        except (OSError, socket.error, HTTPException):
            raise Failed("docker does not answer")
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


def has_program(name):
    """Return whether a program is there."""
    places = os.environ.get("PATH", "/usr/bin:/bin").split(":")
    return any(os.access(os.path.join(place, name), os.X_OK) for place in places)


def one_line(text):
    """Return a text without line breaks."""
    return " ".join(str(text or "nothing").split())


def reading(names):
    """Return what is there.

    engine: dockerd's version, machine: as uname -m has it, containerd: whether that stores the images,
    images: {ID: [names, diff IDs]}, blobs: digests that containerd has, None where it cannot be asked,
    configs: {ID: digests of configurations} of the images in containerd that have one of names,
    place: where layers are, free: bytes there, zstd: whether that program is there.
    """
    info = ask("GET", "/info")
    containerd = ["driver-type", "io.containerd.snapshotter.v1"] in (info.get("DriverStatus") or [])
    place = "/var/lib/containerd" if containerd else info.get("DockerRootDir") or "/var/lib/docker"
    images, blobs, free, leads = {}, None, None, {}
    for one in sorted({image["Id"] for image in ask("GET", "/images/json?all=1")}):
        image = ask("GET", "/images/%s/json" % one)
        if image is not None:  # it may have gone meanwhile
            images[one] = [image.get("RepoTags") or [], (image.get("RootFS") or {}).get("Layers") or []]
    try:
        disk = os.statvfs(place)
        free = disk.f_bavail * disk.f_frsize
    except OSError:
        pass
    listed = ctr("ls", "--quiet") if containerd else None
    if listed is not None:
        blobs = listed.decode("ascii").split()
        leads = {one: configs(one, set(blobs)) for one in images if set(names) & set(images[one][0])}
    return {
        "engine": info.get("ServerVersion") or "", "machine": info.get("Architecture") or os.uname()[4],
        "containerd": containerd, "images": images, "blobs": blobs, "configs": leads, "place": place, "free": free,
        "zstd": has_program("zstd"),
    }  # fmt: skip


def configs(digest, there):
    """Return the digests of the configurations of images that are there completely.

    digest: of a manifest or an index in containerd, there: digests of all blobs.
    """
    content = ctr("get", digest) if digest in there else None
    try:
        document = json.loads((content or b"{}").decode("utf-8"))
        if "manifests" in document:
            return [config for one in document["manifests"] for config in configs(one["digest"], there)]
        parts = [document["config"]["digest"]] + [one["digest"] for one in document["layers"]]
    except (ValueError, KeyError, TypeError):
        return []
    return parts[:1] if all(part in there for part in parts) else []


def ctr(*words):
    """Return what containerd's client says of content, None where it cannot be asked."""
    for address in CONTAINERD_SOCKETS:
        if os.path.exists(address):
            words = ("ctr", "--address", address, "--namespace", "moby", "content") + words
            try:
                process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            except OSError:
                return None
            out, _ = process.communicate()
            return out if process.returncode == 0 else None
    return None


# ---- what comes


def line():
    """Return the next object. Raises Gone."""
    text = STDIN.readline()
    if not text.endswith(b"\n"):
        raise Gone
    return json.loads(text.decode("utf-8"))


def received(size):
    """Yield size bytes of what comes. Raises Gone."""
    while size:
        part = STDIN.read1(min(size, BLOCK))
        if not part:
            raise Gone
        size -= len(part)
        yield part


def unpacked(form, size):
    """Yield what comes in size bytes of a form, unpacked. Raises Failed and Gone."""
    if form == "zstd":
        for part in unpacked_by_zstd(size):
            yield part
        return
    unpacker = zlib.decompressobj(31) if form == "gzip" else None
    for part in received(size):
        yield unpacker.decompress(part) if unpacker else part
    yield unpacker.flush() if unpacker else b""


def unpacked_by_zstd(size):
    """Yield what comes in size bytes, unpacked."""
    process = subprocess.Popen(("zstd", "-d", "-q", "-c"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    failed = []

    def feed():
        try:
            for part in received(size):
                process.stdin.write(part)
            process.stdin.close()
        except (IOError, OSError):
            pass  # its exit status says why
        except Gone as error:
            failed.append(error)
            process.kill()

    feeder = threading.Thread(target=feed)
    feeder.daemon = True
    feeder.start()
    while True:
        part = os.read(process.stdout.fileno(), BLOCK)
        if not part:
            break
        yield part
    status = process.wait()
    feeder.join()
    if failed:
        raise failed[0]
    if status:
        raise Failed("zstd cannot unpack what came: it ended with %d" % status)


class Archive(object):
    """An archive on its way into dockerd, and the one before it, at which dockerd may still be."""

    def __init__(self, before):
        self.before = before
        self.dockerd = Dockerd()
        self.dockerd.putrequest("POST", "/images/load?quiet=1")
        self.dockerd.putheader("Content-Type", "application/x-tar")
        self.dockerd.putheader("Transfer-Encoding", "chunked")
        self.dockerd.endheaders()

    def send(self, data):
        """Send a piece. Raises Failed with dockerd's words where it takes no more."""
        if data:
            self.write(b"%x\r\n" % len(data), data, b"\r\n")

    def write(self, *pieces):
        """Send pieces as they are. Raises Failed."""
        try:
            for piece in pieces:
                self.dockerd.send(piece)
        except (OSError, socket.error):
            self.wait()
            self.finish()
            raise Failed("docker load failed: dockerd hung up")

    def add(self, path, size, parts):
        """Add a file. Raises Failed and Gone."""
        entry = tarfile.TarInfo(path)
        entry.size = size
        self.send(entry.tobuf(tarfile.GNU_FORMAT))
        for part in parts:
            self.send(part)
        self.send(bytes(bytearray(-size % tarfile.BLOCKSIZE)))

    def complete(self, files):
        """Add the last files when the archive before is loaded. Raises Failed."""
        self.wait()
        for path, content in files:
            data = base64.b64decode(content)
            self.add(path, len(data), [data])
        self.send(bytes(bytearray(2 * tarfile.BLOCKSIZE)))
        self.write(b"0\r\n\r\n")

    def wait(self):
        """Wait until the archive before is loaded. Raises Failed where it is not."""
        before, self.before = self.before, None
        if before is not None:
            before.finish()

    def finish(self):
        """Wait until this archive is loaded. Raises Failed where it is not."""
        try:
            status, body = self.dockerd.answer()
        except Failed:
            raise Failed("docker load failed: dockerd hung up")
        said = None if status == 200 else "nothing"
        for text in body.splitlines():
            try:
                document = json.loads(text)
            except ValueError:
                continue
            said = document.get("error") or document.get("message") or said
        if said is not None:
            raise Failed("docker load failed: %s" % one_line(said))


def load():
    """Load the archives that come; return the ID of the image, None where nothing came. Raises Failed and Gone."""
    try:
        told = line()
    except Gone:
        return None
    if not all(NAME.match(name) for name in [told["name"]] + told["gone"]):
        raise Failed("what came is not an image")
    now = before = None
    try:
        while True:
            one = line()
            if "end" in one:
                break
            now = now or Archive(before)
            if "files" in one:
                now.complete(one["files"])
                now, before = None, now
            else:
                now.add(one["path"], one["size"], unpacked(one["form"], one["bytes"]))
        if before is not None:
            before.finish()
    except (Failed, Gone) as error:
        # What is not complete is dropped, and dockerd finishes what is.
        before = now.before if now is not None else before
        if now is not None:
            now.dockerd.close()
        try:
            if before is not None:
                before.finish()
        except Failed:
            pass
        if isinstance(error, Failed):
            forget(told["gone"])
        raise error
    forget(told["gone"])
    found = ask("GET", "/images/%s/json" % told["name"])
    return found["Id"] if found else None


def forget(names):
    """Remove names of images, and images that have no other name."""
    for name in names:
        ask("DELETE", "/images/%s" % name)


if __name__ == "__main__":
    # No clean-up at exit: a thread may still wait for input.
    os._exit(main())
