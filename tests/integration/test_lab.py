"""A lab that a restart of its machine left."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.lab.lab import HTTP_PORT, Lab, podman


@pytest.fixture
def own_lab(worker_id: str) -> Iterator[Lab]:
    """A lab that no other test uses."""
    lab = Lab(f"restart-{worker_id}")
    yield lab
    lab.down()


def test_a_lab_whose_processes_are_gone_without_podmans_knowledge_comes_up_again(own_lab: Lab) -> None:
    (host,) = own_lab.up("debian12")
    reach = f"exec 3<>/dev/tcp/{own_lab.server}/{HTTP_PORT}"
    host.run(reach)
    for container in (f"{own_lab.network}-server", host.container):
        # The monitor first: it would tell podman.
        form = "{{.State.ConmonPid}} {{.State.Pid}}"
        for pid in podman("inspect", "--format", form, container).stdout.split():
            os.kill(int(pid), signal.SIGKILL)
        assert podman("inspect", "--format", "{{.State.Status}}", container).stdout == "running\n"
    assert host.run(reach, check=False).returncode != 0
    own_lab.up("debian12")
    host.run(reach)
