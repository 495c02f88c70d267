"""Code shared by the commands: options, running one playbook, and its exit status."""

from __future__ import annotations

import functools
import getpass
import inspect
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO

import typer
from typer.models import ArgumentInfo

from gpuprov import report, runner
from gpuprov.display import Plain, display
from gpuprov.runner import Options, Outcome, UsageError
from gpuprov.shared import plugin_utils

STATUS_HELP = (
    "Exit status: 0 all hosts as wanted; 2 a host failed; 4 a host was unreachable and none failed; "
    "1 gpuprov could not run; 130 interrupted."
)
Inventory = Annotated[
    str, typer.Argument(metavar="INVENTORY", help="Any Ansible inventory: a file, directory, script, or host1,host2,")
]
Limit = Annotated[str | None, typer.Option("--limit", "-l", metavar="PATTERN", help="Only these hosts or groups.")]
ExtraVars = Annotated[
    list[str] | None,
    typer.Option("--extra-vars", "-e", metavar="VARS", help="name=value, JSON, or @FILE; repeatable."),
]
Forks = Annotated[int | None, typer.Option("--forks", "-f", metavar="N", min=1, help="How many hosts at a time.")]
User = Annotated[str | None, typer.Option("--user", "-u", metavar="NAME", help="Log in as this account.")]
Key = Annotated[Path | None, typer.Option("--private-key", "--key-file", metavar="FILE", help="Log in with this key.")]
AskPass = Annotated[bool, typer.Option("--ask-pass", "-k", help="Ask for the login password.")]
AskBecome = Annotated[bool, typer.Option("--ask-become-pass", "-K", help="Ask for the password of sudo, su or doas.")]
AskVault = Annotated[bool, typer.Option("--ask-vault-pass", "-J", help="Ask for the vault's password.")]
VaultFile = Annotated[
    list[Path] | None,
    typer.Option(
        "--vault-password-file",
        "--vault-pass-file",
        metavar="FILE",
        help="Read the vault's password from this file; repeatable.",
    ),
]
Check = Annotated[bool, typer.Option("--check", "-C", help="Predict changes; change nothing.")]
Diff = Annotated[bool, typer.Option("--diff", "-D", help="Show how files change.")]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, show_default=False, help="Show Ansible's own output; -vvv shows more."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and text on stderr.")]
RunTags = Annotated[
    list[str] | None,
    typer.Option(
        "--tags",
        "-t",
        metavar="TAGS",
        help="Only these roles or steps, such as docker_group or docker_ce_packages; repeatable.",
    ),
]
SkipTags = Annotated[
    list[str] | None, typer.Option("--skip-tags", metavar="TAGS", help="All but these roles or steps; repeatable.")
]

Wait = Annotated[bool, typer.Option("--wait", help="Wait while another run is at work on a host, instead of failing.")]
# One day. The variable gpuprov_wait sets another limit.
WAIT_SECONDS = 86400


def common_options(
    inventory: Inventory,
    limit: Limit = None,
    extra_vars: ExtraVars = None,
    forks: Forks = None,
    user: User = None,
    private_key: Key = None,
    ask_pass: AskPass = False,
    ask_become_pass: AskBecome = False,
    ask_vault_pass: AskVault = False,
    vault_password_file: VaultFile = None,
    verbose: Verbose = 0,
) -> Options:
    """Return the options that every command takes. Raises UsageError."""
    if private_key and not private_key.expanduser().is_file():
        raise UsageError(f"the private key {private_key} does not exist")
    for path in vault_password_file or []:
        if not path.expanduser().is_file():
            raise UsageError(f"the vault password file {path} does not exist")
    return Options(
        inventory=runner.checked_inventory(inventory), limit=limit, extra_vars=extra_vars or [], forks=forks,
        user=user, private_key=private_key, ask_pass=ask_pass, ask_become_pass=ask_become_pass,
        ask_vault_pass=ask_vault_pass, vault_password_files=vault_password_file or [], verbosity=verbose,
    )  # fmt: skip


def takes_options(command: Callable[..., None], inventory: str | None = None) -> Callable[..., None]:
    """Replace a command's first parameter with the parameters of common_options.

    The command's own arguments come before INVENTORY, its own options after the common ones. inventory is
    the default of INVENTORY, for commands that do not need one.
    """
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    common = dict(inspect.signature(common_options, eval_str=True).parameters)
    if inventory is not None:
        common["inventory"] = common["inventory"].replace(default=inventory)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(common_options(**{name: given.pop(name) for name in common}), **given)

    # Python requires parameters without a default to come before INVENTORY, which may have one.
    first = [one for one in own if _is_argument(one) or one.default is inspect.Parameter.empty]
    parameters = [*first, *common.values(), *(one for one in own if one not in first)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__
    return run


def _is_argument(parameter: inspect.Parameter) -> bool:
    return any(isinstance(part, ArgumentInfo) for part in getattr(parameter.annotation, "__metadata__", ()))


def checked_tags(texts: list[str] | None) -> list[str]:
    """Return the tags of --tags or --skip-tags. Raises UsageError for a tag that no role and no step has."""
    given = [name.strip() for text in texts or [] for name in text.split(",") if name.strip()]
    known = sorted(plugin_utils("plan/tags").NAMES) if given else []
    for name in given:
        if name not in known:
            raise UsageError(f"there is no tag {name!r}; the tags are {', '.join(known)}")
    return given


def passwords_of(options: Options) -> dict[str, str]:
    """Ask for the passwords that the options request; return {prompt pattern: password}."""
    passwords = {}
    if options.ask_pass:
        passwords[r"SSH password:\s*?$"] = getpass.getpass("SSH password: ")
    if options.ask_become_pass:
        become = getpass.getpass("BECOME password (empty: as for SSH): " if options.ask_pass else "BECOME password: ")
        passwords[r"BECOME password.*:\s*?$"] = become or passwords.get(r"SSH password:\s*?$", "")
    if options.ask_vault_pass:
        passwords[r"Vault password.*:\s*?$"] = getpass.getpass("Vault password: ")
    return passwords


@dataclass(frozen=True)
class Ran:
    """A finished run."""

    command: str
    options: Options
    status: int
    hosts: list[report.Host]
    seconds: float

    @property
    def document(self) -> str:
        """Return the run as JSON text; docs/json.md describes it."""
        document = report.document(self.command, self.status, self.hosts, self.seconds)
        return json.dumps(document, indent=2, sort_keys=True) + "\n"


Say = Callable[[str], None]
# Called with each event before it is collected, the events collected so far, and a function that prints.
Watch = Callable[[runner.Event, report.Collector, Say], None]


def run(
    command: str,
    playbook: str,
    options: Options,
    ending: Callable[[Ran], str],
    as_json: bool = False,
    watch: Watch | None = None,
) -> NoReturn:
    """Run a playbook, print the result, and exit with gpuprov's exit status."""
    ran = play(command, playbook, options, ending, people=sys.stderr if as_json else sys.stdout, watch=watch)
    if as_json:
        sys.stdout.write(ran.document)
    raise typer.Exit(ran.status)


def play(
    command: str,
    playbook: str,
    options: Options,
    ending: Callable[[Ran], str],
    people: TextIO,
    watch: Watch | None = None,
    passwords: Mapping[str, str] | None = None,
    screen: Plain | None = None,
) -> Ran:
    """Run a playbook, write progress and then the ending to people, and return the finished run.

    passwords: the result of an earlier passwords_of; without it they are asked for. screen: the display to use
    instead of the one that fits people. Raises UsageError if Ansible did not get as far as a host.
    """
    begun = time.monotonic()
    passwords = passwords_of(options) if passwords is None else passwords
    collected = report.Collector()
    kept = runner.run_directory()

    with (kept / "log").open("w", encoding="utf-8") as stream:
        log = Plain(stream, options.check)
        with screen or display(people, options.check) as shown:

            def say(text: str) -> None:
                shown.say(text)
                log.say(text)

            def on_event(event: runner.Event) -> None:
                if options.verbosity and event.get("stdout"):
                    shown.say(report.redact(event["stdout"]))
                if watch:
                    watch(event, collected, say)
                happened = collected.take(event)
                if happened:
                    shown.update(*happened)
                    log.update(*happened)
                if options.diff and event.get("event") == "runner_on_ok":
                    _show_diff(say, event["event_data"])

            outcome = runner.run(playbook, options, on_event, say, passwords)

        hosts = in_order(collected)
        status = exit_status(command, outcome, hosts)
        if status == 1:
            why = why_not_run(outcome, options.limit)
            log.say(why)
            raise UsageError(why)
        ran = Ran(command, options, status, hosts, time.monotonic() - begun)
        text = ending(ran)
        stream.write(text)
    people.write(text)
    people.flush()
    (kept / "result.json").write_text(ran.document, encoding="utf-8")
    return ran


def errors_text(ran: Ran) -> str:
    """Return the errors of the hosts that failed."""
    return report.errors_text(ran.hosts) if ran.status != 0 else ""


def interrupted_text(ran: Ran) -> str:
    """Return the last line of a run that was interrupted."""
    return "Interrupted. Run it again to finish: what is done already stays.\n" if ran.status == 130 else ""


def in_order(collected: report.Collector) -> list[report.Host]:
    """Return the hosts in natural order: gpu2 before gpu10."""
    return [collected.hosts[name] for name in sorted(collected.hosts, key=report.as_counted)]


def _show_diff(say: Say, data: dict[str, Any]) -> None:
    import difflib

    found = (data.get("res") or {}).get("diff") or []
    for one in found if isinstance(found, list) else [found]:
        before, after = one.get("before") or "", one.get("after") or ""
        if isinstance(before, str) and isinstance(after, str) and before != after:
            lines = difflib.unified_diff(
                before.splitlines(), after.splitlines(), one.get("before_header") or "before",
                one.get("after_header") or "after", lineterm="",
            )  # fmt: skip
            say(report.redact(f"{data['host']}:\n" + "\n".join(lines)))


def exit_status(command: str, outcome: Outcome, hosts: list[report.Host]) -> int:
    """Return gpuprov's exit status, as STATUS_HELP, PLAN_HELP and DOCTOR_HELP define it."""
    if outcome.status == "canceled":
        return 130
    if not hosts:
        return 1
    if any(host.error and not host.unreachable for host in hosts):
        return 2
    if command == "doctor" and any(report.ailments(host) for host in hosts):
        return 2
    if any(host.unreachable for host in hosts):
        return 4
    if outcome.stats is None:
        return 1
    if command == "plan" and any((host.plan or {}).get("changes") for host in hosts):
        return 2
    return 0


def why_not_run(outcome: Outcome, limit: str | None) -> str:
    """Explain in one line why Ansible did not get as far as a host."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in outcome.lines]
    text = " ".join(line for line in lines if line)
    # ansible-core 2.16 says "Failed to parse PATH with ini plugin: …", newer ones "inventory with 'ini' plugin".
    match = re.search(
        r"Failed to parse (\S+) with '?\w+'? plugin: (.+?)(?= Failed to parse| \[WARNING\]| \[ERROR\]| ERROR!|$)", text
    )
    if match:
        origin = re.search(r"Origin: (/\S+)", text)
        path = match.group(1) if match.group(1) != "inventory" else origin.group(1) if origin else ""
        reason = re.sub(r"^(?:Failed to parse inventory|YAML parsing failed): ", "", match.group(2))
        reason = reason.removeprefix(f"{path}:")
        return report.redact(f"the inventory {path} cannot be read: {reason}")
    if "no hosts to target" in text or "Could not match supplied host pattern" in text:
        return f"no host of the inventory matches --limit {limit}" if limit else "the inventory names no hosts"
    errors = [line for line in lines if re.match(r"(\[?ERROR\]?[:!]?|fatal:)", line)]
    if not errors and ("no hosts matched" in text or "provided hosts list is empty" in text):
        return "the inventory names no hosts"
    return report.redact(errors[0] if errors else (lines[-1] if lines else "ansible-playbook did not start"))
