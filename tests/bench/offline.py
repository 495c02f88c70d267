"""Measure a bundle, and hosts without a network beside hosts with one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.bench import contenders
from tests.integration.processes import local_registry
from tests.lab.lab import Host, Lab

TITLE = "First install of hosts without a network, from a bundle"
ONLINE, OFFLINE = "with a network", "from a bundle, network cut"
Take = Callable[[str, str, contenders.Run, Lab, Sequence[Host], list[str]], None]


def measure(lab: Lab, size: int, turns: int, take: Take, keep: Callable[..., None]) -> None:
    """Measure making a bundle for one release, and provisioning as many hosts with and without a network."""
    lab.up(f"debian12:{size}", pristine=True)
    hosts, mirrors = lab.hosts(), [lab.mirror]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        lock, bundle = directory / "lock.yml", directory / "bundle"
        with local_registry(directory) as hub:
            image = f"{hub}/library/hello-world"
            _gpuprov("lock", str(lab.inventory), "--limit", hosts[0].name, "-e", f"gpuprov_lock={lock}")
            begun = time.monotonic()
            _gpuprov("bundle", "--lock", str(lock), "-o", str(bundle), "--image", image)
            seconds = round(time.monotonic() - begun, 1)
        files = [path for path in bundle.rglob("*") if path.is_file()]
        size_of = sum(path.stat().st_size for path in files)
        keep(work="bundle", who="gpuprov", hosts=1, seconds=seconds, bytes=size_of, files=len(files))
        held = ("-e", f"gpuprov_lock={lock}")
        online = contenders.gpuprov(*held)
        offline = contenders.gpuprov(*held, "--bundle", str(bundle), "-e", f"gpu_host_verify_image={image}")
        for _turn in range(turns):
            lab.reset()
            take("offline", ONLINE, online, lab, hosts, mirrors)
            lab.reset()
            for host in hosts:
                host.cut()
            take("offline", OFFLINE, offline, lab, hosts, mirrors)
            take("offline again", OFFLINE, offline, lab, hosts, mirrors)


def _gpuprov(*words: str) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "gpuprov"), *words], text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"gpuprov {json.dumps(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def lines(results: list[dict[str, Any]], row: Callable[[str, str, int], list[str]]) -> list[str]:
    """Return the section of the report. row: the cells of (work, who, hosts)."""
    found = [one for one in results if one["work"] == "offline"]
    if not found:
        return []
    hosts = found[0]["hosts"]
    text = [f"### {TITLE}", "", "| hosts | | seconds | to the first line | controller, CPU s | hosts, CPU s |"]
    text += ["|---|---|---|---|---|---|"]
    rows = (("offline", ONLINE), ("offline", OFFLINE), ("offline again", OFFLINE))
    for work, who in rows:
        name = who if work == "offline" else f"{who}, second run"
        text.append(f"| {hosts} | {name} | {' | '.join(row(work, who, hosts))} |")
    made = next(one for one in results if one["work"] == "bundle")
    size = made["bytes"] / 1e6
    told = f"has {made['files']} files of {size:.0f} MB in all; making it took {made['seconds']:.1f} s"
    text += [
        "",
        f"The bundle (one release, with hello-world) {told}, from the lab's server on the",
        "same machine.",
        "",
    ]
    return text
