"""The command ``gpuprov bundle``, which runs on this machine alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from gpuprov.options import UsageError
from gpuprov.shared import plugin

BUNDLE_HELP = (
    "Exit status: 0 the bundle is complete; 2 --verify found something wrong; 1 gpuprov could not run; 130 interrupted."
)


def bundle(
    output: Annotated[Path, Option("--output", "-o", metavar="DIRECTORY", help="The bundle.")],
    inventory: Annotated[
        str, Argument(metavar="INVENTORY", help="The lock is beside it; without --lock and --verify it is needed.")
    ] = "",
    lock: Annotated[Path | None, Option(metavar="FILE", help="This lock, without an inventory.")] = None,
    systems: Annotated[
        str, Option("--os", metavar="CODENAME,…", help="Only these releases of the lock, such as noble,trixie.")
    ] = "",
    images: Annotated[
        list[str] | None,
        Option(
            "--image",
            metavar="NAME",
            help="An image for the bundle, such as hello-world; repeat it for more. Without it the bundle keeps the"
            " images that it has; an empty name removes them.",
        ),
    ] = None,
    verify: Annotated[bool, Option("--verify", help="Download nothing; name files that are not as they were.")] = False,
) -> None:
    """Download what hosts without a network need.

    That is the packages of the lock, and images. An interrupted run is continued.
    """
    from rich.console import Console
    from rich.progress import DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    contents: Any = plugin("plugin_utils/bundle/contents")
    locks: Any = plugin("plugin_utils/lock/lock_file")
    try:
        if verify:
            said = contents.problems(output)
            typer.echo("\n".join(said or [f"{output}: every file is as it was made"]))
            raise typer.Exit(2 if said else 0)
        if not lock and not inventory:
            raise UsageError("bundle takes the INVENTORY that the lock is beside, or --lock FILE")
        names = [name.strip() for name in systems.split(",") if name.strip()]
        wanted = contents.chosen(locks.load(lock or locks.beside(Path(inventory))), names)
        begun, console = time.monotonic(), Console(stderr=True)
        columns = (TextColumn("bundle"), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("bundle", total=None)
            size = contents.make(
                wanted,
                output,
                lambda count: progress.advance(task, count),
                lambda all: progress.update(task, total=all),
                None if images is None else [name for name in images if name],
                lambda line: progress.console.print(line, highlight=False, markup=False, soft_wrap=True),
            )
    except ValueError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{error.filename or output}: {error.strerror}. The next run continues") from None
    duration = plugin("plugin_utils/text/fleet").duration(time.monotonic() - begun)
    typer.echo(f"{output}: {size / 2**20:.1f} MiB in {duration}")
