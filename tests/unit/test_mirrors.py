"""gpuprov_mirror: the repositories that each mirror carries, and what a plan says of one that it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import mirrors

from tests.unit.test_gpu_host_plan_action import Host

ROOT = Path(__file__).resolve().parents[2]
DOCKER, NVIDIA = "https://download.docker.com/linux", "https://nvidia.github.io"
TUNA, USTC = "https://mirrors.tuna.tsinghua.edu.cn/docker-ce/linux", "https://mirrors.ustc.edu.cn"


@pytest.mark.parametrize(
    ("mirror", "repository", "url"),
    [
        ("", "docker", DOCKER),
        ("", "toolkit", NVIDIA),
        ("", "none", NVIDIA),
        ("tuna", "docker", TUNA),
        ("tuna", "toolkit", NVIDIA),
        ("ustc", "docker", f"{USTC}/docker-ce/linux"),
        ("ustc", "toolkit", USTC),
        ("ustc", "nvidia-docker2", NVIDIA),
        ("ustc", "none", NVIDIA),
    ],
)
def test_a_repository_is_on_the_mirror_or_where_its_vendor_has_it(mirror: str, repository: str, url: str) -> None:
    assert mirrors.url(mirror, repository) == url


def test_every_mirror_has_docker_s_repository_by_https_and_is_documented() -> None:
    page = (ROOT / "docs/usage.md").read_text()
    for name, row in mirrors.MIRRORS.items():
        assert row["docker"].startswith("https://"), name
        assert set(row) <= set(mirrors.UPSTREAM), name
        assert f"\n| `{name}` | {'yes' if 'toolkit' in row else 'no'} |" in page, name


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


@pytest.mark.parametrize(
    ("variables", "docker", "nvidia", "noted"),
    [
        ({}, DOCKER, NVIDIA, False),
        ({"gpuprov_mirror": ""}, DOCKER, NVIDIA, False),
        ({"gpuprov_mirror": "tuna"}, TUNA, NVIDIA, True),
        ({"gpuprov_mirror": "ustc"}, f"{USTC}/docker-ce/linux", USTC, False),
        # What a person sets wins.
        ({"gpuprov_mirror": "tuna", "docker_ce_repo_url": "http://own.test"}, "http://own.test", NVIDIA, True),
        ({"gpuprov_mirror": "tuna", "nvidia_docker_repo_url": "http://own.test"}, TUNA, "http://own.test", False),
    ],
)
def test_the_plan_takes_packages_from_the_mirror(
    variables: dict[str, Any], docker: str, nvidia: str, noted: bool, host: Host
) -> None:
    result = host.plan("one-gpu", **variables)
    assert "failed" not in result, result
    plan = result["ansible_facts"]["gpu_host_plan"]
    sources = {change["subject"]: change["to"] for change in plan["changes"] if "apt source" in change["subject"]}
    assert sources["apt source docker"].startswith(docker + "/")
    assert sources["apt source nvidia-container-toolkit"].startswith(f"{nvidia}/libnvidia-container/stable/deb")
    said = [note["message"] for note in plan["notes"] if note["name"] == "mirror"]
    assert said == [f"the mirror tuna does not carry NVIDIA's toolkit, which stays at {NVIDIA}"] * noted


def test_a_mirror_that_is_not_known_is_refused_with_the_known_names(host: Host) -> None:
    own = {"docker_ce_repo_url": "http://own.test", "nvidia_docker_repo_url": "http://own.test"}
    for variables in ({}, own):
        said = host.plan("one-gpu", gpuprov_mirror="tsinghua", **variables)["msg"]
        assert said == f"gpuprov_mirror is 'tsinghua', and must be one of an empty text, {', '.join(mirrors.MIRRORS)}"
