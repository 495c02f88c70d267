# SPDX-License-Identifier: MIT
"""Send hosts what they need of a bundle, over their own connections."""

from __future__ import annotations

import email.utils
import functools
import os
import re
import shlex
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.bundle import DIRECTORY
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import image_name
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import (
    ansible_compat,
    deb,
    host_command,
    host_pipe,
    role_options,
    run_cache,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.bundle import contents
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.bundle.errors import BundleError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import transfer_progress
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import lock_file
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import fleet

# Files are for all to read: apt reads them as _apt.
_UNPACK = 'umask 022; mkdir -p "$1" && chmod 755 "${1%/*}" "$1" && exec tar -x --no-same-owner -f - -C "$1"'
_BLOCK = 512  # of tar


class Bundle(NamedTuple):
    """The part of a bundle for one release and architecture."""

    directory: Path
    files: dict[str, tuple[str, int]]  # {path: (SHA-256, size)}
    sources: list[dict[str, Any]]  # [{path, suite, components}]
    images: dict[image_name.ImageName, str]  # {name with its tag: path}

    @property
    def indexes(self) -> list[str]:
        """Return the paths of what apt reads before it takes a package."""
        return [path for path in self.files if path.startswith("sources/") and not path.endswith(".deb")]


class Needs(NamedTuple):
    """The files of a bundle that a host lacks, and the images to load there: paths below the bundle."""

    files: list[str]
    images: list[str]
    size: int  # bytes


def of(resolver: role_options.Resolver, directory: Path) -> Bundle:
    """Return the part of the bundle in a directory for a host. resolver: of a host with facts.

    Raises BundleError and LockFileError.
    """
    codename, architecture = resolver.variables["ansible_facts"]["distribution_release"], resolver.architecture()
    files, images = contents.read(directory)
    if not files:
        raise BundleError(f"the bundle {directory} is not complete: run gpuprov bundle again, it continues")
    lock = lock_file.load(directory / lock_file.NAME)
    if (codename, architecture) not in lock.systems:
        have = ", ".join(" ".join(kind) for kind in sorted(lock.systems)) or "nothing"
        raise BundleError(f"the bundle {directory} has nothing for {codename} {architecture}, only {have}")
    system = lock.systems[codename, architecture]
    sources = []
    for name in contents.VENDORS:
        if name in system.sources:
            source = system.sources[name]
            place = {"suite": source.suite, "components": list(source.components)}
            sources.append({"path": f"sources/{name}/{codename}/{architecture}", **place})
    sources.append({"path": f"sources/distribution/{codename}/{architecture}", "suite": "./", "components": []})
    own = {path: one for path, one in files.items() if path.startswith(tuple(f"{one['path']}/" for one in sources))}
    there = {sha256 for sha256, _size in own.values()}
    if lacking := [f"{one.name} {one.version}" for one in system.packages if one.sha256 not in there]:
        raise BundleError(f"the bundle {directory} lacks {', '.join(lacking)} of its lock: make it again")
    fitting = {
        image_name.parse_tagged(one.name): one.path.relative_to(directory).as_posix()
        for one in images
        if one.architecture == architecture
    }
    return Bundle(directory, {**own, **{path: files[path] for path in fitting.values()}}, sources, fitting)


def expired(bundle: Bundle) -> list[str]:
    """Return a sentence for each index that its signer calls out of date, which apt takes for this bundle alone."""
    said = []
    for path in bundle.indexes:
        if path.endswith("/InRelease"):
            text = (bundle.directory / path).read_text("utf-8", "replace")
            for until in re.findall(r"(?m)^Valid-Until: *(.+?)\s*$", text):
                date = email.utils.parsedate_to_datetime(re.sub(r"\b(UTC|Z)$", "+0000", until))
                if date < datetime.now(timezone.utc):
                    said.append(f"{path} in the bundle was valid until {until}: taken all the same, as the lock has it")
    return said


def needs(
    action: ActionBase, bundle: Bundle, sets: list[dict[str, Any]], locked: Mapping[str, Any], names: Iterable[str],
    task_vars: dict[str, Any],
) -> Needs:  # fmt: skip
    """Have the action's host name what it lacks. names: of the images that it will run. It changes nothing there.

    Raises BundleError where the bundle lacks something, or a file of it is not as it was made.
    """
    if any("file" in package for one in sets for package in one["packages"]):
        raise BundleError("gpuprov_bundle and docker_ce_package_files both name the packages: set one of them")
    _check(bundle, bundle.indexes)
    with ansible_compat.temporary_directory(action) as directory:
        arguments = {
            "sets": sets, "locked": locked, "bundle": bundle.sources, "images": list(names),
            "indexes": ansible_compat.send_file(action, _packed(bundle), directory),
        }  # fmt: skip
        answer = action._execute_module("gpuprov.gpuprov.bundle_needs", arguments, task_vars=task_vars)
    if "files" not in answer:
        raise BundleError(answer.get("msg") or "the host did not say what it needs of the bundle")
    paths = {sha256: path for path, (sha256, _size) in bundle.files.items()}
    missing = [name for name, _size, sha256 in answer["files"] if sha256 not in paths]
    if missing:
        raise BundleError(f"the bundle {bundle.directory} lacks {', '.join(missing)}: make it again")
    files = [paths[sha256] for _name, _size, sha256 in answer["files"]]
    archives = []
    for name in answer["images"]:
        archive = bundle.images.get(image_name.parse_tagged(name))
        if archive is None:
            raise BundleError(
                f"the image {name}, which verifies the host, is neither there nor in the bundle: "
                f"add it with gpuprov bundle --image {name}, or set gpu_host_verify_containers to none"
            )
        archives.append(archive)
    _check(bundle, [*files, *archives])
    size = sum(bundle.files[path][1] for path in (*files, *archives))
    if size > answer["free"]:
        free = fleet.size_text(answer["free"])
        raise BundleError(
            f"the disk is too full: /var/lib has {free} free, the bundle's files need {fleet.size_text(size)}"
        )
    return Needs(files, archives, size)


def send(action: ActionBase, bundle: Bundle, wanted: Needs, task_vars: dict[str, Any]) -> None:
    """Send the indexes and what a host lacks to DIRECTORY there. Raises BundleError, and what host_pipe raises."""
    host = task_vars["inventory_hostname"]
    words = ["sh", "-c", _UNPACK, "gpuprov", DIRECTORY]
    command = host_pipe.on_host(action, words, host_command.interpreter(action, task_vars))
    with transfer_progress.Progress("sending", f"{host} bundle", wanted.size) as progress:
        blocks = _archive(bundle, bundle.indexes, iter)
        more = _archive(bundle, [*wanted.files, *wanted.images], progress.counted)
        with host_pipe.opened(command, host_pipe.must_end) as pipe:
            pipe.feed(block for part in (blocks, more, [bytes(2 * _BLOCK)]) for block in part)
            completed = pipe.completed()
    if completed.returncode:
        # tar's first line may tell how much was written, and its last one that there were others.
        said = [line for line in completed.stderr.splitlines() if "Cannot" in line]
        why = said[0] if said else host_pipe.reason(completed)
        raise BundleError(f"the bundle's files could not be written to {DIRECTORY}: {why}")


def remove(action: ActionBase) -> None:
    """Remove what was sent to a host."""
    parent = os.path.dirname(DIRECTORY)
    ansible_compat.run_command(action, f"rm -rf {shlex.quote(DIRECTORY)}; rmdir {shlex.quote(parent)} 2>&-")


def _check(bundle: Bundle, paths: Iterable[str]) -> None:
    """Raise BundleError where files are not as they were made. Each file is read once in a run."""
    for path in paths:
        file, (sha256, size) = bundle.directory / path, bundle.files[path]
        try:
            status = file.stat()
            key = f"bundle {file} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
            right = status.st_size == size and run_cache.cached(key, functools.partial(deb.sha256, file)) == sha256
        except OSError as error:
            raise BundleError(f"the bundle's file {file} cannot be read: {error.strerror}") from None
        if not right:
            raise BundleError(f"the bundle's file {file} is not as it was made: see gpuprov bundle --verify")


def _packed(bundle: Bundle) -> Path:
    """Return an archive of a bundle's indexes, made once in a run."""
    directory = ansible_compat.run_directory() or Path(tempfile.mkdtemp(prefix="gpuprov-"))
    path = directory / f"{bundle.sources[-1]['path'].replace('/', '-')}.tar.gz"
    if not path.exists():
        part = path.with_name(f"{path.name}.{os.getpid()}")
        with tarfile.open(part, "w:gz", compresslevel=6) as archive:
            for name in bundle.indexes:
                archive.add(bundle.directory / name, name)
        part.rename(path)
    return path


def _archive(
    bundle: Bundle, paths: Iterable[str], counted: Callable[[Iterator[bytes]], Iterable[bytes]]
) -> Iterator[bytes]:
    """Yield files of a bundle as tar has them, without its end. Raises BundleError for one that changed."""
    for path in paths:
        size = bundle.files[path][1]
        info = tarfile.TarInfo(path)
        info.size, info.mode = size, 0o644
        yield info.tobuf(tarfile.GNU_FORMAT)
        sent = 0
        for block in counted(_blocks(bundle.directory / path)):
            sent += len(block)
            yield block
        if sent != size:
            raise BundleError(f"the bundle's file {bundle.directory / path} changed while it was sent")
        yield bytes(-size % _BLOCK)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(host_pipe.BLOCK):
            yield block
