"""The changelog: fragments that antsibull-changelog accepts, and a CHANGELOG.rst that it wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from antsibull_changelog.cli import run


@pytest.fixture
def collection(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what antsibull-changelog reads, as the working directory."""
    shutil.copy(checkout / "galaxy.yml", tmp_path)
    shutil.copytree(checkout / "changelogs", tmp_path / "changelogs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_fragments_and_the_released_changes_are_valid(collection: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = [run(["", "lint"]), run(["", "lint-changelog-yaml", "--strict", "changelogs/changelog.yaml"])]
    assert (status, capsys.readouterr().out) == ([0, 0], "")


def test_a_fragment_of_an_unknown_section_is_refused(collection: Path) -> None:
    (collection / "changelogs/fragments/new.yml").write_text("improvements:\n  - Faster.\n")
    assert run(["", "lint"]) != 0


def test_changelog_rst_is_written_from_the_released_changes(collection: Path, checkout: Path) -> None:
    assert run(["", "generate"]) == 0
    assert (collection / "CHANGELOG.rst").read_text() == (checkout / "CHANGELOG.rst").read_text()
