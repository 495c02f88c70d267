"""The commands of gpuprov: each runs one playbook and says how it went."""

from __future__ import annotations

import functools
import getpass
import inspect
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from gpuprov import report, runner
from gpuprov.runner import Options, Outcome, UsageError

app = typer.Typer(
    help="GPU hosts with a pinned Docker and NVIDIA container stack, proven on each host.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

STATUS_HELP = (
    "Exit status: 0 all hosts as wanted; 2 a host failed; 4 a host was unreachable and none failed; "
    "1 gpuprov could not run; 130 interrupted."
)
PLAN_HELP = (
    "Exit status: 0 nothing to do; 2 changes pending, or a host failed; 4 a host was unreachable; "
    "1 gpuprov could not run; 130 interrupted."
)

DOCTOR_HELP = (
    "Exit status: 0 all hosts healthy (info alone is no ailment); 2 something to cure, or a host failed; "
    "4 a host was unreachable, and nothing to cure on the others; 1 gpuprov could not run; 130 interrupted."
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
AskBecome = Annotated[bool, typer.Option("--ask-become-pass", "-K", help="Ask for sudo's password.")]
AskVault = Annotated[bool, typer.Option("--ask-vault-pass", "-J", help="Ask for the vault's password.")]
VaultFile = Annotated[
    list[Path] | None,
    typer.Option(
        "--vault-password-file", "--vault-pass-file", metavar="FILE", help="Read the vault's password here; repeatable."
    ),
]
Check = Annotated[bool, typer.Option("--check", "-C", help="Predict; change nothing.")]
Diff = Annotated[bool, typer.Option("--diff", "-D", help="Show files before and after.")]
Verbose = Annotated[
    int,
    typer.Option("--verbose", "-v", count=True, show_default=False, help="Show Ansible's own output; -vvv more of it."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; text goes to stderr.")]


def _options(
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
    """The options that every command takes. Raises UsageError."""
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


def _takes_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, in place of its first parameter, those of _options."""
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    common = inspect.signature(_options, eval_str=True).parameters

    @functools.wraps(command)
    def run(**given: Any) -> None:
        command(_options(**{name: given.pop(name) for name in common}), **given)

    parameters = [*common.values(), *own]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__
    return run


Wait = Annotated[bool, typer.Option("--wait", help="Wait for another run that is at a host, instead of failing.")]
# A day: whoever wants another limit sets gpu_host_lock_wait.
WAIT_SECONDS = 86400


@app.command(epilog=PLAN_HELP)
@_takes_options
def plan(options: Options, as_json: Json = False) -> None:
    """Read the hosts and show what would change. Touches nothing."""
    options.variables["gpuprov_quiet"] = True
    _run("plan", "plan.yml", options, as_json)


@app.command(epilog=STATUS_HELP)
@_takes_options
def provision(
    options: Options,
    check: Check = False,
    diff: Diff = False,
    full: Annotated[bool, typer.Option("--full", help="Run every role on every host, pending or not.")] = False,
    serial: Annotated[
        str | None,
        typer.Option("--serial", metavar="N,N%,…", help="In waves of so many pending hosts; a failure ends the run."),
    ] = None,
    max_fail_percentage: Annotated[
        int | None,
        typer.Option(
            "--max-fail-percentage", metavar="N", min=0, max=100, help="Hosts that may fail before waves end; 0."
        ),
    ] = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Show the plan, apply it, and prove the result on the hosts."""
    options.check, options.diff = check, diff
    if full:
        options.variables["gpuprov_full"] = True
    if serial is not None:
        options.variables["gpuprov_serial"] = waves(serial)
    if max_fail_percentage is not None:
        options.variables["gpuprov_max_fail_percentage"] = max_fail_percentage
    if wait:
        options.variables["gpu_host_lock_wait"] = WAIT_SECONDS
    _run("provision", "provision.yml", options, as_json)


@app.command(epilog=STATUS_HELP)
@_takes_options
def verify(options: Options, as_json: Json = False) -> None:
    """Prove that the hosts are as wanted and run containers. Repairs nothing."""
    _run("verify", "verify.yml", options, as_json)


@app.command(epilog=DOCTOR_HELP)
@_takes_options
def doctor(options: Options, as_json: Json = False) -> None:
    """Read the hosts and say what is wrong, why it matters, and what cures it. Touches nothing."""
    options.variables["gpuprov_quiet"] = True
    _run("doctor", "doctor.yml", options, as_json)


@app.command(epilog=STATUS_HELP)
@_takes_options
def uninstall(
    options: Options,
    check: Check = False,
    diff: Diff = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    purge_data: Annotated[bool, typer.Option("--purge-data", help="Images, containers and volumes go too.")] = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Take packages and settings away again. Images, containers and volumes stay unless --purge-data."""
    options.check, options.diff = check, diff
    if purge_data:
        options.variables["docker_ce_uninstall_data"] = True
    if wait:
        options.variables["gpu_host_lock_wait"] = WAIT_SECONDS
    if not yes and not check:
        if not sys.stdin.isatty():
            raise UsageError("uninstall asks before it begins: without a terminal give --yes")
        question = "Take docker away from the hosts" + (
            ", with all images, containers and volumes" if purge_data else ""
        )
        if not typer.confirm(f"{question}?", err=True):
            raise UsageError("nothing was done")
    _run("uninstall", "uninstall.yml", options, as_json)


def waves(text: str) -> list[int | str]:
    """Return the sizes of waves, for Ansible's serial: ``1,10%`` is [1, "10%"]. Raises UsageError."""
    sizes: list[int | str] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d{0,5})(%?)\s*", part)
        if not match or (match[2] and int(match[1]) > 100):
            raise UsageError(
                f"--serial takes numbers of hosts and percentages, such as 1,10%,25%: not {part.strip()!r}"
            )
        sizes.append(match[1] + "%" if match[2] else int(match[1]))
    return sizes


def _passwords(options: Options) -> dict[str, str]:
    """Ask for what was asked to be asked; {prompt pattern: password}."""
    passwords = {}
    if options.ask_pass:
        passwords[r"SSH password:\s*?$"] = getpass.getpass("SSH password: ")
    if options.ask_become_pass:
        become = getpass.getpass("BECOME password (empty: as for SSH): " if options.ask_pass else "BECOME password: ")
        passwords[r"BECOME password.*:\s*?$"] = become or passwords.get(r"SSH password:\s*?$", "")
    if options.ask_vault_pass:
        passwords[r"Vault password.*:\s*?$"] = getpass.getpass("Vault password: ")
    return passwords


def _run(command: str, playbook: str, options: Options, as_json: bool) -> None:
    from gpuprov.display import Plain, display

    begun = time.monotonic()
    passwords = _passwords(options)
    collected = report.Collector()
    people = sys.stderr if as_json else sys.stdout
    shown: list[bool] = []
    kept = runner.run_directory()

    with (kept / "log").open("w", encoding="utf-8") as stream:
        log = Plain(stream)
        with display(people) as screen:

            def say(text: str) -> None:
                screen.say(text)
                log.say(text)

            def on_event(event: dict[str, Any]) -> None:
                if options.verbosity and event.get("stdout"):
                    screen.say(report.redact(event["stdout"]))
                play = event.get("event") == "playbook_on_play_start" and event["event_data"].get("name")
                if command == "provision" and play == "Apply and verify" and not shown and collected.hosts:
                    shown.append(True)
                    say(report.plan_text(_sorted(collected), time.monotonic() - begun))
                happened = collected.take(event)
                if happened:
                    screen.update(*happened)
                    log.update(*happened)
                if options.diff and event.get("event") == "runner_on_ok":
                    _show_diff(say, event["event_data"])

            outcome = runner.run(playbook, options, on_event, say, passwords)

        seconds = time.monotonic() - begun
        hosts = _sorted(collected)
        status = exit_status(command, outcome, hosts)
        if status == 1:
            why = why_not_run(outcome, options.limit)
            log.say(why)
            raise UsageError(why)
        ending = _ending(command, status, hosts, seconds, planned=bool(shown), check=options.check)
        stream.write(ending)
    people.write(ending)
    people.flush()
    document = json.dumps(report.document(command, status, hosts, seconds), indent=2, sort_keys=True) + "\n"
    (kept / "result.json").write_text(document, encoding="utf-8")
    if as_json:
        sys.stdout.write(document)
    raise typer.Exit(status)


def _ending(command: str, status: int, hosts: list[report.Host], seconds: float, planned: bool, check: bool) -> str:
    """What is said when a run is over; planned: whether its plan was said already."""
    text = ""
    if command == "plan" or (command == "provision" and not planned):
        text += report.plan_text(hosts, seconds)
    if command == "doctor":
        text += report.findings_text(hosts, seconds)
    elif command != "plan":
        text += report.table_text(report.result_rows(hosts, check, interrupted=status == 130))
    if command == "provision" and not check:
        text += report.notes_text(hosts)
    if status != 0:
        text += report.errors_text(hosts)
    if command == "provision" and not check:
        text += report.unfinished_text(hosts)
    if status == 130:
        text += "Interrupted. Run it again to finish: what is done already stays.\n"
    return text


def _sorted(collected: report.Collector) -> list[report.Host]:
    """In the order in which people count: gpu2 before gpu10."""

    def counted(name: str) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]

    return [collected.hosts[name] for name in sorted(collected.hosts, key=counted)]


def _show_diff(say: Callable[[str], None], data: dict[str, Any]) -> None:
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
    """Return gpuprov's exit status: see STATUS_HELP, PLAN_HELP and DOCTOR_HELP."""
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
    """Return in one line why Ansible did not get as far as a host."""
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


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"gpuprov {version('gpuprov')} with ansible-core {version('ansible-core')}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show versions.")
    ] = False,
) -> None:
    return None


# Newer typers carry a click of their own: this is the base of whichever is in use.
_ClickError: Any = typer.BadParameter.__mro__[2]


def main() -> None:
    """Run the command line; every error of usage is one line and exit status 1."""
    try:
        status = app(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except _ClickError as error:
        is_help = type(error).__name__ == "NoArgsIsHelpError"
        print(
            error.format_message() if is_help else f"gpuprov: {error.format_message()}",
            file=sys.stderr,
        )
        sys.exit(1)
    except UsageError as error:
        print(f"gpuprov: {error}", file=sys.stderr)
        sys.exit(1)
    except (typer.Abort, KeyboardInterrupt):
        print("gpuprov: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
