"""The page of a run: what it holds, and that no value of a host becomes a part of it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from gpuprov.page import page, view
from tests.documents import fleet, hostile_fleet
from tests.runs import Call, Runs


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and the text of the scripts and the style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if data.strip():
            tag, attributes = self.elements[-1]
            self.texts[attributes.get("id") or tag] = data

    @property
    def data(self) -> Any:
        return json.loads(self.texts["data"])


def test_no_value_of_a_host_becomes_an_element_or_an_attribute() -> None:
    clean, dirty = (Parsed(page(document)) for document in (fleet("provision", 24), hostile_fleet("provision", 24)))
    assert dirty.elements == clean.elements
    assert dirty.texts["style"] == clean.texts["style"]
    assert dirty.texts["script"] == clean.texts["script"]
    assert dirty.data["hosts"][0]["name"].startswith("gpu")
    assert dirty.data == json.loads(json.dumps(view(hostile_fleet("provision", 24), {})))


def test_the_policy_allows_the_page_s_own_style_and_script_and_nothing_else() -> None:
    parsed = Parsed(page(fleet("plan", 2)))
    (policy,) = (attributes["content"] for _, attributes in parsed.elements if "http-equiv" in attributes)
    assert policy is not None
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    for kind in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(parsed.texts[kind].encode()).digest()).decode()
        assert directives[f"{kind}-src"] == f"'sha256-{digest}'"
    assert directives["default-src"] == "'none'"
    assert not [name for _, attributes in parsed.elements for name in attributes if name in ("style", "src")]
    assert not re.search(r"https?://|innerHTML|insertAdjacentHTML|eval\(|document\.write", parsed.texts["script"])


def test_what_hosts_share_is_there_once_and_names_them() -> None:
    shown = view(fleet("plan", 16), {})
    first, *_ = [one for one in shown["groups"]["pending"] if one["subject"] == "daemon.json"]
    assert (first["count"], first["hosts"]) == (4, "gpu2, gpu6, gpu10, gpu14")
    assert first["text"] == '+ registry-mirrors ["https://mirror.example.com"]'
    by_name = {host["name"]: host for host in shown["hosts"]}
    assert [name for name, host in by_name.items() if first["index"] in host["items"]["pending"]] == [
        "gpu2", "gpu6", "gpu10", "gpu14",
    ]  # fmt: skip
    assert shown["summary"] == "16 hosts: 1 unreachable, 7 pending, 8 up to date"
    for items in shown["groups"].values():
        assert [one["index"] for one in items] == list(range(len(items)))


def test_hosts_are_in_natural_order_and_the_worst_findings_come_first() -> None:
    shown = view(fleet("doctor", 24), {})
    assert [host["name"] for host in shown["hosts"]] == [f"gpu{number}" for number in range(1, 25)]
    severities = [finding["severity"] for finding in shown["groups"]["findings"]]
    assert severities == sorted(severities, key=("error", "warning", "info").index)
    assert {"error", "info"} == set(severities)


def test_versions_across_the_fleet_come_newest_first() -> None:
    facets = {facet["label"]: facet["versions"] for facet in view(fleet("plan", 10), {})["facets"]}
    assert [(one["version"], one["count"]) for one in facets["Docker"]] == [("29.7.2", 8), ("28.1.1", 1)]
    assert facets["GPUs"][0]["version"] == "8 x NVIDIA H100 80GB HBM3"
    assert facets["NVIDIA stack"] == [{"version": "1.19.1", "count": 9, "hosts": "gpu[1:7], gpu[9:10]"}]


@pytest.mark.parametrize(
    ("status", "pending", "made"),
    [("pending", 2, 0), ("failed", 1, 1), ("interrupted", 1, 1), ("changed", 0, 2), ("up-to-date", 0, 0)],
)
def test_a_change_is_pending_or_made(status: str, pending: int, made: int) -> None:
    document = fleet("provision", 3)
    host = document["hosts"]["gpu3"]
    planned = host["plan"]["changes"][:2]
    host |= {"status": status, "changes": planned[:made], "plan": {**host["plan"], "changes": planned}}
    items = view(document, {})["hosts"][2]["items"]
    assert (len(items["pending"]), len(items["changes"])) == (pending, made)


def test_a_run_that_has_no_facts_has_a_page() -> None:
    document = fleet("provision", 8)
    nothing: dict[str, Any] = {
        "facts": None,
        "plan": None,
        "verify": None,
        "findings": None,
        "changes": [],
        "steps": [],
    }
    for host in document["hosts"].values():
        host |= nothing
    assert Parsed(page({**document, "command": "image ls"})).data["facets"] == []


def test_a_page_says_which_run_it_is_of_and_whether_its_changes_were_made() -> None:
    record = {
        "id": "20261129T0612.1-9", "inventory": "/etc/hosts.ini", "options": {"limit": "gpu", "check": True},
        "began": "2026-11-29T06:12:00+0000", "user": "alice", "machine": "ops", "versions": {"gpuprov": "0.1.0"},
    }  # fmt: skip
    shown = view(fleet("provision", 3), record)
    assert shown["when"] == "2026-11-29 06:12:00+0000, 74 s"
    assert shown["changes"] == "Predicted changes"
    about = dict(shown["about"])
    assert (about["Inventory"], about["Options"], about["By"]) == (
        "/etc/hosts.ini",
        "limit: gpu; check",
        "alice on ops",
    )


# ---- The command line


def test_html_writes_a_page_of_the_run(runs: Runs, gpuprov: Call) -> None:
    runs.events += [{"event": "runner_on_failed", "event_data": {"host": "b", "task": "x", "res": {"msg": "no <b>"}}}]
    Path("real.html").write_text("old")
    Path("plan.html").symlink_to("real.html")
    assert gpuprov("plan", "a,b", "--html", "plan.html")[0] == 2
    assert Path("plan.html").is_symlink()
    shown = Parsed(Path("real.html").read_text()).data
    assert [(host["name"], host["status"]) for host in shown["hosts"]] == [("a", "up-to-date"), ("b", "failed")]
    assert sorted(path.name for path in Path().glob("*.html*")) == ["plan.html", "real.html"]


def test_a_page_that_cannot_be_written_is_refused_before_the_run_or_said_after_it(runs: Runs, gpuprov: Call) -> None:
    refused = gpuprov("doctor", "a,", "--html", "gone/a.html")
    assert refused == (1, "", "gpuprov: gone/a.html cannot be written: its directory does not exist\n")
    assert runs.calls == []
    Path("directory").mkdir()
    status, out, err = gpuprov("verify", "a,", "--json", "--html", "directory")
    assert (status, json.loads(out)["status"]) == (1, 0)
    assert err.endswith(f"gpuprov: {Path('directory').absolute()} cannot be written: Is a directory\n")
