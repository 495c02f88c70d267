"""One run at a time on a host: who has the lock, who waits for it, and when it is free again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_lock
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

from tests import waiting

ROOT = Path(__file__).resolve().parents[2]
OWNER = {"account": "alice", "machine": "ci-3", "pid": 4711}
# Holds the lock until its input ends, or for ever.
HOLDER = """
import json, sys
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_lock
host_lock.PATH = sys.argv[1]
lock = host_lock.take(json.loads(sys.argv[2]), 0)
sys.stdout.write("taken\\n")
sys.stdout.flush()
sys.stdin.read()
lock.release()
"""
Holder = Callable[[], "subprocess.Popen[str]"]


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The lock's file, for this process and its holders."""
    monkeypatch.setattr(host_lock, "PATH", str(tmp_path / "lock"))
    monkeypatch.setattr(host_lock, "POLL", 0.01)
    return tmp_path / "lock"


@pytest.fixture
def holder(path: Path) -> Iterator[Holder]:
    """Start another process that holds the lock."""
    with ExitStack() as stack:

        def start() -> subprocess.Popen[str]:
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", HOLDER, str(path), json.dumps(OWNER)], text=True,
                    env={**os.environ, "PYTHONPATH": str(ROOT / "playbooks/collections")},
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                )
            )  # fmt: skip
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == "taken\n"
            return process

        yield start


def test_a_second_run_is_told_who_has_been_at_the_host_since_when(holder: Holder) -> None:
    holder()
    with pytest.raises(HostError, match=r"^alice on ci-3 \(process 4711\) has been at this host since \d{4}-.* UTC"):
        host_lock.take({}, 0)


@pytest.mark.parametrize("ends", ["released", "killed"])
def test_a_lock_goes_with_its_process_however_that_ends(holder: Holder, path: Path, ends: str) -> None:
    process = holder()
    assert json.loads(path.read_text())["account"] == "alice"
    if ends == "killed":
        process.kill()
        process.wait()
    else:
        process.communicate()
        assert path.read_text() == ""
    lock = host_lock.take({"account": "bob"}, 0)
    assert json.loads(path.read_text())["account"] == "bob"
    lock.release()


def test_a_run_that_waits_gets_the_lock_once_it_is_free(holder: Holder) -> None:
    process = holder()
    with ExitStack() as stack:
        # It ends meanwhile.
        other = stack.enter_context(subprocess.Popen(["sh", "-c", f"sleep 0.2; kill {process.pid}"]))
        host_lock.take({}, waiting.PATIENCE).release()
        other.wait()


def test_a_run_that_waits_ends_where_its_controller_is_gone(holder: Holder, path: Path) -> None:
    process = holder()
    words = [sys.executable, "-c", HOLDER.replace(", 0)", f", {waiting.PATIENCE})"), str(path), "{}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "playbooks/collections")}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stderr is not None
        other.stdout.close()
        assert "alice on ci-3" in other.stderr.read()
    assert process.poll() is None


def test_a_run_whose_controller_is_gone_is_waited_for_in_any_case(holder: Holder, path: Path) -> None:
    process = holder()
    assert process.stdout is not None
    process.stdout.close()
    waiting.until(lambda: json.loads(path.read_text() or "{}").get("abandoned"), "the process notices")
    with ExitStack() as stack:
        other = stack.enter_context(subprocess.Popen(["sh", "-c", f"sleep 0.2; kill {process.pid}"]))
        host_lock.take({}, 0).release()
        other.wait()


def test_check_mode_neither_takes_the_lock_nor_waits_for_it(holder: Holder) -> None:
    holder()

    class Host:
        check_mode = True

    with host_lock.held(Host(), {"owner": OWNER, "wait": 0}) as lock:
        assert lock is None
