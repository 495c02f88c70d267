"""Text about the runs of ``gpuprov image``: pure functions over their results."""

from __future__ import annotations

from pathlib import Path

from gpuprov.report import by_host, joined
from gpuprov.result import Host, Run
from gpuprov.shared import plugin

_fleet = plugin("plugin_utils/text/fleet")
counted, size_text, short_id = _fleet.counted, _fleet.size_text, _fleet.short_id


# ---- build


def built_text(run: Run) -> str:
    """Describe the image that was built and how much of the context was sent."""
    text = ""
    for host in run.hosts:
        image = host.image or {}
        if "sent" not in image or host.error:
            continue
        sent = f"{counted(image['sent']['files'], 'file')} ({size_text(image['sent']['bytes'])})"
        made = "to build" if run.options.check else f"is {short_id(image['id'])}, {size_text(image['size'])}"
        text += (
            f"{host.name}: {image['name']} {made}; {sent} of the context {'to send' if run.options.check else 'sent'}\n"
        )
    return text


# ---- ls, tag and prune


def ls_text(run: Run, width: int = 80) -> str:
    """Return a table of images and the hosts that have them, with those that differ between hosts first."""
    found = {host.name: host.image["images"] for host in run.hosts if host.image and not host.error}
    return joined(_fleet.images_lines(found, width))


def tag_text(run: Run) -> str:
    """List the tags that were moved, or would be, on each host."""

    def lines(host: Host) -> list[str]:
        heading = f"{counted(len(host.changes), 'tag')} {'to move' if run.options.check else 'moved'}"
        return [heading, *_fleet.change_lines(host.changes)] if host.changes else ["as wanted"]

    return by_host([host for host in run.hosts if not host.error], lines)


def going_text(run: Run) -> str:
    """List what will be removed on each host, and how many bytes that frees."""
    looked = [host for host in run.hosts if "bytes" in (host.image or {}) and not host.error]
    said = by_host(looked, lambda host: _fleet.prune_lines(host.image))
    going = [host.image["bytes"] for host in looked if host.image and _agreed(host)]
    total = f" on {counted(len(going), 'host')}" if going else ""
    return f"{said}To free: {size_text(sum(going))}{total}.\n" if said else ""


def agreed(run: Run) -> dict[str, list[str]]:
    """Return {host: IDs} of the containers and images that were shown."""
    return {host.name: _agreed(host) for host in run.hosts}


def _agreed(host: Host) -> list[str]:
    return [one["id"] for kind in ("containers", "images") for one in (host.image or {}).get(kind, [])]


def freed_text(run: Run) -> str:
    """List what was removed on each host, what stayed nevertheless, and how many bytes that freed."""

    def lines(host: Host) -> list[str]:
        image = host.image or {}
        if "freed" not in image:
            return ["nothing to remove"]
        gone = {**image["removed"], "bytes": image["freed"]}
        removed = gone["containers"] or gone["images"]
        heading = f"removed: {_fleet.going_text(gone)}" if removed else "nothing was removed"
        return [heading, *(f"stays: {one['name']}: {one['why']}" for one in image["stayed"])]

    # A host that failed after it removed something has its line too.
    said = by_host([host for host in run.hosts if not host.error or "freed" in (host.image or {})], lines)
    freed = sum((host.image or {}).get("freed", 0) for host in run.hosts)
    return f"{said}Freed: {size_text(freed)}.\n" if said else ""


# ---- ship, load and save. Failed hosts had their line when they failed.


def shipped_text(run: Run) -> str:
    """Return a table of what was sent, and which image is now on which hosts: one line, or one for each platform."""
    done = [(host, host.image) for host in run.hosts if host.image and not host.error]
    if not done:
        return ""
    rows: list[tuple[str, ...]] = [("host", "image ID", "layers", "sent", "seconds")]
    for host, image in done:
        layers = f"{image['sent_layers']} of {image['layers']}"
        sent = "not yet" if image["sent_bytes"] is None else size_text(image["sent_bytes"])
        rows.append((host.name, short_id(image.get("shown_as") or image["id"]), layers, sent, f"{host.seconds:.1f}"))
    text = joined(_fleet.table_lines(rows))
    if not run.options.check:
        where = f"all {len(done)} hosts" if len(done) > 1 else "the host"
        if len(done) < len(run.hosts):
            where = f"{len(done)} of {len(run.hosts)} hosts"
        by_id = _fleet.grouped((image["id"], host.name) for host, image in done)
        for image_id, there in by_id.items():
            text += f"{', '.join(done[0][1]['names'])} is {image_id} on {where if len(by_id) == 1 else there}.\n"
        others = [(host.name, image["shown_as"]) for host, image in done if image["shown_as"] != image["id"]]
        if others:
            shown = ", ".join(sorted({short_id(one) for _host, one in others}))
            names = _fleet.host_ranges([host for host, _one in others])
            text += f"containerd shows it as {shown}, the digest of a manifest or an index: {names}\n"
    return text


def saved_text(run: Run) -> str:
    """Describe the archive that was written, and its checksum."""
    text = ""
    for host in run.hosts:
        if host.image:
            image, file = host.image, Path(host.image["file"])
            told = (image["names"][0], short_id(image["id"]), size_text(image["bytes"]), image["file"])
            text += "  ".join(told) + f"\nsha256 {image['sha256']}, in {file.name}.sha256\n"
    return text
