"""The report of what was measured: tables and a plot."""

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.bench import offline

WORKS = {
    "second run": "Second run, nothing to do",
    "first install": "First install, from pristine hosts",
    "changed mirror": "One changed registry mirror on all hosts",
}
WITHOUT_GPU = "gpuprov, GPUs not proven"
CONTENDERS = ("gpuprov", WITHOUT_GPU, "gpuprov --full", "pyinfra", "shell script")
BEGIN, END = "<!-- measured: written by ./dev bench -->", "<!-- end of measured -->"


def write(results: list[dict[str, Any]], docs: Path) -> None:
    """Put the tables into docs/performance.md, between its two marks, and the plot beside it."""
    page = docs / "performance.md"
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{tables(results)}{END}{after}", encoding="utf-8")
    plot(results, docs / "performance.svg")


def tables(results: list[dict[str, Any]]) -> str:
    """Return a table for each work: median seconds (least to most), ratios of the medians, and processor seconds."""
    memory = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    versions = ", ".join(f"{name} {version(name)}" for name in ("ansible-core", "ansible-runner", "pyinfra"))
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {os.cpu_count()} cores and {memory} for controller and hosts together,",
        f"Python {platform.python_version()}, {versions}.",
        "",
    ]
    for work, title in WORKS.items():
        sizes = sorted({one["hosts"] for one in results if one["work"] == work})
        if not sizes:
            continue
        lines += [f"### {title}", ""]
        lines += ["| hosts | by | seconds | to pyinfra | to the script | controller, CPU s | hosts, CPU s |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for size in sizes:
            pyinfra, script = (_values(results, work, who, size, "seconds") for who in CONTENDERS[-2:])
            for who in CONTENDERS:
                seconds = _values(results, work, who, size, "seconds")
                if seconds:
                    used = [_median(_values(results, work, who, size, name)) for name in ("controller", "on_hosts")]
                    cells = [_cell(seconds), _ratio(seconds, pyinfra), _ratio(seconds, script), *used]
                    lines.append(f"| {size} | {who} | {' | '.join(cells)} |")
        lines.append("")
        if len(sizes) > 1:
            growth = ", ".join(
                f"{who} {_growth(results, work, who, sizes):.2f} s"
                for who in CONTENDERS
                if _growth(results, work, who, sizes)
            )
            lines += [f"Per additional host, from {sizes[0]} to {sizes[-1]}: {growth}.", ""]
    for one in results:
        if one["work"] == "memory":
            lines += [f"Memory of the controller at {one['hosts']} hosts, at its peak: {one['mib']} MiB.", ""]

    def offline_row(work: str, who: str, hosts: int) -> list[str]:
        seconds = _values(results, work, who, hosts, "seconds")
        first = _values(results, "offline", offline.ONLINE, hosts, "seconds")
        used = [_median(_values(results, work, who, hosts, name)) for name in ("controller", "on_hosts")]
        return [_cell(seconds), _ratio(seconds, first), *used]

    return "\n".join([*lines, *offline.lines(results, offline_row), *image_lines(results)])


IMAGE_CONTENDERS = ("gpuprov", "gpuprov, zstd", "save | bzip2", "save | zstd", "plain save", "docker load alone")
IMAGE_WORKS = {
    "ship": "Ship an image that packs to a third, first time",
    "ship held": "Ship it to hosts with processors of their own: a tenth of a core for each",
    "ship next": "Ship its next version, one tiny layer changed",
    "ship real": "Ship an image of real files, first time",
    "ship real next": "Ship its next version",
}


def image_lines(results: list[dict[str, Any]]) -> list[str]:
    """Return a table for each work with an image: median seconds, and the share of the image that travelled."""
    lines: list[str] = []
    for work, title in IMAGE_WORKS.items():
        found = [one for one in results if one["work"] == work]
        if not found:
            continue
        size = found[0]["image"]
        lines += [f"### {title} ({size / 1e6:.0f} MB, host to host)", ""]
        lines += ["| by | hosts | seconds | to a host, MB | of the image |", "|---|---|---|---|---|"]
        for who in IMAGE_CONTENDERS:
            for hosts in sorted({one["hosts"] for one in found if one["who"] == who}):
                came = statistics.median(one["came"] for one in found if (one["who"], one["hosts"]) == (who, hosts))
                cell = _cell(_seconds(results, work, who, hosts))
                # Markdown would take the pipe for the end of a cell.
                name = who.replace("|", "\\|")
                lines.append(f"| {name} | {hosts} | {cell} | {came / 1e6:.2f} | {100 * came / size:.2f} % |")
        lines += ["", *_image_ratios(results, work)]
    return lines


def _image_ratios(results: list[dict[str, Any]], work: str) -> list[str]:
    """Return a sentence on how gpuprov compares, and how many hosts compare with one."""

    def median(who: str, hosts: int = 1) -> float:
        return statistics.median(_seconds(results, work, who, hosts))

    ours = median("gpuprov")
    many = max(one["hosts"] for one in results if one["work"] == work)
    to_many = f"{many} hosts take {median('gpuprov', many) / ours:.1f} times one host's"
    if not _seconds(results, work, "plain save", 1):
        return [f"{to_many}.", ""]
    plain, zstd = median("plain save"), median("gpuprov, zstd") / median("save | zstd")
    text = (
        f"gpuprov is {median('save | bzip2') / ours:.1f} times as fast as the bzip2 pipe. It takes {ours / plain:.2f} "
        f"of the plain pipe's time, and between hosts with zstd {zstd:.2f} of the zstd pipe's; {to_many}"
    )
    if alone := _seconds(results, work, "docker load alone", many):
        share = statistics.median(alone) / ours
        text += f", where docker load alone, with the archive on every host already, takes {share:.1f} times that"
    return [f"{text}.", ""]


def _values(results: list[dict[str, Any]], work: str, who: str, size: int, name: str) -> list[float]:
    same = [one for one in results if (one["work"], one["who"], one["hosts"]) == (work, who, size)]
    return [one[name] for one in same if name in one]


def _seconds(results: list[dict[str, Any]], work: str, who: str, size: int) -> list[float]:
    return _values(results, work, who, size, "seconds")


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.1f}" if values else "-"


def _cell(values: list[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def _ratio(ours: list[float], theirs: list[float]) -> str:
    return f"{statistics.median(ours) / statistics.median(theirs):.2f}" if ours and theirs else "-"


def _growth(results: list[dict[str, Any]], work: str, who: str, sizes: list[int]) -> float:
    ends = [_seconds(results, work, who, size) for size in (sizes[0], sizes[-1])]
    if not all(ends):
        return 0.0
    return (statistics.median(ends[1]) - statistics.median(ends[0])) / (sizes[-1] - sizes[0])


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds over hosts, a panel for each work."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "gpuprov"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(WORKS), figsize=(11, 3.6), layout="constrained")
    for panel, (work, title) in zip(panels, WORKS.items(), strict=True):
        for who, style in zip(CONTENDERS, ("o-", "o:", "s--", "^-", "v:"), strict=True):
            sizes = sorted({one["hosts"] for one in results if (one["work"], one["who"]) == (work, who)})
            medians = [statistics.median(_seconds(results, work, who, size)) for size in sizes]
            panel.plot(sizes, medians, style, label=who, markersize=4)
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("hosts")
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("seconds (median)")
    panels[0].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    # matplotlib ends lines with spaces.
    path.write_text(re.sub(r" +$", "", path.read_text(encoding="utf-8"), flags=re.M), encoding="utf-8")
