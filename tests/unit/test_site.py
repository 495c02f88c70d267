"""The documentation site and the man pages: links, and what the pages may fetch. ./dev lint builds the whole."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main

from gpuprov.cli import app
from tools import man, site

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("text", "file", "shown"),
    [
        ("[x](docs/usage.md#waves)", "README.md", "[x](usage.md#waves)"),
        ("[x](../README.md)", "docs/usage.md", "[x](index.md)"),
        ("[docs/gpu.md](docs/gpu.md)", "README.md", "[](gpu.md)"),
        ("[x](../../docs/lock.md)", "roles/docker_ce/README.md", "[x](../lock.md)"),
        ("[x](../roles/docker_ce/README.md)", "docs/usage.md", "[x](roles/docker_ce.md)"),
        ("[`x`](../tests/lab/fleet.py)", "docs/usage.md", "`x`"),
        ("![x](docs/performance.svg)", "README.md", "![x](performance.svg)"),
        ("[x](https://example.org/) [y](#here)", "README.md", "[x](https://example.org/) [y](#here)"),
    ],
)
def test_links_lead_to_the_pages_of_the_site(text: str, file: str, shown: str) -> None:
    assert site.rewritten(text, file) == shown


def test_every_page_of_a_section_exists() -> None:
    generated = {"self", "commands", "roles/index", "collection/index"}
    pages = {site._page(entry) for entries in site.SECTIONS.values() for entry in entries} - generated
    # Written by others, where it is there.
    assert pages - set(site.PAGES.values()) <= {"scale"}


def test_links_that_lead_nowhere_and_foreign_files_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<a href="b.html#there">1</a> <a href="b.html#gone">2</a> <a href="gone.html">3</a> <a href="#me" id="me">4</a>'
        '<a href="https://example.org/">5</a> <script src="https://example.org/x.js"></script>'
        '<link rel="stylesheet" href="https://example.org/x.css">'
    )
    (tmp_path / "b.html").write_text('<p id="there">')
    assert sorted(site.problems(tmp_path)) == [
        "a.html: b.html#gone: no such section",
        "a.html: gone.html: no such file",
        "a.html: https://example.org/x.css: fetched from elsewhere",
        "a.html: https://example.org/x.js: fetched from elsewhere",
    ]


def test_each_command_has_a_man_page_with_its_options() -> None:
    pages = man.man_pages()
    command = typer.main.get_command(app).commands["provision"]  # type: ignore[attr-defined]
    assert {"gpuprov.1", "gpuprov-provision.1", "gpuprov-image-ship.1"} <= set(pages)
    for parameter in command.params:
        for option in (name for name in parameter.opts if name.startswith("--")):
            assert option.replace("-", "\\-") in pages["gpuprov-provision.1"]


def test_man_accepts_the_pages(tmp_path: Path) -> None:
    groff = shutil.which("groff")
    assert groff, "groff is missing"
    for name, text in man.man_pages().items():
        (tmp_path / name).write_text(text)
        words = [groff, "-man", "-Tutf8", "-ww", "-z", str(tmp_path / name)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
