"""How the vendors' packages relate to each other, by version.

The lab packs its packages with these fields, and a unit test checks the pins of the roles against
them. DOCKER is https://github.com/docker/docker-ce-packaging deb/common/control, PACKAGING is
https://github.com/docker/packaging pkg/docker-engine/deb/control, TOOLKIT is
https://github.com/NVIDIA/nvidia-container-toolkit packaging/debian/control.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Since:
    """The fields of a package's control file from a version on, and where they were read.

    {version} in a field is the package's own version.
    """

    version: str
    fields: Mapping[str, str]
    source: str


_PLUGIN = "docker-ce-cli"
_OLD_ENGINES = "docker (<< 1.5~), docker-engine, docker-engine-cs, docker.io, lxc-docker, lxc-docker-virtual-package"
_ENGINES = "docker (<< 1.5~), docker-engine, docker.io"
_RECOMMENDED = "apparmor, ca-certificates, docker-ce-rootless-extras, git, pigz, procps, xz-utils"
_HOOK = "nvidia-container-runtime (<= 3.5.0-1), nvidia-container-runtime-hook"
_CLI_18 = {"Replaces": "docker-ce (<< 5:0)", "Breaks": "docker-ce (<< 5:0)"}
_CLI_23 = {**_CLI_18, "Recommends": "docker-buildx-plugin, docker-compose-plugin"}
_CONTAINERD = dict.fromkeys(("Provides", "Conflicts", "Replaces"), "containerd, runc")


def _toolkit(tools: str) -> dict[str, str]:
    base = "nvidia-container-toolkit-base (= {version})"
    return {"Depends": f"{base}, {tools}, libnvidia-container-tools (<< 2.0.0)", "Breaks": _HOOK, "Replaces": _HOOK}


# Oldest first. Left out: what shlibs:Depends stands for, Suggests, and Enhances.
RELATIONSHIPS: dict[str, tuple[Since, ...]] = {
    "docker-ce": (
        Since(
            "5:18.09",
            {
                "Depends": "docker-ce-cli, containerd.io (>= 1.2.2-3), iptables, libseccomp2 (>= 2.3.0)",
                "Recommends": "ca-certificates, git, pigz, xz-utils",
                "Conflicts": _OLD_ENGINES,
                "Replaces": "docker-engine",
            },
            "apt-cache show docker-ce=5:18.09.4~3-0~ubuntu-xenial",
        ),
        Since(
            "5:23.0",
            {
                "Depends": "containerd.io (>= 1.6.4), docker-ce-cli, iptables, libseccomp2 (>= 2.3.0)",
                "Recommends": f"{_RECOMMENDED}, libltdl7",
                "Conflicts": _OLD_ENGINES,
                "Replaces": "docker-engine",
            },
            "DOCKER commits 669f0a2, 4738501",
        ),
        Since(
            "5:25.0",
            {
                "Depends": "containerd.io (>= 1.6.24), docker-ce-cli, iptables",
                "Recommends": f"{_RECOMMENDED}, libltdl7",
                "Conflicts": _ENGINES,
                "Replaces": "docker-engine, docker-ce-cli (<< 5:28.0.0)",
            },
            "DOCKER commits 4124d1d, 14fd600",
        ),
        Since(
            "5:28.4",
            {
                "Depends": "containerd.io (>= 1.7.27), docker-ce-cli, iptables",
                "Recommends": _RECOMMENDED,
                "Conflicts": _ENGINES,
                "Replaces": "docker-engine, docker-ce-cli (<< 5:28.0.0)",
            },
            "DOCKER commit 2b43a97 of 2025-08-06",
        ),
        Since(
            "5:28.5",
            {
                "Pre-Depends": "init-system-helpers (>= 1.54~)",
                "Depends": "containerd.io (>= 1.7.27), docker-ce-cli, iptables, nftables",
                "Recommends": _RECOMMENDED,
                "Conflicts": _ENGINES,
                "Replaces": "docker-engine, docker-ce-cli (<< 5:28.0.0)",
            },
            "DOCKER commits 1a73c6b of 2025-09-26, 1cb3301",
        ),
        # The first version after the commits; inferred from the dates (29.5.3 was published in early June 2026).
        Since(
            "5:29.6",
            {
                "Pre-Depends": "init-system-helpers (>= 1.54~)",
                "Depends": "containerd.io (>= 2.1.5), docker-ce-cli, iptables, nftables",
                "Recommends": _RECOMMENDED,
                "Conflicts": "docker.io",
                "Replaces": "docker-ce-cli (<< 5:28.0.0)",
            },
            "DOCKER commits 3f49f87, e01df3f, 7dd5329 of June 2026; PACKAGING commit 431b8f6",
        ),
    ),
    "docker-ce-cli": (
        Since("5:18.09", {**_CLI_18, "Conflicts": _OLD_ENGINES}, "DOCKER, December 2018"),
        Since("5:23.0", {**_CLI_23, "Conflicts": _OLD_ENGINES}, "DOCKER commit 4738501"),
        Since("5:25.0", {**_CLI_23, "Conflicts": _ENGINES}, "DOCKER commit 14fd600"),
        Since("5:29.6", {**_CLI_23, "Conflicts": "docker.io, docker-cli"}, "DOCKER commit 85ce511 of 2026-06-10"),
    ),
    "containerd.io": (Since("0", _CONTAINERD, "https://github.com/docker/containerd-packaging debian/control"),),
    # Neither conflicts with the distributions' plugins, whose files are the same ones.
    "docker-buildx-plugin": (Since("0", {"Replaces": _PLUGIN}, "DOCKER"),),
    "docker-compose-plugin": (
        Since("0", {"Replaces": _PLUGIN}, "DOCKER"),
        Since("2.40.2", {"Recommends": "docker-buildx-plugin (>= 0.17.0)"}, "DOCKER commit 1e3f15a of 2025-10-22"),
    ),
    "nvidia-container-toolkit": (
        Since("0", _toolkit("libnvidia-container-tools (>= {version})"), "TOOLKIT before commit f0ea60a"),
        Since("1.18.0", _toolkit("libnvidia-container-tools (= {version})"), "TOOLKIT commit f0ea60a of 2025-05-22"),
    ),
    "nvidia-container-toolkit-base": (
        Since("0", {"Breaks": f"{_HOOK}, nvidia-container-toolkit (<= 1.10.0-1)", "Replaces": _HOOK}, "TOOLKIT"),
    ),
    "libnvidia-container-tools": (
        Since(
            "0",
            {"Depends": "libnvidia-container1 (>= {version})"},
            "https://github.com/NVIDIA/libnvidia-container mk/deb.mk",
        ),
    ),
    "libnvidia-container1": (Since("0", {}, "https://github.com/NVIDIA/libnvidia-container"),),
    "nvidia-docker2": (
        Since(
            "2.0.3+docker18.09.4-1",
            {
                "Depends": "nvidia-container-runtime (= 2.0.0+docker18.09.4-1), "
                "docker-ce (= 5:18.09.4~3-0~ubuntu-xenial) | docker-ee (= 5:18.09.4~3-0~ubuntu-xenial)",
                "Breaks": "nvidia-docker (<< 2.0.0)",
                "Replaces": "nvidia-docker (<< 2.0.0)",
            },
            "https://nvidia.github.io/nvidia-docker/ubuntu16.04/amd64/Packages",
        ),
    ),
    "nvidia-container-runtime": (
        Since(
            "2.0.0",
            {"Depends": "nvidia-container-runtime-hook (<< 2.0.0)"},
            "apt-cache show nvidia-container-runtime=2.0.0+docker18.09.4-1",
        ),
    ),
    "nvidia-container-runtime-hook": (Since("1.3.0", {}, "apt-cache show nvidia-container-runtime-hook=1.4.0-1"),),
}


def order(version: str) -> list[tuple[str, int]]:
    """Return what sorts as dpkg sorts versions (deb-version(7)), for versions with an epoch or without."""
    epoch, colon, rest = version.rpartition(":")
    key: list[tuple[str, int]] = [("", int(epoch) if colon else 0)]
    for letters, digits in re.findall(r"(\D*)(\d*)", rest):
        # A tilde sorts before the end, letters sort before all else.
        ranks = "".join(chr(1) if one == "~" else one if one.isalpha() else chr(ord(one) + 256) for one in letters)
        key.append((ranks + chr(2), int(digits or 0)))
    return key


def satisfies(version: str, relation: str, wanted: str) -> bool:
    """Return whether a version is in a relation, such as ``>=``, to the wanted one."""
    have, want = order(version), order(wanted)
    return {"<<": have < want, "<=": have <= want, "=": have == want, ">=": have >= want, ">>": have > want}[relation]


def fields(package: str, version: str) -> dict[str, str]:
    """Return the relationship fields that the vendor gives a version of a package.

    Raises KeyError for a package that is not in the table or a version before its first.
    """
    found = None
    for one in RELATIONSHIPS[package]:
        if satisfies(version, ">=", one.version):
            found = one
    if found is None:
        raise KeyError(f"{package} {version}")
    return {name: text.format(version=version) for name, text in found.fields.items()}


def unmet(versions: Mapping[str, str]) -> list[str]:
    """Return what keeps a set of {package: version} from being installed together, a line each."""
    problems = []
    for package, version in versions.items():
        relations = fields(package, version)
        for name in ("Depends", "Conflicts", "Breaks"):
            for group in filter(None, relations.get(name, "").split(", ")):
                met = [_met(one, versions) for one in group.split(" | ")]
                # A package outside the set comes from the distribution, or is not there.
                holds = not any(met) if name != "Depends" else any(met) or not any(one is False for one in met)
                if not holds:
                    problems.append(f"{package} {version} {name}: {group}")
    return problems


def _met(relation: str, versions: Mapping[str, str]) -> bool | None:
    """Return whether the set has what a relation names; None where it has no such package."""
    match = re.fullmatch(r"([^ ]+)(?: \(([<>=]+) (.*)\))?", relation)
    if not match:
        raise ValueError(f"not a relation: {relation!r}")
    name, operator, wanted = match.groups()
    if name not in versions:
        return None
    return not operator or satisfies(versions[name], operator, wanted)
