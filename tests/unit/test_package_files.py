"""Local package files: what they are, and which of them are refused."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import package_files

Build = Callable[..., Path]
SET = [
    {"name": "docker-ce", "version": "5:29.7.2-1~x", "pin": "5:29.7.2-1~x"},
    {"name": "docker-ce-cli", "version": "5:28.0-1", "pin": "5:29.7.2-1~x"},
    {"name": "docker-compose-plugin", "version": "", "pin": ""},
]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Return a function that makes a .deb."""

    def make(name: str, version: str, architecture: str = "amd64", packing: str = "xz", file: str = "") -> Path:
        tree = tmp_path / "tree" / f"{name}-{version}"
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        (tree / "content").write_bytes(bytes(range(256)) * 64)
        (tree / "DEBIAN" / "control").write_text(
            f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\nMaintainer: M <m@example.com>\n"
            "Description: Version: of\n none\n"
        )
        path = tmp_path / (file or f"{name}_{version.rpartition(':')[2]}_{architecture}.deb")
        words = ["dpkg-deb", "--root-owner-group", f"-Z{packing}", "--uniform-compression", "-b", str(tree), str(path)]
        subprocess.run(words, check=True, capture_output=True)
        return path

    return make


def refusal(*paths: Path | str) -> str:
    with pytest.raises(package_files.PackageFileError) as raised:
        package_files.chosen(SET, [str(path) for path in paths], "amd64")
    return str(raised.value)


@pytest.mark.parametrize("packing", ["gzip", "xz", "zstd", "none"])
def test_a_file_replaces_the_pin_of_its_package(packing: str, build: Build) -> None:
    engine = build("docker-ce", "5:29.9.0-1", packing=packing)
    plugin = build("docker-compose-plugin", "5.5.0-1", "all", packing)
    found = package_files.chosen(SET, [str(engine), str(plugin)], "amd64")
    assert [(one["name"], one["version"], one.get("file", {}).get("path")) for one in found] == [
        ("docker-ce", "5:29.9.0-1", str(engine)),
        ("docker-ce-cli", "5:28.0-1", None),
        ("docker-compose-plugin", "5.5.0-1", str(plugin)),
    ]
    assert found[0]["file"]["size"] == engine.stat().st_size
    digest = subprocess.run(["sha256sum", engine], check=True, capture_output=True, text=True).stdout
    assert found[0]["file"]["sha256"] == digest.split()[0]


def test_without_files_the_set_is_what_has_a_version() -> None:
    assert [one["name"] for one in package_files.chosen(SET, [], "amd64")] == ["docker-ce", "docker-ce-cli"]


def test_a_file_that_does_not_belong_there_is_named(build: Build) -> None:
    cli = build("docker-ce-cli", "5:29.7.2-1~x")
    assert refusal(cli) == (f"the package file {cli} has version 5:29.7.2-1~x of docker-ce-cli, and 5:28.0-1 is wanted")
    arm = build("docker-ce", "5:29.7.2-1~x", "arm64")
    assert refusal(arm) == f"the package file {arm} is for arm64, and the host is amd64"
    other = build("bash", "5.2-1")
    assert refusal(other).startswith(f"the package file {other} is bash, which is none of docker-ce, ")
    # Two builds of one version side by side.
    one, two = build("docker-ce", "5:29.7.2-1"), build("docker-ce", "5:29.7.2-2")
    assert refusal(one, two) == f"the package files {one} and {two} are both docker-ce"
    assert refusal("docker-ce.deb") == "the package file docker-ce.deb has no absolute path"


def test_a_missing_truncated_or_damaged_file_is_named(build: Build, tmp_path: Path) -> None:
    missing = tmp_path / "missing.deb"
    assert refusal(missing) == f"the package file {missing} cannot be used: No such file or directory"
    whole = build("docker-ce", "5:29.7.2-1~x").read_bytes()
    broken = tmp_path / "broken.deb"
    cut = {whole[:length] for length in (9, 40, 70, 100, 300, len(whole) // 2, len(whole) - 2)}
    for content, reason in [*((part, "it is truncated") for part in cut), (b"", "it is not a Debian package")]:
        broken.write_bytes(content)
        assert refusal(broken) == f"the package file {broken} cannot be used: {reason}"
    broken.write_bytes(b"<html>404 Not Found</html>")
    assert refusal(broken).endswith("it is not a Debian package")
    broken.write_bytes(whole[:150] + b"xxxx" + whole[154:])
    assert f"the package file {broken} cannot be used: " in refusal(broken)


def test_the_plan_names_the_files_of_what_changes(build: Build) -> None:
    found = package_files.chosen(SET, [str(build("docker-ce", "5:29.7.2-1~x"))], "amd64")
    changes: list[dict[str, Any]] = [{"subject": "docker-ce"}]
    (said,) = package_files.note(found, changes)
    assert said["message"] == "installed from files of this computer (0.0 MiB): docker-ce_29.7.2-1~x_amd64.deb"
    assert package_files.note(found, [{"subject": "docker-ce hold"}, {"subject": "docker-ce-cli"}]) == []
