"""Write the generated parts of files and pages: ``./dev docs``.

From roles/*/meta/argument_specs.yml come the comments and constant values of roles/*/defaults/main.yml, the tables in
roles/*/README.md, inventory/group_vars/all.yml and docs/variables.md. From plugins/plugin_utils/text/explained.py come
the tables of docs/doctor.md, docs/changes.md and docs/ansible.md.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gpuprov.shared import plugin

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 120
# In the order in which a person meets them.
ROLES = (
    "docker_ce",
    "nvidia_docker",
    "docker_daemon",
    "docker_group",
    "dockerrun",
    "gpu_host_probe",
    "gpu_host_verify",
    "docker_image",
    "docker_image_transfer",
    "registry_cache",
)
BEGIN, END = "<!-- variables: written by ./dev docs -->", "<!-- end of variables -->"
_EXPLAINED = plugin("plugin_utils/text/explained")
# The last sentence of a description whose default is not a constant.
_DEFAULT_IN_WORDS = re.compile(r"\s*The default is (.+)\.$")

Options = Mapping[str, Mapping[str, Any]]


def texts() -> dict[Path, str]:
    """Return what each generated file must contain, by its path."""
    reference = ROOT / "docs/variables.md"
    wanted = {ROOT / "inventory/group_vars/all.yml": _inventory(), reference: _between_marks(reference, _reference())}
    for name, table in (("doctor", _findings()), ("changes", _changes()), ("ansible", _playbook_variables())):
        page = ROOT / f"docs/{name}.md"
        wanted[page] = _between_marks(page, table)
    for role in ROLES:
        defaults = ROOT / "roles" / role / "defaults/main.yml"
        wanted[defaults] = _defaults(_options(role), yaml.safe_load(defaults.read_text(encoding="utf-8")))
        readme = ROOT / "roles" / role / "README.md"
        wanted[readme] = _between_marks(readme, _table(_options(role)))
    return wanted


def _specs(role: str) -> dict[str, Any]:
    text = (ROOT / "roles" / role / "meta/argument_specs.yml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text)["argument_specs"])


def _options(role: str) -> Options:
    return dict(_specs(role)["main"]["options"])


# ---- YAML ----------------------------------------------------------------------------------------


def _defaults(options: Options, present: Mapping[str, Any]) -> str:
    """Return a role's defaults: constants from the specification, templates and empty values as they are."""
    lines = ["---", "# Comments and constants are written by ./dev docs from meta/argument_specs.yml."]
    for name, option in options.items():
        value = option.get("default", present.get(name, option.get("example")))
        text = json.dumps(value) if "{{" in str(value) else _value(value)
        lines += ["", *_comment(option["description"]), f"{'' if name in present else '# '}{name}: {text}"]
    return "\n".join(lines) + "\n"


def _inventory() -> str:
    lines = [
        "---",
        "# Every variable with its default, or an example where that is empty or computed. Remove the comment sign",
        "# to set one. Written by ./dev docs; docs/variables.md has the same as tables.",
    ]
    for role in ROLES:
        title = f"# ---- {role}: {_specs(role)['main']['short_description']} "
        lines += ["", title.ljust(100, "-")]
        for name, option in _options(role).items():
            shown = option.get("example", option.get("default"))
            lines += ["", *_comment(option["description"]), f"# {name}: {_value(shown)}"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )


def _value(value: Any) -> str:
    """Return a value as YAML on one line, with double quotes where quotes are needed."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).removesuffix("...\n").strip()
    return re.sub(r"'((?:[^'\\\"])*)'", lambda quoted: json.dumps(quoted[1]), text)


# ---- Markdown ------------------------------------------------------------------------------------


def _between_marks(page: Path, text: str) -> str:
    """Return the page with this text between its marks."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n{text}{END}{rest.split(END)[1]}"


def _reference() -> str:
    lines: list[str] = []
    for role in ROLES:
        specs = _specs(role)
        main = specs.pop("main")
        lines += [f"## {role}", "", f"{main['short_description']}: [README](../roles/{role}/README.md).", ""]
        if specs:
            others = (f"`{name}` ({spec['short_description']})" for name, spec in specs.items())
            lines += [f"Other entry points (`tasks_from`): {', '.join(others)}.", ""]
        lines.append(_table(main["options"]))
    return "\n".join(lines)


def _table(options: Options) -> str:
    lines = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, option in options.items():
        meaning = _DEFAULT_IN_WORDS.sub("", option["description"])
        lines.append(f"| `{name}` | {_type(option)} | {_default(option)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _type(option: Mapping[str, Any]) -> str:
    if "choices" in option:
        return ", ".join(f"`{choice}`" if choice else "empty" for choice in option["choices"])
    return f"list of {option['elements']}" if option["type"] == "list" else str(option["type"])


def _default(option: Mapping[str, Any]) -> str:
    if "default" in option:
        return f"`{_value(option['default'])}`"
    words = _DEFAULT_IN_WORDS.search(option["description"])
    return words[1] if words else "empty"


def _findings() -> str:
    """Return the table of findings: errors in bold, info in italics, the worst first."""
    lines = ["| name | what it is | why it matters | what to do |", "|---|---|---|---|"]
    marks = {"error": "**", "warning": "", "info": "*"}
    for severity, mark in marks.items():
        for name, kind in _EXPLAINED.FINDINGS.items():
            if kind.severity == severity:
                cells = (f"{mark}`{name}`{mark}", kind.meaning, kind.why, "`" + kind.cure.replace("|", "\\|") + "`")
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _changes() -> str:
    lines = ["| first column of the plan | what it does | why it matters | what to do |", "|---|---|---|---|"]
    for kind in _EXPLAINED.CHANGES:
        lines.append(f"| {kind.name} | {kind.meaning} | {kind.why} | {kind.advice} |")
    return "\n".join(lines) + "\n"


def _playbook_variables() -> str:
    lines = ["| variable | the same as |", "|---|---|"]
    lines += [f"| `-e {given}` | {meaning} |" for given, meaning in _EXPLAINED.PLAYBOOK_VARIABLES.values()]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the files that are not current, and name them."""
    for path, text in texts().items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
