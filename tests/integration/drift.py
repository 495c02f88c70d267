"""Every kind of drift, as data: what is done to a provisioned host, and the plan that must follow.

A row's commands run on the host as root, in a shell; its changes are (subject, from, to), where
``...`` stands for any value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import EllipsisType
from typing import Any

Value = str | None | EllipsisType

ENGINE = ("docker-ce", "docker-ce-cli", "containerd.io", "docker-buildx-plugin", "docker-compose-plugin")
TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
APT = "DEBIAN_FRONTEND=noninteractive apt-get -y -q --allow-downgrades --allow-change-held-packages"
# dpkg alone, so that apt does not move the neighbours of the package along.
FETCH = "cd /tmp && rm -f ./*.deb && apt-get -q download"


@dataclass(frozen=True)
class Drift:
    """One kind of drift. disruption is what the plan must say of the whole host."""

    name: str
    inject: str
    changes: tuple[tuple[str, Value, Value], ...]
    disruption: str = "none"
    variables: dict[str, Any] = field(default_factory=dict)


def _other_version(package: str, place: str) -> str:
    """Shell words for the version next to the installed one in the repository, newer or older."""
    return (
        f"$(apt-cache madison {package} | awk -v have=\"$(dpkg-query -W -f '${{Version}}' {package})\" "
        f"'{{ print $3 }}' | sort -uV | awk -v have=\"$(dpkg-query -W -f '${{Version}}' {package})\" "
        + ("'found { print; exit } $0 == have { found = 1 }'" if place == "newer" else "'$0 == have { print last } { last = $0 }'")
        + ")"
    )


def _packages() -> list[Drift]:
    rows = []
    for package in (*ENGINE, *TOOLKIT):
        restart = "restart" if package in ("docker-ce", "containerd.io") else "none"
        for place in ("older", "newer"):
            rows.append(
                Drift(
                    f"{package} {place}",
                    f"{FETCH} {package}={_other_version(package, place)} && dpkg -i --force-all ./*.deb && apt-mark hold {package}",
                    ((package, ..., ...),),
                    restart,
                )
            )
        rows.append(
            Drift(
                f"{package} missing",
                f"dpkg --remove --force-all {package}; true",
                ((package, None, ...), *((("docker.service", ..., "active"),) if package == "docker-ce" else ())),
                restart if package == "containerd.io" else "none",
            )
        )
        rows.append(Drift(f"{package} unheld", f"apt-mark unhold {package}", ((f"{package} hold", ..., ...),)))
    return rows


SOURCE = "/etc/apt/sources.list.d/docker.sources"
KEYRING = "/etc/apt/keyrings/docker.gpg"
CONFIG = "/etc/docker/daemon.json"

SOURCES = [
    Drift("source missing", f"rm {SOURCE}", (("apt source docker", ..., ...),)),
    Drift("source changed", f"sed -i 's/^Suites:.*/Suites: sid/' {SOURCE}", (("apt source docker", ..., ...),)),
    Drift("source disabled", f"echo 'Enabled: no' >> {SOURCE}", (("apt source docker", ..., ...),)),
    Drift(
        "source doubled",
        f"echo \"deb $(sed -n 's/^URIs: //p' {SOURCE})/ $(. /etc/os-release; echo $VERSION_CODENAME) stable\" "
        "> /etc/apt/sources.list.d/by-hand.list",
        (("apt source docker", ..., ...),),
    ),
    Drift("keyring missing", f"rm {KEYRING}", (("keyring docker", ..., ...),)),
    Drift("keyring changed", f"cp /usr/share/keyrings/debian-archive-keyring.gpg {KEYRING} 2>/dev/null || echo x > {KEYRING}", (("keyring docker", ..., ...),)),
    Drift("keyring unreadable for apt", f"chmod 0640 {KEYRING}", (("keyring docker", ..., ...),)),
    Drift(
        "keyring doubled",
        f"cat {KEYRING} {KEYRING} > /tmp/twice && cat /tmp/twice > {KEYRING}",
        (("keyring docker", ..., ...),),
    ),
]


def _edit(expression: str) -> str:
    return (
        f"python3 -c 'import json; p = \"{CONFIG}\"; c = json.load(open(p)); {expression}; "
        "json.dump(c, open(p, \"w\"))'"
    )


DAEMON = [
    Drift("daemon.json missing", f"rm {CONFIG}", (("daemon.json", None, ...), ("daemon.json", None, ...)), "reload"),
    Drift("mirror key missing", _edit('del c["registry-mirrors"]'), (("daemon.json", None, ...),), "reload"),
    Drift("mirror changed", _edit('c["registry-mirrors"] = ["http://other.invalid"]'), (("daemon.json", ..., ...),), "reload"),
    Drift("runtime missing", _edit('del c["runtimes"]'), (("daemon.json", None, ...),), "reload"),
    Drift("runtime changed", _edit('c["runtimes"]["nvidia"]["path"] = "/opt/other"'), (("daemon.json", ..., ...),), "reload"),
    Drift(
        "key extra that the daemon has not taken over",
        "sleep 3; " + _edit('c["max-concurrent-uploads"] = 7'),
        (("docker daemon", ..., ...),),
        "reload",
    ),
    Drift(
        "daemon runs with an older file than the one on disk",
        "systemctl stop docker.socket docker; "
        + f"cp -p {CONFIG} /tmp/right; "
        + _edit('c["registry-mirrors"] = []')
        + f"; systemctl start docker; cp -p /tmp/right {CONFIG}",
        (("docker daemon", ..., ...),),
        "reload",
    ),
    Drift("mode of daemon.json", f"chmod 0600 {CONFIG}", (("daemon.json mode", "0600", "0644"),)),
]

SERVICE = [
    Drift("service stopped", "systemctl stop docker.socket docker", (("docker.service", "inactive", "active"),)),
    Drift("service disabled", "systemctl disable docker", (("docker.service", "disabled", "enabled"),)),
    Drift(
        "service masked",
        "systemctl stop docker.socket docker; systemctl mask docker",
        (("docker.service", "masked", "unmasked"), ("docker.service", "inactive", "active")),
    ),
]

OTHERS = [
    Drift("member missing", "gpasswd --delete alice docker", (("docker group", None, "alice"),)),
    Drift(
        "member missing whose name is part of another's",
        "gpasswd --delete alice docker; useradd -m alicia 2>/dev/null; gpasswd --add alicia docker",
        (("docker group", None, "alice"),),
    ),
    Drift(
        "the other NVIDIA stack is present",
        "mkdir -p /tmp/other/DEBIAN && printf 'Package: nvidia-docker2\\nVersion: 2.0.3+docker18.09.4-1\\n"
        "Architecture: all\\nMaintainer: lab\\nDescription: stands in for the other stack\\n' > /tmp/other/DEBIAN/control "
        "&& dpkg-deb -b /tmp/other /tmp/other.deb && dpkg -i /tmp/other.deb",
        (("nvidia-docker2", "2.0.3+docker18.09.4-1", None),),
    ),
    Drift(
        "a legacy package is present",
        "mkdir -p /tmp/old/DEBIAN && printf 'Package: docker-compose\\nVersion: 1.29.2-3\\nArchitecture: all\\n"
        "Maintainer: lab\\nDescription: stands in for the distribution package\\n' > /tmp/old/DEBIAN/control "
        "&& dpkg-deb -b /tmp/old /tmp/old.deb && dpkg -i /tmp/old.deb",
        (("docker-compose", "1.29.2-3", None),),
    ),
]

DRIFTS = [*_packages(), *SOURCES, *DAEMON, *SERVICE, *OTHERS]
