"""Chromium, and pages of runs in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from gpuprov.page import page

Show = Callable[..., Page]  # show(document, width=1440, scheme="light")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium: playwright's own cannot be had from a package index."""
    path = shutil.which("chromium")
    assert path, "install the package chromium"
    with sync_playwright() as playwright:
        # Without a sandbox of its own it runs as root, too.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Show]:
    """Open the page of a document. At the end of the test, the page must have said and asked for nothing."""
    said: list[str] = []
    contexts = []

    def open_page(document: dict[str, Any], width: int = 1440, scheme: Any = "light") -> Page:
        file = tmp_path / "run.html"
        file.write_text(page(document), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        shown = context.new_page()
        shown.on("console", lambda message: said.append(f"console: {message.text}"))
        shown.on("pageerror", lambda error: said.append(f"error: {error}"))
        shown.on("dialog", lambda dialog: said.append(f"dialog: {dialog.message}"))
        shown.on("request", lambda request: said.append(f"request: {request.url}"))
        shown.goto(file.as_uri())
        assert said == [f"request: {file.as_uri()}"]
        said.clear()
        return shown

    yield open_page
    for context in contexts:
        context.close()
    assert said == []
