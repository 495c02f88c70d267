"""A simulated fleet: many inventory names over a few lab hosts.

Each name has a port of its own on its host, which nftables redirects to sshd. The rules are in the host's own network
namespace, so a fleet goes with its hosts. sshd itself listens at 16 ports at most.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.lab import images
from tests.lab.lab import Host, Lab

FIRST_PORT = 20001
# refused: nothing listens at the port; silent: packets are dropped; unknown: the host key is not in known_hosts; wrong:
# a web server listens; garbage: sshd runs its own command whatever it is asked to run.
DEAD = ("refused", "silent", "unknown", "wrong", "garbage")
# slow: each packet takes SLOW seconds; late: the first answer takes LATE seconds.
KINDS = (*DEAD, "slow", "late")
SLOW, LATE = 0.15, 8.0
# The port on the host to which a name's port is redirected. Those of silent and refused names are not.
_PORTS = {"": 22, "unknown": 22, "slow": 2201, "late": 2202, "wrong": 2203, "garbage": 2204}
_RULES = """\
table inet gpuprov_fleet
delete table inet gpuprov_fleet
table inet gpuprov_fleet {{
    chain silent {{
        type filter hook prerouting priority mangle
        {silent}
    }}
    chain names {{
        type nat hook prerouting priority dstnat
        {redirected}
    }}
}}
"""
_STAND_IN = Path(__file__).with_name("fleet_stand_in.py")
# Both end with the host. sshd's ForceCommand answers every command.
_UNITS = """\
systemctl stop 'gpuprov-fleet-*' && systemctl reset-failed 'gpuprov-fleet-*'
systemd-run --quiet --collect --unit gpuprov-fleet-stand-in -p Type=notify -p NotifyAccess=all \
  python3 -c {script} {ports}
systemd-run --quiet --collect --unit gpuprov-fleet-garbage -p Type=notify \
  /usr/sbin/sshd -D -p {garbage} -o PidFile=none -o 'ForceCommand=echo ~~ garbage ~~'
"""


@dataclass(frozen=True)
class Name:
    """A name of the fleet, the host that answers for it, and its port there. kind: one of KINDS, or ""."""

    name: str
    host: Host
    port: int
    kind: str = ""


def names(hosts: Sequence[Host], count: int, kinds: Mapping[str, int]) -> list[Name]:
    """Return a fleet of so many names, spread over the hosts; kinds is {one of KINDS: how many}, spread over the names.

    Raises ValueError where more have a kind than there are.
    """
    turns = range(max(kinds.values(), default=0))
    # In turns, or each kind would have a part of the fleet to itself.
    of = [kind for turn in turns for kind in KINDS if turn < kinds.get(kind, 0)]
    if len(of) > count:
        raise ValueError(f"{len(of)} of {count} names cannot be {', '.join(dict.fromkeys(of))}")
    at = {(2 * number + 1) * count // (2 * len(of)): kind for number, kind in enumerate(of)}
    width = len(str(count))
    return [
        Name(f"gpu{number + 1:0{width}}", hosts[number % len(hosts)], FIRST_PORT + number, at.get(number, ""))
        for number in range(count)
    ]


def ruleset(fleet: Sequence[Name]) -> str:
    """Return nft's commands for one host: its names' ports are redirected, dropped, or left closed."""
    ports: dict[int, list[str]] = {}
    for one in fleet:
        if one.kind in _PORTS:
            ports.setdefault(_PORTS[one.kind], []).append(str(one.port))
    silent = ", ".join(str(one.port) for one in fleet if one.kind == "silent")
    rules = [f"tcp dport {{ {', '.join(of)} }} redirect to :{to}" for to, of in sorted(ports.items())]
    return _RULES.format(silent=f"tcp dport {{ {silent} }} drop" if silent else "", redirected="\n        ".join(rules))


def known_hosts(fleet: Sequence[Name], key: str) -> str:
    """Return the text of known_hosts; key is the type and the text of the hosts' key."""
    return "".join(f"[{one.host.address}]:{one.port} {key}\n" for one in fleet if one.kind != "unknown")


def units() -> str:
    """Return shell commands that start the servers which slow, late, wrong and garbage names are redirected to."""
    seconds = {"slow": SLOW, "late": LATE, "wrong": 0}
    ports = " ".join(f"{_PORTS[kind]}={kind}:{of}" for kind, of in seconds.items())
    script = shlex.quote(_STAND_IN.read_text(encoding="utf-8"))
    return _UNITS.format(script=script, ports=ports, garbage=_PORTS["garbage"])


def inventory(fleet: Sequence[Name], variables: Mapping[str, str]) -> str:
    """Return the text of an INI inventory; variables are those of all names."""
    lines = ["[gpu]", *(f"{one.name} ansible_host={one.host.address} ansible_port={one.port}" for one in fleet)]
    lines += ["", "[all:vars]", *(f"{name}={value}" for name, value in variables.items())]
    return "\n".join(lines) + "\n"


def make(lab: Lab, fleet: Sequence[Name], ssh_config: Path | None = None) -> Path:
    """Redirect the ports of a fleet over the lab's hosts, and return the path of its inventory.

    ssh_config: a configuration of ssh to use, in place of the option that names the fleet's known_hosts.

    It replaces the lab's earlier fleet. Raises RuntimeError or CalledProcessError where a host does not take it.
    """
    for host in {one.host.name: one.host for one in fleet}.values():
        of_host = [one for one in fleet if one.host == host]
        host.in_network("nft", "-f", "-", stdin=ruleset(of_host))
        if any(_PORTS.get(one.kind, 22) != 22 for one in of_host):
            host.run(units())
    known = lab.directory / "fleet_known_hosts"
    key = " ".join(Path(f"{images.host_key()}.pub").read_text(encoding="utf-8").split()[:2])
    known.write_text(known_hosts(fleet, key), encoding="utf-8")
    ssh = f"-F {ssh_config}" if ssh_config else f"-o UserKnownHostsFile={known}"
    variables = {**lab.variables(), "ansible_ssh_common_args": f"'{ssh}'"}
    path = lab.directory / "fleet.ini"
    path.write_text(inventory(fleet, variables), encoding="utf-8")
    return path
