"""Build releases twice with the same bytes, and use a collection whose playbooks work by their full names."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from tests.integration.conftest import Hosts, run
from tests.lab.lab import Lab
from tools.man import man_pages

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two directories, each with everything that a release has, built one after the other."""
    place = tmp_path_factory.mktemp("builds")
    for name in ("first", "second"):
        answer = run([sys.executable, "-m", "tools.build", str(place / name)], place, PYTHONPATH=str(ROOT))
        assert answer.status == 0, answer.text
    return place / "first", place / "second"


def test_two_builds_are_the_same_bytes(builds: tuple[Path, Path]) -> None:
    first, second = (
        {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}
        for directory in builds
    )
    assert len(first) == 3
    assert first == second


def test_the_wheel_installs_a_man_page_for_each_command(builds: tuple[Path, Path]) -> None:
    (wheel,) = builds[0].glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        pages = {
            path.name: archive.read(str(path)).decode()
            for path in map(PurePosixPath, archive.namelist())
            if path.parent.match("*.data/data/share/man/man1")
        }
    assert "gpuprov-image-ship.1" in pages
    assert pages == man_pages()


def test_the_playbooks_of_the_collection_work_by_their_full_names(
    builds: tuple[Path, Path], pristine: Hosts, lab: Lab, tmp_path: Path
) -> None:
    pristine("debian13")
    (archive,) = builds[0].glob("gpuprov-gpuprov-*.tar.gz")
    words = ["ansible-galaxy", "collection", "install", "--offline", str(archive), "-p", str(tmp_path / "collections")]
    installed = run(words, tmp_path)
    assert installed.status == 0, installed.text
    (tmp_path / "site.yml").write_text("- ansible.builtin.import_playbook: gpuprov.gpuprov.provision\n")
    (tmp_path / "ansible.cfg").write_text("[defaults]\n")
    settings = {"ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections")}
    inventory = ["-i", str(lab.inventory), "-l", "debian13"]
    answer = run(["ansible-playbook", *inventory, str(tmp_path / "site.yml")], tmp_path, **settings)
    assert answer.status == 0, answer.text
    again = run(["ansible-playbook", *inventory, "gpuprov.gpuprov.plan"], tmp_path, **settings)
    assert again.status == 0, again.text
    assert "up to date" in again.stdout
