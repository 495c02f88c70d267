# SPDX-License-Identifier: MIT
"""What dockerd says of itself on its socket. Runs on hosts: Python 2.7 syntax.

The client asks the same and takes ten times as long, for it starts its plugins.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import glob
import json
import socket

SOCKET = "/var/run/docker.sock"
# The units that count how often they failed, and then refuse to start, as patterns: one may not be there.
COUNTING_UNITS = ("docker.*", "containerd.*")


def ask(path, timeout=10):
    """Return dockerd's answer to GET path, decoded, or None where it does not answer within timeout seconds.

    Where systemd listens for a dockerd that does not run, asking starts it.
    """
    connection = socket.socket(socket.AF_UNIX)
    answer = b""
    try:
        connection.settimeout(timeout)
        connection.connect(SOCKET)
        connection.sendall(("GET %s HTTP/1.0\r\nHost: docker\r\n\r\n" % path).encode("ascii"))
        while True:
            part = connection.recv(65536)
            if not part:
                break
            answer += part
    except (IOError, OSError):
        return None
    finally:
        connection.close()
    return decoded(answer)


def decoded(answer):
    """Return the JSON of an HTTP answer, in bytes, or None where it is no success or no JSON."""
    head, _empty, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        return None
    try:
        return json.loads(body.decode("utf-8"))
    except ValueError:
        return None


def running():
    """Return [{id, name, image}] of the running containers, or None where dockerd does not answer."""
    containers = ask("/containers/json")
    if containers is None:
        return None
    return [
        {"id": one["Id"], "name": (one["Names"] or [one["Id"][:12]])[0].lstrip("/"), "image": one["Image"]}
        for one in containers
    ]


def shims():
    """Return the number of processes that stand over a container each: they say so without dockerd."""
    count = 0
    for path in glob.glob("/proc/[0-9]*/comm"):
        try:
            with open(path) as handle:
                # The kernel keeps 15 characters of a name.
                count += handle.read().startswith("containerd-shim")
        except (IOError, OSError):
            continue
    return count
