"""The commands of ``gpuprov image``. Each runs one playbook and reports the result."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from gpuprov import report
from gpuprov.command import View, finish, passwords_of, play, run
from gpuprov.options import NO_INVENTORY, Options, UsageError, command
from gpuprov.result import Run
from gpuprov.shared import plugin

app = typer.Typer(
    help="Images on the hosts: build, ship, tag, list, clean up.", no_args_is_help=True, rich_markup_mode=None
)
_text = plugin("plugin_utils/text/images")
ImageName = Annotated[str, Argument(metavar="NAME:TAG", help="An image, e.g. registry.example.com:5000/train:1.9.1")]


def parsed(path: str, function: str, *given: Any) -> Any:
    """Return what a function of plugins/PATH.py makes of this. Raises UsageError where that raises ValueError."""
    try:
        return getattr(plugin(path), function)(*given)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _view(lines: Callable[..., list[str]], *about: Callable[[Run], Any]) -> View:
    """Return a view: lines of {host: its image}, and of more about the run."""
    return lambda run: report.joined(lines(_images(run), *(one(run) for one in about)))


def _images(run: Run) -> dict[str, dict[str, Any]]:
    # A host that failed after it removed something counts too.
    return {host.name: host.image for host in run.hosts if host.image and (not host.error or "freed" in host.image)}


def _check(run: Run) -> bool:
    return run.options.check


def _versioned(text: str, example: str) -> Any:
    image = parsed("module_utils/images/image_name", "parse", text)
    if image.tag is None or image.digest is not None:
        raise UsageError(f"{example}: not {text}")
    return image


# ---- build


@command(app, "check", "wait", inventory=NO_INVENTORY)
def build(
    options: Options,
    context: Annotated[Path, Argument(metavar="CONTEXT", help="The directory to build from.")],
    name: Annotated[str, Option("--tag", "-t", metavar="NAME:VERSION", help="Name of the image.")],
    on: Annotated[
        str | None, Option(metavar="HOST", help="Build on this host of the inventory; default: this machine.")
    ] = None,
    build_arg: Annotated[
        list[str] | None,
        Option(metavar="NAME[=VALUE]", help="Without =VALUE it is taken from the environment; repeatable."),
    ] = None,
    file: Annotated[str, Option(metavar="FILE", help="The Dockerfile, in CONTEXT.")] = "Dockerfile",
    target: Annotated[str, Option(metavar="STAGE", help="Build up to this stage.")] = "",
    no_cache: Annotated[bool, Option("--no-cache", help="Build every step again.")] = False,
) -> None:
    """Build an image here or on a host. Only changed files of CONTEXT are sent."""
    image = _versioned(name, "build takes a name with a version, such as -t train:1.9.1")
    parsed("plugin_utils/images/build_context", "check", context, file)
    # The name of one host: no patterns or group operators.
    if on is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", on):
        raise UsageError(f"--on takes the name of one host: not {on!r}")
    if options.limit is not None:
        raise UsageError("build takes no --limit: --on HOST says where")
    options.variables |= {
        "docker_image_name": str(image),
        "docker_image_build_context": str(context.absolute()),
        "docker_image_build_file": file,
        "docker_image_build_args": build_args(build_arg or []),
        "docker_image_build_target": target,
        "docker_image_build_no_cache": no_cache,
    }
    if on is not None:
        options.variables["gpuprov_build_on"] = options.limit = on

    try:
        run("image build", options, _view(_text.built_lines, _check))  # A host that failed had its line when it did.
    except UsageError as error:
        raise UsageError(str(error).replace("--limit", "--on")) from None


def build_args(texts: list[str]) -> dict[str, str | None]:
    """Parse --build-arg into {NAME: value}; None means from the environment. Raises UsageError."""
    result: dict[str, str | None] = {}
    for text in texts:
        name, given, value = text.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UsageError(f"--build-arg takes NAME=VALUE, or NAME of a variable in the environment: not {name!r}")
        if not given and name not in os.environ:
            raise UsageError(f"--build-arg {name}: there is no {name} in the environment")
        result[name] = value if given else None
    return result


# ---- tag and ls


@command(app, "check")
def tag(options: Options, name: ImageName) -> None:
    """Move the tags 1.9, 1 and latest to the newest versions.

    For when NAME:1.9.1 was added to the hosts.
    """
    image = _versioned(name, "tag takes a name with a version, such as train:1.9.1")
    parsed("plugin_utils/images/image_versions", "read", image.tag)
    options.variables["docker_image_name"] = str(image)

    def moved(run: Run) -> str:
        done = ((host.name, host.changes) for host in run.hosts if not host.error)
        return report.joined(_text.tag_lines(done, run.options.check))

    run("image tag", options, moved, report.short_errors_text)


@command(app)
def ls(options: Options) -> None:
    """List images, those that differ between hosts first. Changes nothing."""
    options.variables["gpuprov_quiet"] = True
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
    run("image ls", options, _view(_text.table, lambda _run: width), report.short_errors_text)


# ---- prune


@command(app, "check", "yes", "wait")
def prune(
    options: Options,
    containers: Annotated[
        bool, Option("--containers", help="Containers that do not run. Neither this nor --images means both.")
    ] = False,
    images: Annotated[
        bool, Option("--images", help="Images without a tag, and versions that newer ones replaced.")
    ] = False,
    everything: Annotated[
        bool, Option("--all", help="Images of any tag that no container uses, but for latest, 1 and 1.9.")
    ] = False,
    older_than: Annotated[
        str, Option(metavar="AGE", help="Only containers that ended, and images that came, longer ago: 7d, 12h.")
    ] = "",
    keep: Annotated[
        int, Option(metavar="N", min=1, help="How many of the newest versions of an image, and of each variant, stay.")
    ] = 3,
) -> None:
    """Remove unused containers and images, after showing them and asking.

    What runs, its image, the newest versions of each variant, what latest, 1 and 1.9 point at, and what has the label
    org.gpuprov.keep=true stay, whatever is asked.
    """
    parsed("module_utils/images/image_prune", "age", older_than)
    if not (options.yes or options.check or sys.stdin.isatty()):
        raise UsageError("prune asks before it removes anything: without a terminal give --yes, or --check to look")
    options.variables |= {
        "docker_image_prune_containers": containers,
        "docker_image_prune_images": images,
        "docker_image_prune_all": everything,
        "docker_image_prune_older_than": older_than,
        "docker_image_prune_keep": keep,
        "gpuprov_quiet": True,
    }
    going, freed = _view(_text.prune_lines), (_view(_text.freed_lines), report.short_errors_text)
    if options.check:
        run("image prune", options, going, report.short_errors_text)
    if options.yes:
        run("image prune", options, *freed, preview=going)
    options.passwords = passwords_of(options)
    done = play(Run("image prune", dataclasses.replace(options, check=True)), going, report.short_errors_text)
    only = {
        name: [one["id"] for one in (*image["containers"], *image["images"])] for name, image in _images(done).items()
    }
    if not done.interrupted and any(only.values()):
        if not typer.confirm("Remove this?", err=True):
            raise UsageError("nothing was done")
        options.variables["docker_image_prune_only"] = only
        done = play(Run("image prune", options), *freed)
    finish(done)


# ---- ship, load and save. Failed hosts had their line when they failed.
_SHIPPED = _view(_text.transfer_lines, _check, lambda run: len(run.hosts))


@command(app, "check")
def ship(
    options: Options,
    name: ImageName,
    source: Annotated[
        str,
        Option(
            "--from", metavar="local|HOST|FILE", help="Docker on this machine, a host of the inventory, or an archive."
        ),
    ] = "local",
) -> None:
    """Copy an image to all hosts. Only layers that a host lacks are sent."""
    path = Path(source).expanduser()
    if "/" in source or (source != "local" and path.is_file()):
        source = str(path.absolute())
    options.variables |= {
        "docker_image_transfer_name": parsed("module_utils/images/image_name", "tagged", name),
        "docker_image_transfer_from": source,
        "gpuprov_quiet": True,
    }
    run("image ship", options, _SHIPPED)


@command(app, "check")
def load(
    options: Options,
    file: Annotated[Path, Argument(metavar="FILE", help="An archive of docker save, or of image save.")],
) -> None:
    """Load an archive on all hosts. Only layers that a host lacks are sent."""
    options.variables |= {"docker_image_transfer_file": str(file.expanduser().absolute()), "gpuprov_quiet": True}
    run("image load", options, _SHIPPED)


@command(app, inventory=NO_INVENTORY)
def save(
    options: Options,
    name: ImageName,
    output: Annotated[
        Path, Option("--output", "-o", metavar="FILE", help="Ends in .tar, .tar.gz, .tar.zst or .tar.bz2.")
    ],
    source: Annotated[
        str, Option("--from", metavar="local|HOST", help="Docker on this machine, or a host of the inventory.")
    ] = "local",
) -> None:
    """Write an image to an archive, and its checksum to FILE.sha256. INVENTORY is only needed for --from HOST."""
    if source != "local" and options.inventory == NO_INVENTORY:
        raise UsageError(f"--from {source} needs the INVENTORY that {source} is in")
    options.variables |= {
        "docker_image_transfer_name": parsed("module_utils/images/image_name", "tagged", name),
        "docker_image_transfer_from": source,
        "docker_image_transfer_file": str(output.expanduser().absolute()),
    }
    run("image save", options, _view(_text.saved_lines))
