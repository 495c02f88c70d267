"""Run one playbook for a command: ask for passwords, show the run, and exit with its status."""

from __future__ import annotations

import getpass
import json
import re
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import NoReturn, TextIO

import typer

from gpuprov import exports, record, report, runner, settings
from gpuprov.display import Live, Plain, show
from gpuprov.options import Options, UsageError
from gpuprov.result import Run, redact
from gpuprov.shared import plugin

_failures = plugin("plugin_utils/text/failures")

INTERRUPTED = "Interrupted. Run it again to finish: what is done already stays.\n"
# Returns text about a run.
View = Callable[[Run], str]


def passwords_of(options: Options) -> dict[str, str]:
    """Ask for the passwords that the options request; return {option of ansible-playbook: password}."""
    asked = {}
    if options.ask_pass:
        asked["--connection-password-file"] = getpass.getpass("SSH password: ")
    if options.ask_become_pass:
        default = " (empty: as for SSH)" if options.ask_pass else ""
        become = getpass.getpass(f"BECOME password{default}: ")
        asked["--become-password-file"] = become or asked.get("--connection-password-file", "")
    if options.ask_vault_pass:
        asked["--vault-password-file"] = getpass.getpass("Vault password: ")
    if any(password != password.strip() for password in asked.values()):
        raise UsageError("a password that begins or ends with a space cannot be passed to Ansible")
    return {option: password for option, password in asked.items() if password}


def run(command: str, options: Options, *views: View, preview: View | None = None) -> NoReturn:
    """Run the playbook of a command, print the result, and exit with gpuprov's exit status."""
    run = Run(command, options)
    if options.retry:
        record.retry(run)
    if options.only == []:
        print(*run.notes, file=_people(options))
        finish(run)
    options.passwords = passwords_of(options)
    finish(play(run, *views, preview=preview))


def finish(run: Run) -> NoReturn:
    """Print the JSON and write the files that were asked for, and exit with gpuprov's exit status."""
    if run.options.as_json:
        _write_json(run, sys.stdout)
    elif run.options.json_lines:
        sys.stdout.writelines(report.last_lines(run))
    files = {name: getattr(run.options, name) for name in exports.FORMATS}
    if any(files.values()):
        exports.write(files, report.document(run), run.record)
    raise typer.Exit(run.status)


def _write_json(run: Run, stream: TextIO) -> None:
    # In pieces: as one text, the document of 1,000 hosts takes more memory than the run.
    json.dump(report.document(run), stream, indent=2, sort_keys=True)
    stream.write("\n")


def _people(options: Options) -> TextIO:
    return sys.stderr if options.as_json or options.json_lines else sys.stdout


def play(run: Run, *views: View, preview: View | None = None) -> Run:
    """Run a command's playbook, show progress and then the views of the result, and return the run.

    preview: shown before the first task that follows the hosts' plans, or at the end. Raises UsageError if Ansible did
    not get as far as a host.
    """
    if run.options.forks == "auto":
        run.options.forks, note = settings.auto_forks()
        run.notes.append(note)
    kept = runner.run_directory()
    record.write(kept, run)
    try:
        _play(run, kept, *views, preview=preview)
    except UsageError as error:
        record.write(kept, run, 1, str(error))
        raise
    record.write(kept, run, run.status)
    return run


def _play(run: Run, kept: Path, *views: View, preview: View | None) -> None:
    options = run.options
    people = _people(options)

    with (kept / "log").open("w", encoding="utf-8") as stream:
        log = Plain(run, stream)
        with (
            runner.temporary_directory() as directory,
            Live(run, people, directory) if people.isatty() else nullcontext(Plain(run, people, True)) as screen,
        ):

            def say(text: str) -> None:
                screen.say(text)
                log.say(text)

            def on_event(event: runner.Event) -> None:
                kind, output = event.get("event", ""), event.get("stdout") or ""
                if output and options.verbosity:
                    screen.say(redact(output))
                elif kind == "verbose" and re.match(r"[^\s|]+ \| ", output):
                    say(redact(output))  # a line of docker build or of a transfer, after the host
                if output.strip() and options.diff and kind == "runner_on_file_diff":
                    say(redact(f"{event['event_data']['host']}:\n{output.strip()}"))
                starts = kind in ("playbook_on_play_start", "playbook_on_task_start")
                if starts and preview and not run.previewed and any(host.plan or host.image for host in run.hosts):
                    run.previewed, run.seconds = True, time.monotonic() - run.began
                    say(preview(run))
                happened = run.take(event)
                if happened:
                    screen.update(*happened)
                    log.update(*happened)
                    if options.json_lines:
                        sys.stdout.write(report.host_line(run, happened[1]))
                        sys.stdout.flush()

            for note in run.notes:
                say(note)
            if options.workers:
                from gpuprov import workers  # few runs need this

                workers.run(run, on_event, say, directory)
            else:
                runner.run(run, on_event, say, directory)

        run.seconds = time.monotonic() - run.began
        if run.status == 1 or (run.refusal and not run.interrupted):
            limit = options.limit if options.only is None else f"{options.limit or 'all'} with --retry"
            why = run.refusal or redact(_failures.not_begun(run.output, limit))
            log.say(why)
            raise UsageError(why)
        text = "" if run.previewed or not preview else preview(run)
        text += "".join(view(run) for view in views) + (INTERRUPTED if run.interrupted else "")
        stream.write(text)
    show(people, text)
    with (kept / "result.json").open("w", encoding="utf-8") as stream:
        _write_json(run, stream)
