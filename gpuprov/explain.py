"""``gpuprov explain``: what a finding, a change or a variable is, why it matters, what to do."""

from __future__ import annotations

import difflib
import json
import shutil
import textwrap
from typing import Annotated, Any

import typer
from typer import Argument

from gpuprov.options import UsageError
from gpuprov.shared import ansible_root, plugin


def variables() -> dict[str, tuple[str, dict[str, Any]]]:
    """Return {name: (its role, its specification)} of all variables of roles."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for path in sorted((ansible_root() / "playbooks").glob("collections/*/*/*/roles/*/meta/argument_specs.yml")):
        options = yaml.load(path.read_text(encoding="utf-8"), loader)["argument_specs"]["main"]["options"]
        found |= {name: (path.parent.parent.name, spec) for name, spec in options.items()}
    return found


def names() -> list[str]:
    """Return what can be explained, for completion."""
    texts = plugin("plugin_utils/text/explained")
    return [
        *texts.FINDINGS,
        *(kind.name for kind in texts.CHANGES if kind.name.islower() and "," not in kind.name),
        *texts.PLAYBOOK_VARIABLES,
        *variables(),
    ]


def explain(
    name: Annotated[
        str,
        Argument(
            metavar="NAME", help="A finding, a variable, or the first column of a change in a plan.",
            autocompletion=lambda incomplete: [name for name in names() if name.startswith(incomplete)],
        ),
    ],
) -> None:  # fmt: skip
    """Explain a finding, a change in a plan, or a variable."""
    texts = plugin("plugin_utils/text/explained")
    known = {} if name in texts.FINDINGS else variables()
    change = texts.change(name)
    if name in texts.FINDINGS:
        kind = texts.FINDINGS[name]
        lines = [f"{name}: a finding of gpuprov doctor, severity {kind.severity}"]
        lines += [f"What it is: {kind.meaning}", f"Why it matters: {kind.why}", f"What to do: {kind.cure}"]
    elif name in texts.PLAYBOOK_VARIABLES:
        given, meaning = texts.PLAYBOOK_VARIABLES[name]
        lines = [f"{name}: a variable of the playbooks", f"The same as: {meaning}", f"What to do: -e {given}"]
    elif name in known:
        role, spec = known[name]
        sort = f"list of {spec['elements']}" if spec["type"] == "list" else spec["type"]
        sort += f", one of {', '.join(choice or 'empty' for choice in spec['choices'])}" if "choices" in spec else ""
        lines = [f"{name}: a variable of the role {role}", spec["description"], f"Type: {sort}"]
        lines += [
            f"{word.capitalize()}: {json.dumps(spec[word], ensure_ascii=False)}"
            for word in ("default", "example")
            if word in spec
        ]
        lines += ["What to do: set it in the inventory (group_vars/all.yml for all hosts), or with -e"]
    elif change:
        lines = [f"{name}: a change in a plan", f"What it does: {change.meaning}"]
        lines += [f"Why it matters: {change.why}", f"What to do: {change.advice}"]
    else:
        near = difflib.get_close_matches(name, [*texts.FINDINGS, *texts.PLAYBOOK_VARIABLES, *known], n=3)
        did = f"; did you mean {' or '.join(near)}?" if near else ": not a finding, a change or a variable"
        raise UsageError(f"nothing is known about {name!r}{did}")
    width = min(shutil.get_terminal_size().columns, 100)
    for text in lines[:1] + [f"  {line}" for line in lines[1:]]:
        typer.echo(textwrap.fill(text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False))
