"""``gpuprov image ship``, ``save`` and ``load``: copy images from this machine, a host or an archive."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from gpuprov import report, runner
from gpuprov.command import (
    STATUS_HELP,
    Check,
    Json,
    Ran,
    Say,
    interrupted_text,
    play,
    takes_options,
)
from gpuprov.runner import Options, UsageError
from gpuprov.shared import plugin_utils
from gpuprov.transfer_display import transfers

_text: Any = plugin_utils("image_text")

ImageName = Annotated[
    str, typer.Argument(metavar="NAME:TAG", help="An image, e.g. registry.example.com:5000/train:1.9.1")
]
From = Annotated[
    str,
    typer.Option(
        "--from", metavar="local|HOST|FILE", help="Docker on this machine, a host of the inventory, or an archive."
    ),
]
FromHost = Annotated[
    str, typer.Option("--from", metavar="local|HOST", help="Docker on this machine, or a host of the inventory.")
]
# ansible-playbook needs an inventory even if only this machine takes part.
NO_INVENTORY = "localhost,"


def register(app: typer.Typer) -> None:
    """Add the commands to ``gpuprov image``."""
    app.command(epilog=STATUS_HELP)(takes_options(ship))
    app.command(epilog=STATUS_HELP)(takes_options(save, NO_INVENTORY))
    app.command(epilog=STATUS_HELP)(takes_options(load))


def ship(
    options: Options, name: ImageName, source: From = "local", check: Check = False, as_json: Json = False
) -> None:
    """Copy an image to all hosts. Only layers that a host lacks are sent."""
    options.check = check
    options.variables["docker_image_transfer_name"] = _tagged(name)
    options.variables["docker_image_transfer_from"] = _absolute(source)
    _run("image ship", "image_ship.yml", options, _shipped, as_json)


def load(
    options: Options,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive of docker save, or of image save.")],
    check: Check = False,
    as_json: Json = False,
) -> None:
    """Load an archive on all hosts. Only layers that a host lacks are sent."""
    options.check = check
    options.variables["docker_image_transfer_file"] = str(file.expanduser().absolute())
    _run("image load", "image_load.yml", options, _shipped, as_json)


def save(
    options: Options,
    name: ImageName,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Ends in .tar, .tar.gz, .tar.zst or .tar.bz2.")
    ] = None,
    source: FromHost = "local",
    as_json: Json = False,
) -> None:
    """Write an image to an archive, and its checksum to FILE.sha256. INVENTORY is only needed for --from HOST."""
    if output is None:
        raise UsageError("save writes a file: say which with -o FILE")
    if source != "local" and options.inventory == NO_INVENTORY:
        raise UsageError(f"--from {source} needs the INVENTORY that {source} is in")
    options.variables["docker_image_transfer_name"] = _tagged(name)
    options.variables["docker_image_transfer_from"] = source
    options.variables["docker_image_transfer_file"] = str(output.expanduser().absolute())
    _run("image save", "image_save.yml", options, _saved, as_json)


def _tagged(name: str) -> str:
    """Return the full name, with its tag. Raises UsageError."""
    from gpuprov.image import checked_image

    image = checked_image(name)
    if image.digest is not None:
        raise UsageError(f"{name} names a digest: say NAME:TAG")
    return str(image if image.tag is not None else image.with_tag("latest"))


def _absolute(source: str) -> str:
    """Return a source for the playbook. A file becomes absolute, as Ansible runs in another directory."""
    path = Path(source).expanduser()
    return str(path.absolute()) if "/" in source or (source != "local" and path.is_file()) else source


def _run(command: str, playbook: str, options: Options, ending: Any, as_json: bool) -> None:
    import sys

    people: TextIO = sys.stderr if as_json else sys.stdout
    refused: list[str] = []

    def watch(event: runner.Event, _collected: report.Collector, _say: Say) -> None:
        data = event.get("event_data", {})
        result = data.get("res") or {}
        if event.get("event") == "runner_on_failed" and (result.get("before_hosts") or result.get("interrupted")):
            # No host failed: the command itself cannot continue.
            event["event"] = "gpuprov_refused"
            if result.get("before_hosts"):
                refused.append(str(result["msg"]))
        elif "source" in result:
            # The task ran once for all hosts; Ansible reports it for the first of them.
            data["host"] = result["source"]
            result["msg"] = result.get("reason", "")
            if result.get("source_unreachable"):
                event["event"] = "runner_on_unreachable"

    def checked(ran: Ran) -> str:
        if refused and ran.status != 130:
            raise UsageError(refused[0])
        # Failed hosts were reported when they failed.
        return str(ending(ran)) + interrupted_text(ran)

    with transfers(people) as screen:
        try:
            ran = play(command, playbook, options, checked, people, watch=watch, screen=screen)
        except UsageError as error:
            raise UsageError(refused[0] if refused else str(error)) from None
    if as_json:
        sys.stdout.write(ran.document)
    raise typer.Exit(ran.status)


def _shipped(ran: Ran) -> str:
    done = [(host, host.image) for host in ran.hosts if host.image and not host.error]
    if not done:
        return ""
    rows: list[tuple[str, ...]] = [("host", "image ID", "layers", "sent", "seconds")]
    for host, image in done:
        sent = image["sent_bytes"]
        rows.append(
            (
                host.name,
                _text.short_id(image.get("shown_as") or image["id"]),
                f"{image['sent_layers']} of {image['layers']}",
                "not yet" if sent is None else _text.size_text(sent),
                f"{host.seconds:.1f}",
            )
        )
    return report.table_text(rows) + conclusion(ran.hosts, check=ran.options.check)


def conclusion(hosts: list[report.Host], check: bool) -> str:
    """Report which image is now on which hosts: one line, or one for each platform."""
    done = [(host.name, host.image) for host in hosts if host.image and not host.error]
    if check or not done:
        return ""
    names = ", ".join(done[0][1]["names"])
    by_id: dict[str, list[str]] = {}
    for host, image in done:
        by_id.setdefault(image["id"], []).append(host)
    where = f"all {len(done)} hosts" if len(done) > 1 else "the host"
    if len(done) < len(hosts):
        where = f"{len(done)} of {len(hosts)} hosts"
    text = ""
    for one, there in by_id.items():
        text += f"{names} is {one} on {where if len(by_id) == 1 else report.host_ranges(there)}.\n"
    others = {host: image["shown_as"] for host, image in done if image["shown_as"] != image["id"]}
    if others:
        shown = ", ".join(sorted({_text.short_id(one) for one in others.values()}))
        text += (
            f"containerd shows it as {shown}, the digest of a manifest or an index: {report.host_ranges([*others])}\n"
        )
    return text


def _saved(ran: Ran) -> str:
    text = ""
    for host in ran.hosts:
        if host.image:
            image = host.image
            told = (image["names"][0], _text.short_id(image["id"]), _text.size_text(image["bytes"]), image["file"])
            text += "  ".join(told) + "\n"
            text += f"sha256 {image['sha256']}, in {Path(image['file']).name}.sha256\n"
    return text
