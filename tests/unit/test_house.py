"""The rules of the house: a fact that two files state is the same in both."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan.tags import PARTS

from tools import docs

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.parent.parent for path in ROOT.glob("roles/*/defaults/main.yml"))
PLUGIN_CODE = sorted(path for kind in ("modules", "module_utils") for path in (ROOT / "plugins" / kind).rglob("*.py"))


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _public(role: Path) -> set[str]:
    return set(_load(role / "meta/argument_specs.yml")["argument_specs"]["main"].get("options", {}))


def test_the_texts_about_variables_say_what_the_specifications_say() -> None:
    stale = [str(path.relative_to(ROOT)) for path, text in docs.texts().items() if path.read_text() != text]
    assert stale == [], "run ./dev docs"


def test_every_role_is_documented() -> None:
    assert sorted(docs.ROLES) == [role.name for role in ROLES]


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_a_default_is_in_the_specification_or_in_words_or_empty(role: Path) -> None:
    # An empty default in the specification would make Ansible's own validation refuse null.
    defaults = _load(role / "defaults/main.yml")
    for name, option in _load(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"].items():
        value = defaults.get(name, "{{ none }}")
        in_words = "{{" in str(value)
        assert ("The default is " in option["description"]) == in_words, name
        assert ("default" in option) == (not in_words and value not in ("", [], {})), name
        assert "default" in option or "example" in option, name


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_the_main_entry_point_has_every_option(role: Path) -> None:
    specs = _load(role / "meta/argument_specs.yml")["argument_specs"]
    assert [sorted(set(spec.get("options") or {}) - _public(role)) for spec in specs.values()] == [[]] * len(specs)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_public_variables_begin_with_the_role_s_name(role: Path) -> None:
    assert [name for name in _public(role) if not name.startswith(f"{role.name}_")] == []


def test_the_version_is_the_same_everywhere() -> None:
    project = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert project is not None
    releases = _load(ROOT / "changelogs/changelog.yaml")["releases"]
    newest = max(releases, key=lambda version: [int(number) for number in version.split(".")])
    assert _load(ROOT / "galaxy.yml")["version"] == project[1] == newest


# ---- Options pass through their specification before anything reads them ------------------------

# gpu_host_plan converts and checks the options of all roles itself, for a plan is one task.
CHECKS = ("gpuprov.gpuprov.role_options", "gpuprov.gpuprov.gpu_host_plan")
IMPORTS = ("ansible.builtin.import_tasks", "ansible.builtin.include_tasks")
TASK_FILES = sorted(ROOT.glob("roles/*/tasks/*.yml"))


def _flat(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in tasks:
        if "block" in task:
            yield from _flat([*task["block"], *task.get("rescue", []), *task.get("always", [])])
        else:
            yield task


def _included(path: Path) -> set[str]:
    """Names of the task files that a task file imports or includes."""
    return {str(task[name]) for task in _flat(_load(path) or []) for name in IMPORTS if name in task}


def _specified(role: Path) -> set[str]:
    return set(_load(role / "meta/argument_specs.yml")["argument_specs"])


def _tasks(path: Path) -> list[dict[str, Any]]:
    """The tasks of a file with those that it imports in their place."""
    found: list[dict[str, Any]] = []
    for task in _flat(_load(path) or []):
        imported = task.get("ansible.builtin.import_tasks")
        found += _tasks(path.parent / imported) if imported else [task]
    return found


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_task_file_is_an_entry_point_with_a_specification_or_part_of_one(role: Path) -> None:
    files = {path.stem: path for path in role.glob("tasks/*.yml")}
    parts = {Path(name).stem for path in files.values() for name in _included(path)}
    assert set(files) - parts <= _specified(role)
    assert _specified(role) <= set(files)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_entry_point_checks_its_options_before_anything_else(role: Path) -> None:
    for name in _specified(role):
        tasks = _tasks(role / f"tasks/{name}.yml")
        options = _load(role / "meta/argument_specs.yml")["argument_specs"][name].get("options")
        if options:
            first = next((tasks[0][check] or {} for check in CHECKS if check in tasks[0]), None)
            assert first is not None, f"{role.name}/tasks/{name}.yml begins with {tasks[0]['name']}"
            assert not tasks[0].get("when")
            assert first.get("role", role.name) == role.name


def _owner(internal: str) -> str:
    """Return the role whose internal variable a name such as __docker_ce_packages is, or ""."""
    roles = (role.name for role in ROLES if re.match(rf"__{role.name}(_|$)", internal))
    return max(roles, key=len, default="")


def test_internal_variables_of_a_role_are_read_by_that_role_alone() -> None:
    places = [
        ("", path)
        for kind in ("action", "module_utils", "plugin_utils")
        for path in ROOT.glob(f"plugins/{kind}/**/*.py")
    ]
    places += [("", path) for path in (*ROOT.glob("gpuprov/**/*.py"), *ROOT.glob("playbooks/*.yml"))]
    places += [(role.name, path) for role in ROLES for path in role.rglob("*.yml")]
    assert [
        f"{path.relative_to(ROOT)}: {name}"
        for role, path in places
        for name in re.findall(r"\b__[a-z]\w*", path.read_text())
        if _owner(name) not in ("", role)
    ] == []


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_no_option_is_read_as_the_inventory_has_it(role: Path) -> None:
    files = [*role.glob("tasks/*.yml"), *role.glob("handlers/*.yml"), *role.glob("vars/*.yml")]
    files += role.glob("templates/*")
    public = set().union(*(_public(other) for other in ROLES))
    assert [found for path in files for found in _raw_options(path.read_text(), public)] == []


def _raw_options(text: str, public: set[str]) -> list[str]:
    """The public variables that a YAML file names outside of comments and of what it sets or says."""
    lines = [line.split(" # ")[0] for line in text.splitlines() if not line.lstrip().startswith("#")]
    named = set(re.findall(r"(?<![\w.])[a-z][a-z0-9_]+(?!\w)(?!:)", "\n".join(lines)))
    return sorted(named & public)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("when: docker_ce_hold", ["docker_ce_hold"]),
        ('x: "{{ docker_ce_hold | bool }}"', ["docker_ce_hold"]),
        ("x: 1 # docker_ce_hold", []),
        ("when: __docker_ce.options.hold", []),
        ("docker_ce_hold: true", []),
    ],
)
def test_the_check_for_options_read_raw_finds_what_it_is_for(text: str, found: list[str]) -> None:
    assert _raw_options(text, {"docker_ce_hold"}) == found


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_option_that_a_task_reads_is_one_of_its_entry_point(role: Path) -> None:
    specs = _load(role / "meta/argument_specs.yml")["argument_specs"]
    internals = role / "vars/main.yml"
    for name in specs:
        text = yaml.safe_dump(_tasks(role / f"tasks/{name}.yml"), width=10**6)
        if f"__{role.name}_" in text and internals.is_file():
            text += internals.read_text() if name != "release" else ""
        read = set(re.findall(rf"__{role.name}\.options\.(\w+)", text))
        known = {option.removeprefix(f"{role.name}_") for option in specs[name].get("options") or {}}
        assert read <= known, f"{role.name} {name}"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_step_of_a_role_has_its_tags_and_the_plan_knows_them(role: Path) -> None:
    steps = [set(task["tags"]) for task in _load(role / "tasks/main.yml")]
    assert [tags for tags in steps if role.name not in tags or len(tags) != 2] == []
    named = {tag.removeprefix(f"{role.name}_") for tags in steps for tag in tags} - {role.name, "always"}
    assert named == set(PARTS.get(role.name, named))
    told = set(re.findall(r"`([a-z_0-9]+)`", (role / "README.md").read_text()))
    assert {f"{role.name}_{part}" for part in named} <= told


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_role_has_a_molecule_scenario_that_also_uninstalls_it(role: Path) -> None:
    scenario = ROOT / "molecule" / role.name
    # Image transfers need two hosts or an archive: tests/integration/test_roles_alone.py has both.
    assert (scenario / "molecule.yml").is_file() == (role.name != "docker_image_transfer")
    assert (scenario / "uninstalled").is_dir() == ("uninstall" in _specified(role))


# ---- Code that runs on hosts: ./dev lint checks its syntax --------------------------------------


def _host_code_imported(path: Path) -> set[str]:
    """Return the names of the files in module_utils that a file imports."""
    package = "ansible_collections.gpuprov.gpuprov.plugins.module_utils"
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    return {
        name
        for node in imports
        if str(node.module).startswith(package)
        for name in (str(node.module).rpartition(".")[2], *(alias.name for alias in node.names))
    }


def test_every_file_in_module_utils_runs_on_hosts() -> None:
    utils = {path.stem: path for path in PLUGIN_CODE if "module_utils" in path.parts}
    # A program is sent to hosts as it is.
    used = {name for name, path in utils.items() if '__name__ == "__main__"' in path.read_text()}
    due = [path for path in PLUGIN_CODE if path.parent.name == "modules"]
    while due:
        new = _host_code_imported(due.pop()) & set(utils) - used
        used |= new
        due += [utils[name] for name in new]
    assert sorted(set(utils) - used) == []


@pytest.mark.parametrize("path", PLUGIN_CODE, ids=lambda path: path.stem)
def test_code_for_hosts_begins_as_python_2_and_3_alike(path: Path) -> None:
    text = path.read_text()
    assert "from __future__ import absolute_import, division, print_function" in text
    assert "__metaclass__ = type" in text


# ---- Ansible's API ----------------------------------------------------------------------------

# What Ansible documents for plugins and programs, with what every action plugin of ansible-core uses.
DOCUMENTED = re.compile(
    r"ansible\.(errors|module_utils\.\S+|plugins\.(action|become|callback|connection|filter|lookup)|utils\.display)"
)
DOCUMENTED_NAMES = {"_connection", "_execute_module", "_task", "_VALID_ARGS"}
CONTROLLER_CODE = sorted(
    path
    for folder in ("action", "become", "callback", "filter", "plugin_utils")
    for path in (ROOT / "plugins" / folder).rglob("*.py")
    if path.name != "ansible_compat.py"
) + sorted(ROOT.glob("gpuprov/*.py"))


def _own_names(tree: ast.AST) -> set[str]:
    """Return the names with an underscore that a file defines itself."""
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    fields = {ast.unparse(node.target) for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)}
    stored = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)]
    return functions | fields | {node.attr for node in stored}


def _undocumented(source: str) -> list[str]:
    """Return the undocumented Ansible API that a file uses: modules, and attributes of objects of Ansible's."""
    tree = ast.parse(source)
    known = DOCUMENTED_NAMES | _own_names(tree) | {"_asdict", "_replace", "_exit"}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and re.match(r"ansible(\.|$)", node.module or ""):
            found += [] if DOCUMENTED.fullmatch(str(node.module)) else [str(node.module)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if re.match(r"ansible(\.|$)", alias.name)]
        elif isinstance(node, ast.Attribute) and re.match(r"_[a-zA-Z]", node.attr) and node.attr not in known:
            found.append(node.attr)
    return found


@pytest.mark.parametrize("path", CONTROLLER_CODE, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_undocumented_ansible_api_is_used_in_ansible_compat_alone(path: Path) -> None:
    assert _undocumented(path.read_text()) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from ansible.errors import AnsibleError", []),
        ("from ansible.template import Templar", ["ansible.template"]),
        ("import ansible.constants", ["ansible.constants"]),
        ("self._templar.template(x)", ["_templar"]),
        ("class A:\n def _own(self): self._own()", []),
    ],
)
def test_the_check_for_undocumented_api_finds_what_it_is_for(source: str, found: list[str]) -> None:
    assert _undocumented(source) == found


# ---- What must not be in it -------------------------------------------------------------------

PUBLIC_HOSTS = (
    "debian.org", "pypi.org", "pythonhosted.org", "python.org", "docker.com", "nvidia.com",
    "github.io", "github.com", "ubuntu.com", "google.com", "nodesource.com",
)  # fmt: skip


def _hosts(text: str) -> set[str]:
    return {host for url in re.findall(r"\w+://[^\s\"'\]]+", text) if (host := urlsplit(url).hostname)}


def _registries_of_this_machine() -> set[str]:
    """Host names in this machine's apt and pip configuration that are not public ones."""
    places = [
        *Path("/etc/apt").rglob("*"),
        Path("/etc/pip.conf"),
        *(Path.home() / place for place in (".pip/pip.conf", ".config/pip/pip.conf", ".netrc")),
    ]
    found = _hosts(" ".join(value for name, value in os.environ.items() if "INDEX_URL" in name))
    for place in places:
        if place.is_file() and place.suffix not in (".gpg", ".asc"):
            found |= _hosts(place.read_text(errors="replace"))
    return {
        host for host in found if "." in host and not any(host == h or host.endswith(f".{h}") for h in PUBLIC_HOSTS)
    }


def test_no_file_names_a_registry_of_the_machine_it_was_written_on() -> None:
    files = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, check=True,
    ).stdout.decode().split("\0")  # fmt: skip
    names = _registries_of_this_machine()
    telling = [
        f"{name}: {host}"
        for name in files
        if name and (ROOT / name).is_file()
        for host in names
        if host.encode() in (ROOT / name).read_bytes()
    ]
    assert telling == []


def test_registries_are_told_from_public_hosts() -> None:
    assert _hosts("deb [x=y] http://mirror.corp.test:8080/debian x") == {"mirror.corp.test"}
