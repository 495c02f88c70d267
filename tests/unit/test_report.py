"""From ansible-runner's events to the result of a run, and from there to text and JSON."""

from __future__ import annotations

import json
import os
import re
import tracemalloc
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.probe import report as probe
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import fleet

from gpuprov import report
from gpuprov.options import Options
from gpuprov.result import Host, Run

REFUSED = "Failed to connect to the host via ssh: ssh: connect to host 10.0.0.3 port 22: Connection refused"
TRACEBACK = 'Traceback (most recent call last):\n  File "m.py", line 3, in main\nOSError: No space left on device'
AGAIN = "fix that and run gpuprov again: it continues where it stopped"
SECRET_URL = "http://me:s3cr3t@proxy.test:3128"


def change(subject: str = "docker-ce", to: str | None = "5:29", **more: Any) -> dict[str, Any]:
    return {"role": "docker_ce", "subject": subject, "from": None, "to": to, "disruption": "none", **more}


def facts(**packages: str) -> dict[str, Any]:
    installed = {name.replace("_", "-"): {"version": v, "status": "ii", "hold": False} for name, v in packages.items()}
    return {
        "os": {"id": "debian", "version_id": "12"},
        "docker": {"config": {"path": "/etc/docker/daemon.json", "mode": "0644"}},
        "apt": {
            "packages": installed,
            "keyrings": {"/k.gpg": {"mode": "0644"}},
            "source_files": ["/a.list", "/etc/apt/sources.list.d/b.list"],
        },
    }


def wanted(*changes: dict[str, Any], **more: Any) -> dict[str, Any]:
    disruption = "restart" if any(one["disruption"] == "restart" for one in changes) else "none"
    return {"changes": list(changes), "disruption": disruption, "running": [], "problems": [], **more}


def event(kind: str, host: str = "a", task: str = "docker_ce : Install", **data: Any) -> dict[str, Any]:
    return {"event": f"runner_{kind}", "event_data": {"host": host, "task": task, **data}}


def ran(command: str, *hosts: Host, **more: Any) -> Run:
    return Run(command, Options("a,"), {host.name: host for host in hosts}, complete=True, **more)


def collected(*events: dict[str, Any]) -> list[Host]:
    run = ran("provision")
    for one in events:
        run.take(one)
    return run.hosts


def failed(host: str = "a", **res: Any) -> dict[str, Any]:
    return event("on_failed", host, res={"changed": False, **res})


OK = event("on_ok", res={"changed": False})
CHANGED = event("on_ok", res={"changed": True})
PENDING = event("on_ok", res={"ansible_facts": {"gpu_host_plan": wanted(change())}})
UNREACHABLE = event("on_unreachable", res={"unreachable": True, "msg": REFUSED})
IGNORED = event("on_failed", ignore_errors=True, res={"msg": "never mind"})
VERIFIED = event("on_ok", res={"changed": False, "gpu_host_verify": {"ok": True, "checks": []}})


@pytest.mark.parametrize(
    ("events", "what", "status"),
    [
        ([event("on_start")], "start", "up-to-date"),
        ([OK], "done", "up-to-date"),
        ([PENDING], "done", "pending"),
        ([PENDING, CHANGED], "changed", "changed"),
        ([PENDING, event("on_ok", res={"changes": [change()]})], "done", "changed"),
        ([PENDING, VERIFIED], "done", "up-to-date"),
        ([CHANGED, failed(msg="no")], "failed", "failed"),
        ([IGNORED], "done", "up-to-date"),
        ([CHANGED, UNREACHABLE], "unreachable", "unreachable"),
    ],
)
def test_a_host_s_status_follows_from_its_events(events: list[dict[str, Any]], what: str, status: str) -> None:
    run = ran("provision")
    *_, happened = [run.take(one) for one in events]
    assert happened == (what, run.by_name["a"])
    assert report.document(run)["hosts"]["a"]["status"] == status


@pytest.mark.parametrize(
    "other", [{"event": "verbose", "stdout": "x"}, {"event": "playbook_on_stats", "event_data": {"ok": {"a": 1}}}]
)
def test_an_event_of_no_host_names_none(other: dict[str, Any]) -> None:
    assert collected(other) == []


def test_the_first_plan_and_the_last_proof_are_those_that_count() -> None:
    again = event("on_ok", res={"ansible_facts": {"gpu_host_plan": wanted()}})
    broken = event("on_ok", res={"gpu_host_verify": {"ok": False, "checks": []}})
    (host,) = collected(PENDING, again, broken, VERIFIED)
    assert (host.plan, host.verify) == (wanted(change()), {"ok": True, "checks": []})


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (REFUSED, "connection refused by 10.0.0.3 port 22"),
        ("ssh: connect to host h port 2: Connection timed out", "no answer from h port 2"),
        ("kex_exchange_identification: Connection reset by peer", "the host, or a bastion before it, ended every"),
        (
            "channel 0: open failed: connect failed: No route to host\r\nkex_exchange_identification: closed",
            "the bastion does not reach the host: No route to host",
        ),
        ("ssh: Could not resolve hostname gone: Name or service not known", "the name gone cannot be resolved"),
        ("@@@ WARNING\nHost key verification failed.", "the host key is not known"),
        (
            "Host key for [10.0.0.3]:2222 has changed and you have requested strict checking.\r\nHost key verification",
            "the host key of [10.0.0.3]:2222 has changed",
        ),
        ("me@h: Permission denied (publickey).", "Permission denied (publickey)"),
        ("Task failed: Failed to connect to the host via ssh: broken", "broken"),
        ("Task failed: Failed to connect to the host via ssh: ", "ssh ended without a message"),
        (f"Failed to connect to the host via ssh: {SECRET_URL}", "http://***@proxy.test:3128"),
    ],
)
def test_an_unreachable_host_s_cause_is_in_a_person_s_words(message: str, said: str) -> None:
    (host,) = collected(event("on_unreachable", res={"msg": message}))
    assert (host.error or {})["message"].startswith(said)


@pytest.mark.parametrize(
    ("res", "cause", "hint"),
    [
        ({"msg": "Task failed: Module failed: no space"}, "no space", AGAIN),
        ({"msg": "non-zero return code", "stderr": "E: broken\n", "stdout": "x"}, "E: broken", AGAIN),
        ({"msg": "", "stdout": "only this"}, "only this", AGAIN),
        ({"msg": f"Module failed: {TRACEBACK}"}, "OSError: No space left on device", AGAIN),
        ({"msg": "MODULE FAILURE", "stderr": TRACEBACK}, "OSError: No space left on device", AGAIN),
        ({"msg": "MODULE FAILURE\nSee stdout/stderr", "module_stderr": TRACEBACK}, "OSError: No space left on", AGAIN),
        ({"msg": "One or more items failed", "results": [{}, {"failed": True, "msg": "full"}]}, "full", AGAIN),
        ({"msg": "non-zero return code", "stderr": "Shared connection to h closed.\n", "stdout": "no"}, "no", AGAIN),
        ({"censored": "hidden"}, "the task keeps its output to itself (no_log)", AGAIN),
        ({"msg": f"no proxy {SECRET_URL}"}, "no proxy http://***@proxy.test:3128", AGAIN),
        ({"msg": "x", "module_stderr": "sudo: a password is required"}, "sudo needs a password", "give it with -K"),
        ({"msg": "Missing su password"}, "su needs a password", "give it with -K"),
        ({"msg": "Task failed: Incorrect doas password"}, "doas did not accept", "give the password that doas asks"),
        ({"msg": "x", "stderr": "sudo: interactive authentication is required"}, "sudo needs a password", "give it"),
        ({"msg": "Module result deserialization failed: x"}, "the Python on the host is not one", "Ubuntu 16.04 and"),
        ({"module_stdout": "/bin/sh: 1: /usr/bin/python3: not found"}, "there is no Python on the", "install python3"),
    ],
)
def test_a_failure_s_cause_is_in_words_without_a_traceback(res: dict[str, Any], cause: str, hint: str) -> None:
    (host,) = collected(failed(**res))
    said, advice = ((host.error or {})[name] for name in ("message", "hint"))
    assert said.startswith(cause)
    assert advice.startswith(hint)
    assert "Traceback" not in said
    assert "s3cr3t" not in said


def test_errors_name_the_host_the_task_the_cause_and_what_to_do() -> None:
    hosts = collected(UNREACHABLE, failed("b", msg="two\nlines"), event("on_ok", "c"))
    assert report.errors_text(ran("plan", *hosts)) == (
        "a: unreachable at: Install\n  connection refused by 10.0.0.3 port 22\n"
        "  What to do: see that sshd runs there, and that ansible_host and ansible_port\n  are right\n"
        f"b: failed at: Install\n  two\n  lines\n  What to do: {AGAIN}\n"
    )
    assert report.errors_text(ran("plan", *hosts[2:])) == ""


GOOD, TO_CHANGE = Host("a"), Host("b", plan={"changes": [{}]})
FAILED, GONE = Host("c", error={"message": "x"}), Host("d", error={"message": "x"}, unreachable=True)


@pytest.mark.parametrize(
    ("command", "hosts", "interrupted", "status"),
    [
        ("provision", [GOOD, TO_CHANGE], False, 0), ("plan", [GOOD], False, 0),
        ("provision", [GOOD, FAILED], False, 2), ("plan", [FAILED], False, 2),
        ("provision", [GOOD, GONE], False, 4), ("plan", [GONE], False, 4),
        ("provision", [GONE, FAILED], False, 2), ("plan", [FAILED, GONE], False, 2),
        ("provision", [GOOD, FAILED], True, 130), ("plan", [GOOD, TO_CHANGE], False, 2),
        ("provision", [], True, 130), ("plan", [], False, 1),
    ],
)  # fmt: skip
def test_the_exit_status_is_that_of_the_help(command: str, hosts: list[Host], interrupted: bool, status: int) -> None:
    assert ran(command, *hosts, interrupted=interrupted).status == status


def test_a_document_has_every_key_of_a_host_and_no_secret() -> None:
    probed = event("on_ok", res={"ansible_facts": {"gpu_host_probe": facts(), "gpu_host_plan": wanted(change())}})
    proxied = event("on_ok", res={"changes": [change("proxies", to=SECRET_URL)]})
    hidden = event("on_ok", "b", res={"censored": "the output has been hidden", "changed": True})
    hosts = collected(probed, proxied, failed(msg=f"at {SECRET_URL}"), hidden)
    hosts[0].seconds = 1.2345
    document = json.loads(json.dumps(report.document(ran("provision", *hosts, seconds=41.256))))
    assert {**document, "hosts": list(document["hosts"])} == {
        "format": 1, "gpuprov": version("gpuprov"), "command": "provision", "status": 2, "seconds": 41.26,
        "hosts": ["a", "b"],
    }  # fmt: skip
    a, b = document["hosts"].values()
    assert (
        list(a)
        == list(b)
        == [
            "status",
            "facts",
            "plan",
            "changes",
            "steps",
            "left",
            "verify",
            "image",
            "lock",
            "findings",
            "error",
            "seconds",
        ]
    )
    assert (b["status"], b["facts"], b["plan"], b["changes"], b["error"]) == ("changed", None, None, [], None)
    assert a["facts"] == facts()
    assert (a["plan"]["changes"], a["changes"][0]["to"]) == ([change()], "http://***@proxy.test:3128")
    assert a["error"] == {"task": "Install", "message": "at http://***@proxy.test:3128", "hint": AGAIN}
    assert a["seconds"] == 1.23
    assert "s3cr3t" not in json.dumps(document)


def test_a_thousand_hosts_of_eight_gpus_take_less_than_60_megabytes() -> None:
    text = (Path(__file__).parent / "data/probe/eight-gpus.txt").read_text()
    plan = wanted(*(change(f"package-{number}", to=f"5:29.7.{number}-1~debian") for number in range(17)))
    found = json.dumps({"ansible_facts": {"gpu_host_probe": probe.parse(text, "recording"), "gpu_host_plan": plan}})
    run = ran("provision")
    tracemalloc.start()
    for number in range(100):
        run.take(event("on_ok", f"gpu{number}", res=json.loads(found), stdout="x" * 10_000))
        run.take(event("on_ok", f"gpu{number}", res={"changes": json.loads(json.dumps(plan))["changes"]}))
    with Path(os.devnull).open("w") as stream:
        json.dump(report.document(run), stream, indent=2, sort_keys=True)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6_000_000


FINDINGS = {
    severity: {
        "severity": severity,
        "name": f"a-{severity}",
        "message": "seen " * 30,
        "why": "why",
        "cure": "cure " * 30,
    }
    for severity in ("error", "warning", "info")
}


def examined(host: str, *severities: str) -> dict[str, Any]:
    found = [FINDINGS[severity] for severity in severities]
    return event("on_ok", host, res={"ansible_facts": {"gpu_host_plan": wanted(), "gpu_host_findings": found}})


def test_hosts_with_the_same_findings_are_grouped_and_a_cure_stays_one_line() -> None:
    hosts = collected(
        examined("gpu1", "error", "warning", "warning"),
        examined("gpu2", "error", "warning", "warning"),
        examined("gpu3", "info"),
        examined("gpu4"),
        event("on_unreachable", "gpu5", res={"msg": REFUSED}),
    )
    text = report.findings_text(ran("doctor", *hosts, seconds=2.4))
    assert [line for line in text.splitlines() if line.startswith("gpu")] == [
        "gpu[1:2]  1 error, 2 warnings",
        "gpu3      healthy",
        "gpu4      healthy",
        "gpu5      unreachable",
    ]
    assert text.splitlines()[-1] == "Doctor: 2 hosts to cure, 2 healthy, 1 unreachable.  2 s"
    cures = [line for line in text.splitlines() if line.startswith("    cure: ")]
    assert [line.strip() for line in cures] == [f"cure: {'cure ' * 30}".strip()] * 4
    assert max(len(line) for line in text.splitlines() if line not in cures) <= 80


@pytest.mark.parametrize(
    ("events", "status", "words"),
    [
        ([examined("a")], 0, ["healthy"]),
        ([examined("a", "info")], 0, ["healthy"]),
        ([examined("a", "warning")], 2, ["ill"]),
        ([examined("a", "info"), examined("b", "error")], 2, ["healthy", "ill"]),
        ([examined("a"), event("on_unreachable", "b", res={"msg": REFUSED})], 4, ["healthy", "unreachable"]),
        ([examined("a", "error"), event("on_unreachable", "b", res={"msg": REFUSED})], 2, ["ill", "unreachable"]),
        ([examined("a"), failed("b", msg="no")], 2, ["healthy", "failed"]),
    ],
)
def test_what_is_to_cure_ends_with_2_and_info_alone_with_0(events: list[Any], status: int, words: list[str]) -> None:
    hosts = collected(*events)
    run = ran("doctor", *hosts)
    assert run.status == status
    document = report.document(run)
    assert [host["status"] for host in document["hosts"].values()] == words


def test_a_plan_notes_what_is_amiss_and_stands_in_nothing_s_way() -> None:
    noted = wanted(notes=[{"name": "no-gpu", "message": f"no GPU at {SECRET_URL}"}])
    text = report.plan_text(
        ran("plan", *collected(event("on_ok", res={"ansible_facts": {"gpu_host_plan": noted}})), seconds=1)
    )
    assert text.splitlines()[:2] == ["a  up to date", "  ! no GPU at http://***@proxy.test:3128"]


def test_a_plan_names_who_holds_apt_on_a_host_that_is_to_change() -> None:
    found = facts()
    found["apt"]["lock_holder"] = "unattended-upgr (process 812)"
    text = report.plan_text(ran("plan", Host("a", found, wanted(change())), Host("b", found, wanted()), seconds=1))
    assert "1 change, apt held by unattended-upgr (process 812)" in text
    assert "b  up to date" in text


def test_a_plan_says_what_changes_how_disruptive_it_is_and_counts() -> None:
    both = wanted(change(to="5:29", **{"from": "5:28"}), change("alice", disruption="restart"), running=[{}, {}])
    hosts = (
        Host("a", facts(), both),
        Host("b", facts(), wanted()),
        *collected(failed("y", msg="no"), event("on_unreachable", "z", res={"msg": REFUSED})),
    )
    lines = report.plan_text(ran("plan", *hosts, seconds=3.4)).splitlines()
    assert lines[0].split("  ", 1)[1].strip() == "debian 12   2 changes, restart needed, 2 containers running"
    assert lines[1].split() == ["docker-ce", "5:28", "→", "5:29"]
    assert lines[2].split() == ["alice", "+", "5:29", "(restart)"]
    assert lines[-1] == "Plan: 1 host to change, 1 up to date, 1 failed, 1 unreachable.  3 s"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [("1", "2", "1 → 2"), (None, "alice", "+ alice"), (SECRET_URL, None, "- http://***@proxy.test:3128")],
)
def test_a_change_reads_as_from_and_to(before: str | None, after: str | None, said: str) -> None:
    (host,) = collected(event("on_ok", res={"changes": [{**change(), "from": before, "to": after}]}))
    assert fleet.change_lines(host.changes) == [f"docker-ce  {said}"]


@pytest.mark.parametrize(
    ("host", "row"),
    [
        (Host("a"), ("a", "", "-", "-", "0", "as wanted", "0 s")),
        (
            Host("a", facts(docker_ce="5:29.7.2-1~debian.12", nvidia_container_toolkit="1.19.1-1"), seconds=41.6),
            ("a", "debian 12", "29.7.2", "1.19.1", "0", "as wanted", "42 s"),
        ),
        (Host("a", verify={"ok": True}, changes=[change()], changed=5), ("a", "", "-", "-", "1", "yes", "0 s")),
        (Host("a", verify={"ok": False}, changed=5), ("a", "", "-", "-", "5", "NO", "0 s")),
        (Host("a", error={"message": "x"}), ("a", "", "-", "-", "0", "failed", "0 s")),
        (Host("a", error={"message": "x"}, unreachable=True), ("a", "", "-", "-", "0", "unreachable", "0 s")),
    ],
)
def test_the_table_has_a_row_a_host(host: Host, row: tuple[str, ...]) -> None:
    head, found = report.result_text(ran("provision", host)).splitlines()
    assert (head.split()[0], found.split()) == ("host", " ".join(row).split())


@pytest.mark.parametrize(
    ("names", "ranges"),
    [
        (["gpu8", "gpu9", "gpu10", "gpu12"], "gpu[8:10], gpu12"),
        (["gpu08", "gpu09", "gpu10"], "gpu[08:10]"),
        (["gpu09", "gpu010"], "gpu09, gpu010"),
        (["a", "n1.x", "n2.x", "n3.y"], "a, n[1:2].x, n3.y"),
        (["10.0.0.1", "10.0.0.2"], "10.0.0.[1:2]"),
        ([], ""),
    ],
)
def test_names_in_a_row_are_given_as_an_inventory_gives_them(names: list[str], ranges: str) -> None:
    assert fleet.host_ranges(names) == ranges


def test_hosts_of_one_plan_are_shown_together_and_long_lists_are_wrapped() -> None:
    same = wanted(change("alice"))
    names = [f"rack{number}-gpu" for number in range(0, 90, 3)]
    text = report.plan_text(
        ran("plan", *(Host(name, facts(), same) for name in names), Host("z", facts(), wanted()), seconds=1)
    )
    assert max(len(line) for line in text.splitlines()) <= 80
    assert text.count("alice") == 1
    assert [name for name in names if name not in text] == []
    assert text.endswith("z  up to date\nPlan: 30 hosts to change, 1 up to date.  1 s\n")


def test_many_hosts_with_the_same_result_share_a_row_of_the_table() -> None:
    found = facts(docker_ce="5:29.7.2-1~debian.12", nvidia_container_toolkit="1.19.1-1")
    hosts = [Host(f"gpu{number:03}", found, wanted(), seconds=number) for number in range(900)]
    hosts[3].error = hosts[700].error = {"message": "x"}
    assert report.result_text(ran("provision", *hosts)) == (
        "hosts  OS         docker  nvidia  changed  verified   time\n"
        "898    debian 12  29.7.2  1.19.1  0        as wanted  0 s to 15 min\n"
        "       gpu[000:002], gpu[004:699], gpu[701:899]\n"
        "2      debian 12  29.7.2  1.19.1  0        failed     3 s to 12 min\n"
        "       gpu003, gpu700\n"
    )


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.4, "0 s"), (89.4, "89 s"), (89.6, "1 min 30 s"), (120, "2 min"), (599.4, "9 min 59 s"), (599.6, "10 min"),
        (659, "11 min"), (3599, "1 h"), (7500, "2 h 5 min"),
    ],
)  # fmt: skip
def test_durations_are_told_as_people_tell_them(seconds: float, said: str) -> None:
    assert fleet.duration(seconds) == said


def test_who_has_to_log_in_again_is_said_once_for_all_hosts() -> None:
    joined = [{"role": "docker_group", "subject": "docker group", "from": None, "to": "alice"}]
    hosts = [Host("n1", changes=joined), Host("n2", changes=joined), Host("n3")]
    assert (
        report.notes_text(ran("provision", *hosts))
        == "Log in again for the group docker to take effect: alice on n[1:2]\n"
    )


TWO_PENDING: dict[str, Any] = {"changes": [change(), change()], "disruption": "none", "running": []}


@pytest.mark.parametrize(
    ("host", "state", "said"),
    [
        (Host("a", plan=TWO_PENDING), "not reached", "a: not reached: as before\n"),
        (
            Host("a", plan=TWO_PENDING, reached=True),
            "interrupted",
            "a: interrupted before its first change: as before\n",
        ),
        (
            Host("a", plan=TWO_PENDING, reached=True, changes=[change()]),
            "interrupted",
            "a: interrupted: 1 of 2 changes made\n",
        ),
        (
            Host("a", plan=TWO_PENDING, reached=True, changes=[change(), change()]),
            "interrupted",
            "a: interrupted: 2 of 2 changes made, not verified\n",
        ),
        (Host("a", plan=TWO_PENDING, reached=True, changes=[change()], verify={"ok": True}), "yes", ""),
        (Host("a", plan=TWO_PENDING, reached=True, error={"message": "x"}), "failed", ""),
        (Host("a", plan={**TWO_PENDING, "changes": []}), "as wanted", ""),
    ],
)
def test_a_run_that_stops_early_says_in_which_state_it_left_each_host(host: Host, state: str, said: str) -> None:
    assert f"  {state}  " in report.result_text(ran("provision", host, interrupted=True))
    assert report.unfinished_text(ran("provision", host)) == said


# ---- a host that one task finishes


def step(name: str = "Install the pinned set", seconds: float = 21.4, changed: bool = True) -> dict[str, Any]:
    return {"name": name, "changed": changed, "seconds": seconds}


def applied(host: str = "a", **res: Any) -> list[dict[str, Any]]:
    planned = event("on_ok", host, res={"ansible_facts": {"gpu_host_plan": wanted(change(), change("daemon.json"))}})
    begun = event("on_start", host, task_action="gpuprov.gpuprov.gpu_host_apply")
    return [planned, begun, *([event("on_ok", host, res={"changed": True, **res})] if res else [])]


def test_a_host_at_work_says_what_is_applied_and_afterwards_what_was_done() -> None:
    (host,) = collected(*applied())
    assert host.doing == "2 changes: docker-ce, daemon.json"
    steps = [step(), step("Configure dockerd", 0.2), step("Prove", 2.0, changed=False)]
    assert report.steps_done(Host("a", steps=steps)) == ["Install the pinned set (21 s)", "Configure dockerd"]


def test_a_failure_is_that_of_its_step_and_steps_before_it_are_told() -> None:
    broken = failed(msg="no", step="Configure dockerd", steps=[step()], changes=[change()])
    (host,) = collected(*applied(), broken)
    assert (host.error or {})["task"] == "Configure dockerd"
    assert (host.steps, host.changes) == ([step()], [change()])


def test_progress_counts_the_hosts_to_change_that_are_done_and_those_that_failed() -> None:
    assert report.progress_text(ran("provision")) == ""
    events = [*applied(), *applied("b", steps=[step()]), *applied("c"), failed("c", msg="no"), event("on_ok", "d")]
    assert report.progress_text(ran("provision", *collected(*events))) == "1 of 3 hosts done, 1 failed"


def test_steps_are_listed_with_the_hosts_that_took_them_and_their_seconds() -> None:
    events = [*applied(steps=[step(), step("Prove", 2)]), *applied("b", steps=[step(seconds=31)])]
    rows = [re.split("  +", line) for line in report.steps_text(ran("provision", *collected(*events))).splitlines()]
    assert rows == [["step", "hosts", "time"], ["Install the pinned set", "2", "21 to 31 s"], ["Prove", "1", "2 s"]]
    assert report.steps_text(ran("provision", *collected(PENDING))) == ""


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ([], "a: interrupted: the step at hand is completed there, and the others are not begun\n"),
        ([event("on_skipped")], "a: interrupted before its first change: as before\n"),
    ],
)
def test_of_a_host_at_work_when_the_run_was_cut_off_nothing_is_claimed(ended: list[dict[str, Any]], said: str) -> None:
    assert report.unfinished_text(ran("provision", *collected(*applied(), *ended))) == said


FIRST_INSTALL = [
    change("keyring docker", "9A92"), change("apt source docker", "http://repository"),
    change("docker-ce", "5:29.7.2-1~debian.12~bookworm"), change("containerd.io", "2.3.3-1~debian.12~bookworm"),
    change("docker-ce-cli", "5:29.7.2-1~debian.12~bookworm"),
    change("docker group", "alice", role="docker_group"),
]  # fmt: skip


def test_a_plan_is_short_and_details_name_every_change() -> None:
    run = ran("plan", Host("a", plan=wanted(*FIRST_INSTALL), facts=facts()))
    assert report.plan_text(run) == (
        "a  debian 12   6 changes\n"
        "  docker_ce     + docker-ce 29.7.2, containerd.io 2.3.3, and 3 more\n"
        "  docker group  + alice\n"
        "Plan: 1 host to change, 0 up to date.  0 s  (--details: every change)\n"
    )
    run.options.details = True
    text = report.plan_text(run)
    assert all(f"  {one['subject']} " in text for one in FIRST_INSTALL)
    assert "--details" not in text


def test_a_short_plan_hides_no_upgrade_removal_or_restart() -> None:
    feared = [
        change("docker-buildx-plugin", "0.20", **{"from": "0.19"}), change("old", None, **{"from": "1"}),
        change("runc", "1", disruption="restart"),
    ]  # fmt: skip
    text = report.plan_text(ran("plan", Host("a", plan=wanted(*FIRST_INSTALL, *feared), facts=facts())))
    assert re.findall(r"^  (?:docker-buildx-plugin|old|runc) +(.*)$", text, re.MULTILINE) == [
        "0.19 → 0.20", "- 1", "+ 1  (restart)",
    ]  # fmt: skip


def test_a_few_additions_are_named_one_by_one() -> None:
    text = report.plan_text(ran("plan", Host("a", plan=wanted(*FIRST_INSTALL[:3]), facts=facts())))
    assert "keyring docker" in text
    assert "--details" not in text


def test_a_short_plan_fits_80_columns() -> None:
    long = [change(f"nvidia-container-toolkit-base-{n}", "1.19.1-1", role="nvidia_docker") for n in range(5)]
    text = report.plan_text(ran("plan", Host("a", plan=wanted(*long), facts=facts())))
    assert "+ nvidia-container-toolkit-base-0 1.19.1, and 4 more" in text
    assert max(map(len, text.splitlines())) <= 80
