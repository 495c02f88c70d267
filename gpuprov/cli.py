"""The commands of gpuprov. Each runs one playbook and reports the result."""

from __future__ import annotations

import gc
import re
import sys
import time
from typing import Annotated, Any

import typer

from gpuprov import image, report, runner
from gpuprov.command import (
    STATUS_HELP,
    WAIT_SECONDS,
    Check,
    Diff,
    Json,
    Ran,
    RunTags,
    Say,
    SkipTags,
    Wait,
    checked_tags,
    errors_text,
    in_order,
    interrupted_text,
    run,
    takes_options,
)
from gpuprov.runner import Options, UsageError

app = typer.Typer(
    help="GPU hosts with a pinned Docker and NVIDIA container stack, proven on each host.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(image.app, name="image")

PLAN_HELP = (
    "Exit status: 0 nothing to do; 2 changes pending, or a host failed; 4 a host was unreachable; "
    "1 gpuprov could not run; 130 interrupted."
)

DOCTOR_HELP = (
    "Exit status: 0 all hosts healthy (a finding of severity info does not count); 2 a finding to fix, or a host "
    "failed; 4 a host was unreachable, and nothing to fix on the others; 1 gpuprov could not run; 130 interrupted."
)


@app.command(epilog=PLAN_HELP)
@takes_options
def plan(options: Options, tags: RunTags = None, skip_tags: SkipTags = None, as_json: Json = False) -> None:
    """Read the hosts and show what would change. Changes nothing."""
    options.tags, options.skip_tags = checked_tags(tags), checked_tags(skip_tags)
    options.variables["gpuprov_quiet"] = True
    run("plan", "plan.yml", options, _plan_ending, as_json)


@app.command(epilog=STATUS_HELP)
@takes_options
def provision(
    options: Options,
    check: Check = False,
    diff: Diff = False,
    full: Annotated[bool, typer.Option("--full", help="Run every role on every host, pending or not.")] = False,
    serial: Annotated[
        str | None,
        typer.Option("--serial", metavar="N,N%,…", help="Work on N pending hosts at a time; a failure ends the run."),
    ] = None,
    max_fail_percentage: Annotated[
        int | None,
        typer.Option(
            "--max-fail-percentage",
            metavar="N",
            min=0,
            max=100,
            help="Percentage of a wave that may fail before the run ends; default 0.",
        ),
    ] = None,
    tags: RunTags = None,
    skip_tags: SkipTags = None,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Show the plan, apply it, and verify the result on the hosts."""
    options.check, options.diff = check, diff
    options.tags, options.skip_tags = checked_tags(tags), checked_tags(skip_tags)
    if full:
        options.variables["gpuprov_full"] = True
    if serial is not None:
        options.variables["gpuprov_serial"] = waves(serial)
    if max_fail_percentage is not None:
        options.variables["gpuprov_max_fail_percentage"] = max_fail_percentage
    if wait:
        options.variables["gpuprov_wait"] = WAIT_SECONDS
    planned: list[float] = []
    begun = time.monotonic()

    def show_plan(event: runner.Event, collected: report.Collector, say: Say) -> None:
        # The play after the one that plans.
        if event.get("event") == "playbook_on_play_start" and collected.hosts and not planned:
            planned.append(time.monotonic() - begun)
            say(report.plan_text(in_order(collected), planned[0]))

    def ending(ran: Ran) -> str:
        return ("" if planned else _plan_text(ran)) + _provision_ending(ran)

    run("provision", "provision.yml", options, ending, as_json, show_plan)


@app.command(epilog=STATUS_HELP)
@takes_options
def verify(options: Options, as_json: Json = False) -> None:
    """Verify that the hosts match the inventory and run containers. Changes nothing."""
    run("verify", "verify.yml", options, _result_ending, as_json)


@app.command(epilog=DOCTOR_HELP)
@takes_options
def doctor(options: Options, as_json: Json = False) -> None:
    """Read the hosts and report what is wrong, why it matters, and how to fix it. Changes nothing."""
    options.variables["gpuprov_quiet"] = True
    run("doctor", "doctor.yml", options, _doctor_ending, as_json)


@app.command(epilog=STATUS_HELP)
@takes_options
def uninstall(
    options: Options,
    check: Check = False,
    diff: Diff = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    purge_data: Annotated[
        bool, typer.Option("--purge-data", help="Delete images, containers and volumes too.")
    ] = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Remove packages and settings. Images, containers and volumes stay unless --purge-data is given."""
    options.check, options.diff = check, diff
    if purge_data:
        options.variables["docker_ce_uninstall_data"] = True
    if wait:
        options.variables["gpuprov_wait"] = WAIT_SECONDS
    if not yes and not check:
        if not sys.stdin.isatty():
            raise UsageError("uninstall asks before it begins: without a terminal give --yes")
        question = "Take docker away from the hosts" + (
            ", with all images, containers and volumes" if purge_data else ""
        )
        if not typer.confirm(f"{question}?", err=True):
            raise UsageError("nothing was done")
    run("uninstall", "uninstall.yml", options, _result_ending, as_json)


def waves(text: str) -> list[int | str]:
    """Parse --serial into sizes for Ansible's serial: ``1,10%`` is [1, "10%"]. Raises UsageError."""
    sizes: list[int | str] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9]\d{0,5})(%?)\s*", part)
        if not match or (match[2] and int(match[1]) > 100):
            raise UsageError(
                f"--serial takes numbers of hosts and percentages, such as 1,10%,25%: not {part.strip()!r}"
            )
        sizes.append(match[1] + "%" if match[2] else int(match[1]))
    return sizes


def _plan_ending(ran: Ran) -> str:
    return _plan_text(ran) + errors_text(ran) + interrupted_text(ran)


def _doctor_ending(ran: Ran) -> str:
    return report.findings_text(ran.hosts, ran.seconds) + errors_text(ran) + interrupted_text(ran)


def _provision_ending(ran: Ran) -> str:
    text = _result_text(ran) + report.steps_text(ran.hosts)
    if not ran.options.check:
        text += report.notes_text(ran.hosts)
    text += errors_text(ran)
    if not ran.options.check:
        text += report.unfinished_text(ran.hosts)
    return text + interrupted_text(ran)


def _result_ending(ran: Ran) -> str:
    notes = "" if ran.options.check else report.notes_text(ran.hosts)
    return _result_text(ran) + notes + errors_text(ran) + interrupted_text(ran)


def _plan_text(ran: Ran) -> str:
    return report.plan_text(ran.hosts, ran.seconds)


def _result_text(ran: Ran) -> str:
    rows = report.result_rows(ran.hosts, ran.options.check, interrupted=ran.status == 130)
    return report.table_text(rows)


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


# Newer versions of typer bundle click; this is the base class of the click errors in use.
_ClickError: Any = typer.BadParameter.__mro__[2]


def main() -> None:
    """Run the command line. A usage error is reported in one line, with exit status 1."""
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
    finally:
        # Skip garbage collection at exit: it costs 50 ms.
        gc.freeze()
