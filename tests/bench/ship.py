"""Shipping an image from one host to others: gpuprov beside the pipes that people use. Run by ./dev bench --images."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.lab.lab import Host, Lab, podman

# Programs for the pipes, where the hosts have none: not on PATH, so that gpuprov meets hosts as they are.
PROGRAMS = "/opt/bench"
# Two images of about 333 MB. One has 120 MB that do not shrink and 213 MB that pack to nothing, the other programs,
# libraries and documents of a Debian, and 60 MB that do not shrink, like weights.
IMAGES = {"ship": "acme/made", "ship real": "acme/real"}
CONTEXT = r"""set -e
mkdir -p /tmp/context && cd /tmp/context
if [ ! -e c ]; then
  mkdir a b c
  for i in 1 2 3 4 5 6; do head -c 10000000 /dev/urandom > a/$i; head -c 10000000 /dev/urandom > b/$i; done
  for i in $(seq 71); do head -c 3000000 /dev/zero | tr '\0' "\\$(printf %03o $((i + 32)))" > c/$i; done
  tar -C / -cf files.tar usr/lib usr/share usr/bin/containerd
fi
echo "$1" > version
build() {
  printf 'FROM busybox\n%s\nCOPY version /version\nCMD ["cat", "/version"]\n' "$2" | docker build -q -t "$1" -f - .
}
build "acme/made:$1" 'COPY a /a
COPY b /b
COPY c /c'
build "acme/real:$1" 'ADD files.tar /files
COPY a /a'
"""
PIPES = {
    "save | bzip2": ("| {programs}/bzip2", "{programs}/bunzip2 |"),
    "save | zstd": ("| {programs}/zstd -T0 -q -c", "{programs}/zstd -d -q -c |"),
    "plain save": ("", ""),
}
# gpuprov between hosts that have zstd, as the pipe with zstd needs it.
ZSTD = "gpuprov, zstd"
# The share of one processor for each host, to imitate processors of their own, as outside a lab; and
# the period, in microseconds, in which they get it.
SHARE = 0.1
_PERIOD = 20000
Keep = Callable[..., None]
Run = Callable[[str, Sequence[Host]], None]


def measure(lab: Lab, many: int, turns: int, keep: Keep) -> None:
    """Measure first ships, next versions, and ships to many hosts at once; keep gets each result.

    Hosts share the processors; last, each has its own part of them.
    """
    source, *targets = lab.up(f"debian12:{many + 1}", pristine=True)
    _run(["gpuprov", "provision", str(lab.inventory), "-e", "nvidia_docker_stack=none"])
    for version in ("1", "2"):
        source.run(f"bash -s {version}", input=CONTEXT)
    for host in (source, *targets):
        _copy_programs(host)
    every: dict[str, Run] = dict.fromkeys(("gpuprov", ZSTD), functools.partial(_ship, lab, source))
    every |= {who: functools.partial(_pipe, source, *ends) for who, ends in PIPES.items()}
    for work, image in IMAGES.items():
        size = int(source.run(f"docker image inspect -f '{{{{.Size}}}}' {image}:1").stdout)

        def take(
            who: str, run: Run, hosts: Sequence[Host], version: str, work: str = work, image: str = image,
            size: int = size,
        ) -> None:  # fmt: skip
            name = work if version == "1" else f"{work} next"
            taken = _taken(run, f"{image}:{version}", source, hosts)
            keep(work=name, who=who, hosts=len(hosts), image=size, **taken)

        for _turn in range(turns):
            for who, run in every.items():
                _clear(targets[:1])
                _put_zstd_on_path((source, targets[0]), who == ZSTD)
                take(who, run, targets[:1], "1")
                take(who, run, targets[:1], "2")
                _put_zstd_on_path((source, targets[0]), False)
            _clear(targets)
            take("gpuprov", every["gpuprov"], targets, "1")
            take("gpuprov", every["gpuprov"], targets, "2")
            for hosts in (targets[:1], targets):
                _clear(targets)
                _copy_archives(source, image, hosts)
                take("docker load alone", _load, hosts, "1")
            if work == "ship":
                for hosts in (targets[:1], targets):
                    _clear(targets)
                    with _processors((source, *targets), SHARE):
                        take("gpuprov", every["gpuprov"], hosts, "1", f"{work} held")


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


@contextmanager
def _processors(hosts: Sequence[Host], share: float) -> Iterator[None]:
    """Hold each host to a share of one processor."""

    def hold(most: float) -> None:
        for host in hosts:
            quota = str(int(_PERIOD * most))
            podman("update", "--cpu-period", str(_PERIOD), "--cpu-quota", quota, host.container)

    hold(share)
    try:
        yield
    finally:
        hold(os.cpu_count() or 1)


def _counter(host: Host, way: str) -> int:
    return int(host.run(f"cat /sys/class/net/eth0/statistics/{way}_bytes").stdout)


def _clear(hosts: Sequence[Host]) -> None:
    for host in hosts:
        for image in IMAGES.values():
            host.run(f"docker image ls -q {image} | sort -u | xargs -r docker image rm -f", check=False)
        host.run("rm -f /root/image.tar; sync")


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


def _copy_archives(source: Host, image: str, hosts: Sequence[Host]) -> None:
    """Put what docker save writes onto hosts."""
    with tempfile.TemporaryDirectory() as directory:
        archive = Path(directory) / "image.tar"
        with archive.open("wb") as file:
            words = ["ssh", *source.ssh_options(), f"root@{source.address}", f"docker save {image}:1"]
            subprocess.run(words, stdout=file, check=True)
        for host in hosts:
            podman("cp", str(archive), f"{host.container}:/root/image.tar")


def _load(_name: str, hosts: Sequence[Host]) -> None:
    """Load an image whose archive is on each host already, on all hosts at once."""
    running = [
        subprocess.Popen(["ssh", *host.ssh_options(), f"root@{host.address}", "docker load -q -i /root/image.tar"])
        for host in hosts
    ]
    statuses = [one.wait() for one in running]
    if any(statuses):
        raise RuntimeError("docker load failed on a host")


def _copy_programs(host: Host) -> None:
    host.run(f"mkdir -p {PROGRAMS}")
    for program in ("bzip2", "bunzip2", "zstd"):
        podman("cp", f"/usr/bin/{program}", f"{host.container}:{PROGRAMS}/{program}")


def _put_zstd_on_path(hosts: Sequence[Host], there: bool) -> None:
    for host in hosts:
        host.run(f"ln -sf {PROGRAMS}/zstd /usr/local/bin/zstd" if there else "rm -f /usr/local/bin/zstd")


def _run(words: list[str]) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(words, env={**os.environ, "PATH": path}, text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{json.dumps(words)} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
