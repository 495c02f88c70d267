"""The cures that the doctor names work as they are written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.conftest import run
from tests.integration.test_doctor import (
    LIBRARIES,
    OF_THE_ENGINE,
    RELOAD,
    ROOT,
    SPEC,
    TOML,
    drop_in,
)
from tests.integration.test_drift import edited
from tests.lab.lab import Lab

ELSEWHERE = "/usr/local/nvidia/lib64"
HALF = "sed -i '/^Package: tini$/,/^Status:/s/ok installed/ok half-configured/' /var/lib/dpkg/status"
OLD = "sed -i '/^Package: containerd.io$/,/^$/s/^Version: .*/Version: 1.7.27-1/' /var/lib/dpkg/status"
FAIL = "for turn in 1 2 3 4; do systemctl restart docker; done; true"


def mode(word: str) -> str:
    return f"sed -i 's/^mode = .*/mode = \"{word}\"/' {TOML}"


class Ill(NamedTuple):
    """A host: what is done to it, and the findings whose cures are then taken, in the doctor's order."""

    done: list[str]
    findings: set[str]


# Each host has what is independent of the rest.
ILL = {
    "debian12-01": Ill(
        [
            mode("magic"),
            "mkdir -p /etc/cdi; echo 'devices: [' > /etc/cdi/nvidia.yaml",
            f"printf '{SPEC}# {LIBRARIES}/libcuda.so.570.1.2\\n' > /etc/cdi/nvidia-old.yaml",
            f"mkdir -p {ELSEWHERE}; mv {LIBRARIES}/libcuda.so* {LIBRARIES}/libnvidia-ml.so* {ELSEWHERE}; ldconfig",
            f"systemctl disable docker; {HALF}; touch /var/lib/dpkg/updates/0001",
            "systemd-run -q --unit lab-broken false; until systemctl -q is-failed lab-broken; do sleep 0.1; done",
            "echo '# changed' >> /lib/systemd/system/docker.service; pkill -STOP -x dockerd",
        ],
        {
            "toolkit-mode", "cdi-invalid", "cdi-stale", "libraries-hidden", "dockerd-disabled", "half-installed",
            "dpkg-interrupted", "system-degraded", "needs-daemon-reload", "dockerd-silent",
        },
    ),
    "debian12-02": Ill(
        [
            mode("cdi") + "; rm /var/run/cdi/nvidia.yaml",
        ],
        {"no-cdi", "gpus-flag-refused", "not-as-wanted"},
    ),
    "debian12-03": Ill(
        [edited("c['log-opt'] = {'max-size': '9m'}"), FAIL, OLD], {"daemon-json", "dockerd-fails", "security-fixes"}
    ),
    "debian12-04": Ill(
        [
            drop_in("ExecStart=", "ExecStart=/usr/bin/dockerd -H fd:// --registry-mirror http://x") + RELOAD,
            "systemctl stop docker.socket docker; systemctl mask docker docker.socket",
        ],
        {"flag-conflict", "dockerd-masked"},
    ),
    "debian12-05": Ill(
        [
            edited("c['exec-opts'] = ['native.cgroupdriver=systemd']"),
            "rm /dev/char/195:*; systemctl restart docker",
        ],
        {"gpu-lost-at-reload", "not-as-wanted"},
    ),
    "debian13": Ill([], {"no-docker"}),
}  # fmt: skip
# Why the cure of a finding is not taken here.
NOT_HERE = {
    "a driver, or a card, that the lab has not": (
        "no-gpu no-driver nouveau secure-boot module-not-built module-not-loaded gpu-lost smi-fails no-libraries "
        "no-nvidia-smi no-device-nodes no-persistence mig-pending mig-without-devices driver-mismatch"
    ),
    "an option of nvidia-ctk that the lab's has not": "no-cgroups",
    "a reboot": "reboot-pending",
    "a clock, which is the machine's": "clock-off",
    "something to look at": "dpkg-locked gpus-flag-lost-at-reload",
    "no service manager": "no-systemd",
    "the cure is part of that of dockerd-masked": "dockerd-stopped",
}


def commands(cure: str) -> str:
    """Return the commands of a cure, without the text before and after them."""
    text = re.sub(r"^.*?(with the cause removed|; then): ", "", cure)
    text = re.sub(r"; then (?=systemctl)", "; ", text)
    return re.sub(r", which .*$| \(while .*$", "", text)


@pytest.fixture(scope="module")
def lab(worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts as provisioned, and one as installed."""
    lab = Lab(f"cures-{worker_id}")
    lab.up("debian12:5,debian13")
    run(["gpuprov", "provision", str(lab.inventory), "-l", "debian12*"], tmp_path_factory.mktemp("provision"))
    yield lab
    lab.down()


def findings(lab: Lab, directory: Path) -> dict[str, list[dict[str, Any]]]:
    answer = run(["gpuprov", "doctor", str(lab.inventory), "--json"], directory)
    return {name: host["findings"] for name, host in json.loads(answer.stdout)["hosts"].items()}


def test_the_cures_of_what_can_be_staged_work_as_they_are_written(lab: Lab, tmp_path: Path) -> None:
    for name, ill in ILL.items():
        for done in ill.done:
            lab.host(name).run(done)
    found = findings(lab, tmp_path)
    for name, ill in ILL.items():
        assert ill.findings - {one["name"] for one in found[name]} == set(), name
    # The cause is a person's to remove.
    lab.host("debian12-04").run("rm -r /etc/systemd/system/docker.service.d")
    provision: list[str] = []
    for name, ill in ILL.items():
        for one in found[name]:
            if one["name"] not in ill.findings:
                continue
            if "gpuprov provision" in one["cure"] or one["name"] == "daemon-json":
                provision.append(name)
            else:
                lab.host(name).run(commands(one["cure"]), check=False)
    key = next(one["cure"] for one in found["debian12-03"] if one["name"] == "daemon-json").partition("options: ")[2]
    options = {"docker_daemon_options": {key.strip("{}").partition(":")[0]: None}, "docker_daemon_restart": "always"}
    words = ["gpuprov", "provision", str(lab.inventory), "--limit", ",".join(dict.fromkeys(provision))]
    answer = run([*words, "-e", json.dumps(options)], tmp_path)
    assert answer.status == 0, answer.text
    found = findings(lab, tmp_path)
    left = {name: sorted({one["name"] for one in found[name]} - {OF_THE_ENGINE}) for name in ILL}
    assert left == {name: [] for name in ILL}


def test_every_finding_has_its_cure_tried_or_a_reason() -> None:
    sources = [ROOT / f"plugins/plugin_utils/plan/{name}_findings.py" for name in ("gpu", "host")]
    known = {name for path in sources for name in re.findall(r'finding\(\s*"([a-z-]+)"', path.read_text())}
    tried = {name for ill in ILL.values() for name in ill.findings}
    excused = {name for names in NOT_HERE.values() for name in names.split()}
    assert (known - tried - excused, tried & excused, excused - known) == (set(), set(), set())
