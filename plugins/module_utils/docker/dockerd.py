# SPDX-License-Identifier: MIT
"""Ask dockerd on its socket. Runs on hosts: Python 2.7 syntax.

The client asks the same and takes ten times as long, for it starts its plugins.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import glob
import json
import re
import socket

SOCKET = "/var/run/docker.sock"
# The units that count how often they started, and then refuse to. By name: of a pattern, newer systemd resets those
# alone that failed. One may not be there.
COUNTING_UNITS = ("docker.service", "docker.socket", "containerd.service")


# The newest API that is spoken: engines up to 29 answer it, in a shape that stays. Older engines get
# the newest that they have.
NEWEST_API = (1, 44)


class DockerdError(Exception):
    """dockerd does not answer; the message says so for people."""


def ask(path, timeout=10):
    """Return dockerd's answer to GET path, decoded, or None where it does not answer within timeout seconds.

    Where systemd listens for a dockerd that does not run, asking starts it.
    """
    answer = _exchange("GET", path, timeout)
    return None if answer is None else decoded(answer)


def api():
    """Return what the paths of an API begin with that this dockerd speaks, e.g. ``/v1.44``. Raises DockerdError."""
    version = ask("/version")
    if not version or "ApiVersion" not in version:
        raise DockerdError("dockerd does not answer at %s: see `systemctl status docker` there" % SOCKET)
    own = tuple(int(part) for part in version["ApiVersion"].split("."))
    return "/v%d.%d" % min(own, NEWEST_API)


def request(method, path, timeout=60):
    """Return (HTTP status, the body's JSON or None) of a request without a body. Raises DockerdError."""
    answer = _exchange(method, path, timeout)
    match = re.match(r"HTTP/1\.[01] (\d{3})", (answer or b"")[:12].decode("latin-1"))
    if not match:
        raise DockerdError("dockerd does not answer within %d s at %s" % (timeout, SOCKET))
    body = answer.partition(b"\r\n\r\n")[2]
    try:
        return int(match.group(1)), json.loads(body.decode("utf-8"))
    except ValueError:
        return int(match.group(1)), None


def _exchange(method, path, timeout):
    """Return the whole HTTP answer, or None where none comes within timeout seconds."""
    connection = socket.socket(socket.AF_UNIX)
    answer = b""
    try:
        connection.settimeout(timeout)
        connection.connect(SOCKET)
        # Under 1.0 the answer ends with the connection, and is not in chunks.
        connection.sendall(("%s %s HTTP/1.0\r\nHost: docker\r\n\r\n" % (method, path)).encode("ascii"))
        while True:
            part = connection.recv(65536)
            if not part:
                break
            answer += part
    except (IOError, OSError):
        return None
    finally:
        connection.close()
    return answer


def decoded(answer):
    """Return the JSON of an HTTP answer, in bytes, or None where it is an error or not JSON."""
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
