"""The plan never lies: each kind of drift, made on a real host, is named, removed, and then gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text.fleet import change_text

from tests.integration.conftest import run
from tests.lab.lab import Host, Lab
from tests.lab.repositories import RELEASES, TOOLKIT_VERSIONS

# How many hosts of each kind take drifts at a time.
HOSTS = {"debian12": 6, "resolute": 6, "xenial": 3}
CONFIG = "/etc/docker/daemon.json"
SOURCE = "/etc/apt/sources.list.d/docker.sources"
KEYRING = "/etc/apt/keyrings/docker.gpg"
TOOLKIT = (
    "nvidia-container-toolkit", "nvidia-container-toolkit-base", "libnvidia-container-tools", "libnvidia-container1",
)  # fmt: skip


def packages(codename: str) -> dict[str, tuple[str, ...]]:
    """{package: versions (before the pin, the pin, after it)} of a release."""
    release = next(release for release in RELEASES if release.codename == codename)
    return {
        "docker-ce": release.engine,
        "docker-ce-cli": release.engine,
        "containerd.io": release.containerd,
        "docker-buildx-plugin": release.buildx,
        "docker-compose-plugin": release.compose,
        **dict.fromkeys(TOOLKIT, TOOLKIT_VERSIONS),
    }


# What packages drift on: two hosts of each.
PACKAGES = {"debian12": packages("bookworm"), "resolute": packages("resolute")}
MIRRORS = 'registry-mirrors ["MIRROR"]'
RUNTIME = 'runtimes.nvidia {"path": "nvidia-container-runtime"}'
DPKG = "DEBIAN_FRONTEND=noninteractive dpkg --force-depends,downgrade,hold,breaks,confold"


class Drift(NamedTuple):
    """Commands that change a host in the desired state, and the changes that the plan must then name.

    URL, SUITE, KEY and MIRROR stand for what the lab has: Docker's repository, its suite and key, and the mirror.
    """

    done: str
    changes: list[str]
    host: str = "debian12"
    # Drifts that name the same are made on one host together.
    together: str = ""


def at_version(package: str, version: str) -> str:
    return (
        f"cd /tmp && rm -f {package}_* && apt-get -qq download {package}={version} && "
        f"{DPKG} -i ./{package}_*.deb >/dev/null 2>&1; apt-mark hold {package}"
    )


def edited(expression: str) -> str:
    """Change daemon.json by Python statements over ``c``, keeping its mode and times, unknown to dockerd."""
    program = f"import json; p = {CONFIG!r}; c = json.load(open(p)); {expression}; json.dump(c, open(p, 'w'))"
    return f'cp -p {CONFIG} /tmp/was; python3 -c "{program}"; touch -r /tmp/was {CONFIG}'


def stand_in(name: str) -> str:
    """Install an empty package of a name."""
    control = f"Package: {name}\\nVersion: 0.1\\nArchitecture: all\\nMaintainer: lab\\nDescription: empty\\n"
    return (
        f"mkdir -p /tmp/{name}/DEBIAN; printf '{control}' > /tmp/{name}/DEBIAN/control; "
        f"dpkg-deb -b /tmp/{name} /tmp/{name}.deb && {DPKG} --force-conflicts -i /tmp/{name}.deb"
    )


DRIFTS: dict[str, Drift] = {}
for number, package in enumerate(PACKAGES["debian12"]):
    # Four hosts, each with every package in one of the four states.
    for turn, state in enumerate(("older", "newer", "missing", "unheld")):
        group = (number + turn) % 4
        host = ("debian12", "resolute")[group % 2]
        older, pin, newer = PACKAGES[host][package]
        done, change = {
            "older": (at_version(package, older), f"{package} {older} → {pin}"),
            "newer": (at_version(package, newer), f"{package} {newer} → {pin}"),
            "missing": (f"{DPKG} -r {package}", f"{package} + {pin}"),
            "unheld": (f"apt-mark unhold {package}", f"{package} hold not held → held"),
        }[state]
        DRIFTS[f"{package} {state}"] = Drift(done, [change], host, f"packages {group}")
for state, package in (
    ("half-installed", "docker-ce-cli"),
    ("unpacked", "docker-buildx-plugin"),
    ("half-configured", "docker-compose-plugin"),
):
    # As dpkg leaves it where the host goes down meanwhile.
    pin = PACKAGES["debian12"][package][1]
    done = f"sed -i '/^Package: {package}$/,/^$/ s/^Status: .*/Status: hold reinstreq {state}/' /var/lib/dpkg/status"
    change = f"{package} {pin}, half installed → {pin}"
    DRIFTS[f"{package} {state}, to unpack again"] = Drift(done, [change], together="unpacked in part")
DRIFTS |= {
    "source missing": Drift(f"rm {SOURCE}", ["apt source docker + URL"]),
    "source changed": Drift(f"sed -i s/stable/test/ {SOURCE}", ["apt source docker other content → URL"]),
    "source doubled": Drift(
        "echo 'deb [trusted=yes] URL SUITE stable' > /etc/apt/sources.list.d/site.list",
        [f"apt source docker also in /etc/apt/sources.list.d/site.list (goes) → only in {SOURCE}"],
    ),
    "keyring missing": Drift(f"rm {KEYRING}", ["keyring docker + KEY"]),
    "keyring changed": Drift(
        f"echo nonsense > {KEYRING}", ["keyring docker no key → KEY"]
    ),
    "keyring unreadable": Drift(f"chmod 0600 {KEYRING}", ["keyring docker 0:0 0600 → 0:0 0644"]),
    "daemon.json missing": Drift(
        f"rm {CONFIG}",
        [f"daemon.json + {MIRRORS}", f"daemon.json + {RUNTIME}"],
    ),
    "mirrors missing": Drift(edited("del c['registry-mirrors']"), [f"daemon.json + {MIRRORS}"]),
    "mirrors changed": Drift(
        edited("c['registry-mirrors'] = ['http://old.invalid']"),
        [f'daemon.json registry-mirrors ["http://old.invalid"] → {MIRRORS}'],
    ),
    "runtime missing": Drift(
        edited("del c['runtimes']"), [f"daemon.json + {RUNTIME}"]
    ),
    "runtime changed": Drift(
        edited("c['runtimes']['nvidia']['path'] = '/opt/old'"),
        [
            f'daemon.json runtimes.nvidia {{"path": "/opt/old"}} → {RUNTIME}'
        ],
    ),
    "foreign key": Drift(edited("c['log-opts'] = {'max-size': '9m'}") + "; systemctl restart docker", []),
    "daemon.json's mode": Drift(f"chmod 0666 {CONFIG}", ["daemon.json mode 0666 → 0644"]),
    "older file in effect": Drift(
        f"cp {CONFIG} /tmp/right; echo '{{}}' > {CONFIG}; systemctl restart docker; cat /tmp/right > {CONFIG}",
        ["docker daemon runs without registry-mirrors, runtimes → daemon.json in effect"],
    ),
    "service stopped": Drift(
        "systemctl stop docker.socket docker", ["docker.service inactive → active"]
    ),
    "service disabled": Drift("systemctl disable docker", ["docker.service disabled → enabled"]),
    "service masked": Drift("systemctl mask docker", ["docker.service masked → unmasked"]),
    "service masked and stopped": Drift(
        "systemctl stop docker.socket docker; systemctl mask docker",
        ["docker.service masked → unmasked", "docker.service inactive → active"],
    ),
    "member missing": Drift("gpasswd -d alice docker", ["docker group + alice"]),
    "dockerrun missing": Drift("rm /usr/local/bin/dockerrun", ["dockerrun + /usr/local/bin/dockerrun"]),
    "dockerrun changed": Drift(
        "echo '# edited' >> /usr/local/bin/dockerrun", ["dockerrun other content → /usr/local/bin/dockerrun"]
    ),
    "dockerrun's mode": Drift("chmod 0644 /usr/local/bin/dockerrun", ["dockerrun 0:0 0644 → 0:0 0755"]),
    "dockerrun's owner": Drift("chown alice /usr/local/bin/dockerrun", ["dockerrun 1001:0 0755 → 0:0 0755"]),
    "defaults of dockerrun that are wanted no more": Drift(
        "mkdir /etc/gpuprov; echo \"# Written by gpuprov's role dockerrun\" > /etc/gpuprov/dockerrun.conf",
        ["dockerrun.conf - /etc/gpuprov/dockerrun.conf"],
    ),
    "legacy package": Drift(stand_in("docker-compose"), ["docker-compose - 0.1"]),
    "other NVIDIA stack": Drift(stand_in("nvidia-docker2"), ["nvidia-docker2 - 0.1"]),
    "toolkit beside nvidia-docker2": Drift(
        stand_in("nvidia-container-toolkit-base"), ["nvidia-container-toolkit-base - 0.1"], "xenial"
    ),
    "nvidia-docker2 unheld": Drift("apt-mark unhold nvidia-docker2", ["nvidia-docker2 hold not held → held"], "xenial"),
    "runtime hook missing": Drift(
        f"{DPKG} -r nvidia-container-runtime-hook", ["nvidia-container-runtime-hook + 1.4.0-1"], "xenial"
    ),
    "proxy that is wanted no more": Drift(
        "echo 'HTTP_PROXY=\"http://me:hunter2@proxy.invalid:1\"' > /etc/docker/gpuprov-proxy.env; "
        "mkdir -p /etc/systemd/system/docker.service.d; "
        "echo '[Service]' > /etc/systemd/system/docker.service.d/gpuprov-proxy.conf; systemctl daemon-reload",
        ["proxy of docker.service - HTTP_PROXY=http://***@proxy.invalid:1"],
    ),
    "a restart": Drift("systemctl restart docker", []),
}  # fmt: skip
# Each kind is tried once; every second one on the host with the modern engine and userland.
for number, (name, drift) in enumerate(DRIFTS.items()):
    if drift.host == "debian12" and not drift.together and number % 2:
        DRIFTS[name] = drift._replace(host="resolute")


def filled(drift: Drift, lab: Lab) -> Drift:
    """The drift with the lab's own values."""
    variables = lab.variables()
    vendor, codename = ("ubuntu", "resolute") if drift.host == "resolute" else ("debian", "bookworm")
    url, key = f"{variables['docker_ce_repo_url']}/{vendor}", variables["docker_ce_repo_key_fingerprint"]

    def fill(text: str) -> str:
        return text.replace("URL", url).replace("SUITE", codename).replace("KEY", key).replace("MIRROR", lab.mirror)

    return drift._replace(done=fill(drift.done), changes=[fill(text) for text in drift.changes])


class Outcome(NamedTuple):
    """The results of the three runs for one host, each as in docs/json.md."""

    plan: dict[str, Any]
    provision: dict[str, Any]
    full: dict[str, Any]


def said(lab: Lab, directory: Path, command: str, *words: str) -> dict[str, Any]:
    answer = run(["gpuprov", command, str(lab.inventory), "--json", "--forks", "20", *words], directory)
    hosts: dict[str, Any] = json.loads(answer.stdout)["hosts"]
    return hosts


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, worker_id: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[list[str], Outcome]]]:
    """Try all requested drifts, on all hosts at a time, with the changes that each host's plan must name."""
    items = [item for item in request.session.items if getattr(item, "module", None) is request.module]
    names: list[str] = [item.callspec.params["name"] for item in items]  # type: ignore[attr-defined]
    directory = tmp_path_factory.mktemp("drift")
    lab = Lab(f"drift-{worker_id}")
    pools: dict[str, list[Host]] = {}
    for host in lab.up(",".join(f"{distro}:{number}" for distro, number in HOSTS.items())):
        pools.setdefault(host.distro, []).append(host)
    said(lab, directory, "provision", "-e", "gpu_host_verify_gpu=false")
    groups: dict[str, dict[str, Drift]] = {}
    for name in names:
        groups.setdefault(DRIFTS[name].together or name, {})[name] = filled(DRIFTS[name], lab)
    waiting = list(groups.values())
    result: dict[str, tuple[list[str], Outcome]] = {}

    def make(host: Host, drifts: dict[str, Drift]) -> None:
        for drift in drifts.values():
            host.run(drift.done)

    while waiting:
        free = {distro: list(hosts) for distro, hosts in pools.items()}
        batch: list[tuple[Host, dict[str, Drift]]] = []
        for group in list(waiting):
            (distro,) = {drift.host for drift in group.values()}
            if free[distro]:
                batch.append((free[distro].pop(), group))
                waiting.remove(group)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(make, *zip(*batch, strict=True)))
        limit = ["--limit", ",".join(host.name for host, _group in batch)]
        # What containers make of the GPU is test_gpu.py's, and would take longer than all the rest.
        limit += ["-e", "gpu_host_verify_gpu=false"]
        runs = [
            said(lab, directory, "plan", *limit),
            said(lab, directory, "provision", *limit),
            said(lab, directory, "provision", "--full", *limit),
        ]
        for host, group in batch:
            changes = [change for drift in group.values() for change in drift.changes]
            for name in group:
                result[name] = changes, Outcome(*(one[host.name] for one in runs))
    yield result
    lab.down()


@pytest.mark.parametrize("name", DRIFTS)
def test_the_plan_names_what_drifted_and_provision_removes_just_that(
    name: str, outcomes: dict[str, tuple[list[str], Outcome]]
) -> None:
    changes, outcome = outcomes[name]
    assert outcome.plan["error"] is None
    assert [f"{change['subject']} {change_text(change)}" for change in outcome.plan["plan"]["changes"]] == changes
    assert outcome.provision["error"] is None
    assert outcome.provision["status"] == ("changed" if changes else "up-to-date")
    assert outcome.full["plan"]["changes"] == []
    assert (outcome.full["status"], outcome.full["changes"]) == ("up-to-date", [])
    assert outcome.full["verify"]["ok"]
