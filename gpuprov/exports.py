"""Write the result of a run to files for other programs: each format is a pure function of the JSON document."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

from typer import Argument

from gpuprov import record, runner
from gpuprov.options import Html, Junit, Prometheus, UsageError, check_directory
from gpuprov.shared import plugin

_fleet = plugin("plugin_utils/text/fleet")
_Document = dict[str, Any]
SEVERITIES = ("error", "warning", "info")


def report(
    run: Annotated[str, Argument(metavar="RUN", help="The ID of a run, its beginning, or last.")] = "last",
    html: Html = None,
    junit: Junit = None,
    prometheus: Prometheus = None,
) -> None:
    """Write a page or files about an earlier run."""
    files = {"html": html, "junit": junit, "prometheus": prometheus}
    if not any(files.values()):
        raise UsageError("report writes files: give --html FILE, --junit FILE or --prometheus FILE")
    found = record.find(run)
    try:
        document = json.loads((runner.runs_directory() / found["id"] / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UsageError(f"the run {found['id']} left no result ({found['ended']})") from None
    for name, path in files.items():
        check_directory(path)
        commands = _COMMANDS.get(name, (document["command"],))
        if path and document["command"] not in commands:
            raise UsageError(
                f"--{name} is for runs of {' and '.join(commands)}: {found['id']} is of {found['command']}"
            )
    write(files, document, found)


def write(files: dict[str, Path | None], document: _Document, about: _Document) -> None:
    """Write a run to files: {format: path}. about: the record of the run. Raises UsageError."""
    for name, path in files.items():
        if path:
            _replace(path.expanduser(), FORMATS[name](document, about))


def _replace(path: Path, text: str) -> None:
    """Write a file at once: a reader finds the former text or all of the new one."""
    try:
        # A link stays; a device or a pipe cannot be replaced.
        path = path.resolve()
        new = path.with_name(f".{path.name}.{os.getpid()}") if path.is_file() or not path.exists() else path
        new.write_text(text, encoding="utf-8")
        if new != path:
            new.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _hosts(document: _Document) -> list[tuple[str, dict[str, Any]]]:
    return sorted(document["hosts"].items(), key=lambda pair: _fleet.natural(pair[0]))


def _clean(text: str) -> str:
    """Replace the characters that XML and UTF-8 cannot hold."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


# ---- JUnit


def junit(document: _Document) -> str:
    """Return the run as JUnit XML: a suite for each host, with a case for each check or finding."""
    import xml.etree.ElementTree as ET

    root = ET.Element("testsuites", name=f"gpuprov {document['command']}", time=str(document["seconds"]))
    for name, host in _hosts(document):
        suite = ET.SubElement(root, "testsuite", name=_clean(name), time=str(host["seconds"]))
        for case, kind, message, text in _cases(document["command"], host):
            of_case = ET.SubElement(suite, "testcase", classname=_clean(name), name=_clean(case))
            if kind:
                told = {"message": _clean(message)} if kind != "system-out" else {}
                ET.SubElement(of_case, kind, told).text = _clean(text)
        for kind, number in (("tests", "testcase"), ("failures", "testcase/failure"), ("errors", "testcase/error")):
            suite.set(kind, str(len(suite.findall(number))))
    for kind in ("tests", "failures", "errors"):
        root.set(kind, str(sum(int(suite.get(kind, "0")) for suite in root)))
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _cases(command: str, host: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (name, the element that says how it ended or "" where it passed, message, text) of each case of a host."""
    checks = (host["verify"] or {}).get("checks", [])
    error = host["error"]
    # The error of a host whose checks failed only repeats them.
    if error and all(check["ok"] for check in checks):
        yield (
            f"gpuprov {command}",
            "error",
            f"{host['status']} at: {error['task']}",
            "\n".join(filter(None, (error["message"], error["hint"] and f"What to do: {error['hint']}"))),
        )
    else:
        yield f"gpuprov {command}", "", "", ""
    for check in checks:
        yield check["name"], "" if check["ok"] else "failure", check["detail"] or "", check["detail"] or ""
    for finding in (host["findings"] or []) if command == "doctor" else []:
        kind = "failure" if finding["severity"] != "info" else "system-out"
        text = f"{finding['severity']}: {finding['message']}\nwhy: {finding['why']}\ncure: {finding['cure']}"
        yield finding["name"], kind, finding["message"], text


# ---- Prometheus


def prometheus(document: _Document) -> str:
    """Return the result of doctor as metrics in Prometheus' text format."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, help: str, *labels: str) -> Gauge:
        return Gauge(f"gpuprov_{name}", help, labels, registry=registry)

    gauge("doctor_exit_status", "Exit status of gpuprov doctor.").set(document["status"])
    gauge("doctor_duration_seconds", "Seconds that gpuprov doctor took.").set(document["seconds"])
    reached = gauge("host_reached", "Whether doctor could read the host.", "host")
    healthy = gauge("host_healthy", "Whether the host was read and has no finding to cure.", "host")
    counts = gauge("host_findings", "Findings of a severity.", "host", "severity")
    found = gauge("host_finding", "A finding of doctor; absent without it.", "host", "finding", "severity")
    about = gauge(
        "host_info", "Versions on the host.", "host", "os", "kernel", "docker", "containerd", "nvidia", "driver"
    )
    gpus = gauge("host_gpus", "GPUs that the driver knows.", "host")
    for raw, host in _hosts(document):
        name = _clean(raw)
        reached.labels(name).set(not host["error"])
        healthy.labels(name).set(host["status"] == "healthy")
        if host["findings"] is not None:
            for severity in SEVERITIES:
                counts.labels(name, severity).set(sum(one["severity"] == severity for one in host["findings"]))
            for one in host["findings"]:
                found.labels(name, _clean(one["name"]), one["severity"]).set(1)
        if host["facts"]:
            has = _fleet.versions(host["facts"])
            versions = (has[key] for key in ("kernel", "docker", "containerd", "nvidia", "driver"))
            about.labels(name, *map(_clean, (_fleet.os_name(host["facts"]), *versions))).set(1)
            gpus.labels(name).set(len(host["facts"]["gpu"]["gpus"] or []))
    return generate_latest(registry).decode()


def _page(document: _Document, about: _Document) -> str:
    from gpuprov.page import page

    return page(document, about)


# {the option: the text of the file, given the document and the record of a run}
FORMATS: dict[str, Callable[[_Document, _Document], str]] = {
    "html": _page,
    "junit": lambda document, _about: junit(document),
    "prometheus": lambda document, _about: prometheus(document),
}
# The commands that have what a format tells; a page is of any.
_COMMANDS = {"junit": ("verify", "doctor"), "prometheus": ("doctor",)}
