"""A simulated fleet: many inventory names over a few lab hosts.

Each name has a port of its own on its host, which nftables redirects to sshd. The rules are in the host's own network
namespace, so a fleet goes with its hosts. sshd itself listens at 16 ports at most.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab import images
from tests.lab.lab import Host, Lab, podman

FIRST_PORT = 20001
# refused: nothing listens at the port; silent: packets are dropped; unknown: the host key is not in known_hosts.
DEAD = ("refused", "silent", "unknown")
_RULES = """\
table inet gpuprov_fleet
delete table inet gpuprov_fleet
table inet gpuprov_fleet {{
    chain silent {{
        type filter hook prerouting priority mangle
        tcp dport {{ {silent} }} drop
    }}
    chain names {{
        type nat hook prerouting priority dstnat
        tcp dport {{ {redirected} }} redirect to :22
    }}
}}
"""


@dataclass(frozen=True)
class Name:
    """A name of the fleet, the host that answers for it, and its port there. dead: one of DEAD, or ""."""

    name: str
    host: Host
    port: int
    dead: str = ""


def names(hosts: Sequence[Host], count: int, dead: Mapping[str, int]) -> list[Name]:
    """Return a fleet of so many names, spread over the hosts; dead is {one of DEAD: how many}, spread over the names.

    Raises ValueError where more are dead than there are.
    """
    kinds = [kind for kind in DEAD for _ in range(dead.get(kind, 0))]
    if len(kinds) > count:
        raise ValueError(f"{len(kinds)} of {count} names cannot be dead")
    states = {(2 * number + 1) * count // (2 * len(kinds)): kind for number, kind in enumerate(kinds)}
    width = len(str(count))
    return [
        Name(f"gpu{number + 1:0{width}}", hosts[number % len(hosts)], FIRST_PORT + number, states.get(number, ""))
        for number in range(count)
    ]


def ruleset(fleet: Sequence[Name]) -> str:
    """Return nft's commands for one host: its names' ports are redirected, dropped, or left closed."""
    # A set must not be empty. Port 1 belongs to no name.
    silent = [str(one.port) for one in fleet if one.dead == "silent"] or ["1"]
    redirected = [str(one.port) for one in fleet if one.dead in ("", "unknown")] or ["1"]
    return _RULES.format(silent=", ".join(silent), redirected=", ".join(redirected))


def known_hosts(fleet: Sequence[Name], key: str) -> str:
    """Return the text of known_hosts; key is the type and the text of the hosts' key."""
    return "".join(f"[{one.host.address}]:{one.port} {key}\n" for one in fleet if one.dead != "unknown")


def inventory(fleet: Sequence[Name], variables: Mapping[str, str]) -> str:
    """Return the text of an INI inventory; variables are those of all names."""
    lines = ["[gpu]", *(f"{one.name} ansible_host={one.host.address} ansible_port={one.port}" for one in fleet)]
    lines += ["", "[all:vars]", *(f"{name}={value}" for name, value in variables.items())]
    return "\n".join(lines) + "\n"


def make(lab: Lab, fleet: Sequence[Name]) -> Path:
    """Redirect the ports of a fleet over the lab's hosts, and return the path of its inventory.

    It replaces the lab's earlier fleet. Raises RuntimeError where nft fails.
    """
    for host in {one.host.name: one.host for one in fleet}.values():
        pid = podman("inspect", "--format", "{{.State.Pid}}", host.container).stdout.strip()
        rules = ruleset([one for one in fleet if one.host == host])
        done = subprocess.run(
            ["nsenter", "--net", "--target", pid, "nft", "-f", "-"],
            input=rules, text=True, capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{host.name}: nft: {done.stderr}")
    known = lab.directory / "fleet_known_hosts"
    key = " ".join(Path(f"{images.host_key()}.pub").read_text(encoding="utf-8").split()[:2])
    known.write_text(known_hosts(fleet, key), encoding="utf-8")
    variables = {**lab.variables(), "ansible_ssh_common_args": f"'-o UserKnownHostsFile={known}'"}
    path = lab.directory / "fleet.ini"
    path.write_text(inventory(fleet, variables), encoding="utf-8")
    return path
