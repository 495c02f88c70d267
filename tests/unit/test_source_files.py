"""How apt reads new sources on a host."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import source_files
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

from tests.unit.test_apt_sources import URI, source

UNREAD = "Err:1 http://deb.debian.org/debian bookworm InRelease\n  Could not resolve 'deb.debian.org'\n"
WARNING = "W: http://deb.debian.org: Key is stored in legacy trusted.gpg keyring\n"
ALONE = "Dir::Etc::SourceList=/dev/null"


class Apt:
    """An apt whose runs of apt-get end as the test says."""

    architecture = "amd64"

    def __init__(self, *answers: tuple[int, str, str]) -> None:
        self.answers = list(answers)
        self.alone: list[bool] = []

    def apt_get(self, *words: str) -> tuple[int, str, str]:
        self.alone.append(ALONE in words)
        return self.answers.pop(0)


@pytest.mark.parametrize(
    ("lists", "answers", "alone"),
    [
        ([], [(0, "", "")], [False]),
        (["lock", "partial"], [(0, WARNING, "")], [False]),
        ([], [(100, UNREAD, ""), (0, "", "")], [False, True]),
        ([], [(0, UNREAD, ""), (0, "", "")], [False, True]),
        (["deb.debian.org_debian_dists_bookworm_main_binary-amd64_Packages.lz4"], [(0, "", "")], [True]),
    ],
)
def test_a_host_without_lists_reads_all_its_sources_at_once_where_they_can_be_read(
    lists: list[str], answers: list[tuple[int, str, str]], alone: list[bool], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(source_files, "LISTS", str(tmp_path))
    for name in lists:
        (tmp_path / name).touch()
    apt = Apt(*answers)
    source_files.Sources(apt).update([source()])
    assert apt.alone == alone


def test_a_source_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_files, "LISTS", str(tmp_path))
    apt = Apt((100, UNREAD, ""), (100, f"Err:1 {URI} bookworm InRelease\n  404  Not Found\n", ""))
    with pytest.raises(HostError, match=f"apt cannot use {URI}: .*404"):
        source_files.Sources(apt).update([source()])
