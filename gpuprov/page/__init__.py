"""A run as one HTML page, from its JSON document. The template, style and script are in this directory."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gpuprov.shared import plugin

_fleet = plugin("plugin_utils/text/fleet")

_Item = dict[str, Any]
# The statuses of hosts, the most urgent first: {status: (label, tone)}; page.css has a colour for each tone.
STATUSES = {
    "failed": ("failed", "bad"), "unreachable": ("unreachable", "bad"), "interrupted": ("interrupted", "bad"),
    "ill": ("to cure", "bad"), "pending": ("pending", "warn"), "changed": ("changed", "done"),
    "up-to-date": ("up to date", "good"), "healthy": ("healthy", "good"),
}  # fmt: skip
# What a host is and has: {name: (label, from which width of the page on it has a column and a filter)}; see page.css.
_FACETS = {
    "os": ("OS", "wide"), "kernel": ("Kernel", ""), "docker": ("Docker", "wide"), "containerd": ("containerd", ""),
    "nvidia": ("NVIDIA stack", "wider"), "driver": ("Driver", "wider"), "gpus": ("GPUs", "wider"),
}  # fmt: skip


def page(document: dict[str, Any], record: dict[str, Any] | None = None) -> str:
    """Return a page that needs nothing else, given the JSON document of a run (docs/json.md) and the run's record."""
    style, script = (_part(f"page.{kind}") for kind in ("css", "js"))
    # In HTML, "<" is what could end the element that holds the data.
    data = json.dumps(view(document, record or {})).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    title = html.escape(f"gpuprov {document['command']}")
    parts = {"policy": policy, "title": title, "style": style, "script": script, "data": data}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _part("page.html"))


def _part(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def view(document: dict[str, Any], record: dict[str, Any]) -> _Item:
    """Return the data of the page. What several hosts share is there once, and the hosts refer to it by index."""
    names = sorted(document["hosts"], key=_fleet.natural)
    hosts = {name: document["hosts"][name] for name in names}
    groups, indexes = {}, {}
    for kind, items_of in _KINDS.items():
        groups[kind], indexes[kind] = _shared(hosts, items_of)
    facets = {name: _facets(host["facts"]) for name, host in hosts.items()}
    steps: dict[str, list[float]] = {}
    # A host with all steps tells their order.
    for host in sorted(hosts.values(), key=lambda host: -len(host["steps"])):
        for step in host["steps"]:
            steps.setdefault(step["name"], []).append(step["seconds"])
    statuses = [host["status"] for host in hosts.values()]
    present = [status for status in STATUSES if status in statuses]
    counts = [f"{statuses.count(status)} {STATUSES[status][0]}" for status in present]
    return {
        "summary": f"{_fleet.counted(len(hosts), 'host')}: {', '.join(counts)}",
        "when": f"{_began(record)}{_fleet.duration(document['seconds'])}",
        "changes": "Predicted changes" if record.get("options", {}).get("check") else "Changes",
        "statuses": [
            {"name": one, "label": STATUSES[one][0], "tone": STATUSES[one][1], "count": statuses.count(one)}
            for one in present
        ],
        "facets": _versions(facets),
        "groups": groups,
        "steps": [
            {"name": name, "count": len(all_of), "median": statistics.median(all_of), "most": max(all_of)}
            for name, all_of in steps.items()
        ],
        "about": _about(document, record),
        "hosts": [
            {
                "name": name,
                "order": order,
                "status": host["status"],
                "rank": list(STATUSES).index(host["status"]),
                "facets": facets[name],
                "items": {kind: of_hosts[name] for kind, of_hosts in indexes.items()},
                "steps": [[step["name"], step["seconds"], step["changed"]] for step in host["steps"]],
                "left": host["left"],
                "about": {_FACETS[facet][0]: version for facet, version in facets[name].items()},
                "seconds": host["seconds"],
            }
            for order, (name, host) in enumerate(hosts.items())
        ],
    }


# ---- what hosts share


def _shared(
    hosts: dict[str, Any], items_of: Callable[[_Item], Iterable[_Item]]
) -> tuple[list[_Item], dict[str, list[int]]]:
    """Return the items, each with its index, its hosts and what the search finds it by; and {host: indexes}.

    The worst come first, and of these the most frequent; items without a severity stay in their order.
    """
    found: dict[str, list[str]] = {}
    keys = {name: [json.dumps(item) for item in items_of(host)] for name, host in hosts.items()}
    for name, of_host in keys.items():
        for key in dict.fromkeys(of_host):
            found.setdefault(key, []).append(name)
    found = dict(sorted(found.items(), key=lambda pair: _urgency(json.loads(pair[0]), len(pair[1]))))
    number = {key: index for index, key in enumerate(found)}
    items = []
    for key, names in found.items():
        item = json.loads(key)
        texts = [text for text in item.values() if isinstance(text, str)]
        place = {"index": number[key], "count": len(names), "hosts": _fleet.host_ranges(names)}
        items.append({**item, **place, "texts": texts})
    return items, {name: [number[key] for key in dict.fromkeys(of_host)] for name, of_host in keys.items()}


def _urgency(item: _Item, hosts: int) -> tuple[int, int]:
    if "severity" not in item:
        return 0, 0
    return ("error", "warning", "info").index(item["severity"]), -hosts


def _change(change: _Item) -> _Item:
    kept = {key: change.get(key) for key in ("role", "subject")}
    return {**kept, "text": _fleet.change_text(change), "disruption": change.get("disruption", "none")}


def _planned(host: _Item, key: str = "changes") -> list[_Item]:
    return (host["plan"] or {}).get(key, [])


def _pending(host: _Item) -> list[_Item]:
    if host["status"] in ("changed", "up-to-date"):
        return []
    return [_change(change) for change in _planned(host) if change not in host["changes"]]


def _errors(host: _Item) -> list[_Item]:
    error = host["error"]
    return (
        [{"severity": "error", "kind": host["status"], **{key: error[key] for key in ("task", "message", "hint")}}]
        if error
        else []
    )


_KINDS: dict[str, Callable[[_Item], list[_Item]]] = {
    "errors": _errors,
    "findings": lambda host: host["findings"] or [],
    "pending": _pending,
    "changes": lambda host: [_change(change) for change in host["changes"]],
    "left_out": lambda host: [_change(change) for change in _planned(host, "left_out")],
    "notes": lambda host: [{"text": note["message"]} for note in _planned(host, "notes")],
    "checks": lambda host: (host["verify"] or {}).get("checks", []),
}


def _facets(facts: dict[str, Any] | None) -> dict[str, str]:
    found = {**_fleet.versions(facts), "os": _fleet.os_name(facts), "gpus": _fleet.gpus_text(facts)}
    return {name: found[name] for name in _FACETS if found.get(name)}


def _versions(facets: dict[str, dict[str, str]]) -> list[_Item]:
    """Return the facets with their versions on the hosts, the newest first."""
    found = []
    for name, (label, width) in _FACETS.items():
        hosts: dict[str, list[str]] = {}
        for host, of_host in facets.items():
            if name in of_host:
                hosts.setdefault(of_host[name], []).append(host)
        versions = [
            {"version": version, "count": len(hosts[version]), "hosts": _fleet.host_ranges(hosts[version])}
            for version in sorted(hosts, key=_fleet.natural, reverse=True)
        ]
        facet = {"name": name, "label": label, "wide": width, "column": bool(width), "versions": versions}
        found += [facet] if versions else []
    return found


def _began(record: dict[str, Any]) -> str:
    return f"{record['began'].replace('T', ' ')}, " if record else ""


def _about(document: dict[str, Any], record: dict[str, Any]) -> list[tuple[str, str]]:
    told = {"Command": f"gpuprov {document['command']}"}
    if record:
        options = [name if value is True else f"{name}: {value}" for name, value in record["options"].items()]
        told |= {
            "Inventory": record["inventory"],
            "Options": "; ".join(options),
            "Began": record["began"].replace("T", " "),
            "By": f"{record['user']} on {record['machine']}",
            "Run": record["id"],
        }
    # Earlier versions wrote no version.
    versions = record.get("versions") or {"gpuprov": document.get("gpuprov", "")}
    told |= {
        "Duration": _fleet.duration(document["seconds"]),
        "Exit status": str(document["status"]),
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }
    return [(name, text) for name, text in told.items() if text]
