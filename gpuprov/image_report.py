"""Text about the runs of ``gpuprov image``: pure functions over the data collected from events."""

from __future__ import annotations

import textwrap
from typing import Any

from gpuprov.report import Host, as_counted, change_text, cure, host_ranges, together
from gpuprov.shared import plugin_utils

_text: Any = plugin_utils("image_text")

# Longer names get a line of their own.
_NAME = 40


def errors_text(hosts: list[Host]) -> str:
    """Return the errors of the hosts; hosts with the same error are grouped."""
    said: dict[str, list[str]] = {}
    for host in hosts:
        if host.error:
            word = "unreachable" if host.unreachable else "failed"
            hint = cure(host)
            said.setdefault(f"{word}: {host.error['message']}{hint and f' ({hint})'}", []).append(host.name)
    return "".join(f"{host_ranges(names)}: {text}\n" for text, names in said.items())


# ---- build


def built_text(hosts: list[Host], check: bool) -> str:
    """Describe the image that was built and how much of the context was sent."""
    text = ""
    for host in hosts:
        image = host.image or {}
        if "sent" not in image or host.error:
            continue
        sent = f"{_text.counted(image['sent']['files'], 'file')} ({_text.size_text(image['sent']['bytes'])})"
        if check:
            text += f"{host.name}: {image['name']} to build; {sent} of the context to send\n"
        else:
            made = f"{image['name']} is {_text.short_id(image['id'])}, {_text.size_text(image['size'])}"
            text += f"{host.name}: {made}; {sent} of the context sent\n"
    return text


# ---- ls


def ls_text(hosts: list[Host], width: int = 80) -> str:
    """Return a table of images and the hosts that have them, with those that differ between hosts first.

    If a name is not the same image on all hosts, or some hosts lack it, each case has a line, the first marked ≠.
    """
    listed = [host for host in hosts if host.image and not host.error]
    if not listed:
        return ""
    rows = sorted(_image_rows(listed), key=lambda row: (row[0] == 1, as_counted(row[1])))
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
    text += f"{_text.counted(len(listed), 'host')}, {_text.counted(len(rows), 'image')}"
    if len(listed) > 1:
        text += f": {len(rows) - differ} the same on all, {differ} not"
    return text + ".\n"


def _image_rows(hosts: list[Host]) -> list[tuple[int, str, list[tuple[str, str, str]]]]:
    """Return (number of cases, name, [(ID, size, hosts)]) for each image name; hosts without it are a case too."""
    found: dict[str, dict[str, list[tuple[Host, dict[str, Any]]]]] = {}
    for host in hosts:
        for image in (host.image or {})["images"]:
            names = image["tags"] or [_short(digest) for digest in image["digests"]]
            for name in names or ["<none>"]:
                # Images without a name share one row.
                key = image["content"] if names else ""
                cases = found.setdefault(name, {}).setdefault(key, [])
                if names or all(one is not host for one, _image in cases):
                    cases.append((host, image))
    rows = []
    for name, by_content in found.items():
        lines = []
        for cases in sorted(by_content.values(), key=len, reverse=True):
            image = cases[0][1]
            label = _hosts_text([host.name for host, _image in cases], hosts)
            if name == "<none>":
                lines.append(("", "", label))
            else:
                lines.append((_text.short_id(image["id"]), _text.size_text(image["size"]), label))
        having = {host.name for cases in by_content.values() for host, _image in cases}
        without = [host.name for host in hosts if host.name not in having]
        if without and name != "<none>":
            lines.append(("-", "", _hosts_text(without, hosts)))
        rows.append((1 if name == "<none>" else len(lines), name, lines))
    return rows


def _short(digest: str) -> str:
    name, _at, value = digest.partition("@")
    return f"{name}@{value[:19]}"


def _hosts_text(names: list[str], hosts: list[Host]) -> str:
    return "all" if len(names) == len(hosts) > 1 else host_ranges(names)


# ---- tag


def tag_text(hosts: list[Host], check: bool) -> str:
    """List the tags that were moved, or would be, on each host."""
    said = []
    for host in hosts:
        if not host.error:
            width = max((len(change["subject"]) for change in host.changes), default=0)
            lines = [f"{change['subject']:<{width}}  {change_text(change)}" for change in host.changes]
            heading = f"{_text.counted(len(lines), 'tag')} {'to move' if check else 'moved'}"
            said.append((host, (heading, *lines) if lines else ("as wanted",)))
    return together(said)


# ---- prune


def going_text(hosts: list[Host]) -> str:
    """List what will be removed on each host, and how many bytes that frees."""
    said = []
    for host in hosts:
        image = host.image or {}
        if "bytes" in image and not host.error:
            lines = (_text.going_text(image), *_aligned(_text.going_rows(image)))
            said.append((host, lines))
    going = [host.image["bytes"] for host in hosts if host.image and _goes(host)]
    total = f" on {_text.counted(len(going), 'host')}" if going else ""
    return f"{together(said)}To free: {_text.size_text(sum(going))}{total}.\n" if said else ""


def _goes(host: Host) -> bool:
    image = host.image or {}
    return bool(image.get("containers") or image.get("images"))


def anything_goes(hosts: list[Host]) -> bool:
    """Return whether there is anything to remove on any host."""
    return any(_goes(host) for host in hosts)


def agreed(hosts: list[Host]) -> dict[str, list[str]]:
    """Return {host: IDs} of the containers and images that were shown."""
    return {
        host.name: [one["id"] for kind in ("containers", "images") for one in (host.image or {}).get(kind, [])]
        for host in hosts
    }


def freed_text(hosts: list[Host]) -> str:
    """List what was removed on each host, what stayed nevertheless, and how many bytes that freed."""
    said: list[tuple[Host, tuple[str, ...]]] = []
    for host in hosts:
        image = host.image or {}
        if "freed" in image:
            gone = {**image["removed"], "bytes": image["freed"]}
            removed = gone["containers"] or gone["images"]
            heading = f"removed: {_text.going_text(gone)}" if removed else "nothing was removed"
            stayed = [f"stays: {one['name']}: {one['why']}" for one in image["stayed"]]
            said.append((host, (heading, *stayed)))
        elif not host.error:
            said.append((host, ("nothing to remove",)))
    freed = sum((host.image or {}).get("freed", 0) for host in hosts)
    return f"{together(said)}Freed: {_text.size_text(freed)}.\n" if said else ""


def _aligned(rows: list[tuple[str, str, str]]) -> list[str]:
    first, second = (max((len(row[column]) for row in rows), default=0) for column in (0, 1))
    return [f"{what:<{first}}  {why:<{second}}  {size:>8}".rstrip() for what, why, size in rows]
