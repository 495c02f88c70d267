"""Collect what a bug report needs: versions, and ``gpuprov support-bundle``."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from gpuprov import record
from gpuprov.options import UsageError
from gpuprov.shared import ansible_root, plugin

_LAST_RUNS = 3


def versions() -> str:
    """Return the versions of gpuprov and of what it runs with, one a line."""
    system = ""
    with contextlib.suppress(OSError):
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    lines = [" ".join(pair) for pair in record.versions().items()]
    lines += [f"Python {platform.python_version()} ({sys.executable})"]
    lines += [f"{system or platform.system()}, {platform.system()} {platform.release()} {platform.machine()}"]
    return "\n".join([*lines, _output(["ssh", "-V"]).strip() or "ssh: not found"])


def support_bundle(
    output: Annotated[
        Path | None, Option("--output", "-o", metavar="FILE", help="Default: gpuprov-support-TIME.tar.gz here.")
    ] = None,
) -> None:
    """Collect what a bug report needs, without secrets.

    One file: versions, Ansible settings, the last runs.
    """
    # The imports are slow, and only this command needs them.
    from gpuprov.runner import runs_directory
    from gpuprov.settings import environment

    redaction = plugin("module_utils/redaction")
    environ = {**os.environ, **environment(os.environ, ansible_root())}
    settings = _output(["ansible-config", "dump", "--only-changed"], environ)
    # Settings are shown as NAME(where from) = value.
    settings = re.sub(r"(?m)^(\S*(?:PASS|SECRET|TOKEN|KEY)\w*\(.*\) = ).*", r"\1***", settings)
    files = {"versions.txt": versions() + "\n", "ansible-settings.txt": redaction.redact(settings)}
    # Their names begin with the time.
    for run in sorted(path for path in runs_directory().glob("*") if path.is_dir())[-_LAST_RUNS:]:
        for path in (one for one in sorted(run.iterdir()) if one.name == "log" or one.suffix == ".json"):
            clean = _json_cleaner(redaction.redacted) if path.suffix == ".json" else redaction.redact
            with contextlib.suppress(OSError, ValueError):
                files[f"runs/{run.name}/{path.name}"] = clean(path.read_text(encoding="utf-8", errors="replace"))
    output = output or Path(f"gpuprov-support-{time.strftime('%Y%m%dT%H%M%S')}.tar.gz")
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from None
    with open(descriptor, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"gpuprov-support/{name}")
            member.size, member.mtime = len(text.encode()), int(time.time())
            archive.addfile(member, io.BytesIO(text.encode()))
    typer.echo(f"{output} has:\n" + "".join(f"  {name}\n" for name in files), nl=False)
    typer.echo(
        "Passwords, tokens and keys are left out. Names of hosts and accounts are in it: look before you send it."
    )


def _json_cleaner(redacted: Callable[[object], object]) -> Callable[[str], str]:
    return lambda text: json.dumps(redacted(json.loads(text)), indent=2, ensure_ascii=False) + "\n"


def _output(words: list[str], environ: dict[str, str] | None = None) -> str:
    """Return what a program prints, or "" where there is none."""
    environ = environ or dict(os.environ)
    path = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", os.defpath)])
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            words, env={**environ, "PATH": path}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=30, text=True, errors="replace",
        )  # fmt: skip
        return done.stdout
    return ""
