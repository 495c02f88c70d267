"""The commands of gpuprov. Each runs one playbook and reports the result."""

from __future__ import annotations

import gc
import re
import sys
from typing import Annotated, Any

import typer
from typer import Option

from gpuprov import exports, image, record, report
from gpuprov.bundle import BUNDLE_HELP, bundle
from gpuprov.command import run
from gpuprov.explain import explain
from gpuprov.init import init
from gpuprov.options import Options, UsageError, command, status_help
from gpuprov.support import support_bundle, versions

app = typer.Typer(
    help="GPU hosts with a pinned Docker and NVIDIA container stack, proven on each host.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(image.app, name="image")
app.add_typer(record.app, name="runs")
app.command()(init)
app.command("report")(exports.report)
app.command(epilog=BUNDLE_HELP)(bundle)

PLAN_HELP = status_help("nothing to do", "changes pending, or a host failed", "a host was unreachable")
LOCK_HELP = status_help("the lock was written, or fits", "with --check, it does not fit, or a host failed")
DOCTOR_HELP = status_help(
    "all hosts healthy (a finding of severity info does not count)", "a finding to fix, or a host failed",
    "a host was unreachable, and nothing to fix on the others",
)  # fmt: skip
RESULT_VIEWS = (report.result_text, report.notes_text, report.errors_text)


@command(app, "bundle", "details", "retry", "tags", "skip_tags", "html", "workers", epilog=PLAN_HELP)
def plan(options: Options) -> None:
    """Read the hosts and show what would change. Changes nothing."""
    options.variables["gpuprov_quiet"] = True
    run("plan", options, report.plan_text, report.errors_text)


@command(app, "bundle", "check", "details", "diff", "retry", "tags", "skip_tags", "wait", "html", "workers")
def provision(
    options: Options,
    full: Annotated[bool, Option("--full", help="Run every role on every host, pending or not.")] = False,
    serial: Annotated[
        str | None, Option(metavar="N,N%,…", help="Work on N pending hosts at a time; a failure ends the run.")
    ] = None,
    max_fail_percentage: Annotated[
        int | None,
        Option(metavar="N", min=0, max=100, help="Percentage of a wave that may fail before the run ends; default 0."),
    ] = None,
) -> None:
    """Show the plan, apply it, and verify the result."""
    size = r"\s*([1-9]\d{0,5}|([1-9]\d?|100)%)\s*"
    if serial is not None and not re.fullmatch(f"{size}(,{size})*", serial):
        raise UsageError(f"--serial takes numbers of hosts and percentages, such as 1,10%,25%: not {serial!r}")
    given = {"full": full or None, "serial": serial, "max_fail_percentage": max_fail_percentage}
    options.variables |= {f"gpuprov_{name}": value for name, value in given.items() if value is not None}

    views = (report.result_text, report.steps_text, report.notes_text, report.errors_text, report.unfinished_text)
    run("provision", options, *views, preview=report.plan_text)


@command(app, "html", "junit", "retry", "workers")
def verify(options: Options) -> None:
    """Verify that hosts match the inventory and run containers. Changes nothing."""
    run("verify", options, *RESULT_VIEWS)


@command(app, "html", "junit", "prometheus", "retry", "workers", epilog=DOCTOR_HELP)
def doctor(options: Options) -> None:
    """Report what is wrong, why it matters, and its cure. Changes nothing."""
    options.variables["gpuprov_quiet"] = True
    run("doctor", options, report.findings_text, report.errors_text)


@command(app, "check", epilog=LOCK_HELP)
def lock(
    options: Options,
    upgrade: Annotated[
        bool, Option("--upgrade", help="Take the newest versions in docker_ce_channel and nvidia_docker_channel.")
    ] = False,
) -> None:
    """Resolve the pins to exact files. Writes gpuprov.lock.yml beside the inventory; changes no host.

    With --check it writes nothing, and reports whether the lock still fits the inventory and the repositories.
    """
    options.variables |= {"gpuprov_quiet": True, "gpuprov_lock_upgrade": upgrade}
    run("lock", options, report.lock_text, report.errors_text)


@command(app, "check", "diff", "retry", "yes", "wait")
def uninstall(
    options: Options,
    purge_data: Annotated[bool, Option("--purge-data", help="Delete images, containers and volumes too.")] = False,
) -> None:
    """Remove packages and settings. Images, containers and volumes stay unless --purge-data is given."""
    if purge_data:
        options.variables["docker_ce_uninstall_data"] = True
    if not options.yes and not options.check:
        if not sys.stdin.isatty():
            raise UsageError("uninstall asks before it begins: without a terminal give --yes")
        data = ", with all images, containers and volumes" if purge_data else ""
        if not typer.confirm(f"Take docker away from the hosts{data}?", err=True):
            raise UsageError("nothing was done")
    run("uninstall", options, *RESULT_VIEWS)


app.command()(explain)
app.command("support-bundle")(support_bundle)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(versions())
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Show versions.")] = False,
) -> None:
    return None


# Newer versions of typer bundle click; this is the base class of the click errors in use.
_ClickError: Any = typer.BadParameter.__mro__[2]


def main() -> None:
    """Run the command line. A usage error is reported in one line, with exit status 1."""
    try:
        status = app(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except (_ClickError, UsageError) as error:
        message = str(error) if isinstance(error, UsageError) else error.format_message()
        print("" if type(error).__name__ == "NoArgsIsHelpError" else "gpuprov: ", message, sep="", file=sys.stderr)
        sys.exit(1)
    except (typer.Abort, KeyboardInterrupt):
        print("gpuprov: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    finally:
        # Skip garbage collection at exit: it costs 50 ms.
        gc.freeze()
