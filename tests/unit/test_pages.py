"""Pages for people name what exists: files, sections, commands, options and variables."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import role_options

from gpuprov.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "roles/*/README.md", "examples/*/README.md", "tests/lab/README.md")
    for path in ROOT.glob(pattern)
)


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 220


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_link_leads_to_a_file_and_its_section(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" not in target:
            name, _, section = target.partition("#")
            file = (page.parent / name).resolve() if name else page
            assert file.exists(), target
            assert not section or section in _sections(file), target


def _sections(page: Path) -> list[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_command_of_gpuprov_and_its_options_exist(page: Path) -> None:
    for words in _commands(page.read_text()):
        command: Any = typer.main.get_command(app)
        for word in words:
            if word.startswith("-"):
                known = {name for parameter in command.params for name in parameter.opts}
                assert word in known | {"--help"}, shlex.join(words)
            elif hasattr(command, "commands"):
                assert word in command.commands, shlex.join(words)
                command = command.commands[word]


def _commands(text: str) -> Iterator[list[str]]:
    """The words after `gpuprov` of each command in a block or in backticks, as far as it has a command."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`(gpuprov [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    for line in [*(line for block in blocks for line in block.splitlines()), *spans]:
        found = re.match(r"(?:\$ )?(?:\.venv/bin/)?gpuprov ([a-z].*)", line)
        if found:
            words = shlex.split(re.split(r"[|…;]", found[1])[0].replace("[", " ").replace("]", " "), comments=True)
            yield [word.split("=")[0] for word in words]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_variable_of_a_role_exists(page: Path) -> None:
    roles = [path.parent.parent for path in ROOT.glob("roles/*/meta/argument_specs.yml")]
    specs = [yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"] for role in roles]
    known = {name for spec in specs for name in spec["options"]}
    known |= {path.stem for path in (ROOT / "plugins").rglob("*.py")}
    known |= {name for path in ROOT.glob("roles/*/vars/main.yml") for name in yaml.safe_load(path.read_text())}
    known |= {
        tag for role in roles for task in yaml.safe_load((role / "tasks/main.yml").read_text()) for tag in task["tags"]
    }
    prefixes = "|".join(role.name for role in roles)
    assert sorted(set(re.findall(rf"`((?:{prefixes})_[a-z0-9_]+)`", page.read_text())) - known) == []


STYLE = re.compile(
    r"(?<!there )\b(?:is|are) no\b|\bis none of\b|\b(?:is|are) to \w+|\bmends?\b|\bwants?\b|nobody's way",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))], ids=_name)
def test_pages_keep_to_plain_technical_english(page: Path) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert STYLE.findall(text) == []


def test_the_table_of_supported_systems_has_the_pins_of_the_roles() -> None:
    roles = ("docker_ce", "nvidia_docker")
    docker, nvidia = (yaml.safe_load((ROOT / f"roles/{role}/vars/main.yml").read_text()) for role in roles)
    readme = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| (?:Ubuntu|Debian) [\d.]+ \| (\S+) \| (\S+) \| (.+?) \|", readme, re.MULTILINE)
    names = {"nvidia-docker2": "nvidia-docker2", "toolkit": "container toolkit"}
    stacks = {name: of["stack"] for name, of in nvidia["nvidia_docker_releases"].items()}
    pins = [
        (
            re.split(r"[:~-]", release["docker_ce"])[1],
            release["containerd"].split("-")[0],
            f"{names[stacks[name]]} {re.split('[+-]', nvidia['__nvidia_docker_versions'][stacks[name]])[0]}",
        )
        for name, release in docker["docker_ce_releases"].items()
    ]
    assert rows == pins


def test_the_picture_of_a_run_has_the_pins_of_the_roles() -> None:
    docker, nvidia = (
        yaml.safe_load((ROOT / f"roles/{role}/vars/main.yml").read_text()) for role in ("docker_ce", "nvidia_docker")
    )
    versions = {
        re.split("[:~-]", docker["docker_ce_releases"][name]["docker_ce"])[1] for name in ("bookworm", "trixie")
    }
    versions.add(nvidia["__nvidia_docker_versions"]["toolkit"].split("-")[0])
    picture = (ROOT / "docs/demo.svg").read_text()
    assert [version for version in versions if version not in picture] == [], "it is old: ./dev record"


def test_every_variable_of_the_playbooks_is_documented() -> None:
    page = (ROOT / "docs/ansible.md").read_text()
    assert [name for name in role_options.PLAYBOOK_OPTIONS if name not in page] == []


def test_the_walk_of_a_value_has_at_most_six_steps() -> None:
    walks = (ROOT / "CONTRIBUTING.md").read_text().split("## The walk of one value")[1].split("\n## ")[0]
    steps = [int(number) for number in re.findall(r"^(\d)\. `", walks, re.MULTILINE)]
    assert steps.count(1) == 4
    assert max(steps) <= 6


def test_the_files_and_functions_that_contributing_names_exist() -> None:
    for line in (ROOT / "CONTRIBUTING.md").read_text().splitlines():
        directory, file = ROOT, ROOT
        for name in re.findall(r"`([^`]+)`", line):
            if name.endswith("()"):
                function = name.removesuffix("()")
                assert re.search(rf"^ *(?:def {function}\(|{function} ?\(\) )", file.read_text(), re.MULTILINE), line
            elif name.endswith("/"):
                directory = ROOT / name
                assert directory.is_dir(), line
            elif re.fullmatch(r"(?:[\w*-]+/)+[\w*.-]+|\w+\.(?:py|sh|yml|md)", name):
                found = sorted((ROOT if "/" in name else directory).glob(name))
                assert found, line
                file, directory = found[0], found[0].parent


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```\n$ gpuprov plan hosts.ini --json | jq .\n```", [["plan", "hosts.ini", "--json"]]),
        ("run `gpuprov provision --serial 1,10%`", [["provision", "--serial", "1,10%"]]),
        ("```\ngpuprov image ls hosts.ini  # all\n```", [["image", "ls", "hosts.ini"]]),
        ("`gpuprov` alone", []),
    ],
)
def test_commands_are_found_in_a_page(text: str, found: list[list[str]]) -> None:
    assert list(_commands(text)) == found


# ---- Messages ------------------------------------------------------------------------------------

# Messages of docker, apt and NVIDIA.
FOREIGN = ("Conflicting values", "could not select device", "Failed to initialize NVML", "permission denied")


def _words(text: str) -> list[str]:
    """The words of a message, with 0 for placeholders, names in capitals and numbers."""
    return re.findall(r"[a-z'.]+|0", re.sub(r"%[sdr]|…|\b[A-Z]{3,}\b|\d\S*", " 0 ", text).lower())


def _triples(words: list[str]) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + 3]) for at in range(len(words) - 2)}


def test_the_messages_that_troubleshooting_explains_are_those_of_the_code() -> None:
    said: set[tuple[str, ...]] = set()
    for path in [ROOT / "roles/dockerrun/files/dockerrun", *ROOT.glob("roles/*/files/*.sh")]:
        said |= _triples(_words(path.read_text()))
    for path in [*ROOT.glob("plugins/**/*.py"), *ROOT.glob("gpuprov/**/*.py"), *ROOT.glob("roles/*/files/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                said |= _triples(_words(node.value))
    rows = re.findall(r"^\| (`.+?) \| ", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    messages = [message for row in rows for message in re.findall(r"`([^`]+ [^`]+)`(?=[ ,]|$)", row)]
    unknown = []
    for message in messages:
        words = _words(message)
        known = {at + step for at in range(len(words)) for step in range(3) if tuple(words[at : at + 3]) in said}
        # Names and numbers in a message are examples.
        if len(known) < len(words) / 2 and not message.startswith(FOREIGN):
            unknown.append(message)
    assert len(messages) > 20
    assert unknown == []
