"""A lab for each test process, and the commands as a person runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import schema
from tests.lab.lab import Host, Lab
from tests.waiting import PATIENCE

Hosts = Callable[..., list[Host]]
ROOT = Path(__file__).resolve().parents[2]
# The directory of an environment, and the ansible-core that is in it.
CORES = {".venv-xenial": "2.16.", ".venv-core218": "2.18.", ".venv": "2."}


@dataclass(frozen=True)
class Answer:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def text(self) -> str:
        """All that a person sees."""
        return self.stdout + self.stderr


def environment(cwd: Path) -> dict[str, str]:
    """Return the environment of a command that finds this checkout's programs, and keeps its state in cwd."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "XDG_STATE_HOME": str(cwd / "state")}


def run(words: list[str], cwd: Path, **more: str) -> Answer:
    """Run a command as a person would, without a terminal. more are environment variables."""
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**environment(cwd), **more},
        text=True,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Return whether to try all faults (./dev faults)."""
    parser.addoption("--all-faults", action="store_true", help="every fault, not a third of them")


# The files that take least time, the shortest last. All others, new ones too, are begun before them, so that no
# worker is left with a long file at the end.
SHORT = ("test_images.py", "test_dockerrun.py", "test_example_image.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the short files run last."""
    items.sort(key=lambda item: SHORT.index(item.path.name) + 1 if item.path.name in SHORT else 0)


@pytest.fixture(
    scope="module", params=list(CORES), ids=lambda name: name.removeprefix(".venv-").replace(".venv", "newest")
)
def core(request: pytest.FixtureRequest) -> Path:
    """The environment of one ansible-core."""
    environment = ROOT / request.param
    said = subprocess.run([environment / "bin/ansible", "--version"], capture_output=True, text=True, check=False)
    assert f"[core {CORES[request.param]}" in said.stdout, f"{environment}: run ./dev setup"
    return environment


@pytest.fixture(scope="session")
def session_lab(worker_id: str) -> Iterator[Lab]:
    """The lab of this test process, which goes at the end."""
    lab = Lab(f"it-{worker_id}")
    yield lab
    lab.down()


@pytest.fixture(scope="module")
def lab(session_lab: Lab) -> Lab:
    """Debian 11, 12, 13 and the hosts in the shape of Ubuntu 26.04 and 16.04.

    They are fresh for each file: no file depends on what another one left.
    """
    session_lab.up("debian11,debian12,debian13,resolute,xenial", pristine=True)
    return session_lab


@pytest.fixture(scope="session")
def worker_id(request: pytest.FixtureRequest) -> str:
    """The name of this test process."""
    return os.environ.get("PYTEST_XDIST_WORKER", "master")


@pytest.fixture
def pristine(lab: Lab) -> Hosts:
    """Start the named hosts afresh and return them."""

    def start(*names: str) -> list[Host]:
        lab.reset(*names)
        return [lab.host(name) for name in names]

    return start


@pytest.fixture
def gpuprov(lab: Lab, tmp_path: Path) -> Callable[..., Answer]:
    """Run gpuprov from an empty directory: gpuprov("plan", "--limit", "debian12")."""

    def call(command: str, *words: str, inventory: str | Path | None = None) -> Answer:
        return run(["gpuprov", command, str(inventory or lab.inventory), *words], tmp_path)

    return call


def document(answer: Answer) -> dict[str, Any]:
    """Return the JSON document of a run with --json, which conforms to the schema."""
    parsed: dict[str, Any] = json.loads(answer.stdout)
    schema.check(parsed)
    return parsed
