"""The record of each run, and the commands that list and show them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from gpuprov import record, runner
from gpuprov.options import Options
from gpuprov.result import Run
from tests import schema
from tests.runs import Call, Runs


def event(kind: str, host: str, **res: Any) -> dict[str, Any]:
    return {"event": f"runner_{kind}", "event_data": {"host": host, "task": "r : Do it", "res": res}}


CHANGE = {"role": "docker_ce", "subject": "docker-ce", "from": "5:28", "to": "5:29", "disruption": "restart"}
FACTS = {"apt": {"packages": {"docker-ce": {"status": "hi", "version": "5:29.7.2-1~debian.12~bookworm"}}}}


def saved() -> dict[str, Any]:
    (path,) = runner.runs_directory().glob("*/run.json")
    record: dict[str, Any] = json.loads(path.read_text())
    schema.check(record, "run.json")
    return record


def test_a_record_says_who_when_which_hosts_what_changed_and_which_versions(
    runs: Runs, gpuprov: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    runs.events = [
        event("on_ok", name, changes=[CHANGE], ansible_facts={"gpu_host_probe": FACTS}) for name in ("gpu2", "gpu1")
    ]
    runs.events.append(event("on_failed", "gpu3", msg="no http://u:s3cr3t@h"))
    assert gpuprov("provision", "gpu1,", "-l", "gpu", "-f", "7", "--serial", "2")[0] == 2
    one = saved()
    expected = {
        "command": "provision", "inventory": "gpu1,", "user": "alice", "status": 2, "error": "",
        "options": {"limit": "gpu", "forks": "7", "gpuprov_serial": "2"},
    }  # fmt: skip
    assert {name: one[name] for name in expected} == expected
    assert one["versions"]["gpuprov"] == "0.1.0"
    same = {"status": "changed", "docker": "29.7.2", "nvidia": "", "error": None}
    lines = ["docker-ce  5:28 → 5:29  (restart)"]
    assert one["results"][0] == {"hosts": ["gpu1", "gpu2"], "changes": lines, **same}
    assert one["results"][1]["error"] == "no http://***@h"

    text = gpuprov("runs", "show", "last")[1]
    assert text.splitlines()[0] == f"run       {one['id']}"
    assert "options   limit gpu, forks 7, gpuprov_serial 2\n" in text
    assert f"began     {one['began']}\nended     exit 2, 0 s\n" in text
    assert text.endswith(
        "gpu[1:2]  changed, docker 29.7.2\n  docker-ce  5:28 → 5:29  (restart)\ngpu3      failed: no http://***@h\n"
    )


def test_a_record_names_the_variables_of_e_and_not_their_values(runs: Runs, gpuprov: Call, tmp_path: Path) -> None:
    (tmp_path / "v.yml").write_text("c: s3cr3t")
    words = ("-e", "a=s3cr3t", "-e", '{"b": "s3cr3t"}', "-e", "@v.yml")
    assert gpuprov("plan", "a,", *words)[0] == 0
    assert saved()["options"]["extra_vars"] == ["a", "b", f"@{tmp_path}/v.yml"]
    assert [path for path in (tmp_path / "state").rglob("*") if path.is_file() and "s3cr3t" in path.read_text()] == []


def test_a_run_that_could_not_begin_has_a_record_with_the_reason(runs: Runs, gpuprov: Call) -> None:
    runs.events = [{"event": "verbose", "stdout": "[WARNING]: Could not match supplied host pattern"}]
    assert gpuprov("plan", "a,", "-l", "x")[0] == 1
    assert (saved()["status"], saved()["error"]) == (1, "no host of the inventory matches --limit x")


def begun(name: str, locked: bool = False) -> None:
    directory = runner.run_directory() if locked else runner.runs_directory() / name
    directory.mkdir(parents=True, exist_ok=True)
    record.write(directory, Run("provision", Options("a,")))


def test_a_run_that_goes_on_and_one_that_was_killed_are_told_as_such(runs: Runs, gpuprov: Call) -> None:
    begun("20200101T000000.000000-1")
    begun("", locked=True)
    gpuprov("plan", "a,")
    for one in json.loads(gpuprov("runs", "--json")[1]):
        schema.check(one, "run.json")
    lines = [line.split() for line in gpuprov("runs")[1].splitlines()]
    assert lines[0] == ["run", "user", "command", "hosts", "changed", "failed", "ended"]
    assert lines[1][0] == "20200101T000000.000000"
    assert [(line[2], *line[-1:]) for line in lines[1:]] == [
        ("provision", "killed"),
        ("provision", "running"),
        ("plan", "0"),
    ]
    assert "ended     killed\n" in gpuprov("runs", "show", "2020")[1]


def test_the_list_of_runs_fits_80_columns_and_has_no_escapes(
    runs: Runs, gpuprov: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "a-very-long-account-name")
    runs.events = [event("on_ok", f"gpu{number}", changed=True) for number in range(10_000)]
    gpuprov("image", "ship", "train:1.0.0", "a,")
    out = gpuprov("runs")[1]
    assert max(len(line) for line in out.splitlines()) <= 80
    assert out.splitlines()[1].split()[-5:] == ["10000", "10000", "0", "exit", "0"]
    assert "\x1b" not in out
    (one,) = json.loads(gpuprov("runs", "--json")[1])
    assert one == json.loads(gpuprov("runs", "show", one["id"], "--json")[1])
    assert one["options"]["docker_image_transfer_name"] == "train:1.0.0"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("last", "there is no run last"), ("2021", "there is no run 2021"), ("../x", "there is no run ../x"),
        ("2020", "2 runs have IDs that begin with 2020"),
    ],
)  # fmt: skip
def test_a_run_that_is_not_there_or_not_the_only_one_is_said_in_one_line(
    asked: str, said: str, runs: Runs, gpuprov: Call
) -> None:
    for name in ("20200101T000000.000000-1", "20200101T000000.000000-2") if asked != "last" else ():
        begun(name)
    assert gpuprov("runs", "show", asked) == (1, "", f"gpuprov: {said}; gpuprov runs lists them\n")


def test_a_record_that_a_full_disk_cut_off_is_not_listed(runs: Runs, gpuprov: Call) -> None:
    begun("20200101T000000.000000-1")
    (runner.runs_directory() / "20200101T000000.000000-1/run.json").write_text('{"id"')
    assert len(gpuprov("runs")[1].splitlines()) == 1
    assert os.listdir(runner.runs_directory()) == ["20200101T000000.000000-1"]


# ---- --retry


def planned(host: str) -> dict[str, Any]:
    return event(
        "on_ok", host, ansible_facts={"gpu_host_plan": {"changes": [CHANGE], "disruption": "none", "running": []}}
    )


def ended_badly(runs: Runs, gpuprov: Call) -> str:
    """Run provision: gpu2 fails, gpu3 is unreachable, gpu4 is planned only, gpu5 is not even that; return its ID."""
    runs.names = [f"gpu{number}" for number in range(1, 6)]
    runs.events = [
        event("on_ok", "gpu1", changes=[CHANGE], gpu_host_verify={"ok": True}), event("on_failed", "gpu2", msg="no"),
        event("on_unreachable", "gpu3", msg="Connection refused"), planned("gpu4"),
    ]  # fmt: skip
    runs.interrupted = True
    assert gpuprov("provision", "gpu[1:5],")[0] == 130
    runs.events, runs.interrupted, runs.names = [event("on_ok", "gpu2")], False, []
    runs.calls.clear()
    return str(saved()["id"])


def test_retry_takes_the_hosts_that_the_last_run_of_the_command_did_not_finish(runs: Runs, gpuprov: Call) -> None:
    earlier = ended_badly(runs, gpuprov)
    for words in (["plan", "gpu[1:5],"], ["provision", "other,"], ["provision", "gpu[1:5],", "--check"]):
        gpuprov(*words)
    runs.calls.clear()
    status, out, _err = gpuprov("provision", "gpu[1:5],", "--retry", "-l", "gpu")
    assert (status, out.splitlines()[0]) == (0, f"retry of run {earlier}: 4 hosts: gpu[2:5]")
    ((_playbook, options, _passwords),) = runs.calls
    assert (options.limit, options.only) == ("gpu", ["gpu2", "gpu3", "gpu4", "gpu5"])

    status, out, err = gpuprov("provision", "gpu[1:5],", "--retry")
    assert (status, len(runs.calls), err) == (0, 1, "")
    assert out.startswith("retry of run ")
    assert out.endswith(": nothing to do\n")
    status, out, err = gpuprov("provision", "gpu[1:5],", "--retry", "--json")
    assert (status, json.loads(out)["status"], json.loads(out)["hosts"]) == (0, 0, {})


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (None, "there is no earlier gpuprov provision of a, that reached a host"),
        (False, "run 20200101T000000.000000-1 was killed, so which hosts it finished is not known"),
        (True, "goes on"),
    ],
)
def test_without_a_run_that_ended_there_is_nothing_to_retry_from(
    begin: bool | None, said: str, runs: Runs, gpuprov: Call
) -> None:
    if begin is not None:
        begun("20200101T000000.000000-1", locked=begin)
    status, out, err = gpuprov("provision", "a,", "--retry")
    assert (status, out, runs.calls) == (1, "", [])
    assert err.startswith("gpuprov: --retry: ")
    assert err.endswith(f"{said}\n")
    assert err.count("\n") == 1


def test_a_run_that_reached_no_host_is_not_the_one_to_retry(runs: Runs, gpuprov: Call) -> None:
    earlier = ended_badly(runs, gpuprov)
    runs.events = []
    assert gpuprov("provision", "gpu[1:5],")[0] == 1
    assert f"retry of run {earlier}: 4 hosts" in gpuprov("provision", "gpu[1:5],", "--retry")[1]
