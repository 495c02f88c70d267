"""Shipping an image from one host to others: gpuprov beside the pipes that people use. Run by ./dev bench --images."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.lab.lab import Host, Lab, podman

# Programs for the pipes, where the hosts have none: not on PATH, so that gpuprov meets hosts as they are.
PROGRAMS = "/opt/bench"
IMAGE = "acme/train"
# About 333 MB, of which 213 MB pack to nothing: a small base, two layers like weights, one like zeros, a small one.
CONTEXT = r"""set -e
mkdir -p /tmp/context && cd /tmp/context
if [ ! -e c ]; then
  mkdir a b c
  for i in 1 2 3 4 5 6; do head -c 10000000 /dev/urandom > a/$i; head -c 10000000 /dev/urandom > b/$i; done
  for i in $(seq 71); do head -c 3000000 /dev/zero | tr '\0' "\\$(printf %03o $((i + 32)))" > c/$i; done
fi
echo "$2" > version
printf 'FROM busybox\nCOPY a /a\nCOPY b /b\nCOPY c /c\nCOPY version /version\nCMD ["cat", "/version"]\n' > Dockerfile
docker build -q -t "$1:$2" .
"""
PIPES = {
    "save | bzip2": ("| {programs}/bzip2", "{programs}/bunzip2 |"),
    "save | zstd": ("| {programs}/zstd -T0 -q -c", "{programs}/zstd -d -q -c |"),
    "plain save": ("", ""),
}
Keep = Callable[..., None]
Run = Callable[[str, Sequence[Host]], None]


def measure(lab: Lab, many: int, turns: int, keep: Keep) -> None:
    """Measure first ships, next versions, and ships to many hosts at once; keep gets each result."""
    source, *targets = lab.up(f"debian12:{many + 1}", pristine=True)
    _run(["gpuprov", "provision", str(lab.inventory), "-e", "nvidia_docker_stack=none"])
    for version in ("1", "2"):
        source.run(f"bash -s {IMAGE} {version}", input=CONTEXT)
    for host in targets:
        _copy_programs(host)
    _copy_programs(source)
    size = int(source.run(f"docker image inspect -f '{{{{.Size}}}}' {IMAGE}:1").stdout)
    every: dict[str, Run] = {"gpuprov": functools.partial(_ship, lab, source)}
    every |= {who: functools.partial(_pipe, source, *ends) for who, ends in PIPES.items()}
    for _turn in range(turns):
        for who, run in every.items():
            first = targets[:1]
            _clear(first)
            keep(work="ship", who=who, hosts=1, image=size, **_taken(run, f"{IMAGE}:1", source, first))
            keep(work="ship next", who=who, hosts=1, image=size, **_taken(run, f"{IMAGE}:2", source, first))
        _clear(targets)
        keep(
            work="ship",
            who="gpuprov",
            hosts=many,
            image=size,
            **_taken(every["gpuprov"], f"{IMAGE}:1", source, targets),
        )
        keep(
            work="ship next", who="gpuprov", hosts=many, image=size,
            **_taken(every["gpuprov"], f"{IMAGE}:2", source, targets),
        )  # fmt: skip


def _taken(run: Run, name: str, source: Host, hosts: Sequence[Host]) -> dict[str, Any]:
    """Seconds, and bytes that came to the hosts and left the source. Raises RuntimeError unless all have the image."""
    wanted = source.run(f"docker image inspect -f '{{{{.Id}}}}' {name}").stdout
    before = [_counter(source, "tx"), *(_counter(host, "rx") for host in hosts)]
    begun = time.monotonic()
    run(name, hosts)
    seconds = time.monotonic() - begun
    after = [_counter(source, "tx"), *(_counter(host, "rx") for host in hosts)]
    for host in hosts:
        found = host.run(f"docker image inspect -f '{{{{.Id}}}}' {name}", check=False).stdout
        if found != wanted:
            raise RuntimeError(f"{host.name} has not {name}: {found or 'nothing'}")
    left, *came = [end - start for start, end in zip(before, after, strict=True)]
    return {"seconds": round(seconds, 3), "left": left, "came": max(came)}


def _counter(host: Host, way: str) -> int:
    return int(host.run(f"cat /sys/class/net/eth0/statistics/{way}_bytes").stdout)


def _clear(hosts: Sequence[Host]) -> None:
    for host in hosts:
        host.run(f"docker image ls -q {IMAGE} | sort -u | xargs -r docker image rm -f; sync", check=False)


def _ship(lab: Lab, source: Host, name: str, hosts: Sequence[Host]) -> None:
    limit = ",".join(host.name for host in hosts)
    _run(["gpuprov", "image", "ship", name, str(lab.inventory), "--from", source.name, "--limit", limit])


def _pipe(source: Host, pack: str, unpack: str, name: str, hosts: Sequence[Host]) -> None:
    """From the source through this machine to each host, one after the other, as people do it."""
    for host in hosts:
        ends = [
            ["ssh", *source.ssh_options(), f"root@{source.address}", f"docker save {name} {pack}"],
            ["ssh", *host.ssh_options(), f"root@{host.address}", f"{unpack} docker load"],
        ]
        one = subprocess.Popen([word.format(programs=PROGRAMS) for word in ends[0]], stdout=subprocess.PIPE)
        other = subprocess.run(
            [word.format(programs=PROGRAMS) for word in ends[1]], stdin=one.stdout, capture_output=True, check=False
        )
        if one.wait() or other.returncode:
            raise RuntimeError(f"the pipe to {host.name} failed: {other.stderr.decode()[-1000:]}")


def _copy_programs(host: Host) -> None:
    host.run(f"mkdir -p {PROGRAMS}")
    for program in ("bzip2", "bunzip2", "zstd"):
        podman("cp", f"/usr/bin/{program}", f"{host.container}:{PROGRAMS}/{program}")


def _run(words: list[str]) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(words, env={**os.environ, "PATH": path}, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{json.dumps(words)} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
