"""The doctor names the faults that a host has, alone and combined, and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.integration.conftest import run
from tests.integration.test_drift import DPKG, edited, stand_in
from tests.lab.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
# The hosts that take states, one each at a time; debian13 stays as it was installed, one has no systemd.
HOSTS = "debian12:7,resolute:3"
TAKING = ("debian12", "resolute")
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
PULL_OUT, PLUG_IN = "systemctl stop gpuprov-lab-gpu", "systemctl start gpuprov-lab-gpu"
SPEC = "cdiVersion: 0.5.0\\nkind: nvidia.com/gpu\\ndevices: [{name: all}]\\n"
TOML = "/etc/nvidia-container-runtime/config.toml"
DROP_IN = "/etc/systemd/system/docker.service.d/lab.conf"


class State(NamedTuple):
    """Commands that break a healthy host and repair it, and the findings in between, with their severity."""

    done: str
    undone: str
    wrong: dict[str, str]


def bus(*devices: str) -> str:
    """Lay a PCI bus over the host's: SLOT or SLOT=DRIVER of NVIDIA's cards, all of them a H100."""
    script = "rm -rf /tmp/pci; mkdir -p /tmp/pci; "
    for device in devices:
        slot, _equals, driver = device.partition("=")
        script += (
            f"mkdir /tmp/pci/{slot}; cd /tmp/pci/{slot}; echo 0x10de > vendor; echo 0x030200 > class; "
            "echo 0x2330 > device; "
        )
        script += f"ln -s /sys/bus/pci/drivers/{driver} driver; " if driver else ""
    return f"{script}mount --bind /tmp/pci /sys/bus/pci/devices"


NO_BUS = "umount /sys/bus/pci/devices"
CARD = f"{PULL_OUT}; {bus('0000:01:00.0')}"
NO_CARD = f"{NO_BUS}; {PLUG_IN}"


def program(path: str, *lines: str) -> str:
    """Put a script in the place of a program, or before it in PATH."""
    text = "\\n".join(["#!/bin/sh", *lines, ""])
    return f"printf '{text}' > {path}.lab; chmod +x {path}.lab; touch {path}; mount --bind {path}.lab {path}"


def smi(line: str) -> str:
    """A nvidia-smi that answers to the probe's query with a line, and names one GPU."""
    gpu = "GPU 0: NVIDIA H100 (UUID: GPU-5ca1ab1e-0000-0000-0000-000000000000)"
    return program("/usr/bin/nvidia-smi", f'case $1 in -L) echo "{gpu}" ;; *) echo "{line}" ;; esac')


def modinfo(*lines: str) -> str:
    return program("/usr/local/sbin/modinfo", *(f'echo "{line}"' for line in lines))


def queried(persistence: str, mig: str, pending: str) -> str:
    uuid = "GPU-5ca1ab1e-0000-0000-0000-000000000000"
    return smi(f"00000000:01:00.0, {uuid}, {persistence}, {mig}, {pending}, NVIDIA H100")


SMI_AGAIN = "umount /usr/bin/nvidia-smi"
MODINFO_AGAIN = "umount /usr/local/sbin/modinfo; rm /usr/local/sbin/modinfo"
MODULE = ("filename: /lib/modules/x/updates/dkms/nvidia.ko", "version: 580.159.04")
SECURE_BOOT = (
    "mount -t tmpfs tmpfs /sys/firmware; mkdir -p /sys/firmware/efi/efivars; printf '\\006\\000\\000\\000\\001' > "
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
)
RELOAD = "; systemctl daemon-reload"
PENDING = {"not-as-wanted": "info"}
# Of every healthy host with Debian 12's engine.
OF_THE_ENGINE = "gpus-flag-lost-at-reload"
HOLD_LOCK = (
    'import fcntl, time; lock = open("/var/lib/dpkg/lock", "a"); fcntl.lockf(lock, fcntl.LOCK_EX); time.sleep(36000)'
)


def toml(section: str, line: str) -> str:
    return f"mkdir -p {Path(TOML).parent}; printf '[{section}]\\n{line}\\n' > {TOML}"


def drop_in(*lines: str) -> str:
    text = "\\n".join(["[Service]", *lines, ""])
    return f"mkdir -p {Path(DROP_IN).parent}; printf '{text}' > {DROP_IN}"


STATES: dict[str, State] = {
    "nothing": State("true", "true", {}),
    # ---- GPUs
    "no GPU": State(PULL_OUT, PLUG_IN, {"no-gpu": "warning"}),
    "no driver": State(CARD, NO_CARD, {"no-driver": "error"}),
    "nouveau": State(
        f"{PULL_OUT}; {bus('0000:01:00.0=nouveau')}; mount -t tmpfs tmpfs /sys/module; mkdir /sys/module/nouveau",
        f"umount /sys/module; {NO_CARD}",
        {"nouveau": "error", "no-driver": "error"},
    ),
    "a module that was not built": State(
        f"{CARD}; {stand_in('nvidia-dkms-580')}",
        f"{DPKG} -r nvidia-dkms-580; {NO_CARD}",
        {"module-not-built": "error"},
    ),
    "a module that is not loaded": State(
        f"{CARD}; {modinfo(*MODULE)}", f"{MODINFO_AGAIN}; {NO_CARD}", {"module-not-loaded": "error"}
    ),
    "Secure Boot and a module that is not signed": State(
        f"{CARD}; {modinfo(*MODULE)}; {SECURE_BOOT}",
        f"umount /sys/firmware; {MODINFO_AGAIN}; {NO_CARD}",
        {"secure-boot": "error"},
    ),
    "Secure Boot and a driver": State(SECURE_BOOT, "umount /sys/firmware", {}),
    "another driver loaded": State(
        "sed -i s/580.159.04/570.86.10/ /proc/driver/nvidia/version",
        "cp /etc/gpuprov-lab/gpu /proc/driver/nvidia/version",
        {"driver-mismatch": "error", "cdi-stale": "error"},
    ),
    "no libraries": State(
        f"mkdir /root/libraries; mv {LIBRARIES}/libcuda.so* {LIBRARIES}/libnvidia-ml.so* /root/libraries; ldconfig",
        f"mv /root/libraries/* {LIBRARIES}; rmdir /root/libraries; ldconfig",
        {"no-libraries": "error"},
    ),
    "libraries where the loader does not look": State(
        f"mkdir -p /usr/local/nvidia/lib64; mv {LIBRARIES}/libcuda.so* {LIBRARIES}/libnvidia-ml.so* "
        "/usr/local/nvidia/lib64; ldconfig",
        f"mv /usr/local/nvidia/lib64/* {LIBRARIES}; ldconfig",
        {"libraries-hidden": "warning"},
    ),
    "libraries where the loader was told to look": State(
        f"mkdir -p /usr/local/nvidia/lib64; mv {LIBRARIES}/libcuda.so* {LIBRARIES}/libnvidia-ml.so* "
        "/usr/local/nvidia/lib64; echo /usr/local/nvidia/lib64 > /etc/ld.so.conf.d/nvidia.conf; ldconfig",
        f"mv /usr/local/nvidia/lib64/* {LIBRARIES}; rm /etc/ld.so.conf.d/nvidia.conf; ldconfig",
        {},
    ),
    "nvidia-smi that fails": State(
        program("/usr/bin/nvidia-smi", "echo No devices were found"), SMI_AGAIN, {"smi-fails": "error"}
    ),
    "no nvidia-smi": State(
        "mv /usr/bin/nvidia-smi /root", "mv /root/nvidia-smi /usr/bin", {"no-nvidia-smi": "info"}
    ),
    "a GPU lost": State(bus("0000:01:00.0", "0000:02:00.0"), NO_BUS, {"gpu-lost": "error"}),
    "a GPU of a virtual machine": State(bus("0000:01:00.0", "0000:02:00.0=vfio-pci"), NO_BUS, {}),
    "a device node missing": State(
        "rm /dev/nvidiactl", "mknod -m 0666 /dev/nvidiactl c 195 255", {"no-device-nodes": "warning"}
    ),
    "persistence off": State(queried("Disabled", "[N/A]", "[N/A]"), SMI_AGAIN, {"no-persistence": "info"}),
    "MIG without devices": State(
        queried("Enabled", "Enabled", "Enabled"), SMI_AGAIN, {"mig-without-devices": "warning"}
    ),
    "MIG to come": State(queried("Enabled", "Disabled", "Enabled"), SMI_AGAIN, {"mig-pending": "warning"}),
    "a CDI specification": State(f"mkdir -p /etc/cdi; printf '{SPEC}' > /etc/cdi/nvidia.yaml", "rm -r /etc/cdi", {}),
    "a CDI specification that is broken": State(
        "mkdir -p /etc/cdi; echo 'devices: [' > /etc/cdi/nvidia.yaml", "rm -r /etc/cdi", {"cdi-invalid": "error"}
    ),
    "a CDI specification of an older driver": State(
        f"mkdir -p /etc/cdi; printf '{SPEC}# {LIBRARIES}/libcuda.so.570.1.2\\n' > /etc/cdi/nvidia.yaml",
        "rm -r /etc/cdi",
        {"cdi-stale": "error"},
    ),
    "a toolkit in CDI mode without CDI": State(
        toml("nvidia-container-runtime", 'mode = "cdi"') + "; mv /var/run/cdi/nvidia.yaml /root",
        f"rm {TOML}; mv /root/nvidia.yaml /var/run/cdi",
        {"no-cdi": "error", "gpus-flag-refused": "warning", **PENDING},
    ),
    "a toolkit in no mode": State(
        toml("nvidia-container-runtime", 'mode = "magic"'), f"rm {TOML}", {"toolkit-mode": "error"}
    ),
    "a toolkit without control groups": State(
        toml("nvidia-container-cli", "no-cgroups = true"), f"rm {TOML}", {"no-cgroups": "warning"}
    ),
    "GPUs that a reload of systemd takes": State(
        "cp -p /etc/docker/daemon.json /root; " + edited("c['exec-opts'] = ['native.cgroupdriver=systemd']") + "; "
        "rm /dev/char/195:*; systemctl restart docker",
        "cp -p /root/daemon.json /etc/docker; systemctl restart docker; "
        "ln -s ../nvidia0 /dev/char/195:0; ln -s ../nvidiactl /dev/char/195:255",
        {"gpu-lost-at-reload": "warning", **PENDING},
    ),
    # ---- dockerd
    "daemon.json broken": State(
        "cp -p /etc/docker/daemon.json /root; echo '{,' > /etc/docker/daemon.json",
        "cp -p /root/daemon.json /etc/docker",
        {"daemon-json": "error"},
    ),
    "daemon.json broken, and dockerd failed": State(
        "cp -p /etc/docker/daemon.json /root; echo '{,' > /etc/docker/daemon.json; "
        "for turn in 1 2 3 4; do systemctl restart docker; done; true",
        "cp -p /root/daemon.json /etc/docker; systemctl reset-failed docker docker.socket; "
        "systemctl start docker.socket docker",
        {"daemon-json": "error", "dockerd-fails": "error"},
    ),
    "a flag twice": State(
        drop_in("ExecStart=", "ExecStart=/usr/bin/dockerd -H fd:// --registry-mirror http://x") + RELOAD,
        f"rm {DROP_IN}{RELOAD}",
        {"flag-conflict": "error"},
    ),
    "dockerd stopped": State(
        "systemctl stop docker.socket docker", "systemctl start docker", {"dockerd-stopped": "error", **PENDING}
    ),
    "dockerd disabled": State(
        "systemctl disable docker", "systemctl enable docker", {"dockerd-disabled": "warning", **PENDING}
    ),
    "dockerd masked": State(
        "systemctl mask docker", "systemctl unmask docker", {"dockerd-masked": "error", **PENDING}
    ),
    "dockerd hung": State("pkill -STOP -x dockerd", "pkill -CONT -x dockerd", {"dockerd-silent": "error"}),
    "a unit changed on disk": State(
        "echo '# changed' >> /lib/systemd/system/docker.service",
        f"sed -i '/^# changed/d' /lib/systemd/system/docker.service{RELOAD}",
        {"needs-daemon-reload": "warning"},
    ),
    "a snap": State("mkdir -p /snap/bin; touch /snap/bin/docker", "rm -r /snap", {"snap": "error"}),
    # ---- the host
    "dpkg at work": State(
        f"touch /var/lib/dpkg/lock; python3 -c '{HOLD_LOCK}' >/dev/null 2>&1 & "
        "until grep -q $(stat -c :%i /var/lib/dpkg/lock) /proc/locks; do sleep 0.1; done",
        "pkill -x -f 'python3 -c import fcntl.*'",
        {"dpkg-locked": "warning"},
    ),
    "dpkg interrupted": State(
        "touch /var/lib/dpkg/updates/0001", "rm /var/lib/dpkg/updates/0001", {"dpkg-interrupted": "warning"}
    ),
    "a package half way": State(
        "cp -p /var/lib/dpkg/status /root; sed -i '/^Package: tini$/,/^Status:/s/ok installed/ok half-configured/' "
        "/var/lib/dpkg/status",
        "cp -p /root/status /var/lib/dpkg",
        {"half-installed": "warning"},
    ),
    "a version without its security fixes": State(
        "cp -p /var/lib/dpkg/status /root; sed -i '/^Package: containerd.io$/,/^$/s/^Version: .*/Version: 1.7.27-1/' "
        "/var/lib/dpkg/status",
        "cp -p /root/status /var/lib/dpkg",
        {"security-fixes": "warning", **PENDING},
    ),
    "a clock that is off": State(
        program("/usr/local/sbin/date", 'echo $(($(/bin/date "$@") - 7200))'),
        "umount /usr/local/sbin/date; rm /usr/local/sbin/date",
        {"clock-off": "warning"},
    ),
    "a unit failed": State(
        "systemd-run -q --unit lab-broken false; until systemctl -q is-failed lab-broken; do sleep 0.1; done",
        "systemctl reset-failed lab-broken",
        {"system-degraded": "warning"},
    ),
    "a reboot pending": State(
        "touch /var/run/reboot-required; echo linux-base > /var/run/reboot-required.pkgs",
        "rm /var/run/reboot-required*",
        {"reboot-pending": "info"},
    ),
    "a disk that is full": State("mount -t tmpfs -o size=1m tmpfs /boot", "umount /boot", {"disk": "error"}),
    "a system of another kind": State(
        "cp /etc/os-release /root; sed -i 's/bookworm/sid/; s/26.04/27.10/; s/resolute/zesty/' /etc/os-release",
        "cat /root/os-release > /etc/os-release",
        {"operating-system": "error"},
    ),
}  # fmt: skip

# States that are made on one host together.
COMBINED = (
    ("another driver loaded", "a toolkit without control groups", "dockerd disabled", "a reboot pending"),
    ("no GPU", "a unit failed", "dpkg interrupted", "a package half way", "a clock that is off"),
    ("no driver", "dockerd stopped", "a unit changed on disk"),
)
STATES |= {
    " and ".join(names): State(
        "; ".join(STATES[name].done for name in names),
        "; ".join(STATES[name].undone for name in reversed(names)),
        {finding: severity for name in names for finding, severity in STATES[name].wrong.items()},
    )
    for names in COMBINED
}
# A plan that cannot be made names no change.
for name, state in STATES.items():
    if PENDING.keys() & state.wrong.keys() and "no-driver" in state.wrong:
        STATES[name] = state._replace(wrong={key: state.wrong[key] for key in state.wrong if key not in PENDING})


def examined(lab: Lab, directory: Path, *words: str) -> dict[str, Any]:
    """The hosts of the document, {name: as in docs/json.md}."""
    answer = run(["gpuprov", "doctor", str(lab.inventory), "--json", "--forks", "20", *words], directory)
    hosts: dict[str, Any] = json.loads(answer.stdout)["hosts"]
    return hosts


def named(host: dict[str, Any]) -> dict[str, str]:
    assert host["error"] is None
    return {one["name"]: one["severity"] for one in host["findings"] if one["name"] != OF_THE_ENGINE}


@pytest.fixture(scope="module")
def lab(worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Hosts as provisioned, for states; debian13 as installed; one without systemd."""
    lab = Lab(f"doctor-{worker_id}")
    lab.up(f"{HOSTS},debian13,nosystemd")
    limit = ["-l", ",".join(f"{distro}*" for distro in TAKING)]
    answer = run(["gpuprov", "provision", str(lab.inventory), *limit], tmp_path_factory.mktemp("provision"))
    assert answer.status == 0, answer.text
    yield lab
    lab.down()


class Examined(NamedTuple):
    """Return the doctor's findings of a host in a state, and after its repair."""

    ill: dict[str, Any]
    cured: dict[str, Any]


@pytest.fixture(scope="module")
def outcomes(lab: Lab, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Examined]:
    """All states that were asked for, as many hosts at a time as there are."""
    items = [item for item in request.session.items if getattr(item, "callspec", None)]
    names = [item.callspec.params["state"] for item in items if "state" in item.callspec.params]  # type: ignore[attr-defined]
    directory = tmp_path_factory.mktemp("doctor")
    hosts = [host for host in lab.hosts() if host.distro in TAKING]
    result: dict[str, Examined] = {}
    for start in range(0, len(names), len(hosts)):
        batch = list(zip(names[start:], hosts, strict=False))
        limit = ["--limit", ",".join(host.name for _name, host in batch)]
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda one: one[1].run(STATES[one[0]].done), batch))
            ill = examined(lab, directory, *limit)
            list(pool.map(lambda one: one[1].run(STATES[one[0]].undone), batch))
        cured = examined(lab, directory, *limit)
        result |= {name: Examined(ill[host.name], cured[host.name]) for name, host in batch}
    return result


@pytest.mark.parametrize("state", STATES)
def test_what_is_wrong_is_named_and_nothing_once_it_is_cured(state: str, outcomes: dict[str, Examined]) -> None:
    ill, cured = outcomes[state]
    assert named(ill) == STATES[state].wrong
    assert ill["status"] == ("ill" if {"error", "warning"} & set(STATES[state].wrong.values()) else "healthy")
    assert named(cured) == {}
    assert [(one["name"], one["severity"]) for one in cured["findings"]] == [(OF_THE_ENGINE, "info")]


def test_every_finding_that_there_is_is_staged() -> None:
    sources = [ROOT / f"plugins/plugin_utils/plan/{name}_findings.py" for name in ("gpu", "host")]
    known = {name for path in sources for name in re.findall(r'finding\(\s*"([a-z-]+)"', path.read_text())}
    staged = {finding for state in STATES.values() for finding in state.wrong}
    assert known - staged == {"no-docker", "no-systemd", OF_THE_ENGINE}


def test_a_host_as_installed_is_healthy_and_one_that_cannot_be_reached_ends_with_4(lab: Lab, tmp_path: Path) -> None:
    assert named(examined(lab, tmp_path, "--limit", "debian13")["debian13"]) == {"no-docker": "info"}
    inventory = tmp_path / "hosts.ini"
    inventory.write_text(lab.inventory.read_text() + "[gone]\ngone ansible_host=127.0.0.1 ansible_port=9\n")
    words = ["gpuprov", "doctor", str(inventory), "--limit", "debian13,gone"]
    assert run(words, tmp_path).status == 4
    assert run([*words, "-e", "gpu_host_probe_free_var_mib=99999999"], tmp_path).status == 2


def test_plain_ansible_shows_the_same_and_fails_where_there_is_something_to_cure(lab: Lab, tmp_path: Path) -> None:
    words = ["ansible-playbook", "-i", str(lab.inventory), str(ROOT / "playbooks/doctor.yml"), "-l", "debian13"]
    healthy = run(words, tmp_path)
    assert (healthy.status, "info no-docker: docker is not installed" in healthy.stdout) == (0, True)
    ill = run([*words, "-e", "gpu_host_probe_free_var_mib=99999999"], tmp_path)
    assert (ill.status, "error disk: /var has" in ill.stdout) == (2, True)


def test_a_missing_driver_stops_a_plan_unless_it_is_optional(lab: Lab, tmp_path: Path) -> None:
    host = lab.host("debian12-01")
    words = ["gpuprov", "plan", str(lab.inventory), "--limit", host.name]
    host.run(STATES["no driver"].done)
    try:
        required = run(words, tmp_path)
        assert (required.status, "no driver. Cure: apt-get install" in required.text) == (2, True)
        optional = run([*words, "-e", "gpu_host_probe_driver=optional"], tmp_path)
        assert (optional.status, "! 1 GPU (10de:2330) and no driver; cure:" in optional.text) == (0, True)
        unwanted = run([*words, "-e", "nvidia_docker_stack=none"], tmp_path)
        assert "no driver" not in unwanted.text
    finally:
        host.run(STATES["no driver"].undone)


def test_without_systemd_provision_touches_nothing_and_the_rest_works(lab: Lab, tmp_path: Path) -> None:
    other, host = lab.host("debian12-01"), lab.host("nosystemd")
    words = [str(lab.inventory), "--limit", host.name]
    before = host.run("find /etc /usr -newer /run/gpuprov-lab-ready -type f").stdout
    refused = run(["gpuprov", "provision", *words], tmp_path)
    assert refused.status == 2
    assert "this host runs without systemd" in refused.text
    assert host.run("find /etc /usr -newer /run/gpuprov-lab-ready -type f").stdout == before
    pending = run(["gpuprov", "plan", *words], tmp_path)
    assert (pending.status, "docker-ce " in pending.text) == (2, True)

    # What an image of such a host would bring along.
    files = other.run(
        "tar -c -z /etc/apt/keyrings /etc/apt/sources.list.d /etc/docker/daemon.json /usr/local/bin/dockerrun | base64"
    ).stdout
    host.run("base64 -d | tar -x -z -C /", input=files)
    packages = other.run("dpkg-query -W -f '${Package}=${Version} ' $(apt-mark showhold)").stdout
    host.run(
        "apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends "
        f"-o Dpkg::Options::=--force-confold install {packages} && apt-mark hold {re.sub('=[^ ]*', '', packages)} && "
        "usermod -a -G docker alice"
    )
    assert named(examined(lab, tmp_path, "--limit", host.name)[host.name]) == {
        "no-systemd": "info",
        "dockerd-stopped": "error",
    }
    host.run(
        "setsid dockerd >/var/log/dockerd.log 2>&1 </dev/null & until docker info >/dev/null 2>&1; do sleep 0.2; done"
    )
    for command in ("plan", "verify", "doctor"):
        answer = run(["gpuprov", command, *words], tmp_path)
        assert answer.status == 0, answer.text
    host.run("pkill -STOP -x dockerd")
    assert named(examined(lab, tmp_path, "--limit", host.name)[host.name]) == {
        "no-systemd": "info",
        "dockerd-silent": "error",
    }
