"""The files of a directory that are sent to a build, and the copy on the host."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_lock
from ansible_collections.gpuprov.gpuprov.plugins.modules import docker_build_context
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import build_context
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images.build_context import (
    ContextError,
    Ignore,
    directory_name,
    entries,
    pack,
)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


# ---- .dockerignore


@pytest.mark.parametrize(
    ("patterns", "out", "kept"),
    [
        ("*.log", ["a.log", "d.log/x"], ["a/b.log", "log"]),
        ("**/*.log", ["a.log", "a/b.log", "a/b/c.log"], ["a/log"]),
        ("data", ["data", "data/x", "data/x/y"], ["a/data", "data2"]),
        ("/data/", ["data/x"], ["a/data"]),
        ("a/*/c", ["a/b/c", "a/b/c/d"], ["a/c", "a/b/d/c"]),
        ("a/**", ["a/b", "a/b/c"], ["b/a"]),
        ("**", ["a", "a/b"], []),
        ("a?c", ["abc"], ["ac", "a/c"]),
        ("[a-c]x", ["ax", "cx"], ["dx"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("\\*", ["*"], ["a"]),
        ("a.b", ["a.b"], ["axb"]),
        ("data\n!data/keep", ["data/x"], ["data/keep", "data/keep/y"]),
        ("!a\na", ["a"], []),
        ("*\n!src/**/*.py", ["src/a.txt", "README"], ["src/a.py", "src/b/c.py"]),
        ("# a\n\n  b  \n", ["b"], ["a", "# a"]),
        ("./a", ["a"], []),
        (".", [], ["a"]),
        ("\ufeffa", ["a"], []),
    ],
)
def test_patterns_leave_out_what_docker_leaves_out(patterns: str, out: list[str], kept: list[str]) -> None:
    ignore = Ignore(patterns)
    assert [path for path in out if not ignore.excludes(path)] == []
    assert [path for path in kept if ignore.excludes(path)] == []


def test_what_is_left_out_does_not_travel_but_the_dockerfile_and_the_patterns_do(tmp_path: Path) -> None:
    files = ["Dockerfile", ".dockerignore", "a/x", "a/keep/y", "a/z/q", "b"]
    write(tmp_path, dict.fromkeys(files, "1") | {".dockerignore": "*\n!a/keep\n"})
    assert [entry.path for entry in entries(tmp_path, "Dockerfile")] == [
        ".dockerignore", "Dockerfile", "a", "a/keep", "a/keep/y",
    ]  # fmt: skip


def test_patterns_beside_the_dockerfile_go_before_those_of_all(tmp_path: Path) -> None:
    write(tmp_path, {"gpu/Dockerfile": "", "gpu/Dockerfile.dockerignore": "a", ".dockerignore": "b", "a": "", "b": ""})
    paths = [entry.path for entry in entries(tmp_path, "gpu/Dockerfile")]
    assert ("a" in paths, "b" in paths, "gpu/Dockerfile" in paths) == (False, True, True)


@pytest.mark.parametrize("dockerfile", ["gone", "../Dockerfile", "/Dockerfile", "directory"])
def test_a_dockerfile_that_is_not_in_the_context_is_refused(dockerfile: str, tmp_path: Path) -> None:
    write(tmp_path, {"Dockerfile": "", "context/directory/x": ""})
    with pytest.raises(ContextError, match="in the build context"):
        entries(tmp_path / "context", dockerfile)


def test_a_context_has_one_place_on_a_host_and_another_one_another(tmp_path: Path) -> None:
    names = [directory_name(tmp_path / name) for name in ("a", "b", "b/../a", "a b;c")]
    assert names[0] == names[2]
    assert len(set(names)) == 3
    assert names[3].startswith("a-b-c-")


# ---- the copy on the host


class Ended(Exception):
    """A module that is through."""


class Copy:
    """A host with a copy, kept by the module's own functions."""

    def __init__(self, root: Path) -> None:
        self.context, self.place, self.files = root / "context", root / "place", root / "files"
        for path in (self.context, self.files):
            path.mkdir()
        write(self.context, {"Dockerfile": "FROM scratch"})

    def bring(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Make the copy equal to the context; return the files that travelled."""
        found = entries(self.context, "Dockerfile")
        manifest, archive = self.files / "manifest.json.gz", self.files / "context.tar.gz"
        manifest.write_bytes(gzip.compress(json.dumps(found).encode()))
        lacking: list[int] = self._module(monkeypatch, manifest=str(manifest))["lacking"]
        pack(self.context, found, lacking, archive)
        self._module(monkeypatch, manifest=str(manifest), archive=str(archive))
        return [found[number].path for number in lacking]

    def _module(self, monkeypatch: pytest.MonkeyPatch, **params: Any) -> dict[str, Any]:
        answers: list[dict[str, Any]] = []

        class Module:
            check_mode = False

            def __init__(self, **_: Any) -> None:
                self.params = {"directory": str(place), "archive": None, "lasting_days": 30, "lock": {}} | params

            def exit_json(self, **answer: Any) -> None:
                answers.append(answer)
                raise Ended

            def fail_json(self, **answer: Any) -> None:
                raise AssertionError(answer)

        place = self.place
        monkeypatch.setattr(docker_build_context, "AnsibleModule", Module)
        monkeypatch.setattr(host_lock, "PATH", str(self.files / "lock"))
        with pytest.raises(Ended):
            docker_build_context.main()
        return answers[0]

    def tree(self, root: Path) -> dict[str, Any]:
        return {
            str(path.relative_to(root)): os.readlink(path) if path.is_symlink()
            else (path.stat().st_mode, path.read_bytes() if path.is_file() else None)
            for path in sorted(root.rglob("*"))
        }  # fmt: skip

    def check(self) -> None:
        assert self.tree(self.place / "context") == self.tree(self.context)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


@pytest.mark.parametrize("compressed", [0, 1 << 20])
def test_the_first_time_all_travels_and_after_that_only_what_changed(
    compressed: int, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_context, "_COMPRESSED", compressed)
    write(copy.context, {"a": "1", "b/c": "2", "b/\u00fc \U0001f600": "3", "gone/x": "4"})
    (copy.context / "link").symlink_to("b/c")
    (copy.context / "outside").symlink_to("/etc")
    (copy.context / "a").chmod(0o755)
    assert len(copy.bring(monkeypatch)) == 5
    copy.check()
    assert copy.bring(monkeypatch) == []
    write(copy.context, {"a": "other", "new": "5"})
    (copy.context / "b/c").chmod(0o600)
    (copy.context / "gone/x").unlink()
    (copy.context / "gone").rmdir()
    assert copy.bring(monkeypatch) == ["a", "new"]
    copy.check()


def test_a_file_a_directory_and_a_link_take_each_other_s_place_and_no_link_is_followed(
    copy: Copy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    write(copy.context, {"a/x": "1", "b": "2"})
    (copy.context / "c").symlink_to(tmp_path / "elsewhere")
    copy.bring(monkeypatch)
    for old, new in (("c", "saved"),):
        (copy.context / old).rename(copy.context / new)
    write(copy.context, {"c/x": "not elsewhere"})
    (copy.context / "a/x").unlink()
    (copy.context / "a").rmdir()
    (copy.context / "a").symlink_to("b")
    (copy.context / "b").unlink()
    write(copy.context, {"b/y": "3"})
    copy.bring(monkeypatch)
    copy.check()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_copy_that_somebody_changed_is_mended(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    write(copy.context, {"a": "1", "b": "2"})
    copy.bring(monkeypatch)
    write(copy.place / "context", {"a": "changed", "surplus/x": "9"})
    (copy.place / "context/b").unlink()
    assert copy.bring(monkeypatch) == ["a", "b"]
    copy.check()


def test_a_copy_whose_run_was_killed_is_sent_again_rather_than_trusted(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(copy.context, {"a": "1"})
    copy.bring(monkeypatch)
    (copy.place / ".state.json").write_text("{")
    assert copy.bring(monkeypatch) == ["Dockerfile", "a"]
    copy.check()


def test_copies_that_nobody_used_for_long_go_and_nothing_else(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = copy.place.parent
    write(beside, {"old/.state.json": "{}", "old/context/x": "", "young/.state.json": "{}", "other/x": ""})
    for name in ("old/.state.json", "other/x"):
        os.utime(beside / name, (0, 0))
    copy.bring(monkeypatch)
    assert [(beside / name).exists() for name in ("old", "young", "other")] == [False, True, True]


def test_a_file_that_changes_while_it_is_sent_is_noticed(copy: Copy, tmp_path: Path) -> None:
    write(copy.context, {"a": "1"})
    found = entries(copy.context, "Dockerfile")
    write(copy.context, {"a": "2"})
    archive = tmp_path / "archive"
    pack(copy.context, found, [1], archive)
    listed = [list(entry) for entry in found]
    (tmp_path / "there").mkdir()
    with pytest.raises(docker_build_context.ContextError, match="a changed while it was sent"):
        docker_build_context.apply(str(tmp_path / "there"), listed, str(archive), ["a"], [])
    assert list((tmp_path / "there").iterdir()) == []
