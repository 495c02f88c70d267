"""The page of a run in Chromium: as a person uses it, with a keyboard, on a phone, with hostile values from hosts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, expect

from gpuprov.page import page as html
from tests.browser.conftest import Show
from tests.documents import HOSTILE, fleet, hostile_fleet


def hosts(page: Page) -> list[str]:
    """The names of the hosts in the table, in its order."""
    return page.locator("#rows th").all_text_contents()


def select(page: Page, name: str) -> Locator:
    return page.get_by_role("combobox", name=name, exact=True)


def count(page: Page) -> str:
    return page.locator("#count").inner_text()


def test_a_search_finds_hosts_by_every_word(show: Show) -> None:
    page = show(fleet("provision", 24))
    assert (len(hosts(page)), count(page)) == (24, "24 hosts")
    search = page.get_by_role("searchbox", name="Search")
    search.fill("ubuntu  28.1.1")
    assert (hosts(page), count(page)) == (["gpu3", "gpu18", "gpu23"], "3 of 24 hosts")
    search.fill("MISMATCH")
    assert hosts(page) == ["gpu6", "gpu14", "gpu22"]
    search.fill("no such thing")
    assert (hosts(page), count(page)) == ([], "0 of 24 hosts")
    page.get_by_role("button", name="Clear search and filters").click()
    assert len(hosts(page)) == 24
    expect(search).to_be_focused()
    expect(search).to_have_value("")


def test_filters_add_up_and_are_removed_one_by_one(show: Show) -> None:
    page = show(fleet("plan", 24))
    select(page, "Docker").select_option("28.1.1")
    assert hosts(page) == ["gpu3", "gpu13", "gpu18", "gpu23"]
    select(page, "OS").select_option("debian 12")
    assert hosts(page) == ["gpu13"]
    page.get_by_role("button", name="Remove the filter Docker: 28.1.1").click()
    assert hosts(page) == [f"gpu{number}" for number in range(1, 25, 3)]
    expect(select(page, "Docker")).to_have_value("")
    select(page, "OS").select_option("any")
    assert count(page) == "24 hosts"


def test_a_status_is_a_switch(show: Show) -> None:
    page = show(fleet("plan", 24))
    button = page.get_by_role("button", name="1 unreachable")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(select(page, "Status")).to_have_value("unreachable")
    assert hosts(page) == ["gpu8"]
    button.click()
    expect(button).to_have_attribute("aria-pressed", "false")
    assert count(page) == "24 hosts"


def test_what_is_said_of_hosts_leads_to_them(show: Show) -> None:
    page = show(fleet("doctor", 24))
    page.get_by_role("searchbox").fill("gpu1")
    finding = page.locator("#findings .item", has_text="gpu-lost")
    expect(finding).to_contain_text("journalctl -k --grep 'NVRM|Xid'; then power the host off and on")
    finding.get_by_role("button", name="3 hosts").click()
    assert hosts(page) == ["gpu7", "gpu15", "gpu23"]
    expect(page.locator("#hosts")).to_be_focused()
    page.locator("#versions tr", has_text="550.54.14").get_by_role("button").click()
    assert hosts(page) == ["gpu6", "gpu14", "gpu22"]


def test_a_column_s_heading_sorts(show: Show) -> None:
    page = show(fleet("plan", 10))
    assert hosts(page) == [f"gpu{number}" for number in range(1, 11)]
    heading = page.get_by_role("columnheader", name="Pending")
    heading.get_by_role("button").click()
    expect(heading).to_have_attribute("aria-sort", "descending")
    assert hosts(page)[:2] == ["gpu3", "gpu2"]
    expect(heading.get_by_role("button")).to_be_focused()
    heading.get_by_role("button").click()
    assert hosts(page)[-1] == "gpu3"


def test_the_keyboard_opens_a_host(show: Show) -> None:
    page = show(fleet("provision", 12))
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the hosts")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("gpu12")
    host = page.get_by_role("button", name="gpu12", exact=True)
    for _ in range(30):
        if host.evaluate("button => button === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(host).to_have_attribute("aria-expanded", "true")
    details = page.locator(f"#{host.get_attribute('aria-controls')}")
    expect(details).to_contain_text("E: You don't have enough free space in /var/cache/apt/archives/.")
    expect(details).to_contain_text("fix that and run gpuprov again")
    page.keyboard.press("Enter")
    expect(details).not_to_be_attached()


def test_a_thousand_hosts_are_all_in_the_table_and_of_more_the_rest_on_request(show: Show) -> None:
    page = show(fleet("plan", 1003))
    assert (len(hosts(page)), count(page)) == (1000, "1,003 hosts")
    page.get_by_role("searchbox").fill("gpu1003")
    assert hosts(page) == ["gpu1003"]
    page.get_by_role("searchbox").fill("")
    page.get_by_role("button", name="Show all 1,003 hosts").click()
    assert len(hosts(page)) == 1003
    expect(page.get_by_role("button", name="gpu1001", exact=True)).to_be_focused()


def test_values_of_hosts_are_shown_as_they_are_and_do_nothing(show: Show) -> None:
    page = show(hostile_fleet("provision", 24))
    title = page.title()
    for button in page.locator("#rows th button").all():
        button.click()
    text = page.locator("main").inner_text()
    for value in HOSTILE:
        if value.isprintable():
            assert value in text, value
    assert page.title() == title == "gpuprov provision"
    assert page.locator("main :is(img, script, iframe, object, embed, style, link)").count() == 0
    assert page.evaluate("[...document.querySelectorAll('main *')].flatMap(e => e.getAttributeNames())"
                         ".filter(name => name.startsWith('on'))") == []  # fmt: skip
    assert page.locator("a:not([href^='#'])").count() == 0


def test_the_policy_lets_nothing_be_loaded(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "run.html"
    file.write_text(html(fleet("plan", 2)), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.as_uri())
    blocked = page.evaluate(
        """() => new Promise(resolve => {
          document.addEventListener("securitypolicyviolation", event => resolve(event.effectiveDirective));
          const image = document.createElement("img");
          image.src = "other.png";
          document.body.append(image);
        })"""
    )
    assert blocked == "img-src"
    page.close()


def test_a_failed_check_says_how_and_where(show: Show) -> None:
    document = fleet("provision", 6)
    for name in ("gpu2", "gpu4"):
        document["hosts"][name]["verify"]["checks"][2] |= {"ok": False, "detail": "it sees no GPU"}
    page = show(document)
    expect(page.locator("#checks .item")).to_contain_text("it sees no GPU")
    row = page.locator("#checks tr", has_text="container sees the GPU")
    expect(row.get_by_role("cell")).to_have_text(["4 hosts", "2 hosts"])
    row.get_by_role("button").click()
    assert hosts(page) == ["gpu2", "gpu4"]


def test_a_run_that_had_nothing_to_do_has_a_page(show: Show) -> None:
    page = show(fleet("plan", 0))
    assert (hosts(page), count(page)) == ([], "0 hosts")
    expect(page.locator("#about")).to_contain_text("gpuprov plan")


@pytest.mark.parametrize("width", [390, 800, 1200])
def test_no_text_makes_the_page_wider(width: int, show: Show) -> None:
    document = hostile_fleet("provision", 24)
    document["hosts"]["h" * 200] = fleet("provision", 1000)["hosts"]["gpu1000"]
    page = show(document, width)
    assert page.evaluate("document.documentElement.scrollWidth") == width


SCHEMES = [(390, "light"), (390, "dark"), (1440, "light"), (1440, "dark")]


@pytest.mark.parametrize(("width", "scheme"), SCHEMES)
@pytest.mark.parametrize("command", ["provision", "doctor"])
def test_axe_finds_nothing_and_nothing_is_wider_than_the_page(
    command: str, width: int, scheme: str, show: Show
) -> None:
    page = show(fleet(command, 24), width, scheme)
    for name in ("gpu6", "gpu8", "gpu12"):
        page.get_by_role("button", name=name, exact=True).click()
    page.get_by_role("searchbox").fill("gpu")
    page.locator("#statuses button").first.click()
    page.locator("#statuses button").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    found: dict[str, Any] = Axe().run(page).response
    assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found["violations"]] == []
