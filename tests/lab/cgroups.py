"""cgroup v2 for lab hosts, on a machine that boots with cgroup v1.

A v2 hierarchy can be mounted beside the v1 ones. Each host gets a cgroup there, which its private
cgroup namespace shows as the root, so that the host looks like one that booted with cgroup v2.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from pathlib import Path

from tests.lab.images import locked, run

MOUNTS = Path("/proc/self/mounts")
# Where this machine mounts its only hierarchy if it boots with cgroup v2.
NATIVE = Path("/sys/fs/cgroup")
# Used where the machine has not mounted a v2 hierarchy anywhere.
OWN = Path("/run/gpuprov-lab/cgroup2")
# Run as a host's first process: replace what podman mounted by the host's own v2 hierarchy.
START = "umount -R /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && exec "
# Seconds that the kernel may take to let go of a cgroup whose processes were killed.
PATIENCE = 300


def hierarchy(mounts: str) -> Path | None:
    """Return where mounts, the text of /proc/self/mounts, has a writable cgroup v2 hierarchy."""
    for line in mounts.splitlines():
        _device, path, kind, options, *_ = line.split(" ")
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(path)
    return None


def directory(name: str) -> Path | None:
    """Return the cgroup of a host by its container's name; mounts the v2 hierarchy where none is.

    None where the machine itself runs on cgroup v2: podman makes the cgroups there.
    """
    root = hierarchy(MOUNTS.read_text(encoding="utf-8")) or _mount()
    return None if root == NATIVE else root / "gpuprov-lab" / name


def _mount() -> Path:
    with locked("cgroup"):
        if not hierarchy(MOUNTS.read_text(encoding="utf-8")):
            OWN.mkdir(parents=True, exist_ok=True)
            run("mount", "-t", "cgroup2", "none", OWN)
    return OWN


def create(name: str) -> Path | None:
    """Make the empty cgroup of a host, in the place of one that an earlier host left."""
    remove(name)
    cgroup = directory(name)
    if cgroup:
        cgroup.mkdir(parents=True, exist_ok=True)
    return cgroup


def remove(name: str) -> None:
    """Remove the cgroup of a host that is gone, with whatever still runs in it.

    Raises RuntimeError where the kernel does not let go of it.
    """
    cgroup = directory(name)
    deadline = time.monotonic() + PATIENCE
    while cgroup and cgroup.exists():
        with contextlib.suppress(OSError):
            (cgroup / "cgroup.kill").write_text("1")
        children = [path.parent for path in cgroup.rglob("cgroup.procs")]
        for path in sorted(children, key=lambda one: len(one.parts), reverse=True):
            with contextlib.suppress(OSError):
                path.rmdir()
        if not cgroup.exists():
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"the cgroup {cgroup} cannot be removed")
        time.sleep(0.05)


def run_in(cgroup: Path | None, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command whose processes belong to a cgroup; raise RuntimeError where it fails."""
    if cgroup is None:
        return run(*command)
    return run("sh", "-c", 'echo $$ >"$0" && exec "$@"', cgroup / "cgroup.procs", *command)


def processor_seconds(pid: int) -> float:
    """Return the processor time used so far by the container whose first process is pid, and by what it started."""
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _number, controllers, path = line.split(":", 2)
        if "cpuacct" in controllers.split(","):
            return int((NATIVE / controllers / path.lstrip("/") / "cpuacct.usage").read_text()) / 1e9
    # cgroup v2: the container's own group is above those that its systemd made.
    *above, _ = path.partition("/init.scope")
    usage = (NATIVE / above[0].lstrip("/") / "cpu.stat").read_text(encoding="utf-8")
    return int(usage.split()[1]) / 1e6
