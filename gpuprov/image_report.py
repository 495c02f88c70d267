"""Text about the runs of ``gpuprov image``: pure functions over their results."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from gpuprov.report import change_lines, grouped, grouped_lines, host_ranges, interrupted_text, table_text
from gpuprov.result import Host, Run, counted, natural
from gpuprov.shared import plugin

_text = plugin("plugin_utils/text/image_text")
size_text, short_id = _text.size_text, _text.short_id
# Longer names get a line of their own.
_NAME = 40


# ---- build


def built_text(hosts: list[Host], check: bool) -> str:
    """Describe the image that was built and how much of the context was sent."""
    text = ""
    for host in hosts:
        image = host.image or {}
        if "sent" not in image or host.error:
            continue
        sent = f"{counted(image['sent']['files'], 'file')} ({size_text(image['sent']['bytes'])})"
        made = "to build" if check else f"is {short_id(image['id'])}, {size_text(image['size'])}"
        text += f"{host.name}: {image['name']} {made}; {sent} of the context {'to send' if check else 'sent'}\n"
    return text


# ---- ls


def ls_text(hosts: list[Host], width: int = 80) -> str:
    """Return a table of images and the hosts that have them, with those that differ between hosts first.

    If a name is not the same image on all hosts, or some hosts lack it, each case has a line, the first marked ≠.
    """
    listed = [host for host in hosts if host.image and not host.error]
    if not listed:
        return ""
    rows = sorted(_image_rows(listed), key=lambda row: (row[0] == 1, natural(row[1])))
    names = [name for _cases, name, _lines in rows if len(name) <= _NAME]
    column = max(map(len, ["image", *names]))
    room = max(width - column - 28, 16)
    text = f"   {'image':<{column}}  {'ID':<12}  {'size':>7}  hosts\n" if rows else ""
    for cases, name, lines in rows:
        mark = " " if cases == 1 else "≠"
        if len(name) > _NAME:
            text += f"{mark}  {name}\n"
            mark, name = " ", ""
        for image_id, size, label in lines:
            for part in textwrap.wrap(label, room, break_long_words=False) or [""]:
                text += f"{mark}  {name:<{column}}  {image_id:<12}  {size:>7}  {part}".rstrip() + "\n"
                mark, name, image_id, size = " ", "", "", ""
    differ = sum(cases > 1 for cases, _name, _lines in rows)
    text += f"{counted(len(listed), 'host')}, {counted(len(rows), 'image')}"
    if len(listed) > 1:
        text += f": {len(rows) - differ} the same on all, {differ} not"
    return text + ".\n"


def _image_rows(hosts: list[Host]) -> list[tuple[int, str, list[tuple[str, str, str]]]]:
    """Return (number of cases, name, [(ID, size, hosts)]) for each image name; hosts without it are a case too."""
    found: dict[str, dict[str, tuple[dict[str, Any], list[str]]]] = {}
    for host in hosts:
        for image in (host.image or {})["images"]:
            names = image["tags"] or [digest[: digest.index("@") + 20] for digest in image["digests"]]
            for name in names or ["<none>"]:
                # Images without a name share one row.
                _image, having = found.setdefault(name, {}).setdefault(image["content"] if names else "", (image, []))
                having += [host.name] if host.name not in having else []

    def where(names: list[str]) -> str:
        return "all" if len(names) == len(hosts) > 1 else host_ranges(names)

    rows = []
    for name, by_content in found.items():
        cases = sorted(by_content.values(), key=lambda case: len(case[1]), reverse=True)
        without = [host.name for host in hosts if all(host.name not in having for _image, having in cases)]
        lines = [(short_id(image["id"]), size_text(image["size"]), where(having)) for image, having in cases]
        if name == "<none>":
            lines = [("", "", lines[0][2])]
        elif without:
            lines.append(("-", "", where(without)))
        rows.append((len(lines), name, lines))
    return rows


# ---- tag


def tag_text(hosts: list[Host], check: bool) -> str:
    """List the tags that were moved, or would be, on each host."""
    said: list[tuple[tuple[str, ...], Host]] = []
    for host in hosts:
        if not host.error:
            heading = f"{counted(len(host.changes), 'tag')} {'to move' if check else 'moved'}"
            said.append(((heading, *change_lines(host.changes)) if host.changes else ("as wanted",), host))
    return grouped_lines(said)


# ---- prune


def going_text(hosts: list[Host]) -> str:
    """List what will be removed on each host, and how many bytes that frees."""
    said = grouped_lines(
        ((lines[-1], *lines[:-1]), host)
        for host in hosts
        if "bytes" in (host.image or {}) and not host.error and (lines := _text.prune_lines(host.image))
    )
    going = [host.image["bytes"] for host in hosts if host.image and agreed([host])[host.name]]
    total = f" on {counted(len(going), 'host')}" if going else ""
    return f"{said}To free: {size_text(sum(going))}{total}.\n" if said else ""


def agreed(hosts: list[Host]) -> dict[str, list[str]]:
    """Return {host: IDs} of the containers and images that were shown."""
    return {
        host.name: [one["id"] for kind in ("containers", "images") for one in (host.image or {}).get(kind, [])]
        for host in hosts
    }


def freed_text(hosts: list[Host]) -> str:
    """List what was removed on each host, what stayed nevertheless, and how many bytes that freed."""
    said: list[tuple[tuple[str, ...], Host]] = []
    for host in hosts:
        image = host.image or {}
        if "freed" in image:
            gone = {**image["removed"], "bytes": image["freed"]}
            removed = gone["containers"] or gone["images"]
            heading = f"removed: {_text.going_text(gone)}" if removed else "nothing was removed"
            said.append(((heading, *(f"stays: {one['name']}: {one['why']}" for one in image["stayed"])), host))
        elif not host.error:
            said.append((("nothing to remove",), host))
    freed = sum((host.image or {}).get("freed", 0) for host in hosts)
    return f"{grouped_lines(said)}Freed: {size_text(freed)}.\n" if said else ""


# ---- ship, load and save. Failed hosts had their line when they failed.


def shipped_text(run: Run) -> str:
    """Return a table of what was sent, and which image is now on which hosts: one line, or one for each platform."""
    done = [(host, host.image) for host in run.hosts if host.image and not host.error]
    if not done:
        return interrupted_text(run)
    rows: list[tuple[str, ...]] = [("host", "image ID", "layers", "sent", "seconds")]
    for host, image in done:
        layers = f"{image['sent_layers']} of {image['layers']}"
        sent = "not yet" if image["sent_bytes"] is None else size_text(image["sent_bytes"])
        rows.append((host.name, short_id(image.get("shown_as") or image["id"]), layers, sent, f"{host.seconds:.1f}"))
    text = table_text(rows)
    if not run.options.check:
        where = f"all {len(done)} hosts" if len(done) > 1 else "the host"
        if len(done) < len(run.hosts):
            where = f"{len(done)} of {len(run.hosts)} hosts"
        by_id = grouped((image["id"], host) for host, image in done)
        for image_id, there in by_id.items():
            text += f"{', '.join(done[0][1]['names'])} is {image_id} on {where if len(by_id) == 1 else there}.\n"
        others = [(host.name, image["shown_as"]) for host, image in done if image["shown_as"] != image["id"]]
        if others:
            shown = ", ".join(sorted({short_id(one) for _host, one in others}))
            names = host_ranges([host for host, _one in others])
            text += f"containerd shows it as {shown}, the digest of a manifest or an index: {names}\n"
    return text + interrupted_text(run)


def saved_text(run: Run) -> str:
    """Describe the archive that was written, and its checksum."""
    text = ""
    for host in run.hosts:
        if host.image:
            image, file = host.image, Path(host.image["file"])
            told = (image["names"][0], short_id(image["id"]), size_text(image["bytes"]), image["file"])
            text += "  ".join(told) + f"\nsha256 {image['sha256']}, in {file.name}.sha256\n"
    return text + interrupted_text(run)
