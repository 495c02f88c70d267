"""Each fault: the run says what is wrong, nothing breaks, and a run without it finishes the job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.faults.scene import Scene
from tests.integration.faults.table import FAULTS, QUICK, host_of
from tests.lab.lab import Lab


@pytest.fixture(scope="module")
def faulty_lab(worker_id: str) -> Iterator[Lab]:
    """A lab of two hosts, which each test leaves as it is wanted."""
    lab = Lab(f"faults-{worker_id}")
    lab.up("debian12,resolute", pristine=True)
    yield lab
    lab.down()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every fault, or a third of them."""
    metafunc.parametrize("name", FAULTS if metafunc.config.getoption("--all-faults") else QUICK)


def make_ready(scene: Scene) -> None:
    """Have the host as wanted, without containers, whatever a fault before this one left."""
    scene.host.run("docker ps -aq | xargs -r docker rm -f", check=False)
    ready = scene.gpuprov("provision", "-e", "docker_daemon_restart=always")
    if ready.status:
        scene.lab.reset(scene.host)
        ready = scene.gpuprov("provision")
    assert ready.status == 0, ready.text


def test_a_fault_is_named_breaks_nothing_and_the_next_run_finishes_the_job(
    name: str, faulty_lab: Lab, tmp_path: Path
) -> None:
    fault = FAULTS[name]
    host = faulty_lab.host(host_of(name))
    scene = Scene(faulty_lab, host, tmp_path)
    if fault.pristine:
        faulty_lab.reset(host)
    else:
        make_ready(scene)
    if fault.container:
        host.run("docker run -d --name job busybox sleep 36000")
    before = None
    try:
        if callable(fault.inject):
            fault.inject(scene)
        elif fault.inject:
            host.run(scene.fill(fault.inject))
        before = scene.state()
        words = scene.words(fault.words)
        answer = fault.act(scene, words) if fault.act else scene.gpuprov(fault.verb, *words)
        after = scene.state()
        active = host.run("systemctl is-active docker", check=False).stdout.strip()
    finally:
        if fault.undo:
            host.run(scene.fill(fault.undo))
        host.run("systemctl stop fault-proxy 2>/dev/null; rm -f /tmp/InRelease", check=False)

    assert answer.status == fault.status, answer.text
    assert re.search(fault.said, answer.text), answer.text
    assert not re.search(fault.unsaid, answer.text), answer.text
    # One of the proof's own may just be going.
    assert set(before.containers.splitlines()) <= set(after.containers.splitlines())
    if fault.dockerd == "same":
        assert after.dockerd == before.dockerd
    if fault.dockerd != "any":
        assert active == "active"

    again = scene.words(fault.words if fault.again is None else fault.again)
    finished = scene.gpuprov("provision", *again)
    assert finished.status == 0, finished.text
    plan = scene.gpuprov("plan", *again)
    assert plan.status == 0, plan.text
    assert after.config in (before.config, scene.state().config)
    if fault.after:
        fault.after(scene)
    host.run("docker ps -aq | xargs -r docker rm -f; ! ls /tmp/injected 2>/dev/null")
