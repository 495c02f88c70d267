"""GPUs in containers, on lab hosts whose GPU is a stand-in: tests/lab/README.md says what of the chain is real."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Answer, Hosts, document
from tests.lab.lab import Host, Lab
from tests.lab.repositories import OLD_TOOLKIT_VERSION

Gpuprov = Callable[..., Answer]
CONFIG = "/etc/docker/daemon.json"
TOOLKIT_CONFIG = "/etc/nvidia-container-runtime/config.toml"
SPEC = "/var/run/cdi/nvidia.yaml"
FAULTS = "/etc/gpuprov-lab/gpu-faults"
CDI = ("-e", "nvidia_docker_cdi=true")
FIRST, SECOND = (f"GPU-5ca1ab1e-0000-0000-0000-00000000000{number}" for number in range(2))
# Opens the device as a program would: there is no driver behind it, so the best answer is ENXIO.
OPEN = "docker exec job sh -c 'head -c 1 /dev/nvidia0'"
# Several in a few seconds are more than systemd's limit.
RESTART = "systemctl reset-failed docker; systemctl restart docker"
ALLOWED, DENIED = "No such device or address", "Operation not permitted"


@pytest.fixture
def provisioned(gpuprov: Gpuprov, lab: Lab) -> Callable[..., Host]:
    """Provision a host and return it."""

    def call(name: str, *words: str) -> Host:
        answer = gpuprov("provision", "-l", name, *words)
        assert answer.status == 0, answer.text
        return lab.host(name)

    return call


def failed_checks(answer: Answer, host: str) -> dict[str, str]:
    """The checks that failed, with what was seen."""
    verified = document(answer)["hosts"][host]["verify"]
    return {check["name"]: check["detail"] for check in verified["checks"] if not check["ok"]}


def subjects(answer: Answer, host: str) -> list[str]:
    return [change["subject"] for change in document(answer)["hosts"][host]["plan"]["changes"]]


def without(key: str) -> str:
    """The command that has dockerd run without a key."""
    script = f"import json; c = json.load(open('{CONFIG}')); del c['{key}']; json.dump(c, open('{CONFIG}', 'w'))"
    return f'python3 -c "{script}"; {RESTART}'


def test_each_way_in_which_a_container_s_gpu_is_wrong_fails_its_own_check(
    provisioned: Callable[..., Host], gpuprov: Gpuprov
) -> None:
    host = provisioned("resolute")
    host.run("test -e /dev/nvidia1 || mknod -m 0666 /dev/nvidia1 c 195 1")
    host.run("mkdir -p /var/lib/gpuprov-verify.4194305/python")  # of a run that was killed
    wrong: dict[str, Any] = {}
    for fault in ("", "lost", "leaks", "cuinit", "arithmetic", "uuid", "busy"):
        host.run(f"echo {fault} > {FAULTS}")
        wrong[fault] = failed_checks(gpuprov("verify", "-l", host.name, "--json"), host.name)
    # What is mounted into containers in place of the driver goes: a library that cannot be loaded.
    host.run(f"rm {FAULTS}; mv /usr/lib/x86_64-linux-gnu/libcuda.so.1 /tmp")
    wrong["library"] = failed_checks(gpuprov("verify", "-l", host.name, "--json"), host.name)
    host.run("mv /tmp/libcuda.so.1 /usr/lib/x86_64-linux-gnu; rm /dev/nvidia1")
    assert wrong[""] == wrong["busy"] == {}
    assert {fault: list(checks) for fault, checks in wrong.items() if checks} == {
        "lost": ["container sees the GPU", "one GPU where one is asked for", "GPU with --gpus"],
        "leaks": ["no GPU where none is asked for", "one GPU where one is asked for"],
        "cuinit": ["CUDA starts in a container", "GPU computes right", "GPU with --gpus"],
        "arithmetic": ["GPU computes right"],
        "uuid": ["container sees the GPU", "GPU with --gpus"],
        "library": ["CUDA starts in a container", "GPU computes right", "GPU with --gpus"],
    }
    assert SECOND in wrong["lost"]["container sees the GPU"]
    assert f"of the host that a container does not see: {FIRST}" in wrong["uuid"]["container sees the GPU"]
    assert "CUDA_ERROR_UNKNOWN" in wrong["cuinit"]["CUDA starts in a container"]
    assert "1 of 16384 results are wrong" in wrong["arithmetic"]["GPU computes right"]
    assert "libcuda.so.1: cannot open" in wrong["library"]["CUDA starts in a container"]
    left = "docker ps -aq --filter name=gpuprov-verify; ls -d /var/lib/gpuprov-verify.*"
    assert host.run(left, check=False).stdout == ""


def test_docker_run_gpus_is_proven_and_what_refuses_it_is_said_with_the_cure(
    provisioned: Callable[..., Host], gpuprov: Gpuprov
) -> None:
    host, hook = provisioned("debian13"), "/usr/bin/nvidia-container-runtime-hook"

    def refused(*words: str) -> dict[str, str]:
        return failed_checks(gpuprov("verify", "-l", host.name, "--json", *words), host.name)

    host.run(f"mv {hook} /root")
    assert "apt-get install --reinstall nvidia-container-toolkit" in refused()["GPU with --gpus"]
    host.run(RESTART)
    wrong = refused()
    assert list(wrong) == ["GPU with --gpus"]
    assert "dockerd found no nvidia-container-runtime-hook" in wrong["GPU with --gpus"]
    assert "systemctl restart docker" in wrong["GPU with --gpus"]
    host.run(f"mv /root/{Path(hook).name} {hook}; {RESTART}")
    assert refused() == {}

    # The mode cdi, in which the hook refuses unless it is told otherwise.
    mode = ("-e", "nvidia_docker_mode=cdi")
    host.run(f"nvidia-ctk config --config-file {TOOLKIT_CONFIG} --set nvidia-container-runtime.mode=cdi")
    assert "skip-mode-detection" in refused(*mode)["GPU with --gpus"]
    assert subjects(gpuprov("plan", "-l", host.name, "--json", *mode), host.name) == ["hook of the toolkit"]
    provisioned("debian13", *mode)
    assert gpuprov("plan", "-l", host.name, *mode).status == 0
    host.run(f"rm {TOOLKIT_CONFIG}; nvidia-ctk config --config-file {TOOLKIT_CONFIG}")

    # The stack comes to an engine that runs: it starts anew for the hook, unless containers run.
    away = (
        "docker rm -f job; apt-get remove -qq -y --allow-change-held-packages nvidia-container-toolkit >/dev/null; "
        f"{without('runtimes')}; "
    )
    host.run(f"{away}docker run -d --name job busybox sleep 36000")
    plan = document(gpuprov("plan", "-l", host.name, "--json"))["hosts"][host.name]["plan"]
    assert (plan["disruption"], [note["name"] for note in plan["notes"]]) == ("reload", ["gpus-flag"])
    busy = gpuprov("provision", "-l", host.name, "--json")
    assert list(failed_checks(busy, host.name)) == ["GPU with --gpus"]
    host.run(away)
    plan = document(gpuprov("plan", "-l", host.name, "--json"))["hosts"][host.name]["plan"]
    assert (plan["disruption"], plan["notes"]) == ("restart", [])
    provisioned("debian13")


def test_a_container_started_with_gpus_alone_loses_them_as_verify_says_and_keeps_them_with_the_cure(
    provisioned: Callable[..., Host], gpuprov: Gpuprov
) -> None:
    host = provisioned("debian13")

    def after_reload(*words: str) -> str:
        host.run(f"docker run -d --name job {shlex.join(words)} busybox sleep 36000")
        before = host.run(OPEN, check=False).stderr
        host.run("systemctl daemon-reload; systemd-run --wait --quiet true")
        after = host.run(OPEN, check=False).stderr
        host.run("docker rm -f job")
        assert ALLOWED in before
        return after

    def lasting(*words: str) -> str:
        verified = document(gpuprov("verify", "-l", host.name, "--json", *words))["hosts"][host.name]["verify"]
        return next(one["detail"] for one in verified["checks"] if one["name"] == "GPU stays after daemon-reload")

    assert "with --gpus alone it goes" in lasting()
    assert DENIED in after_reload("--gpus", "all")
    assert ALLOWED in after_reload("--gpus", "all", "--runtime", "nvidia")
    default = ("-e", json.dumps({"docker_daemon_options": {"default-runtime": "nvidia"}}))
    provisioned("debian13", *default)
    assert "--gpus" not in lasting(*default)
    assert ALLOWED in after_reload("--gpus", "all")
    host.run(without("default-runtime"))


def test_the_gpus_are_looked_for_by_python_27_too_and_in_an_image_of_ones_own(
    provisioned: Callable[..., Host], gpuprov: Gpuprov, checkout: Path
) -> None:
    host = provisioned("xenial")
    host.run("apt-get update -qq; apt-get install -y -qq python2.7")
    files = checkout / "roles/gpu_host_verify/files"
    names = ("containers.sh", "gpu_check.py", "gpu_containers.py")
    script, program, containers = ((files / name).read_text() for name in names)
    words = ["sh", "-c", script, "verify", "hello-world", "gpu", "60", "", "", "", "host", program]
    words += ["/usr/bin/python2.7", containers]
    looks = {line.split("\t")[0]: line.split("\t")[1:] for line in host.run(shlex.join(words)).stdout.splitlines()}
    assert [verdict for verdict, _said in looks.values()] == ["ok"] * 4
    device = ast.literal_eval(looks["all"][1])["cuda"]["devices"][0]
    assert (device["uuid"], device["error"]) == (FIRST[4:], None)

    libraries = "/usr/lib/x86_64-linux-gnu/libffi.so* /lib/x86_64-linux-gnu/lib*.so* /lib64"
    tar = f"tar -c --dereference /usr/bin/python3 /bin/sh /usr/lib/python3* {libraries}"
    host.run(f"{tar} 2>/dev/null | docker import - mine:1 >/dev/null")
    own = gpuprov("verify", "-l", host.name, "--json", "-e", "gpu_host_verify_gpu_image=mine:1")
    assert failed_checks(own, host.name) == {}
    without = gpuprov("verify", "-l", host.name, "--json", "-e", "gpu_host_verify_gpu_image=hello-world")
    assert "container sees the GPU" in failed_checks(without, host.name)
    assert host.run("docker image inspect -f ok mine:1").stdout == "ok\n"


@pytest.mark.parametrize("name", ["debian12", "resolute"])
def test_a_running_container_keeps_its_gpu_after_a_daemon_reload(
    name: str, provisioned: Callable[..., Host], gpuprov: Gpuprov
) -> None:
    # Debian 12's runc leaves devices out that have no link in /dev/char; resolute's does not.
    systemd = ("-e", json.dumps({"docker_daemon_options": {"exec-opts": ["native.cgroupdriver=systemd"]}}))
    host = provisioned(name, *systemd)
    start = "docker run -d --name job --runtime nvidia -e NVIDIA_VISIBLE_DEVICES=all busybox sleep 36000"
    if name == "debian12":
        # The first run has made the links: what was without them?
        host.run("rm -rf /dev/char /etc/udev/rules.d/71-gpuprov-*")
        wrong = failed_checks(gpuprov("verify", "-l", name, "--json", *systemd), name)
        assert list(wrong) == ["GPU for containers", "GPU stays after daemon-reload"]
        host.run(f"{start} && ({OPEN} 2>&1 | grep '{ALLOWED}') && systemctl daemon-reload")
        assert DENIED in host.run(OPEN, check=False).stderr
        host.run("docker rm -f job")
        answer = gpuprov("plan", "-l", name, "--json", *systemd)
        assert subjects(answer, name) == ["links in /dev/char"]
        provisioned(name, *systemd)
        host.run("rm /etc/udev/rules.d/71-gpuprov-*")
        assert subjects(gpuprov("plan", "-l", name, "--json", *systemd), name) == ["links in /dev/char"]
        provisioned(name, *systemd)
    else:
        host.run("rm -rf /dev/char")
    # A mode that hands devices over behind systemd's back goes.
    host.run(f"nvidia-ctk config --config-file {TOOLKIT_CONFIG} --set nvidia-container-runtime.mode=legacy")
    wrong = failed_checks(gpuprov("verify", "-l", name, "--json", *systemd), name)
    assert "mode legacy" in wrong["GPU stays after daemon-reload"]
    provisioned(name, *systemd)
    # systemd 257 and newer apply what they read anew when the next unit starts.
    host.run(f"{start} && systemctl daemon-reload && systemctl daemon-reload && systemd-run --wait --quiet true")
    assert ALLOWED in host.run(OPEN, check=False).stderr
    host.run("docker rm -f job")
    assert (host.run("ls /dev/char", check=False).stdout != "") is (name == "debian12")
    full = document(gpuprov("provision", "-l", name, "--full", "--json", *systemd))
    assert full["hosts"][name]["changes"] == []
    # Back to what other tests expect; without systemd's cgroups a legacy mode is the administrator's business.
    provisioned(name, "-e", '{"docker_daemon_options": {"exec-opts": null}}')
    assert gpuprov("plan", "-l", name).status == 0


def test_gpus_are_cdi_devices_where_that_is_asked_for(
    pristine: Hosts, provisioned: Callable[..., Host], gpuprov: Gpuprov
) -> None:
    (host,) = pristine("resolute")
    provisioned("resolute")
    host.run(f"""python3 -c "import json; c = json.load(open('{CONFIG}')); c['features'] = {{'buildkit': True}};
json.dump(c, open('{CONFIG}', 'w'))"; systemctl reload docker""")
    answer = gpuprov("plan", "-l", host.name, "--json", *CDI)
    # The toolkit's own package has generated a specification, and refreshes it.
    assert [change["to"] for change in document(answer)["hosts"][host.name]["plan"]["changes"]] == [
        'features {"buildkit": true, "cdi": true}'
    ]
    provisioned("resolute", *CDI)
    assert json.loads(host.run(f"cat {CONFIG}").stdout)["features"] == {"buildkit": True, "cdi": True}
    host.run("docker run --rm --device nvidia.com/gpu=all busybox sh -c 'test -e /dev/nvidia0'")
    verified = document(gpuprov("verify", "-l", host.name, "--json", *CDI))["hosts"][host.name]["verify"]
    assert {"name": "GPU by CDI", "ok": True, "detail": FIRST} in verified["checks"]

    for staged, before in (
        (f"rm {SPEC}", None),
        (f"sed -i s/580.159.04/570.1/ {SPEC}", "driver 570.1"),
        (f"echo kind: nvidia.com/gpu > {SPEC}", f"{SPEC} is invalid: it has no cdiVersion"),
        ("mknod -m 0666 /dev/nvidia1 c 195 1", f"without {SECOND}"),
        ("rm /dev/nvidia1", f"with {SECOND}, which is not here"),
    ):
        host.run(staged)
        changes = document(gpuprov("plan", "-l", host.name, "--json", *CDI))["hosts"][host.name]["plan"]["changes"]
        assert [(one["subject"], one["from"], one["to"]) for one in changes] == [
            ("CDI specification", before, "driver 580.159.04")
        ]
        provisioned("resolute", *CDI)
        assert gpuprov("plan", "-l", host.name, *CDI).status == 0
    host.run("systemctl disable --now -q nvidia-cdi-refresh.path")
    assert "CDI refresh" in subjects(gpuprov("plan", "-l", host.name, "--json", *CDI), host.name)
    provisioned("resolute", *CDI)
    full = document(gpuprov("provision", "-l", host.name, "--full", "--json", *CDI))
    assert full["hosts"][host.name]["changes"] == []


def test_a_toolkit_that_does_not_refresh_specifications_gets_units_that_do(
    pristine: Hosts, provisioned: Callable[..., Host], gpuprov: Gpuprov
) -> None:
    (host,) = pristine("debian13")
    words = (*CDI, "-e", f"nvidia_docker_version={OLD_TOOLKIT_VERSION}")
    provisioned("debian13", *words)
    assert host.run("systemctl is-enabled gpuprov-cdi-refresh.path gpuprov-cdi-refresh.service").stdout == (
        "enabled\nenabled\n"
    )
    assert gpuprov("plan", "-l", host.name, *words).status == 0
    # Another driver: its library is another file.
    host.run(
        "cd /usr/lib/x86_64-linux-gnu; for name in libcuda libnvidia-ml; do mv $name.so.580.159.04 $name.so.590.1; "
        "ln -sf $name.so.590.1 $name.so.1; done; "
        f"for try in $(seq 600); do grep -q 590.1 {SPEC} && exit; sleep 0.5; done; exit 1"
    )
    assert host.run("systemctl is-system-running").stdout == "running\n"
    assert gpuprov("uninstall", "-l", host.name, "--yes", *words).status == 0
    left = "ls /etc/systemd/system /etc/udev/rules.d | grep gpuprov-cdi; ls /var/run/cdi; systemctl is-system-running"
    assert host.run(left, check=False).stdout == "running\n"


def test_an_engine_without_cdi_is_named_before_anything_is_touched(
    provisioned: Callable[..., Host], gpuprov: Gpuprov
) -> None:
    host = provisioned("debian12")
    before = host.run(f"stat -c '%i %y' {CONFIG}; systemctl show docker -p MainPID").stdout
    answer = gpuprov("provision", "-l", host.name, *CDI)
    assert answer.status == 2
    assert "does not read the CDI specification of NVIDIA's toolkit 1.19.1-1: 26.1 and newer do" in answer.stdout
    assert host.run(f"stat -c '%i %y' {CONFIG}; systemctl show docker -p MainPID").stdout == before
