"""JUnit XML and Prometheus metrics of a run."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpuprov import exports
from tests.documents import fleet
from tests.runs import Call, Runs

SENT = 'a"b\\c\n<d>&\x1b[31m\udcff'


def suites(document: dict[str, Any]) -> dict[str, ET.Element]:
    return {suite.attrib["name"]: suite for suite in ET.fromstring(exports.junit(document))}


def cases(suite: ET.Element) -> dict[str, list[str]]:
    """{name of a case: the elements in it}."""
    return {case.attrib["name"]: [one.tag for one in case] for case in suite}


def test_a_check_is_a_case_of_its_host() -> None:
    document = fleet("provision", 2)
    check = document["hosts"]["gpu2"]["verify"]["checks"][2]
    check |= {"ok": False, "detail": "it sees no GPU"}
    document["hosts"]["gpu2"] |= {"status": "failed", "error": {"task": "Prove", "message": "x", "hint": ""}}
    good, bad = suites({**document, "command": "verify"}).values()
    assert cases(good) == {
        name: []
        for name in (
            "gpuprov verify", "pinned packages", "docker runs, at boot too", "container sees the GPU",
            "GPU computes right",
        )
    }  # fmt: skip
    assert cases(bad) == {**cases(good), "container sees the GPU": ["failure"]}
    assert bad.find("testcase/failure[@message='it sees no GPU']") is not None
    assert [bad.get(name) for name in ("tests", "failures", "errors")] == ["5", "1", "0"]


def test_a_finding_is_a_failed_case_unless_it_is_only_information() -> None:
    found = suites(fleet("doctor", 8))
    assert cases(found["gpu6"]) == {"gpuprov doctor": [], "driver-mismatch": ["failure"], "cdi-stale": ["failure"]}
    assert cases(found["gpu5"]) == {"gpuprov doctor": [], "no-persistence": ["system-out"]}
    assert "cure: reboot" in (found["gpu6"].findtext("testcase/failure") or "")


def test_a_host_that_was_not_read_is_an_error_with_what_to_do() -> None:
    document = fleet("doctor", 8)
    document["hosts"]["gpu8"]["error"]["hint"] = "start sshd"
    root = ET.fromstring(exports.junit(document))
    error = root.find("testsuite[@name='gpu8']/testcase/error")
    assert error is not None
    assert error.get("message") == "unreachable at: Read the host"
    assert error.text == "connection refused by 192.0.2.7 port 22\nWhat to do: start sshd"
    assert [root.get(name) for name in ("tests", "failures", "errors")] == ["12", "3", "1"]


def hostile(document: dict[str, Any]) -> dict[str, Any]:
    """The document with a host whose name and findings have characters that the formats must escape."""
    host = json.loads(json.dumps(document["hosts"]["gpu6"]))
    host["findings"][0] |= {"name": SENT, "message": SENT, "cure": SENT}
    host["facts"]["kernel"] = SENT
    return {**document, "hosts": {SENT: host}}


def test_hostile_values_stay_values() -> None:
    document = hostile(fleet("doctor", 6))
    (suite,) = suites(document).values()
    shown = 'a"b\\c\n<d>&\ufffd[31m\ufffd'
    assert suite.attrib["name"] == shown
    assert list(cases(suite)) == ["gpuprov doctor", shown, "cdi-stale"]
    labels = [sample.labels for sample in samples(document) if sample.name == "gpuprov_host_finding"]
    assert {(label["host"], label["finding"]) for label in labels} == {(shown, shown), (shown, "cdi-stale")}


def samples(document: dict[str, Any]) -> list[Any]:
    families = text_string_to_metric_families(exports.prometheus(document))
    return [sample for family in families for sample in family.samples]


def values(document: dict[str, Any], name: str, *labels: str) -> dict[Any, float]:
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for sample in samples(document)
        if sample.name == f"gpuprov_{name}"
    }


def test_metrics_say_which_hosts_were_read_which_are_healthy_and_what_was_found() -> None:
    document = fleet("doctor", 8)
    everywhere = [f"gpu{number}" for number in range(1, 9)]
    assert values(document, "host_reached", "host") == {(name,): name != "gpu8" for name in everywhere}
    assert values(document, "host_healthy", "host") == {
        (name,): name not in ("gpu6", "gpu7", "gpu8") for name in everywhere
    }
    assert values(document, "host_finding", "host", "finding", "severity") == {
        ("gpu5", "no-persistence", "info"): 1, ("gpu6", "driver-mismatch", "error"): 1,
        ("gpu6", "cdi-stale", "error"): 1, ("gpu7", "gpu-lost", "error"): 1,
    }  # fmt: skip
    counts = values(document, "host_findings", "host", "severity")
    assert (counts["gpu6", "error"], counts["gpu1", "error"], ("gpu8", "error") in counts) == (2, 0, False)
    assert values(document, "host_info", "host", "docker", "nvidia")[("gpu1", "29.7.2", "1.19.1")] == 1
    assert values(document, "host_gpus", "host")["gpu1",] == 8
    assert values(document, "doctor_exit_status") == {(): 2}


# ---- The command line


def test_files_are_written_in_one_piece_beside_the_json(runs: Runs, gpuprov: Call) -> None:
    status, out, _ = gpuprov("doctor", "a,", "--json", "--junit", "a.xml", "--prometheus", "a.prom", "--html", "a.html")
    assert status == 0
    document = json.loads(out)
    assert Path("a.xml").read_text() == exports.junit(document)
    assert Path("a.prom").read_text() == exports.prometheus(document)
    assert '"By"' in Path("a.html").read_text()
    assert sorted(path.name for path in Path().iterdir()) == ["a.html", "a.prom", "a.xml", "state"]


def test_report_writes_the_same_files_of_an_earlier_run(runs: Runs, gpuprov: Call) -> None:
    gpuprov("doctor", "a,", "-l", "a", "--html", "now.html", "--junit", "now.xml", "--prometheus", "now.prom")
    assert gpuprov("report", "--html", "a.html", "--junit", "a.xml", "--prometheus", "a.prom") == (0, "", "")
    for kind in ("html", "xml", "prom"):
        assert Path(f"a.{kind}").read_text() == Path(f"now.{kind}").read_text()
    (name,) = (path.name for path in Path("state/gpuprov/runs").iterdir())
    assert gpuprov("report", name[:8], "--html", "b.html") == (0, "", "")
    assert Path("b.html").read_text() == Path("now.html").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("report", "report writes files: give --html FILE, --junit FILE or --prometheus FILE"),
        ("report 1999 --html a.html", "there is no run 1999; gpuprov runs lists them"),
        ("report --html gone/a.html", "gone/a.html cannot be written: its directory does not exist"),
        ("report --junit a.xml", "--junit is for runs of verify and doctor: "),
        ("report --prometheus a.prom", "--prometheus is for runs of doctor: "),
    ],
)
def test_what_report_cannot_write_is_said_in_one_line(words: str, said: str, runs: Runs, gpuprov: Call) -> None:
    gpuprov("plan", "a,")
    status, out, err = gpuprov(*words.split())
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"gpuprov: {said}")
    assert [path.name for path in Path().iterdir()] == ["state"]


def test_a_run_without_a_result_is_said_to_have_none(runs: Runs, gpuprov: Call) -> None:
    gpuprov("plan", "a,")
    next(Path().rglob("result.json")).unlink()
    assert gpuprov("report", "--html", "a.html")[2].endswith(" left no result (exit 0)\n")


@pytest.mark.parametrize("words", ["plan a, --junit a.xml", "provision a, --prometheus a", "verify a, --prometheus a"])
def test_a_format_is_an_option_of_the_commands_that_have_what_it_tells(words: str, runs: Runs, gpuprov: Call) -> None:
    status, _, err = gpuprov(*words.split())
    assert (status, runs.calls) == (1, [])
    assert err.startswith("gpuprov: No such option: --")
