#!/usr/bin/env python
# SPDX-License-Identifier: MIT
"""Loads one image into the dockerd beside it, as it comes on standard input. Python 2.7 and 3.5 syntax.

load_image.py WORD NAME...: one that loads under a word waits until others under the same one have ended.

It asks dockerd's socket itself: the client costs a start for each of a dozen requests, and passes every byte on.
What it says are lines of "gpuprov ", a JSON object: first {"reading": see reading()}, then, where archives came,
one of {"id": of the image that is there now} and {"failed": why, in one line}.

What comes are frames: a letter, the length of what follows in four bytes, that. An archive is of D frames (data as it
is), P frames (raw deflate) and Y frames (pieces of what zstd packed, an empty one its end). What comes of it
after a W waits until the archive before it is loaded, and E ends it. So dockerd takes the next one in while it
unpacks, and an archive whose last files are not there does nothing. First comes a J, {"name": of the complete image,
"gone": [names that go, at the end and where loading fails]}, last a Z. What ends without a Z was cut off, and leaves
what was loaded.
"""

from __future__ import absolute_import, division, print_function

import errno
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib

BLOCK = 1 << 18
SOCKET = "/var/run/docker.sock"
CONTAINERD_SOCKETS = ("/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock")
# Seconds for an answer about what is there, and for others to end: what they wait for can be a layer of many gigabytes.
PATIENCE = 60
OTHERS = 1800
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:/@-]*\Z")


class Failed(Exception):
    """It cannot go on; the message is one line."""


def main():
    """Say what is there, load what comes; return the exit status."""
    try:
        alone = claim(sys.argv[1])
        say(reading=reading(sys.argv[2:]))
        say(**load())
        alone.close()
    except Failed as error:
        say(failed=str(error))
        return 3
    except Gone:
        return 4
    return 0


def claim(word):
    """Return what keeps others of this word away as long as it is open. Raises Failed."""
    # A name that is nowhere in the file system: nothing of it is left, however this ends.
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


def say(**what):
    """Print what there is to say; whoever listened may have gone."""
    try:
        if what:
            os.write(1, ("gpuprov %s\n" % json.dumps(what)).encode("ascii"))
    except OSError:
        pass


# ---- dockerd


class Request(object):
    """A request to dockerd (https://docs.docker.com/reference/api/engine/), with a connection of its own."""

    def __init__(self, method, path, patience=None, archive=False):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(patience)
        more = "Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n" if archive else ""
        head = "%s %s HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n%s\r\n" % (method, path, more)
        try:
            self.socket.connect(SOCKET)
            self.socket.sendall(head.encode("ascii"))
        except (OSError, socket.error) as error:
            raise Failed(unanswered(error))

    def send(self, data):
        """Send a piece of an archive, or its end where that is empty."""
        # Apart, so that nothing large is copied.
        self.socket.sendall(b"%x\r\n" % len(data))
        self.socket.sendall(data)
        self.socket.sendall(b"\r\n")

    def answer(self):
        """Return dockerd's status and body. Raises Failed where there is none."""
        parts = []
        try:
            while True:
                part = self.socket.recv(BLOCK)
                if not part:
                    break
                parts.append(part)
        except (OSError, socket.error) as error:
            raise Failed(unanswered(error))
        finally:
            self.socket.close()
        head, _, body = b"".join(parts).partition(b"\r\n\r\n")
        match = re.match(b"HTTP/1[.][01] ([0-9]+) ", head)
        if not match:
            raise Failed("docker load failed: dockerd hung up")
        if re.search(b"(?im)^transfer-encoding: *chunked", head):
            body = unchunked(body)
        return int(match.group(1)), body

    def close(self):
        """Drop the request; dockerd forgets what came of an archive."""
        self.socket.close()


def unchunked(data):
    """Return the content of a body that came in chunks."""
    parts = []
    while data:
        size, _, data = data.partition(b"\r\n")
        length = int(size.split(b";")[0] or b"0", 16)
        if not length:
            break
        parts.append(data[:length])
        data = data[length + 2 :]
    return b"".join(parts)


def unanswered(error):
    """Return why dockerd cannot be asked."""
    if getattr(error, "errno", None) in (errno.EACCES, errno.EPERM):
        return "permission denied on docker's socket %s" % SOCKET
    return "docker does not answer" if program("docker") else "there is no docker on the host"


def program(name):
    """Return whether a program is there."""
    places = os.environ.get("PATH", "/usr/bin:/bin").split(":")
    return any(os.access(os.path.join(place, name), os.X_OK) for place in places)


def ask(path):
    """Return what dockerd answers to a GET, None where there is no such thing. Raises Failed."""
    status, body = Request("GET", path, PATIENCE).answer()
    if status == 404:
        return None
    document = json.loads(body.decode("utf-8"))
    if status != 200:
        raise Failed("docker says: %s" % one_line(document.get("message")))
    return document


def one_line(text):
    """Return a text without line breaks."""
    return " ".join(str(text or "nothing").split())


def reading(names):
    """Return what is there.

    engine: dockerd's version, machine: as uname -m has it, containerd: whether that stores the images,
    images: [[ID, names, diff IDs]], blobs: digests that containerd has, None where nobody can tell,
    configs: {ID: digests of configurations} of the images in containerd that have one of names,
    place: where layers are, free: bytes there, zstd: whether that program is there.
    """
    info = ask("/info")
    store = info.get("DriverStatus") or []
    containerd = ["driver-type", "io.containerd.snapshotter.v1"] in store
    found = {
        "engine": info.get("ServerVersion") or "",
        "machine": info.get("Architecture") or os.uname()[4],
        "containerd": containerd,
        "images": [],
        "blobs": None,
        "configs": {},
        "place": "/var/lib/containerd" if containerd else info.get("DockerRootDir") or "/var/lib/docker",
        "free": None,
        "zstd": program("zstd"),
    }
    for one in sorted({image["Id"] for image in ask("/images/json?all=1")}):
        image = ask("/images/%s/json" % one)
        if image is not None:  # it may have gone meanwhile
            found["images"].append([one, image.get("RepoTags") or [], (image.get("RootFS") or {}).get("Layers") or []])
    try:
        disk = os.statvfs(found["place"])
        found["free"] = disk.f_bavail * disk.f_frsize
    except OSError:
        pass
    if containerd:
        listed = ctr("ls", "--quiet")
        found["blobs"] = listed.decode("ascii").split() if listed is not None else None
        for one, tags, _ in found["images"]:
            if listed is not None and any(name in tags for name in names):
                found["configs"][one] = configs(one, set(found["blobs"]))
    return found


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
            try:
                process = subprocess.Popen(
                    ("ctr", "--address", address, "--namespace", "moby", "content") + words,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            except OSError:
                return None
            out, _ = process.communicate()
            if process.returncode == 0:
                return out
    return None


# ---- what comes


class Gone(Exception):
    """Nothing more comes."""


def received(size):
    """Yield size bytes of standard input, as they come. Raises Gone."""
    while size:
        part = os.read(0, min(size, BLOCK))
        if not part:
            raise Gone
        size -= len(part)
        yield part


def frame():
    """Return the next frame's letter, and its length. Raises Gone."""
    return struct.unpack(">cI", b"".join(received(5)))


def load():
    """Load the archives that come; return what there is to say at the end. Raises Failed and Gone."""
    try:
        letter, size = frame()
    except Gone:
        return {}
    told = json.loads(b"".join(received(size)).decode("utf-8"))
    if letter != b"J" or not all(NAME.match(name) for name in [told["name"]] + told["gone"]):
        raise Failed("what came is no image")
    loads = Loads()
    try:
        while loads.take(*frame()):
            pass
    except Gone:
        loads.abandon()
        raise
    except Failed:
        loads.abandon()
        forget(told["gone"])
        raise
    forget(told["gone"])
    found = ask("/images/%s/json" % told["name"])
    return {"id": found["Id"] if found else None}


def forget(names):
    """Take names of images away, and images that have none then."""
    for name in names:
        Request("DELETE", "/images/%s" % name).answer()


class Loads(object):
    """The archive that comes now, and the one before it, at which dockerd may still be."""

    def __init__(self):
        self.now = self.before = self.unpacker = None

    def take(self, letter, size):
        """Take one frame; return whether more are to come. Raises Failed and Gone."""
        if letter in (b"D", b"P", b"Y") and self.now is None:
            self.now = Request("POST", "/images/load?quiet=1", archive=True)
        if letter == b"D":
            for part in received(size):
                self.send(part)
        elif letter == b"P":
            self.send(zlib.decompress(b"".join(received(size)), -zlib.MAX_WBITS, BLOCK))
        elif letter == b"Y" and size:
            self.unpacker = self.unpacker or Unpacker(self.now)
            for part in received(size):
                self.unpacker.write(part)
        elif letter == b"Y":
            unpacker, self.unpacker = self.unpacker, None
            if not unpacker.end():
                self.refused()
        elif letter == b"W":
            self.finish()
        elif letter == b"E":
            self.finish()
            self.send(b"")
            self.now, self.before = None, self.now
        else:
            self.finish()
        return letter != b"Z"

    def send(self, part):
        """Pass on a piece of an archive. Raises Failed with dockerd's words where it takes no more."""
        try:
            self.now.send(part)
        except (OSError, socket.error):
            self.refused()

    def refused(self):
        """Raise Failed with the reason why no more is taken."""
        self.finish()
        refused, self.now = self.now, None
        check(*refused.answer())
        raise Failed("docker load failed: dockerd hung up")

    def finish(self):
        """Wait until the archive before is loaded. Raises Failed where it is not."""
        if self.before is not None:
            before, self.before = self.before, None
            check(*before.answer())

    def abandon(self):
        """Drop what is not complete, and let dockerd finish what is."""
        if self.unpacker is not None:
            self.unpacker.kill()
        if self.now is not None:
            self.now.close()
        try:
            self.finish()
        except Failed:
            pass


class Unpacker(object):
    """zstd, between what comes and dockerd."""

    def __init__(self, request):
        self.process = subprocess.Popen(("zstd", "-d", "-q", "-c"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.failed = False
        self.thread = threading.Thread(target=self.relay, args=(request,))
        self.thread.daemon = True
        self.thread.start()

    def relay(self, request):
        """Pass on what comes out."""
        try:
            while True:
                part = os.read(self.process.stdout.fileno(), BLOCK)
                if not part:
                    break
                request.send(part)
        except (OSError, socket.error):
            self.failed = True
            self.kill()

    def write(self, part):
        """Put in a piece; one that is not taken shows at the end."""
        try:
            self.process.stdin.write(part)
        except (IOError, OSError):
            self.failed = True

    def end(self):
        """Return whether all was passed on. Raises Failed where it could not be unpacked."""
        try:
            self.process.stdin.close()
        except (IOError, OSError):
            self.failed = True
        self.thread.join()
        status = self.process.wait()
        if status > 0:
            raise Failed("zstd cannot unpack what came: it ended with %d" % status)
        return not self.failed

    def kill(self):
        """End it at once."""
        try:
            self.process.kill()
        except OSError:
            pass


def check(status, body):
    """Raise Failed where dockerd's answer to an archive says that it did not load it."""
    said = None if status == 200 else "nothing"
    for line in body.decode("utf-8", "replace").splitlines():
        try:
            document = json.loads(line)
        except ValueError:
            continue
        said = document.get("error") or document.get("message") or said
    if said is not None:
        raise Failed("docker load failed: %s" % one_line(said))


if __name__ == "__main__":
    sys.exit(main())
