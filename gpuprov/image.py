"""The commands of ``gpuprov image``. Each runs one playbook and reports the result."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from gpuprov import image_report, image_transfer, report, runner
from gpuprov.command import (
    STATUS_HELP,
    WAIT_SECONDS,
    Check,
    Json,
    Ran,
    Say,
    Wait,
    in_order,
    interrupted_text,
    passwords_of,
    play,
    run,
    takes_options,
)
from gpuprov.runner import Options, UsageError
from gpuprov.shared import module_utils, plugin_utils

app = typer.Typer(
    help="Images on the hosts: build, ship, tag, list, clean up.", no_args_is_help=True, rich_markup_mode=None
)

ImageName = Annotated[
    str, typer.Argument(metavar="NAME:TAG", help="An image, e.g. registry.example.com:5000/train:1.9.1")
]


image_transfer.register(app)


@app.callback()
def _main() -> None:
    return None


def checked_image(text: str) -> Any:
    """Parse text into an ImageName (plugins/module_utils/image_name.py). Raises UsageError."""
    names = module_utils("image_name")
    try:
        return names.parse(text)
    except names.ImageNameError as error:
        raise UsageError(str(error)) from None


# The name of one host: no patterns or group operators.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
_BUILD_ARG = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@app.command(epilog=STATUS_HELP)
@functools.partial(takes_options, inventory="localhost,")
def build(
    options: Options,
    context: Annotated[Path, typer.Argument(metavar="CONTEXT", help="The directory to build from.")],
    name: Annotated[str, typer.Option("--tag", "-t", metavar="NAME:VERSION", help="Name of the image.")],
    on: Annotated[
        str | None,
        typer.Option("--on", metavar="HOST", help="Build on this host of the inventory; default: this machine."),
    ] = None,
    build_arg: Annotated[
        list[str] | None,
        typer.Option(
            "--build-arg", metavar="NAME[=VALUE]", help="Without =VALUE it is taken from the environment; repeatable."
        ),
    ] = None,
    file: Annotated[str, typer.Option("--file", metavar="FILE", help="The Dockerfile, in CONTEXT.")] = "Dockerfile",
    target: Annotated[str, typer.Option("--target", metavar="STAGE", help="Build up to this stage.")] = "",
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Build every step again.")] = False,
    check: Check = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Build an image here or on a host. Only changed files of CONTEXT are sent."""
    image = checked_image(name)
    if image.tag is None or image.digest is not None:
        raise UsageError(f"build takes a name with a version, such as -t train:1.9.1: not {name}")
    if not context.is_dir():
        raise UsageError(f"the build context {context} is not a directory")
    if not (context / file).is_file() or os.path.isabs(file) or ".." in Path(file).parts:
        raise UsageError(f"there is no {file} in the build context {context}")
    if on is not None and not _HOST.match(on):
        raise UsageError(f"--on takes the name of one host: not {on!r}")
    if options.limit is not None:
        raise UsageError("build takes no --limit: --on HOST says where")
    options.check = check
    options.variables |= {
        "docker_image_name": str(image),
        "docker_image_build_context": literal(str(context.absolute()), "the build context"),
        "docker_image_build_file": literal(file, "--file"),
        "docker_image_build_args": build_args(build_arg or []),
        "docker_image_build_target": literal(target, "--target"),
        "docker_image_build_no_cache": no_cache,
    }
    if wait:
        options.variables["gpuprov_wait"] = WAIT_SECONDS
    if on is not None:
        options.variables["gpuprov_build_on"] = options.limit = on

    def ending(ran: Ran) -> str:
        # A host that failed had its line when it did.
        return image_report.built_text(ran.hosts, check) + interrupted_text(ran)

    try:
        # With -v, all of Ansible's output is shown anyway.
        run("image build", "image_build.yml", options, ending, as_json, None if options.verbosity else _show_output)
    except UsageError as error:
        raise UsageError(str(error).replace("--limit", "--on")) from None


def _show_output(event: runner.Event, _collected: report.Collector, say: Say) -> None:
    """Print the output of docker build, which arrives as verbose messages of the form "HOST | LINE"."""
    if event.get("event") == "verbose" and re.match(r"[^\s|]+ \| ", event.get("stdout") or ""):
        say(report.redact(event["stdout"]))


def build_args(texts: list[str]) -> dict[str, str | None]:
    """Parse --build-arg into {NAME: value}; None means from the environment. Raises UsageError."""
    result: dict[str, str | None] = {}
    for text in texts:
        name, given, value = text.partition("=")
        if not _BUILD_ARG.match(name):
            raise UsageError(f"--build-arg takes NAME=VALUE, or NAME of a variable in the environment: not {name!r}")
        if not given and name not in os.environ:
            raise UsageError(f"--build-arg {name}: there is no {name} in the environment")
        result[name] = literal(value, f"--build-arg {name}") if given else None
    return result


def literal(text: str, what: str) -> str:
    """Return text unchanged. Raises UsageError if Ansible would evaluate it as a template."""
    if re.search(r"\{[{%#]", text):
        hint = ": give the value by the environment, and --build-arg the name alone" if "--build-arg" in what else ""
        raise UsageError(f"{what} must not contain {{{{, {{% or {{#{hint}")
    return text


@app.command(epilog=STATUS_HELP)
@takes_options
def tag(
    options: Options,
    name: ImageName,
    check: Annotated[
        bool, typer.Option("--dry-run", "--check", "-C", help="Show which tags would move; change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Move the tags 1.9, 1 and latest to the newest versions on the hosts, after NAME:1.9.1 was added."""
    image = checked_image(name)
    if image.tag is None or image.digest is not None:
        raise UsageError(f"tag takes a name with a version, such as train:1.9.1: not {name}")
    versions: Any = plugin_utils("image_versions")
    try:
        versions.read(image.tag)
    except versions.VersionError as error:
        raise UsageError(str(error)) from None
    options.check = check
    options.variables["docker_image_name"] = str(image)

    def ending(ran: Ran) -> str:
        return image_report.tag_text(ran.hosts, check) + image_report.errors_text(ran.hosts) + interrupted_text(ran)

    run("image tag", "image_tag.yml", options, ending, as_json)


@app.command(epilog=STATUS_HELP)
@takes_options
def ls(options: Options, as_json: Json = False) -> None:
    """List the images of the hosts, those that differ between hosts first. Changes nothing."""
    options.variables["gpuprov_quiet"] = True
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80

    def ending(ran: Ran) -> str:
        return image_report.ls_text(ran.hosts, width) + image_report.errors_text(ran.hosts) + interrupted_text(ran)

    run("image ls", "image_ls.yml", options, ending, as_json)


@app.command(epilog=STATUS_HELP)
@takes_options
def prune(
    options: Options,
    containers: Annotated[
        bool, typer.Option("--containers", help="Containers that do not run. Neither this nor --images means both.")
    ] = False,
    images: Annotated[
        bool, typer.Option("--images", help="Images without a tag, and versions that newer ones replaced.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Images of any tag that no container uses, but for latest, 1 and 1.9.")
    ] = False,
    older_than: Annotated[
        str,
        typer.Option(
            "--older-than", metavar="AGE", help="Only containers that ended, and images that came, longer ago: 7d, 12h."
        ),
    ] = "",
    keep: Annotated[
        int,
        typer.Option(
            "--keep", metavar="N", min=1, help="How many of the newest versions of an image, and of each variant, stay."
        ),
    ] = 3,
    check: Check = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Remove unused containers and images, after showing them and asking.

    What runs, its image, the newest versions of each variant, what latest, 1 and 1.9 point at, and what has the label
    org.gpuprov.keep=true stay, whatever is asked.
    """
    decisions: Any = module_utils("image_prune")
    try:
        decisions.age(older_than)
    except decisions.PruneError as error:
        raise UsageError(str(error)) from None
    if not (yes or check or sys.stdin.isatty()):
        raise UsageError("prune asks before it removes anything: without a terminal give --yes, or --check to look")
    options.variables |= {
        "docker_image_prune_containers": containers,
        "docker_image_prune_images": images,
        "docker_image_prune_all": everything,
        "docker_image_prune_older_than": older_than,
        "docker_image_prune_keep": keep,
        "gpuprov_quiet": True,
    }
    if wait:
        options.variables["gpuprov_wait"] = WAIT_SECONDS
    if check:
        run("image prune", "image_prune.yml", dataclasses.replace(options, check=True), _going_ending, as_json)
    if yes:
        run("image prune", "image_prune.yml", options, _freed_ending, as_json, _Shown())
    passwords = passwords_of(options)
    people = sys.stderr if as_json else sys.stdout
    looking = dataclasses.replace(options, check=True)
    looked = play("image prune", "image_prune.yml", looking, _going_ending, people, passwords=passwords)
    if looked.status != 130 and image_report.anything_goes(looked.hosts):
        if not typer.confirm("Remove this?", err=True):
            raise UsageError("nothing was done")
        options.variables["docker_image_prune_only"] = image_report.agreed(looked.hosts)
        looked = play("image prune", "image_prune.yml", options, _freed_ending, people, passwords=passwords)
    if as_json:
        sys.stdout.write(looked.document)
    raise typer.Exit(looked.status)


class _Shown:
    """Show what will be removed on all hosts before the first host removes anything."""

    def __init__(self) -> None:
        self.said = False

    def __call__(self, event: runner.Event, collected: report.Collector, say: Say) -> None:
        task = event.get("event") == "runner_on_start" and report.words_of(event["event_data"].get("task", ""))
        if task == "Remove it" and not self.said:
            self.said = True
            say(image_report.going_text(in_order(collected)).rstrip("\n"))


def _going_ending(ran: Ran) -> str:
    return image_report.going_text(ran.hosts) + image_report.errors_text(ran.hosts) + interrupted_text(ran)


def _freed_ending(ran: Ran) -> str:
    return image_report.freed_text(ran.hosts) + image_report.errors_text(ran.hosts) + interrupted_text(ran)
