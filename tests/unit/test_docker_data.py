"""Where the engine keeps its data, and how it goes, on directories of this machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import docker_data
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import toml_text


@pytest.mark.parametrize(
    ("config", "line", "info", "containerd", "roots"),
    [
        ({}, "dockerd", None, b"", ("/var/lib/docker", "/var/lib/containerd")),
        ({"data-root": "/srv/dd/"}, "dockerd", None, b"root = '/srv/c'", ("/srv/dd", "/srv/c")),
        ({"graph": "/old"}, "dockerd", None, b'version = 2\nroot = "/c/"\n', ("/old", "/c")),
        ({}, "dockerd --data-root=/flag", None, b"[grpc]\nroot = '/x'\n", ("/flag", "/var/lib/containerd")),
        ({}, "dockerd -g /short", None, b"# root = '/x'\n", ("/short", "/var/lib/containerd")),
        (
            {"data-root": "/link", "userns-remap": "default"},
            "dockerd",
            {"DockerRootDir": "/srv/dd/165536.165536"},
            b"",
            ("/srv/dd", "/var/lib/containerd"),
        ),
    ],
)
def test_the_directories_are_asked_for(
    config: dict[str, str], line: str, info: dict[str, str] | None, containerd: bytes, roots: tuple[str, str]
) -> None:
    found = docker_data.roots(config, [{"file": "unit", "line": line}], info, containerd)
    assert (found["docker"], found["containerd"]) == roots


def engine(path: Path) -> Path:
    """A directory as an engine fills it."""
    for name in ("overlay2/abc/merged", "volumes/v/_data", "165536.165536/image", "io.containerd.metadata.v1.bolt"):
        (path / name).mkdir(parents=True)
    (path / "engine-id").write_text("x")
    return path


def test_an_engine_s_directory_goes_and_so_does_a_link_with_its_target(tmp_path: Path) -> None:
    root = engine(tmp_path / "root")
    link = tmp_path / "link"
    link.symlink_to(engine(tmp_path / "target"))
    assert docker_data.holds_data(str(root))
    assert docker_data.holds_data(str(link))
    assert (
        docker_data.purge(None, str(root))
        == docker_data.purge(None, str(link))
        == docker_data.purge(None, str(root))
        == []
    )
    assert os.listdir(tmp_path) == []


def test_files_of_others_stay_and_are_named(tmp_path: Path) -> None:
    engine(tmp_path)
    (tmp_path / "thesis").write_text("x")
    (tmp_path / "lost+found").mkdir()
    (said,) = docker_data.purge(None, str(tmp_path))
    assert said == f"{tmp_path}: lost+found, thesis, which the engine did not write"
    assert sorted(os.listdir(tmp_path)) == ["lost+found", "thesis"]
    assert not docker_data.holds_data(str(tmp_path))


def test_what_is_mounted_inside_stays_and_a_mount_point_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine(tmp_path)
    mounted = str(tmp_path / "volumes/v/_data")
    Path(mounted, "of-somebody").write_text("x")
    monkeypatch.setattr(docker_data, "mounts", lambda path: [(mounted, "ext4"), (path, "xfs")])
    left = docker_data.purge(None, str(tmp_path))
    assert left[0] == f"{mounted}: mounted there, and left alone"
    assert left[-1] == f"{tmp_path}: a mount point"
    assert Path(mounted, "of-somebody").exists()
    assert os.listdir(tmp_path) == ["volumes"]
    monkeypatch.setattr(docker_data, "mounts", lambda path: [(path, "xfs")])
    assert docker_data.purge(None, str(tmp_path)) == [f"{tmp_path}: a mount point, empty now"]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("[a]\nmode = 'cdi'", {"a.mode": "cdi"}),
        ('[a]\nmode = "cdi" # "no"', {"a.mode": "cdi"}),
        ("a.mode = 'cdi'", {"a.mode": "cdi"}),
        ("a = { mode = 'cdi', x = \"1,2\" }", {"a.mode": "cdi", "a.x": "1,2"}),
        ("[ 'a' . \"b\" ]\n\"mode\" = 'c'", {"a.b.mode": "c"}),
        ("[a]\nmode='''\nb = 1\n'''\nc = true", {"a.c": "true"}),
        ('x = "q\\"\\u0041\\\\"', {"x": 'q"A\\'}),
        ("x = 'C:\\n'", {"x": "C:\\n"}),
        ("# mode = 'x'\nlist = [\n 'a = 1',\n]\n", {}),
        ("[[a]]\n[b]\n  n = 1_0", {"b.n": "1_0"}),
    ],
)
def test_toml_is_read_as_its_parsers_read_it(text: str, values: dict[str, str]) -> None:
    assert toml_text.values(text.encode()) == values
