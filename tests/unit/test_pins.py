"""The pins of the roles against the vendors' relationships, whose sources are in tests/lab/relationships.py."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import host_findings

from tests.lab import relationships, repositories

ROLES = Path(__file__).resolve().parents[2] / "roles"
DOCKER = yaml.safe_load((ROLES / "docker_ce/vars/main.yml").read_text(encoding="utf-8"))["docker_ce_releases"]
NVIDIA = yaml.safe_load((ROLES / "nvidia_docker/vars/main.yml").read_text(encoding="utf-8"))
NVIDIA_DEFAULTS = yaml.safe_load((ROLES / "nvidia_docker/defaults/main.yml").read_text(encoding="utf-8"))


def docker_set(row: dict[str, str]) -> dict[str, str]:
    """{package: version} of a row of docker_ce's pins."""
    names = {
        "docker-ce": "docker_ce",
        "docker-ce-cli": "docker_ce",
        "containerd.io": "containerd",
        "docker-buildx-plugin": "buildx",
        "docker-compose-plugin": "compose",
    }
    return {package: row[key] for package, key in names.items() if row[key]}


def nvidia_set(stack: str) -> dict[str, str]:
    """{package: version} of a stack of nvidia_docker's pins."""
    fixed = {
        "version": NVIDIA["__nvidia_docker_versions"][stack],
        "runtime_version": NVIDIA_DEFAULTS["nvidia_docker_runtime_version"],
        "hook_version": NVIDIA_DEFAULTS["nvidia_docker_hook_version"],
    }
    packages = NVIDIA["__nvidia_docker_stacks"][stack]["packages"]
    # "{{ __nvidia_docker.options.version }}"
    return {one["name"]: fixed[re.findall(r"\w+", one["version"])[-1]] for one in packages}


@pytest.mark.parametrize("codename", sorted(DOCKER))
def test_a_row_of_pins_can_be_installed_together(codename: str) -> None:
    stack = NVIDIA["nvidia_docker_releases"][codename]["stack"]
    assert relationships.unmet({**docker_set(DOCKER[codename]), **nvidia_set(stack)}) == []


@pytest.mark.parametrize("codename", sorted(DOCKER))
def test_a_row_of_pins_says_where_it_was_seen(codename: str) -> None:
    text = (ROLES / "docker_ce/vars/main.yml").read_text(encoding="utf-8")
    assert re.search(rf"^  {codename}: # .+$", text, re.MULTILINE)


@pytest.mark.parametrize("codename", sorted(DOCKER))
def test_a_row_of_pins_is_of_one_release(codename: str) -> None:
    suffixes = {version.partition("~")[2] for version in docker_set(DOCKER[codename]).values()}
    # containerd.io has none before 2.0; 18.09 has "~3-0~ubuntu-xenial".
    assert all(not suffix or suffix.endswith(codename) for suffix in suffixes)


@pytest.mark.parametrize(
    ("packages", "unmet"),
    [
        (
            {"docker-ce": "5:29.8.0-1~debian.11~bullseye", "containerd.io": "2.1.4-1~debian.11~bullseye"},
            ["docker-ce 5:29.8.0-1~debian.11~bullseye Depends: containerd.io (>= 2.1.5)"],
        ),
        ({"docker-ce": "5:29.5.3-1~debian.12~bookworm", "containerd.io": "1.7.29-1"}, []),
        (
            {"docker-ce": "5:28.5.2-1~debian.12~bookworm", "containerd.io": "1.6.33-1"},
            ["docker-ce 5:28.5.2-1~debian.12~bookworm Depends: containerd.io (>= 1.7.27)"],
        ),
        (
            {"nvidia-container-toolkit": "1.19.1-1", "nvidia-container-toolkit-base": "1.20.0-1"},
            ["nvidia-container-toolkit 1.19.1-1 Depends: nvidia-container-toolkit-base (= 1.19.1-1)"],
        ),
        (
            {"nvidia-container-toolkit": "1.19.1-1", "nvidia-container-runtime-hook": "1.4.0-1"},
            ["nvidia-container-toolkit 1.19.1-1 Breaks: nvidia-container-runtime-hook"],
        ),
        (
            {"nvidia-docker2": "2.0.3+docker18.09.4-1", "docker-ce": "5:18.09.9~3-0~ubuntu-xenial"},
            [
                (
                    "nvidia-docker2 2.0.3+docker18.09.4-1 Depends: docker-ce (= 5:18.09.4~3-0~ubuntu-xenial)"
                    " | docker-ee (= 5:18.09.4~3-0~ubuntu-xenial)"
                )
            ],
        ),
    ],
)
def test_a_set_that_cannot_be_installed_is_told(packages: dict[str, str], unmet: list[str]) -> None:
    assert relationships.unmet(packages) == unmet


@pytest.mark.parametrize(
    "pair",
    [
        ("5:29.8.0-1~debian.11~bullseye", "5:29.10.1-1~debian.11~bullseye"),
        ("5:18.09.4~3-0~ubuntu-xenial", "5:18.09.4"),
        ("2.1.4-1~debian.11~bullseye", "2.1.5"),
        ("1.20.0~rc.1-1", "1.20.0-1"),
        ("1.7.29-1", "2.0.0-1"),
        ("20.10.24+dfsg1-1", "5:18.09"),
        ("2.0.0+docker18.09.4-1", "2.0.3+docker18.09.4-1"),
        ("1.0", "1.0-1"),
        ("1.0a", "1.0+b"),
    ],
)
def test_versions_are_ordered_as_dpkg_orders_them(pair: tuple[str, str]) -> None:
    older, newer = pair
    assert relationships.satisfies(older, "<<", newer)
    assert subprocess.run(["dpkg", "--compare-versions", older, "lt", newer], check=False).returncode == 0


@pytest.mark.parametrize("codename", sorted(set(DOCKER) - {"xenial", "bionic", "focal"}))
def test_where_the_os_gets_updates_no_pin_lacks_a_security_fix(codename: str) -> None:
    pins = {**docker_set(DOCKER[codename]), **nvidia_set(NVIDIA["nvidia_docker_releases"][codename]["stack"])}
    assert {name: host_findings.missing_fix(name, version) for name, version in pins.items()} == dict.fromkeys(pins)


@pytest.mark.parametrize(
    ("package", "version", "lacks"),
    [
        ("docker-ce", "5:29.3.1-1~debian.12~bookworm", False),
        ("docker-ce", "5:29.10.1-1~debian.12~bookworm", False),
        ("docker-ce", "5:29.3.0-1~debian.12~bookworm", True),
        ("docker-ce", "5:18.09.4~3-0~ubuntu-xenial", True),
        ("docker-ce", "5:24.0.2-1~ubuntu.18.04~bionic", True),
        ("docker-ce", "5:30.0.0-1~debian.13~trixie", False),
        ("containerd.io", "1.2.5-1", True),
        ("containerd.io", "1.6.21-1", True),
        ("containerd.io", "1.7.27-1", True),
        ("containerd.io", "1.7.28-1~debian.12~bookworm", True),
        ("containerd.io", "1.7.28-2~debian.12~bookworm", False),
        ("containerd.io", "1.7.29-1~debian.12~bookworm", False),
        ("containerd.io", "2.1.4-1~debian.11~bullseye", True),
        ("containerd.io", "2.1.5-1~debian.11~bullseye", False),
        ("containerd.io", "2.3.3-1~debian.12~bookworm", False),
        ("nvidia-container-toolkit", "1.17.7-1", True),
        ("nvidia-container-toolkit", "1.17.8-1", False),
        ("nvidia-container-toolkit-base", "1.9.0-1", True),
        ("nvidia-container-toolkit-base", "1.20.0~rc.1-1", False),
        ("docker.io", "20.10.24+dfsg1-1", False),
    ],
)
def test_a_version_without_a_security_fix_is_known(package: str, version: str, lacks: bool) -> None:
    assert (host_findings.missing_fix(package, version) is not None) is lacks


def test_the_lab_serves_the_pins() -> None:
    served: dict[str, Any] = {one.codename: one for one in repositories.RELEASES}
    for codename, release in served.items():
        row = DOCKER[codename]
        versions = (release.engine, release.containerd, release.buildx, release.compose)
        pins = [row[name] for name in ("docker_ce", "containerd", "buildx", "compose") if row[name]]
        assert [one[1] for one in versions if one] == pins
