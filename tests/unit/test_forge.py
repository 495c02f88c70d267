"""What forges and tools around the project read: workflows, hooks, constraints, issue templates."""

from __future__ import annotations

import json
import re
from pathlib import Path
from shlex import split
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEV = (ROOT / "dev").read_text()
PIPELINES = [
    ROOT / ".gitlab-ci.yml", *sorted(ROOT.glob("examples/ci/*.yml")), *sorted(ROOT.glob(".github/workflows/*.yml")),
]  # fmt: skip


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_the_hooks_are_the_checks_of_lint() -> None:
    checks = re.search(r"for check in (.*?); do", DEV)
    assert checks is not None
    names = [" ".join(word for word in check.split() if word != "." and "/" not in word) for check in split(checks[1])]
    hooks = [hook["entry"] for repo in _load(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert len(names) == len(hooks)
    assert [name for name in names if not any(name in hook for hook in hooks)] == []


def test_ci_calls_commands_that_dev_has() -> None:
    github = _load(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["job"]
    gitlab = _load(ROOT / ".gitlab-ci.yml")["test"]["parallel"]["matrix"][0]["JOB"]
    assert github == gitlab
    jobs = {job.replace(" ", "-") for job in github}
    every = re.search(r"^jobs='(.+)'$", DEV, re.MULTILINE)
    assert every is not None
    assert jobs == set(every[1].split())


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_files_that_pipelines_name_exist(path: Path) -> None:
    text = path.read_text()
    for name in re.findall(r"(?:\./|\btools/|\bconstraints)[\w./-]+\.(?:sh|txt|yml)\b", text):
        assert (ROOT / name).exists(), name
    for module in re.findall(r"python -m (tools\.\w+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


def test_every_dependency_has_a_constraint_for_every_python() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    block = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert block is not None
    names = set(re.findall(r'"([\w-]+)', block[1])) - {"ansible-core"}
    constrained = set(re.findall(r"^([\w-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert names - constrained == set()
    assert "ansible-core" not in constrained


@pytest.mark.parametrize("path", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/[!c]*.yml")), ids=lambda path: path.name)
def test_issue_templates_ask_something(path: Path) -> None:
    template = _load(path)
    assert template["name"]
    assert template["description"]
    assert all(field["attributes"]["label"] for field in template["body"])


def test_the_patterns_of_renovate_find_the_pins() -> None:
    for manager in json.loads((ROOT / "renovate.json").read_text())["customManagers"]:
        (pattern,) = manager["managerFilePatterns"]
        files = [path.relative_to(ROOT) for path in ROOT.glob("roles/*/vars/main.yml")]
        (file,) = (path for path in files if re.search(pattern.strip("/"), str(path)))
        expression = manager["matchStrings"][0].replace("(?<", "(?P<")
        assert re.search(expression, (ROOT / file).read_text()), manager["description"]
