"""The options of the commands, in ansible-playbook's terms."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from gpuprov.completion import limit_names
from gpuprov.shared import plugin

# For commands that need an inventory only where a host takes part beside this machine.
NO_INVENTORY = "localhost,"
# The options that a command has where it names them.
_NOT_COMMON = (
    "bundle", "check", "details", "diff", "tags", "skip_tags", "yes", "wait", "html", "junit",
    "prometheus", "retry", "workers", "variables", "passwords", "only",
)  # fmt: skip


class UsageError(Exception):
    """The command cannot be run as given. The message is one line for the user."""


Html = Annotated[Path | None, Option("--html", metavar="FILE", help="Write the result for a browser, in one file.")]
Junit = Annotated[Path | None, Option("--junit", metavar="FILE", help="Write the checks as JUnit XML.")]
Prometheus = Annotated[
    Path | None, Option("--prometheus", metavar="FILE", help="Write metrics for node_exporter's textfile collector.")
]


def check_directory(path: Path | None) -> None:
    """Raise UsageError if a file to write has no directory."""
    if path and not path.expanduser().absolute().parent.is_dir():
        raise UsageError(f"{path} cannot be written: its directory does not exist")


@dataclass
class Options:
    """The options of a run. Raises UsageError.

    variables: our own extra variables. passwords: see passwords_of. only: the hosts that --limit is intersected with.
    """

    inventory: Annotated[
        str, Argument(metavar="INVENTORY", help="Any Ansible inventory: a file, directory, script, or host1,host2,")
    ]
    limit: Annotated[
        str | None,
        Option(
            "--limit", "-l", metavar="PATTERN", help="Only these hosts or groups.", autocompletion=limit_names
        ),
    ] = None  # fmt: skip
    extra_vars: Annotated[
        list[str] | None, Option("--extra-vars", "-e", metavar="VARS", help="name=value, JSON, or @FILE; repeatable.")
    ] = None
    forks: Annotated[
        str | None,
        Option(
            "--forks", "-f", metavar="N|auto", help="How many hosts at a time; auto: by cores and memory; default: 50."
        ),
    ] = None
    user: Annotated[str | None, Option("--user", "-u", metavar="NAME", help="Log in as this account.")] = None
    private_key: Annotated[
        Path | None, Option("--private-key", "--key-file", metavar="FILE", help="Log in with this key.")
    ] = None
    ask_pass: Annotated[bool, Option("--ask-pass", "-k", help="Ask for the login password.")] = False
    ask_become_pass: Annotated[
        bool, Option("--ask-become-pass", "-K", help="Ask for the password of sudo, su or doas.")
    ] = False
    ask_vault_pass: Annotated[bool, Option("--ask-vault-pass", "-J", help="Ask for the vault's password.")] = False
    vault_password_files: Annotated[
        list[Path] | None,
        Option(
            "--vault-password-file", "--vault-pass-file", metavar="FILE",
            help="Read the vault's password from this file; repeatable.",
        ),
    ] = None  # fmt: skip
    verbosity: Annotated[
        int,
        Option("--verbose", "-v", count=True, show_default=False, help="Show Ansible's own output; -vvv shows more."),
    ] = 0
    bundle: Annotated[
        Path | None,
        Option("--bundle", metavar="DIRECTORY", help="Hosts take packages from this bundle, and from nowhere else."),
    ] = None
    check: Annotated[bool, Option("--check", "-C", "--dry-run", help="Predict changes; change nothing.")] = False
    diff: Annotated[bool, Option("--diff", "-D", help="Show how files change.")] = False
    details: Annotated[bool, Option("--details", help="Name every change of the plan.")] = False
    tags: Annotated[
        list[str] | None,
        Option(
            "--tags", "-t", metavar="TAGS",
            help="Only these roles or steps, such as docker_group or docker_ce_packages; repeatable.",
        ),
    ] = None  # fmt: skip
    skip_tags: Annotated[
        list[str] | None, Option("--skip-tags", metavar="TAGS", help="All but these roles or steps; repeatable.")
    ] = None
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask for confirmation.")] = False
    wait: Annotated[bool, Option("--wait", help="Wait while another run works on a host, instead of failing.")] = False
    retry: Annotated[
        bool, Option("--retry", help="Only hosts that failed or were not reached in the last run of this command.")
    ] = False
    workers: Annotated[
        str | None,
        Option(
            "--workers", metavar="INVENTORY",
            help="Have the machines of this inventory do the work, each for a slice of the hosts.",
        ),
    ] = None  # fmt: skip
    as_json: Annotated[bool, Option("--json", help="Print one JSON document on stdout, and text on stderr.")] = False
    html: Html = None
    junit: Junit = None
    prometheus: Prometheus = None
    json_lines: Annotated[
        bool, Option("--json-lines", help="As --json, but a line for each host when it is done, and one for the run.")
    ] = False
    variables: dict[str, Any] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict, repr=False)
    only: list[str] | None = None

    def __post_init__(self) -> None:
        self.inventory = checked_inventory(self.inventory)
        if self.as_json and self.json_lines:
            raise UsageError("--json and --json-lines exclude each other")
        if self.private_key and not self.private_key.expanduser().is_file():
            raise UsageError(f"the private key {self.private_key} does not exist")
        for path in self.vault_password_files or []:
            if not path.expanduser().is_file():
                raise UsageError(f"the vault password file {path} does not exist")
        for file in (self.html, self.junit, self.prometheus):
            check_directory(file)
        if self.forks and not re.fullmatch(r"auto|[1-9]\d{0,4}", self.forks):
            raise UsageError(f"--forks takes a number from 1 on, or auto: not {self.forks!r}")
        for name in re.findall(r"(?:^|[:,])@([^:,]+)", self.limit or ""):
            if not os.path.isfile(name):
                raise UsageError(f"the file of --limit @{name} does not exist")
            if not Path(name).read_bytes().strip():
                raise UsageError(f"the file of --limit @{name} is empty, which Ansible takes for all hosts")
        self.tags, self.skip_tags = checked_tags(self.tags), checked_tags(self.skip_tags)
        if self.bundle:
            if not (self.bundle / "bundle.yml").is_file():
                raise UsageError(f"{self.bundle} is not a bundle: it has no bundle.yml")
            self.variables["gpuprov_bundle"] = str(self.bundle.absolute())
        if self.workers:
            self.workers = checked_inventory(self.workers)
            if self.bundle:
                raise UsageError("--bundle and --workers cannot be used together: a bundle stays on this machine")
        if self.wait:
            self.variables["gpuprov_wait"] = 86400  # one day; -e gpuprov_wait=SECONDS sets another limit


def checked_inventory(text: str) -> str:
    """Return an inventory as an absolute path, or as a list of hosts.

    Raises UsageError if it is neither a list nor a readable file or directory with content.
    """
    if "," in text and not os.path.exists(text):
        return text
    path = Path(text).absolute()
    if not path.exists():
        raise UsageError(f"the inventory {text} does not exist")
    if not os.access(path, os.R_OK):
        raise UsageError(f"the inventory {text} cannot be read")
    if path.is_dir() and not any(entry.is_file() for entry in path.rglob("*")):
        raise UsageError(f"the inventory {text} is a directory without a file in it")
    if path.is_file() and path.stat().st_size == 0:
        raise UsageError(f"the inventory {text} is empty")
    return str(path)


def checked_tags(texts: list[str] | None) -> list[str]:
    """Return the tags of --tags or --skip-tags. Raises UsageError for a tag that no role and no step has."""
    given = [name.strip() for text in texts or [] for name in text.split(",") if name.strip()]
    known = sorted(plugin("plugin_utils/plan/tags").NAMES) if given else []
    for name in given:
        if name not in known:
            raise UsageError(f"there is no tag {name!r}; the tags are {', '.join(known)}")
    return given


def status_help(good: str, bad: str, gone: str = "a host was unreachable and none failed") -> str:
    """Return what the exit statuses of a command mean."""
    return f"Exit status: 0 {good}; 2 {bad}; 4 {gone}; 1 gpuprov could not run; 130 interrupted."


STATUS_HELP = status_help("all hosts as wanted", "a host failed")


def command(
    app: typer.Typer, *also: str, epilog: str = STATUS_HELP, inventory: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds a command, whose first parameter is its Options, to app.

    also: the options of Options that not every command has, such as "check". inventory: the default of INVENTORY.
    A command's own arguments come before INVENTORY.
    """
    every = inspect.signature(Options, eval_str=True).parameters
    common = {name: one for name, one in every.items() if name not in _NOT_COMMON or name in also}
    if inventory is not None:
        common["inventory"] = common["inventory"].replace(default=inventory)

    def add(function: Callable[..., None]) -> Callable[..., None]:
        _, *own = inspect.signature(function, eval_str=True).parameters.values()

        def run(**given: Any) -> None:
            function(Options(**{name: given.pop(name) for name in common}), **given)

        # typer reads these two. By keyword alone: a parameter without a default may then follow one with a default.
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *common.values())]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return app.command(function.__name__, help=function.__doc__, epilog=epilog)(run)

    return add
