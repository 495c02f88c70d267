"""The command line up to ansible-runner, and what it prints of what comes back from there."""

from __future__ import annotations

import getpass
import importlib.metadata
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gpuprov import cli, display, report, settings
from gpuprov.display import Live, Plain
from gpuprov.options import Options
from gpuprov.result import Host, Run
from tests import schema
from tests.runs import Call, Runs

PRUNE = {
    "docker_image_prune_containers": False, "docker_image_prune_images": False, "docker_image_prune_all": False,
    "docker_image_prune_older_than": "", "docker_image_prune_keep": 3, "gpuprov_quiet": True,
}  # fmt: skip


def event(kind: str, host: str, **data: Any) -> dict[str, Any]:
    return {"event": f"runner_{kind}", "event_data": {"host": host, "task": "r : Do it", **data}}


# ---- Bad usage --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("frobnicate a,", "No such command 'frobnicate'."),
        ("--frobnicate", "No such option: --frobnicate"),
        ("plan", "Missing argument 'INVENTORY'."),
        ("plan a, --frobnicate", "No such option: --frobnicate"),
        ("plan a, b", "Got unexpected extra argument"),
        ("provision --json gone.ini", "the inventory gone.ini does not exist"),
        ("verify --json empty.ini", "the inventory empty.ini is empty"),
        ("plan --json directory", "the inventory directory is a directory without a file in it"),
        ("provision a, --forks many", "--forks takes a number from 1 on, or auto: not 'many'"),
        (
            "provision a, --serial 1,ten",
            "--serial takes numbers of hosts and percentages, such as 1,10%,25%: not '1,ten'",
        ),
        ("plan a, --tags docker_grop", "there is no tag 'docker_grop'; the tags are docker_ce, docker_ce_packages, "),
        ("provision a, --serial 0", "--serial takes numbers of hosts and percentages"),
        ("provision a, --serial 101%", "--serial takes numbers of hosts and percentages"),
        ("provision a, --max-fail-percentage 101", "Invalid value for '--max-fail-percentage'"),
        ("provision a, --forks 0", "--forks takes a number from 1 on, or auto: not '0'"),
        ("plan a, --json --json-lines", "--json and --json-lines exclude each other"),
        ("plan a, --limit @gone.txt", "the file of --limit @gone.txt does not exist"),
        ("plan a, --limit gpu:@directory", "the file of --limit @directory does not exist"),
        ("plan a, --limit @empty.ini", "the file of --limit @empty.ini is empty, which Ansible takes for all hosts"),
        ("verify a, --private-key /gone", "the private key /gone does not exist"),
        ("plan a, --vault-password-file /gone", "the vault password file /gone does not exist"),
        ("uninstall a, --purge-data", "uninstall asks before it begins: without a terminal give --yes"),
        ("image frobnicate a,", "No such command 'frobnicate'."),
        ("image tag train:1.0.0", "Missing argument 'INVENTORY'."),
        ("image tag a;reboot:1.0.0 a,", "'a;reboot:1.0.0' is not an image name: "),
        ("image tag train a,", "tag takes a name with a version, such as train:1.9.1: not train"),
        ("image tag r.test:5000/train a,", "tag takes a name with a version, such as train:1.9.1: not r.test:5000/"),
        ("image tag train:1.9 a,", "1.9 is not a version such as 1.9.1"),
        ("image tag train:1.9.1 gone.ini", "the inventory gone.ini does not exist"),
        ("image prune a,", "prune asks before it removes anything: without a terminal give --yes, or --check to look"),
        ("image prune a, --yes --older-than 7", "an age is a number of s, m, h, d or w, such as 7d: not '7'"),
        ("image prune a, --yes --keep 0", "Invalid value for '--keep'"),
        ("image build directory", "Missing option '--tag'"),
        ("image build gone -t train:1", "the build context gone is not a directory"),
        ("image build directory -t train:1", "there is no Dockerfile in the build context directory"),
        ("image build context -t train", "build takes a name with a version, such as -t train:1.9.1: not train"),
        ("image build context -t $(id):1", "'$(id):1' is not an image name: "),
        ("image build context -t train:1 --file ../context/Dockerfile", "there is no ../context/Dockerfile in the"),
        ("image build context -t train:1 --on a,b a,b", "--on takes the name of one host: not 'a,b'"),
        ("image build context -t train:1 -l a a,b", "build takes no --limit: --on HOST says where"),
        ("image build context -t train:1 --build-arg 1=2", "--build-arg takes NAME=VALUE, or NAME of a variable in"),
        ("image build context -t train:1 --build-arg GPUPROV_NONE", "--build-arg GPUPROV_NONE: there is no GPUPROV_NO"),
    ],
)
def test_bad_usage_ends_with_1_and_one_line_and_runs_nothing(words: str, said: str, runs: Runs, gpuprov: Call) -> None:
    Path("empty.ini").touch()
    Path("directory").mkdir()
    Path("context").mkdir()
    Path("context/Dockerfile").write_text("FROM scratch\n")
    status, out, err = gpuprov(*words.split())
    assert (status, out, runs.calls) == (1, "", [])
    assert err.startswith(f"gpuprov: {said}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("name", "text"), [("hosts.ini", "[gpu\nx\n"), ("hosts.yml", "all: [\n")])
def test_a_malformed_inventory_ends_with_1_and_ansible_s_reason_in_one_line(
    name: str, text: str, gpuprov: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / name).write_text(text)
    status, out, err = gpuprov("plan", str(tmp_path / name), "--json")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"gpuprov: the inventory {tmp_path / name}")
    assert " cannot be read: " in err
    (log,) = (tmp_path / "state").rglob("log")
    assert log.read_text() == err.removeprefix("gpuprov: ")


@pytest.mark.parametrize(
    ("lines", "limit", "said"),
    [
        (["[WARNING]: Could not match supplied host pattern"], "x", "no host of the inventory matches --limit x"),
        (
            ["PLAY [Plan]", "skipping: no hosts matched"],
            None,
            "the inventory names no hosts: each is a line of its own, without ; or # before it",
        ),
        (["noise", "\x1b[31m[ERROR]: no http://u:s3cr3t@h\x1b[0m", "more"], None, "[ERROR]: no http://***@h"),
        ([], None, "ansible-playbook did not start"),
    ],
)
def test_why_nothing_ran_is_one_line(lines: list[str], limit: str | None, said: str, runs: Runs, gpuprov: Call) -> None:
    runs.events = [{"event": "verbose", "stdout": line} for line in lines]
    assert gpuprov("plan", "a,", *(["-l", limit] if limit else [])) == (1, "", f"gpuprov: {said}\n")


# ---- Good usage -------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["plan", "provision", "verify", "doctor", "uninstall"])
def test_help_names_every_option_and_every_exit_status(command: str) -> None:
    help = CliRunner().invoke(cli.app, [command, "--help"])
    options = {
        "--limit", "--extra-vars", "--forks", "--user", "--private-key", "--ask-pass", "--ask-become-pass",
        "--ask-vault-pass", "--vault-password-file", "--verbose", "--json", "--help",
    }  # fmt: skip
    more = {"provision": {"--check", "--diff", "--full"}, "uninstall": {"--check", "--diff", "--yes", "--purge-data"}}
    assert help.exit_code == 0
    assert options | more.get(command, set()) <= set(re.findall(r"--[a-z-]+", help.output))
    for status in ("0 ", "2 ", "4 ", "1 gpuprov could not run", "130 interrupted"):
        assert status in " ".join(help.output.partition("Exit status:")[2].split())
    assert max(len(line) for line in help.output.splitlines()) <= 80


@pytest.mark.parametrize(
    ("words", "playbook", "given"),
    [
        (["plan"], "plan.yml", {"variables": {"gpuprov_quiet": True}, "check": False}),
        (["provision"], "provision.yml", {"variables": {}, "check": False, "diff": False, "forks": None}),
        (["provision", "-C", "-D", "--full"], "provision.yml",
         {"check": True, "diff": True, "variables": {"gpuprov_full": True}}),
        (["provision", "--serial", "1, 10%,25%", "--wait", "--max-fail-percentage", "5"], "provision.yml",
         {"variables": {"gpuprov_serial": "1, 10%,25%", "gpuprov_max_fail_percentage": 5,
                        "gpuprov_wait": 86400}}),
        (["provision", "-l", "x", "-f", "9", "-u", "me", "-vvv"], "provision.yml",
         {"limit": "x", "forks": "9", "user": "me", "verbosity": 3}),
        (["plan", "--tags", "docker_group,dockerrun", "-t", "docker_ce_source"], "plan.yml",
         {"tags": ["docker_group", "dockerrun", "docker_ce_source"], "skip_tags": []}),
        (["provision", "--skip-tags", "nvidia_docker_v1"], "provision.yml", {"skip_tags": ["nvidia_docker_v1"]}),
        (["verify", "-e", "a=1", "-e", "@f"], "verify.yml", {"extra_vars": ["a=1", "@f"], "inventory": "a,b"}),
        (["doctor"], "doctor.yml", {"variables": {"gpuprov_quiet": True}, "check": False}),
        (["uninstall", "--yes"], "uninstall.yml", {"variables": {}}),
        (["uninstall", "-C", "--purge-data"], "uninstall.yml", {"variables": {"docker_ce_uninstall_data": True}}),
        (["image", "ls", "-l", "b"], "image_ls.yml", {"limit": "b", "variables": {"gpuprov_quiet": True}}),
        (["image", "tag", "docker.io/library/train:1.9.1"], "image_tag.yml",
         {"check": False, "inventory": "a,b", "variables": {"docker_image_name": "train:1.9.1"}}),
        (["image", "tag", "r.test:5000/a/train:1.9.1", "--dry-run"], "image_tag.yml",
         {"check": True, "variables": {"docker_image_name": "r.test:5000/a/train:1.9.1"}}),
        (["image", "prune", "--check"], "image_prune.yml", {"check": True, "variables": PRUNE}),
        (["image", "prune", "--yes", "--images", "--all", "--older-than", "7d", "--keep", "5", "--wait"],
         "image_prune.yml",
         {"check": False, "variables": PRUNE | {
             "docker_image_prune_images": True, "docker_image_prune_all": True, "docker_image_prune_older_than": "7d",
             "docker_image_prune_keep": 5, "gpuprov_wait": 86400}}),
    ],
)  # fmt: skip
def test_a_command_runs_its_playbook_with_what_was_given(
    words: list[str], playbook: str, given: dict[str, Any], runs: Runs, gpuprov: Call
) -> None:
    Path("f").touch()
    assert gpuprov(*words, "a,b")[0] == 0
    ((ran, options, passwords),) = runs.calls
    assert (ran, {name: getattr(options, name) for name in given}, passwords) == (playbook, given, {})


@pytest.mark.parametrize(
    ("words", "answers", "expected"),
    [
        ("-K", ["b"], {"--become-password-file": "b"}),
        ("-K", [""], {}),
        ("-kK", ["s", ""], {"--connection-password-file": "s", "--become-password-file": "s"}),
        ("-J", ["v"], {"--vault-password-file": "v"}),
    ],
)
def test_a_password_is_asked_for_and_given_to_ansible_in_its_own_file(
    words: str, answers: list[str], expected: dict[str, str], runs: Runs, gpuprov: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getpass, "getpass", lambda prompt: answers.pop(0))
    assert gpuprov("plan", words, "a,")[0] == 0
    assert runs.calls[0][2] == expected


@pytest.mark.parametrize(
    ("words", "inventory", "given"),
    [
        ([], "localhost,", {"limit": None}),
        (["hosts,", "--on", "gpu-1.example", "--target", "base", "--no-cache"], "hosts,", {"limit": "gpu-1.example"}),
    ],
)
def test_build_is_here_unless_a_host_is_named_and_secrets_stay_in_the_environment(
    words: list[str], inventory: str, given: dict[str, Any], runs: Runs, gpuprov: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("Dockerfile").write_text("FROM scratch\n")
    monkeypatch.setenv("TOKEN", "s3cr3t")
    given_arguments = ("CUDA=12.4", "TOKEN", "EMPTY=", "A={{b}}=c")
    arguments = [word for one in given_arguments for word in ("--build-arg", one)]
    assert gpuprov("image", "build", ".", "-t", "train:1.0.0", *arguments, *words)[0] == 0
    ((playbook, options, _passwords),) = runs.calls
    assert (playbook, options.inventory, {name: getattr(options, name) for name in given}) == (
        "image_build.yml", inventory, given,
    )  # fmt: skip
    assert options.variables["docker_image_build_args"] == {"CUDA": "12.4", "TOKEN": None, "EMPTY": "", "A": "{{b}}=c"}
    assert options.variables["docker_image_build_context"] == str(Path.cwd())
    assert options.variables["docker_image_build_no_cache"] is ("--no-cache" in words)
    assert options.variables.get("gpuprov_build_on") == given["limit"]
    assert "s3cr3t" not in repr(options)


def looked(host: str, *ids: str) -> dict[str, Any]:
    """The event of a decision that takes containers of these IDs."""
    containers = [{"id": one, "name": f"job-{one}", "image": "i", "bytes": 1500, "why": "exited"} for one in ids]
    decision = {"containers": containers, "images": [], "stay": [], "bytes": 1500 * len(ids)}
    return event("on_ok", host, res={"docker_image": decision, "basis": {}})


@pytest.mark.parametrize(("answer", "runs_made", "status"), [("y", 2, 0), ("n", 1, 1)])
def test_prune_shows_first_asks_and_then_removes_only_what_was_shown(
    answer: str, runs_made: int, status: int, runs: Runs, gpuprov: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Person(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Person(f"{answer}\n"))
    runs.events = [looked("a", "1", "2"), looked("b"), event("on_unreachable", "c", res={"msg": "Connection refused"})]
    ended, out, err = gpuprov("image", "prune", "a,b,c")
    assert (ended, len(runs.calls)) == (status if answer == "n" else 4, runs_made)
    assert out.startswith("c: unreachable")
    assert "a  2 containers, 3.0 kB\n  container job-1  exited    1.5 kB\n" in out
    assert "To free: 3.0 kB on 1 host.\n" in out
    assert "Remove this?" in err
    assert runs.calls[0][1].check is True
    if answer == "y":
        options = runs.calls[1][1]
        assert (options.check, options.variables["docker_image_prune_only"]) == (
            False,
            {"a": ["1", "2"], "b": []},
        )
    else:
        assert err.endswith("gpuprov: nothing was done\n")


def test_prune_does_not_ask_where_nothing_goes(runs: Runs, gpuprov: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal())
    runs.events = [looked("a")]
    assert gpuprov("image", "prune", "a,") == (0, "a  nothing to remove\nTo free: 0 B.\n", "")


def test_prune_without_questions_shows_what_goes_before_anything_is_removed(runs: Runs, gpuprov: Call) -> None:
    start = {"event": "playbook_on_task_start"}
    after = {
        "removed": {"containers": [{"id": "1"}], "images": []}, "bytes": 3000, "freed": 1500,
        "stayed": [{"name": "job-2", "why": "it runs"}],
    }  # fmt: skip
    done = event("on_ok", "a", changed=True, res={"changed": True, "docker_image": after})
    runs.events = [looked("a", "1", "2"), looked("b"), start, done]
    status, out, _err = gpuprov("image", "prune", "a,b", "--yes")
    assert status == 0
    assert out.index("To free: 3.0 kB") < out.index("a: changed") < out.index("a  removed: 1 container, 1.5 kB")
    assert "  stays: job-2: it runs\n" in out
    assert out.endswith("Freed: 1.5 kB.\n")


def test_forks_auto_goes_by_cores_and_memory_and_says_so(
    runs: Runs, gpuprov: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 4 << 20, "SC_PAGE_SIZE": 4096}.get)
    assert gpuprov("plan", "a,", "--forks", "auto")[1].startswith("forks: 96 (8 cores, 16 GiB)\n")
    assert runs.calls[0][1].forks == "96"


@pytest.mark.parametrize(("cores", "gib", "number"), [(2, 24, 24), (8, 2, 25), (1, 0.25, 5), (64, 512, 100)])
def test_forks_take_a_share_of_each_core_and_at_most_a_quarter_of_the_memory(
    cores: int, gib: float, number: int
) -> None:
    assert settings.forks(cores, int(gib * 2**30)) == number


# ---- What comes back --------------------------------------------------------------------------


def test_json_is_one_document_on_stdout_and_the_text_goes_to_stderr(runs: Runs, gpuprov: Call) -> None:
    runs.events += [event("on_failed", "b", res={"msg": "no http://u:s3cr3t@h"})]
    status, out, err = gpuprov("provision", "a,b", "--json")
    document = json.loads(out)
    assert (status, document["status"], document["command"]) == (2, 2, "provision")
    assert {name: host["status"] for name, host in document["hosts"].items()} == {"a": "up-to-date", "b": "failed"}
    assert "b: failed: no http://***@h\n" in err
    assert "s3cr3t" not in out + err


def test_json_lines_tell_each_host_when_its_outcome_is_known_and_the_run_at_the_end(runs: Runs, gpuprov: Call) -> None:
    def planned(host: str, *changes: dict[str, Any]) -> dict[str, Any]:
        plan = {"changes": list(changes), "disruption": "none", "running": []}
        return event("on_ok", host, res={"ansible_facts": {"gpu_host_plan": plan}})

    change = {"subject": "docker-ce", "from": None, "to": "5:29.7.2", "disruption": "none", "role": "docker_ce"}
    proven = {"changes": [change], "gpu_host_verify": {"ok": True, "checks": []}}
    runs.events = [
        planned("gpu2", change), planned("gpu1"), event("on_failed", "gpu3", res={"msg": "no http://u:s3cr3t@h"}),
        planned("gpu4", change), event("on_ok", "gpu2", changed=True, res=proven), event("on_ok", "gpu1", res={}),
    ]  # fmt: skip
    runs.interrupted = True
    status, out, err = gpuprov("provision", "a,", "--json-lines")
    *hosts, last = [json.loads(line) for line in out.splitlines()]
    schema.check(last, "line.json")
    assert [(one["host"], one["status"]) for one in hosts] == [
        ("gpu1", "up-to-date"), ("gpu3", "failed"), ("gpu2", "changed"), ("gpu4", "pending"),
    ]  # fmt: skip
    assert (hosts[2]["changes"], hosts[2]["verify"]) == ([change], {"ok": True, "checks": []})
    counts = {"up-to-date": 1, "failed": 1, "changed": 1, "pending": 1}
    ours = importlib.metadata.version("gpuprov")
    assert {**last, "seconds": 0} == {
        "format": 1, "gpuprov": ours, "command": "provision", "status": 130, "seconds": 0, "hosts": counts,
    }  # fmt: skip
    assert status == 130
    assert "gpu3: failed: no http://***@h\n" in err
    assert "s3cr3t" not in out


@pytest.mark.parametrize("command", ["plan", "verify", "doctor", "uninstall"])
def test_json_lines_of_every_command_name_each_host_once(command: str, runs: Runs, gpuprov: Call) -> None:
    plan = {"ansible_facts": {"gpu_host_plan": {"changes": []}, "gpu_host_findings": []}}
    runs.events = [event("on_ok", host, res=plan) for host in ("b", "a", "b")]
    out = gpuprov(command, "a,", "--json-lines", *(["--yes"] if command == "uninstall" else []))[1]
    lines = [json.loads(line).get("host") for line in out.splitlines()]
    assert lines == (["b", "a", None] if command in ("plan", "doctor") else ["a", "b", None])


def test_a_run_s_text_has_no_escapes_and_fits_80_columns(runs: Runs, gpuprov: Call) -> None:
    upgrade = {"subject": "docker-ce", "from": "5:28.0.1", "to": "5:29.7.2", "disruption": "restart"}
    changes = [{"role": "docker_ce", **upgrade}]
    plan = {"changes": changes, "disruption": "restart", "running": [{}]}
    runs.events = [event("on_ok", f"gpu{n:03}", res={"ansible_facts": {"gpu_host_plan": plan}}) for n in range(200)]
    runs.events += [event("on_unreachable", "gone", res={"msg": "Host key verification failed."})]
    status, out, err = gpuprov("provision", "a,")
    assert (status, err) == (4, "")
    assert "200 hosts to change, 0 up to date, 1 unreachable." in out
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert "\x1b" not in out


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _shown(*hosts: Host, command: str = "provision", **more: Any) -> Run:
    return Run(command, Options("a,"), {host.name: host for host in hosts}, **more)


def test_on_a_terminal_no_line_is_wider_than_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {"COLUMNS": "80", "LINES": "10", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    bad = Host("bad", error={"message": "cause " * 40})
    run = _shown(*(Host(f"gpu{number}", doing="long " * 40, busy=1.0) for number in range(20)), bad)
    with Live(run, stream, tmp_path) as screen:
        screen.update("failed", bad)
        screen.say("word " * 100)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue()).replace("\r", "\n").splitlines()
    assert max(len(line) for line in lines) <= 80
    assert "… and 14 more" in lines
    assert [line for line in lines if line.startswith("long")] == []
    assert "bad: failed: cause" in stream.getvalue()


def _at_work(name: str, **more: Any) -> Host:
    plan = {"changes": [{"subject": "docker-ce"}]}
    return Host(name, plan=plan, applying=True, doing="1 change: docker-ce", **more)


INSTALLED = {"name": "Install the pinned set", "changed": True, "seconds": 7.6}


def test_a_terminal_shows_how_far_the_run_is_the_slowest_hosts_and_those_that_failed() -> None:
    run = _shown(
        _at_work("gpu1", busy=90.0), _at_work("gpu9", busy=70.0),
        _at_work("gpu2", steps=[INSTALLED]), _at_work("gpu3", error={"message": "no"}),
        Host("gpu4", error={"message": "no"}, unreachable=True), Host("gpu5", plan={"changes": []}),
    )  # fmt: skip
    assert report.screen_lines(run, 100.0, 80, 24) == [
        "━━━━━━━━━━──────────  1 of 4 hosts done, 1 failed",
        "gpu9    30 s  1 change: docker-ce",
        "gpu1    10 s  1 change: docker-ce",
        "failed: gpu3",
        "unreachable: gpu4",
    ]


def test_a_thousand_hosts_fit_80_columns_and_24_lines() -> None:
    hosts = [Host(f"gpu{number:04}", plan={"changes": []}) for number in range(0, 800, 2)]
    hosts += [Host(f"gpu{number:04}", error={"message": "no"}, unreachable=True) for number in range(1, 100, 2)]
    hosts += [Host(f"gpu{number:04}", busy=50.0, doing="Probe and plan") for number in range(900, 950)]
    run = _shown(*hosts, names=[f"gpu{number:04}" for number in range(1000)], began=0.0)
    lines = report.screen_lines(run, 100.0, 80, 24)
    assert lines[0] == "━━━━━━━━━───────────  400 of 1000 hosts read, 50 unreachable, about 2 min left"
    assert lines[1] == "gpu0900    50 s  Probe and plan"
    assert lines[-2] == "… and 29 more"
    assert (len(lines), max(map(len, lines))) == (24, 79)
    assert re.fullmatch(r"unreachable: gpu0001, gpu0003, .*…", lines[-1])


@pytest.mark.parametrize(
    ("seconds", "done", "total", "said"),
    [
        (100, 10, 20, "about 2 min left"), (60, 10, 20, "about 60 s left"), (3600, 10, 100, "about 9 h left"),
        (100, 0, 20, ""), (10, 4, 20, ""), (50, 20, 20, ""), (90, 19, 20, ""),
    ],
)  # fmt: skip
def test_the_time_left_is_told_where_enough_hosts_are_done(seconds: float, done: int, total: int, said: str) -> None:
    assert report.time_left(seconds, done, total) == said


def test_elsewhere_each_step_and_then_the_progress_of_all_is_a_line() -> None:
    stream = io.StringIO()
    host = _at_work("gpu1")
    screen = Plain(_shown(host), stream, brief=True)
    screen.update("start", host)
    host.steps = [INSTALLED, {**INSTALLED, "name": "Prove", "changed": False}]
    screen.run.count(host)
    screen.update("changed", host)
    assert stream.getvalue() == "gpu1: changed: Install the pinned set (8 s)\n1 of 1 host done\n"


def test_elsewhere_only_what_lasts_is_printed_without_escapes() -> None:
    stream = io.StringIO()
    host = Host("a", doing="Install")
    screen = Plain(_shown(host), stream)
    for what in ("start", "done", "changed"):
        screen.update(what, host)
    host.error = {"message": "one\ntwo"}
    screen.update("failed", host)
    assert stream.getvalue() == "a: changed: Install\na: failed: one\n"


@pytest.mark.parametrize("brief", [True, False])
def test_elsewhere_many_hosts_have_a_line_for_each_twentieth_part_of_the_way_and_the_log_has_all(brief: bool) -> None:
    stream = io.StringIO()
    run = _shown(names=[f"gpu{number}" for number in range(100)])
    screen = Plain(run, stream, brief)
    for number in range(100):
        host = run.by_name[f"gpu{number}"] = Host(f"gpu{number}", plan={"changes": []}, doing="Install")
        if number == 50:
            host.error = {"message": "no"}
        run.count(host)
        screen.update("failed" if host.error else "changed", host)
    said = stream.getvalue().splitlines()
    assert "gpu50: failed: no" in said
    if brief:
        assert [line for line in said if " of 100 hosts read" in line] == [line for line in said if line[:5] != "gpu50"]
        assert (len(said), said[-1]) == (22, "99 of 100 hosts read, 1 failed")
    else:
        assert (len(said), said[0], said[-1]) == (100, "gpu0: changed: Install", "gpu99: changed: Install")


PLAN = (
    "gpu1  debian 12   2 changes, restart needed\n  docker-ce  5:28 → 5:29  (restart)\n  docker group  + alice\n"
    "gpu2  unreachable: no answer from 10.0.0.2 port 22\nPlan: 1 host to change, 0 up to date, 1 unreachable.  1 s\n"
)


def test_a_terminal_gets_colours_and_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Terminal()
    display.show(screen, PLAN)
    assert "\x1b[32m+ alice\x1b[0m" in screen.getvalue()
    assert "\x1b[33m(restart)\x1b[0m" in screen.getvalue()
    assert "\x1b[31m" in screen.getvalue()
    assert re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()) == PLAN


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
def test_no_colours_where_a_person_or_the_terminal_does_not_want_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv(name, "dumb")
    screen, pipe = Terminal(), io.StringIO()
    display.show(screen, PLAN)
    display.show(pipe, PLAN)
    assert pipe.getvalue() == PLAN
    assert re.search(r"\x1b\[[0-9;]*3[0-7]", screen.getvalue()) is None


@pytest.mark.parametrize("words", [[], ["image"], ["runs"]])
def test_the_list_of_commands_is_whole_at_80_columns(
    words: list[str], gpuprov: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _err = gpuprov(*words, "--help")
    assert status == 0
    assert [line for line in out.partition("Commands:")[2].splitlines() if line.endswith("...")] == []
