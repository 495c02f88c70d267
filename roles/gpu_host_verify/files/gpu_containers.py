# SPDX-License-Identifier: MIT
"""Run containers that check their GPUs (gpu_check.py), side by side, and print a line for each, as containers.sh does.

python gpu_containers.py IMAGE GPU_IMAGE CDI FLAG NETWORK SECONDS PROGRAM DIRECTORY

CDI and FLAG are devices to ask for by CDI, and as --gpus device=FLAG does, or empty. Without GPU_IMAGE, the containers
are of IMAGE, with this Python mounted and its libraries copied to DIRECTORY. Exit status 3: this Python has no ctypes.

It asks dockerd itself: starting a docker client for each container costs as much as a fifth of the container.
For Python 2.7, and 3.5 and newer.
"""

import _socket  # the module socket takes 40 ms to import
import json
import os
import sys
import time

SOCKET = "/var/run/docker.sock"
# Whichever Python the image has.
ANY_PYTHON = 'exec "$(command -v python3 || command -v python)" -B -c "$@"'
# The driver's libraries ask for these; some are parts of libc since glibc 2.34.
NEEDED = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1")


def copy(directory):
    """Copy the libraries that Python needs here and the driver's libraries need in containers to an empty directory.

    They get every name by which programs ask for them. Return the name of the dynamic loader there, and the paths of
    Python and of the directory with its modules.
    """
    import ctypes

    for name in NEEDED:
        try:
            ctypes.CDLL(name)
        except OSError:
            pass
    modules = os.path.dirname(os.__file__)
    with open("/proc/self/maps") as maps:
        mapped = {line.split(None, 5)[5].strip() for line in maps if ".so" in line}
    mapped = {path for path in mapped if not path.startswith(modules + "/")}
    for path in mapped:
        target = os.path.join(directory, os.path.basename(path))
        with open(path, "rb") as source, open(target, "wb") as copied:
            copied.write(source.read())
        os.chmod(target, 0o755)
    for place in {os.path.dirname(path) for path in mapped}:
        for name in os.listdir(place):
            link, named = os.path.join(place, name), os.path.join(directory, name)
            if ".so" in name and os.path.realpath(link) in mapped and not os.path.lexists(named):
                os.symlink(os.path.basename(os.path.realpath(link)), named)
    loader = next(name for name in map(os.path.basename, mapped) if name.startswith(("ld-", "ld.")))
    return loader, os.path.realpath(sys.executable), modules


class Refused(Exception):
    """dockerd refused a request; the message is dockerd's."""


class Request(object):
    """A request to dockerd, sent when it is made. Raises OSError (socket.error in Python 2)."""

    def __init__(self, deadline, method, path, body=None):
        """Send it; the answer must come before the deadline (time.time)."""
        self.deadline, self.data = deadline, b""
        self.connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.connection.settimeout(10)
        self.connection.connect(SOCKET)
        sent = b"" if body is None else json.dumps(body).encode("ascii")
        # HTTP/1.0: the answer comes in one piece, and ends with the connection.
        head = "%s %s HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self.connection.sendall((head % (method, path, len(sent))).encode("ascii") + sent)

    def read(self):
        """Read more; return whether there was more."""
        self.connection.settimeout(max(self.deadline - time.time(), 0.01))
        more = self.connection.recv(1 << 16)
        self.data += more
        return bool(more)

    def begun(self):
        """Wait for the head of the answer; return its status, such as 200."""
        while b"\r\n\r\n" not in self.data:
            if not self.read():
                raise Refused("dockerd ended the connection")
        return int(self.data.split()[1])

    def body(self):
        """Wait for the end of the answer; return its body."""
        while self.read():
            pass
        return self.data.partition(b"\r\n\r\n")[2]


class Container(object):
    """A container that looks for GPUs, in steps that others take side by side. step: see looks()."""

    def __init__(self, step, config, seconds):
        """Remember what to create, and when it must have ended."""
        self.step, self.config = step, config
        self.name, self.deadline = "gpuprov-verify-%d-%s" % (os.getpid(), step), time.time() + seconds
        self.failure, self.requests = None, []

    def send(self, method, path, body=None):
        """Send a request."""
        self.requests.append(Request(self.deadline, method, "/containers/" + path, body))

    def accepted(self):
        """Wait until dockerd has accepted what was sent last. Raises Refused."""
        if self.requests[-1].begun() >= 300:
            raise Refused(json.loads(self.requests[-1].body().decode("utf-8"))["message"])

    def create(self):
        """Have it created."""
        self.send("POST", "create?name=" + self.name, self.config)

    def attach(self):
        """Ask for its output, and for its end."""
        self.accepted()
        self.send("POST", self.name + "/attach?stream=1&stdout=1&stderr=1")
        self.accepted()
        self.send("POST", self.name + "/wait?condition=removed")
        self.accepted()

    def start(self):
        """Have it started."""
        self.send("POST", self.name + "/start")

    def end(self):
        """Wait for its end; return (whether it succeeded, the last line of its output, or all of it)."""
        self.accepted()
        out, both = streams(self.requests[1].body())
        status = json.loads(self.requests[2].body().decode("utf-8"))["StatusCode"]
        return status == 0, out.strip().rpartition("\n")[2] if status == 0 else both

    def remove(self):
        """Remove it; where it ended, dockerd has done so."""
        Request(time.time() + 10, "DELETE", "/containers/%s?force=1&v=1" % self.name).begun()


def streams(data):
    """Return the standard output in what attach gave, and all of it. Frames: kind, 3 bytes of 0, size as 4 bytes."""
    out, both = b"", b""
    while len(data) >= 8:
        head, size = bytearray(data[:8]), int("".join("%02x" % byte for byte in bytearray(data[4:8])), 16)
        text, data = data[8 : 8 + size], data[8 + size :]
        out, both = out + (text if head[0] == 1 else b""), both + text
    return out.decode("utf-8", "replace"), both.decode("utf-8", "replace")


def looks(cdi, flag):
    """Return [(step, what gpu_check.py does, environment, options of the host)], in the order of the answers.

    "void" means no GPU, as does the missing variable; the image may set it.
    """
    able = "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    nvidia = {"Runtime": "nvidia"}
    found = [
        ("all", "compute", [able, "NVIDIA_VISIBLE_DEVICES=all"], nvidia),
        ("none", "look", [able, "NVIDIA_VISIBLE_DEVICES=void"], nvidia),
    ]
    if flag:
        found.append(("gpus", "look", [able], {"DeviceRequests": [{"DeviceIDs": [flag], "Capabilities": [["gpu"]]}]}))
    else:
        found.append(("one", "look", [able, "NVIDIA_VISIBLE_DEVICES=0"], nvidia))
    if cdi:
        found.append(("cdi", "look", [], {"DeviceRequests": [{"Driver": "cdi", "DeviceIDs": [cdi]}]}))
    return found


def main(image, gpu_image, cdi, flag, network, seconds, program, directory):
    """Run the containers, print a line for each, and return the exit status."""
    if gpu_image:
        config = {"Image": gpu_image, "Entrypoint": ["sh"]}
        command, binds = ["-c", ANY_PYTHON, "sh"], []
    else:
        try:
            loader, python, modules = copy(directory)
        except ImportError:
            return 3
        except (IOError, OSError) as error:
            print("image\tfailed\t%s" % error)
            return 0
        config = {"Image": image, "Entrypoint": ["/gpuprov/libraries/" + loader], "User": "0:0"}
        command = ["--library-path", "/gpuprov/libraries", "/gpuprov" + python, "-E", "-S", "-B", "-c"]
        # Not below /usr: the runtime and CDI mount the driver's files there.
        binds = [(directory, "/gpuprov/libraries"), (python, "/gpuprov" + python), (modules, "/gpuprov" + modules)]
    containers = []
    for step, mode, environment, options in looks(cdi, flag):
        host = {"AutoRemove": True, "NetworkMode": network, "Binds": ["%s:%s:ro" % pair for pair in binds]}
        host["LogConfig"] = {"Type": "none"}  # attach gets the output; a log would be written for nothing
        host.update(options)
        asked = {"Cmd": command + [program, mode], "Env": environment, "HostConfig": host}
        asked.update(config)
        containers.append(Container(step, asked, float(seconds)))
    for act in (Container.create, Container.attach, Container.start):
        for container in containers:
            tried(container, act)
    for container in containers:
        good, said = tried(container, Container.end) or (False, container.failure)
        if container.failure:
            tried(container, Container.remove)
        print(
            "%s\t%s\t%s" % (container.step, "ok" if good else "failed", " ".join(said.split())[: None if good else 600])
        )
    return 0


def tried(container, act):
    """Do something with a container that did not fail yet, or remove it; note how it failed."""
    try:
        if container.failure is None or act is Container.remove:
            return act(container)
    except _socket.timeout:
        container.failure = container.failure or "the container did not end in time"
    except (Refused, ValueError, KeyError, _socket.error) as error:
        container.failure = container.failure or "dockerd at %s: %s" % (SOCKET, error)
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
