"""The execution environment has what the collection needs, and docs/awx.md names options and variables that exist."""

from __future__ import annotations

import ast
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import role_options

from gpuprov.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/awx.md").read_text()
IMAGE = yaml.safe_load((ROOT / "execution-environment.yml").read_text())
COLLECTION = yaml.safe_load((ROOT / "meta/execution-environment.yml").read_text())
QUESTIONS = {"bool": "Multiple choice", "int": "Integer", "str": "Text", "list": "Text"}
ENGINES = ("ansible-core", "ansible-runner")
# For lock.yml, which is of no use in a container.
NOT_ASKED = {"gpuprov_lock_upgrade"}


def _lines(path: str) -> list[str]:
    return [line for line in (ROOT / path).read_text().splitlines() if line and not line.startswith("#")]


def _required() -> dict[str, str]:
    """The dependencies in pyproject.toml, by name. Python 3.10 cannot read TOML."""
    listed = (ROOT / "pyproject.toml").read_text().split("\ndependencies = [\n")[1].split("\n]")[0]
    return {re.split("[<>=]", line)[0]: line for line in re.findall(r'"(.+)"', listed)}


def _imported() -> set[str]:
    """The distributions from which plugins import beside Ansible's own."""
    modules = set()
    for path in (ROOT / "plugins").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(str(node.module).partition(".")[0])
    owners = metadata.packages_distributions()
    return {owner for module in modules for owner in owners.get(module, [])} & set(_required())


def test_the_image_has_the_python_packages_of_pyproject_that_plugins_import() -> None:
    needed = _imported() - {*ENGINES}
    assert _lines(IMAGE["dependencies"]["python"]) == sorted(_required()[name] for name in needed)
    engines = [IMAGE["dependencies"][name.replace("-", "_")]["package_pip"] for name in ENGINES]
    assert engines == [_required()[name] for name in ENGINES]


def test_the_collection_and_the_image_ask_for_the_same() -> None:
    assert COLLECTION["dependencies"] == {kind: IMAGE["dependencies"][kind] for kind in ("python", "system")}
    assert [path for path in COLLECTION["dependencies"].values() if not (ROOT / path).is_file()] == []


def test_the_image_has_the_programs_that_the_controller_runs() -> None:
    debian = {line.split(" ")[0] for line in _lines(IMAGE["dependencies"]["system"]) if "platform:dpkg" in line}
    assert {"gpg", "openssh-client", "zstd"} <= debian


def _rows(section: str) -> list[list[str]]:
    lines = PAGE.split(f"\n## {section}\n")[1].split("\n## ")[0].splitlines()
    return [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]


def test_every_option_of_provision_has_its_place_in_a_template() -> None:
    named = set(re.findall(r"`(--[a-z-]+)`", " ".join(row[0] for row in _rows("Job templates") if "--" in row[0])))
    command: Any = typer.main.get_command(app)
    parameters = command.commands["provision"].params
    wanted = {
        next(name for name in parameter.opts if name.startswith("--"))
        for parameter in parameters
        if parameter.param_type_name == "option"
    }
    assert named == wanted - {"--help"}


@pytest.mark.parametrize("row", _rows("Surveys"), ids=lambda row: str(row[0]).strip("`"))
def test_a_question_of_a_survey_is_of_the_type_of_its_variable(row: list[str]) -> None:
    name = row[0].strip("`")
    role = role_options.owner(name)
    spec: dict[str, Any] = role_options.specification(role)[name] if role else role_options.PLAYBOOK_OPTIONS[name]
    kind = "Multiple choice" if spec.get("choices") else QUESTIONS[spec["type"]]
    assert row[1] == kind


def test_surveys_have_every_variable_of_the_playbooks() -> None:
    asked = {row[0].strip("`") for row in _rows("Surveys")}
    assert set(role_options.PLAYBOOK_OPTIONS) - NOT_ASKED <= asked


def test_every_playbook_of_the_page_exists() -> None:
    named = set(re.findall(r"`(?:playbooks/)?([a-z_]+\.yml)`", PAGE))
    beside = {"execution-environment.yml"}
    assert [name for name in named - beside if not (ROOT / "playbooks" / name).is_file()] == []
