"""The command line of gpuprov, for unit tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ansible.plugins.loader import init_plugin_loader

# Before anything imports ansible_collections: templates find the filters of this collection then.
init_plugin_loader([str(Path(__file__).resolve().parents[2] / "playbooks/collections")])

# They import ansible_collections.
from gpuprov import cli, runner  # noqa: E402
from tests.runs import Call, Runs  # noqa: E402


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runs:
    """The runs that commands start, from an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    runs = Runs()
    runs.events = [{"event": "runner_on_ok", "event_data": {"host": "a", "task": "r : Do it", "res": {}}}]
    monkeypatch.setattr(runner, "run", runs)
    return runs


@pytest.fixture
def gpuprov(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run the command line."""

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["gpuprov", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return (int(ended.value.code or 0), *capsys.readouterr())

    return call
