"""The content of the lab's registry: a hello-world of our own, and Debian's busybox."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path

from tests.lab.images import CACHE, TOOL_SUITE, compiled, debs, find_deb, key, run, source, step

APPLETS = ("sh", "ls", "cat", "sleep", "env", "echo", "true", "false", "id")


def directory() -> Path:
    """Where the registry lies: program/ (Debian's docker-registry) and data/."""
    return CACHE / f"registry-{key(source('registry.py', 'files/hello.c'))}"


def build() -> None:
    """Push the images into an empty registry, if they are not in the cache."""
    if directory().exists():
        return
    with step("registry"):
        new = directory().with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        work = new / "work"
        (work / "hello-world").mkdir(parents=True)
        compiled("hello", work / "hello-world" / "hello")
        tools = debs(TOOL_SUITE) / "tools"
        run("dpkg-deb", "-x", find_deb(tools, "docker-registry"), new / "program")
        run("dpkg-deb", "-x", find_deb(tools, "busybox-static"), work / "busybox-static")
        (work / "busybox").mkdir()
        shutil.copy(work / "busybox-static/bin/busybox", work / "busybox")
        _push(new, {"hello-world": _hello(), "busybox": _busybox()}, work)
        shutil.rmtree(work)
        new.rename(directory())


def _hello() -> str:
    return 'FROM scratch\nCOPY hello /hello\nCMD ["/hello"]\n'


def _busybox() -> str:
    install = [["/busybox", "mkdir", "-p", "/bin", "/tmp"]]
    install += [["/busybox", "ln", "-s", "/busybox", f"/bin/{name}"] for name in APPLETS]
    lines = [f"RUN {json.dumps(words)}" for words in install]
    return "\n".join(["FROM scratch", "COPY busybox /busybox", *lines, 'CMD ["sh"]', ""])


def _push(new: Path, containerfiles: dict[str, str], work: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = work / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{address}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: {new / 'data'}}}}}\n"
    )
    server = subprocess.Popen(
        [new / "program/usr/bin/docker-registry", "serve", config],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for name, containerfile in containerfiles.items():
            (work / name / "Containerfile").write_text(containerfile)
            tag = f"{address}/library/{name}:latest"
            run(
                "podman", "--runtime", "runc", "build", "--quiet", "--format", "docker",
                "--network", "none", "--layers=false", "-t", tag, work / name,
            )  # fmt: skip
            for attempt in range(1000):
                try:
                    run("podman", "push", "--quiet", "--tls-verify=false", "--format", "v2s2", tag)
                    break
                except RuntimeError:  # it does not listen yet
                    if attempt == 999:
                        raise
                    time.sleep(0.25)
            run("podman", "rmi", tag)
    finally:
        server.terminate()
        server.wait()
