"""The worker machines: the inventory that names them, and gpuprov's installation there."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import shlex
import sys
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gpuprov.options import Options, UsageError
from gpuprov.shared import ansible_root
from gpuprov.workers.fleet import Fleet, quiet

_PACKAGE = Path(__file__).resolve().parents[1]
_MACHINE = os.uname().machine
_PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
_SSH = (
    "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ControlPath=none",
    "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=4",
)  # fmt: skip
_FIND_PYTHON = f"$(command -v {_PYTHON} || command -v python3 || echo {_PYTHON})"
# What a worker runs to describe itself, and to install what comes on standard input.
_DESCRIBE = """
import json, os, platform, sys
path = os.path.join(os.path.expanduser("~"), ".cache/gpuprov/worker", NAME)
version = "python%d.%d" % sys.version_info[:2]
about = {"python": sys.executable, "version": version, "machine": platform.machine()}
print(json.dumps({**about, "path": path, "installed": os.path.isdir(path)}))
"""
_INSTALL = r"""
import fcntl, os, shutil, sys, tarfile
parent = os.path.dirname(PATH)
os.makedirs(parent, 0o700, exist_ok=True)
lock, part = open(parent + "/lock", "w"), parent + "/part"
fcntl.flock(lock, fcntl.LOCK_EX)
shutil.rmtree(part, ignore_errors=True)  # mostly it is absent; only an installation that was cut off leaves it
if not os.path.isdir(PATH):
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|gz") as tar:
        tar.extractall(part, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    if not os.path.exists(part + "/complete"):
        sys.exit("the installation arrived incomplete")
    os.mkdir(part + "/bin")
    with open(part + "/bin/ansible-playbook", "w") as program:
        program.write(f"#!{sys.executable}\nfrom gpuprov.workers.remote import playbook\n\nplaybook()\n")
    os.chmod(program.name, 0o755)
    os.rename(part, PATH)
"""


class _Unusable(Exception):
    """A worker cannot be used; the message is one line."""


@dataclasses.dataclass
class Worker:
    """A worker machine. ssh: the command that logs in; groups: work for their hosts only. lost: why it is not used."""

    name: str
    ssh: list[str]
    slots: int
    groups: list[str]
    python: str
    path: str = ""  # of the installation
    lost: str = ""


def read(options: Options) -> list[Worker]:
    """Return the machines of the workers' inventory. Raises UsageError."""
    assert options.workers
    fleet = Fleet(options.workers, options)
    return [_machine(name, fleet.variables.get(name, {})) for name in sorted(fleet.members("all"))]


def _machine(name: str, own: dict[str, Any]) -> Worker:
    words = shlex.split(f"{own.get('ansible_ssh_common_args', '')} {own.get('ansible_ssh_extra_args', '')}")
    for option, variable in (("-p", "port"), ("-l", "user"), ("-i", "ssh_private_key_file")):
        if f"ansible_{variable}" in own:
            words += [option, os.path.expanduser(str(own[f"ansible_{variable}"]))]
    groups, slots = own.get("worker_groups", []), str(own.get("worker_slots", 1))
    groups = [one.strip() for one in groups.split(",")] if isinstance(groups, str) else groups
    if not re.fullmatch("[1-9][0-9]{0,3}", slots):
        raise UsageError(f"worker_slots of the worker {name} is {slots}, and must be a number from 1 on")
    ssh = ["ssh", *words, *_SSH, str(own.get("ansible_host", name))]
    return Worker(name, ssh, int(slots), groups, str(own.get("ansible_python_interpreter", "")))


def prepare(crew: list[Worker]) -> None:
    """Install gpuprov on the workers where it is not; set their python and path, or lost."""
    name, lock = _installation(), threading.Lock()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda worker: _prepare(worker, name, lock), crew))


def _prepare(worker: Worker, name: str, lock: threading.Lock) -> None:
    try:
        about = json.loads(_run(worker, f"NAME = {name!r}{_DESCRIBE}"))
        worker.python, worker.path = about["python"], about["path"]
        if about["machine"] != _MACHINE:
            raise _Unusable(f"its processor is {about['machine']}, and must be {_MACHINE}, as this machine's is")
        if about["version"] != _PYTHON:
            raise _Unusable(
                f"it has {about['version']}, and needs {_PYTHON}, as this machine has: install {_PYTHON} there, or set "
                "ansible_python_interpreter to it"
            )
        if not about["installed"]:
            with lock:
                archive = _archive()
            _run(worker, f"PATH = {worker.path!r}{_INSTALL}", archive)
    except (_Unusable, ValueError) as error:
        worker.lost = str(error)


def _run(worker: Worker, code: str, data: bytes = b"") -> str:
    """Run Python code on a worker, with data as its standard input; return what it prints. Raises _Unusable."""
    start = f'-c "import sys;exec(sys.stdin.buffer.read({len(code.encode())}))"'
    python = shlex.quote(worker.python) if worker.python else _FIND_PYTHON
    done = quiet([*worker.ssh, f"sh -c {shlex.quote(f'exec {python} {start}')}"], code.encode() + data)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise _Unusable(said[-1] if said else f"ssh ended with status {done.returncode}")
    return done.stdout.decode()


def _installation() -> str:
    """Return the name of the installation of this gpuprov and what it needs: a digest of their content."""
    digest = hashlib.sha256(repr(sorted((one.name, one.version) for one in _closure())).encode())
    for path, name in _files():
        digest.update(name.encode() + (b"" if path.is_symlink() else path.read_bytes()))
    return digest.hexdigest()[:16]


@functools.cache
def _archive() -> bytes:
    """Return a tar archive of the installation."""
    with io.BytesIO() as out:
        with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
            for one in _closure():
                for file in one.files or []:
                    if file.parts[0] not in ("..", "ansible_test") and Path(file.locate()).is_file():
                        tar.add(file.locate(), str(file))
            for path, name in _files():
                tar.add(path, name)
            tar.addfile(tarfile.TarInfo("complete"))
        return out.getvalue()


def _closure() -> list[Any]:
    """Return the distributions that gpuprov needs, as they are installed here."""
    from importlib.metadata import distribution

    from packaging.requirements import Requirement

    found: dict[str, Any] = {}
    waiting = ["gpuprov"]
    for name in waiting:
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key not in found:
            found[key] = distribution(name)
            needs = map(Requirement, found[key].requires or [])
            waiting += [one.name for one in needs if not one.marker or one.marker.evaluate({"extra": ""})]
    return [one for name, one in found.items() if name != "gpuprov"]


def _files() -> Iterator[tuple[Path, str]]:
    """Yield (file here, its place in the installation) of gpuprov and the collection, as a wheel has them."""
    parts = {_PACKAGE: "gpuprov"}
    if ansible_root().parent != _PACKAGE:
        names = ("ansible.cfg", "meta", "playbooks", "plugins", "roles")
        parts |= {ansible_root() / name: f"gpuprov/ansible/{name}" for name in names}
    for part, place in parts.items():
        for path in sorted(part.rglob("*")) if part.is_dir() else [part]:
            # The links of a checkout lead to other parts of it.
            if (path.is_symlink() or path.is_file()) and "__pycache__" not in path.parts:
                yield path, str(place / path.relative_to(part))
