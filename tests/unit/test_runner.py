"""The arguments, environment and files of ansible-playbook, and what a run leaves: a script stands in its place."""

from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path
from typing import Any

import pytest
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader

from gpuprov import runner, settings
from gpuprov.options import Options, UsageError
from gpuprov.result import Run
from gpuprov.shared import ansible_root

OURS = "gpuprov.gpuprov.stop_between_tasks,gpuprov.gpuprov.play_hosts,gpuprov.gpuprov.preload"

BECOME = "--become-password-file"
# Stands where ansible-playbook stands: beside the interpreter.
PLAYBOOK = """#!/bin/sh
cd "$SEEN" && printf '%s\\n' "$@" > words && env > environment
for word in "$@"; do case "$word" in @*|*/become-password-file) cp -p "${word#@}" . ;; esac; done
echo "it speaks"
"""


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the stand-in writes down its words, its environment and the files it was given."""
    seen, playbook = tmp_path / "seen", tmp_path / "bin/ansible-playbook"
    seen.mkdir()
    playbook.parent.mkdir()
    playbook.write_text(PLAYBOOK)
    playbook.chmod(0o755)
    (tmp_path / "temporary").mkdir()
    for name, value in {"SEEN": seen, "XDG_STATE_HOME": tmp_path / "state", "HOME": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("ANSIBLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin/python"))
    return seen


def go(options: Options, on_event: Any = lambda event: None, say: Any = print) -> Run:
    run = Run("plan", options)
    with runner.temporary_directory() as directory:
        runner.run(run, on_event, say, directory)
    return run


def files(place: Path) -> list[Path]:
    return [path for path in place.rglob("*") if path.is_file()]


def test_a_run_hands_on_the_words_the_values_and_an_environment_that_checks_host_keys(seen: Path) -> None:
    outcome = go(Options("a,", limit="gpu&a b", extra_vars=["x='1 2'"], forks="7", user="me", variables={"full": True}))
    assert (outcome.interrupted, outcome.complete, [*outcome.output]) == (False, False, ["it speaks"])
    words = (seen / "words").read_text().splitlines()
    assert [word if word[0] != "@" else Path(word).name for word in words] == [
        "-i", "a,", "--limit", "gpu&a b", "--forks", "7", "--user", "me", "-e", "0.json", "-e", "gpuprov.yml",
        str(ansible_root() / "playbooks/plan.yml"),
    ]  # fmt: skip
    assert json.loads((seen / "0.json").read_text()) == {"x": "1 2"}
    assert json.loads((seen / "gpuprov.yml").read_text()) == {"full": True}
    environment = (seen / "environment").read_text().splitlines()
    assert "ANSIBLE_HOST_KEY_CHECKING=True" in environment
    assert f"PATH={seen.parent}/bin:" in "\n".join(environment)


def test_a_secret_is_in_no_argument_nor_environment_and_nothing_that_stays(seen: Path, tmp_path: Path) -> None:
    go(Options("a,", extra_vars=["token=s3cr3t"], passwords={BECOME: "hunter2"}))
    assert (seen / "become-password-file").read_text() == "hunter2"
    assert {stat.S_IMODE((seen / name).stat().st_mode) for name in ("0.json", "become-password-file")} == {0o600}
    told = [seen / "words", seen / "environment", *files(tmp_path / "state")]
    assert [path for path in told if "hunter2" in path.read_text() or "s3cr3t" in path.read_text()] == []
    assert list((tmp_path / "temporary").iterdir()) == []


def test_nothing_of_a_run_that_was_killed_is_left(seen: Path, tmp_path: Path) -> None:
    killed = tmp_path / "temporary/gpuprov-run-4194305-x"
    running = tmp_path / f"temporary/gpuprov-run-{os.getpid()}-x"
    killed.mkdir()
    running.mkdir()
    go(Options("a,"))
    assert list((tmp_path / "temporary").iterdir()) == [running]


def test_no_question_waits_for_an_answer(seen: Path) -> None:
    (seen.parent / "bin/ansible-playbook").write_text(
        '#!/bin/sh\n{ read -r answer </dev/tty; } 2>/dev/null || read -r answer || echo nobody > "$SEEN/answer"\n'
    )
    go(Options("a,"))
    assert (seen / "answer").read_text() == "nobody\n"


def test_the_newest_twenty_runs_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    runs = tmp_path / "gpuprov/runs"
    for number in range(30):
        (runs / f"20200101T0000{number:02}-{2**22 + 1}").mkdir(parents=True)
    made = runner.run_directory()
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert sorted(runs.iterdir()) == [*(runs / f"20200101T0000{number}-{2**22 + 1}" for number in range(11, 30)), made]


def test_the_directory_of_a_run_that_goes_on_is_kept_however_many_come_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    mine = runner.run_directory()
    for number in range(30):
        (mine.parent / f"20990101T0000{number:02}.000000-{2**22 + 1}").mkdir()
    runner.run_directory()
    assert mine.is_dir()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_interrupt_ends_the_run_between_tasks_the_second_at_once(number: int, seen: Path) -> None:
    (seen.parent / "bin/ansible-playbook").write_text(
        f'#!/bin/sh\n[ ! -e "$GPUPROV_STOP" ] || exit 1; kill -{number} $PPID\n'
        f'while [ ! -e "$GPUPROV_STOP" ]; do sleep 0.01; done; kill -{number} $PPID\n'
        "while :; do sleep 0.01; done\n"
    )
    before = signal.getsignal(number)
    said: list[str] = []
    outcome = go(Options("a,"), say=said.append)
    assert outcome.interrupted
    assert [line.partition(" ")[0] for line in said] == ["finishing", "stopping"]
    assert signal.getsignal(number) is before


def test_a_run_that_nobody_can_follow_ends_before_its_next_task(seen: Path) -> None:
    (seen.parent / "bin/ansible-playbook").write_text(
        '#!/bin/sh\necho begun; while [ ! -e "$GPUPROV_STOP" ]; do sleep 0.01; done; echo ended > "$SEEN/ended"\n'
    )

    def broken(event: dict[str, Any]) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        go(Options("a,"), on_event=broken)
    assert (seen / "ended").exists()


def test_a_playbook_that_cannot_be_started_is_told(seen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (seen.parent / "bin/ansible-playbook").unlink()
    monkeypatch.setenv("PATH", str(seen))
    assert "cannot be started" in go(Options("a,")).output[0]


# ---- arguments and environment ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, []),
        ({"forks": "1", "user": "root"}, ["--forks", "1", "--user", "root"]),
        ({"private_key": Path("~/key")}, ["--private-key", "/home/me/key"]),
        (
            {"vault_password_files": [Path("/v"), Path("~/w")]},
            ["--vault-password-file", "/v", "--vault-password-file", "/home/me/w"],
        ),
        ({"ask_pass": True, "ask_become_pass": True, "ask_vault_pass": True}, []),
        (
            {"tags": ["docker_ce", "docker_group"], "skip_tags": ["dockerrun"]},
            ["--tags", "docker_ce,docker_group", "--skip-tags", "dockerrun"],
        ),
        ({"check": True, "diff": True, "verbosity": 3}, ["--check", "--diff", "-vvv"]),
    ],
)
def test_options_become_ansible_playbook_s_own(
    given: dict[str, Any], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_file", lambda path: True)
    monkeypatch.setenv("HOME", "/home/me")
    assert runner.arguments(Options("i,", **given), tmp_path) == ["-i", "i,", *words]


@pytest.mark.parametrize(
    ("base", "name", "value"),
    [
        ({}, "ANSIBLE_HOST_KEY_CHECKING", "True"),
        ({"ANSIBLE_HOST_KEY_CHECKING": "False"}, "ANSIBLE_HOST_KEY_CHECKING", "False"),
        ({}, "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED", "True"),
        ({}, "ANSIBLE_CONFIG", "/ours/ansible.cfg"),
        ({"ANSIBLE_CONFIG": "/mine"}, "ANSIBLE_CONFIG", None),
        ({"SOME_TOKEN": "t"}, "SOME_TOKEN", None),
    ],
)
def test_the_person_s_environment_wins_over_ours(
    base: dict[str, str], name: str, value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert settings.environment(base, Path("/ours")).get(name) == value


def test_an_ansible_cfg_where_the_person_stands_comes_before_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ansible.cfg").touch()
    assert settings.environment({}, Path("/ours"))["ANSIBLE_CONFIG"] == str(tmp_path / "ansible.cfg")


@pytest.mark.parametrize("place", ["here", "home", "named", "named directory"])
@pytest.mark.parametrize(
    ("config", "base", "expected"),
    [
        ("[defaults]\nhost_key_checking = False\n", {}, {"ANSIBLE_HOST_KEY_CHECKING": "False"}),
        ("[ssh_connection]\nhost_key_checking=no ; a comment\n", {}, {"ANSIBLE_HOST_KEY_CHECKING": "no"}),
        ("[defaults]\nhost_key_checking=False\n", {"ANSIBLE_HOST_KEY_CHECKING": "True"},
         {"ANSIBLE_HOST_KEY_CHECKING": "True"}),
        ("[defaults]\n", {"ANSIBLE_SSH_HOST_KEY_CHECKING": "False"}, {"ANSIBLE_HOST_KEY_CHECKING": "False"}),
        # What the person's file says of it is not said again: it would be ours.
        ("[defaults]\nforks = 3\ntimeout=77\n", {},
         {"ANSIBLE_FORKS": None, "ANSIBLE_TIMEOUT": None, "ANSIBLE_PIPELINING": "true", "ANSIBLE_SSH_ARGS": "-o X=yes",
          "ANSIBLE_HOST_KEY_CHECKING": "True"}),
        ("[ssh_connection]\npipelining = False\nssh_args = -C\n", {},
         {"ANSIBLE_PIPELINING": None, "ANSIBLE_SSH_ARGS": None, "ANSIBLE_FORKS": "50", "ANSIBLE_TIMEOUT": "20"}),
        ("[connection]\npipelining = False\n", {}, {"ANSIBLE_PIPELINING": None}),
        ("", {"ANSIBLE_SSH_PIPELINING": "False", "ANSIBLE_SSH_TIMEOUT": "5", "ANSIBLE_FORKS": "2"},
         {"ANSIBLE_PIPELINING": None, "ANSIBLE_TIMEOUT": None, "ANSIBLE_FORKS": None}),
        ("[inventory]\nany_unparsed_is_failed = False\n", {}, {"ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "False"}),
        ("[defaults]\nfact_caching = jsonfile\ngathering = smart\n", {},
         {"ANSIBLE_CACHE_PLUGIN": None, "ANSIBLE_GATHERING": None}),
        ("no configuration", {}, {"ANSIBLE_HOST_KEY_CHECKING": "True", "ANSIBLE_FORKS": "50"}),
    ],
)  # fmt: skip
def test_a_person_s_own_ansible_settings_win_wherever_they_are(
    place: str,
    config: str,
    base: dict[str, str],
    expected: dict[str, str | None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here, home, named, ours = (tmp_path / name for name in ("here", "home", "named", "ours"))
    for directory in (here, home, named, ours):
        directory.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(home))
    path = {"here": here / "ansible.cfg", "home": home / ".ansible.cfg"}.get(place, named / "ansible.cfg")
    path.write_text(config)
    (ours / "ansible.cfg").write_text(
        "[defaults]\nforks = 50\ntimeout = 20\n[connection]\npipelining = true\n[ssh_connection]\nssh_args = -o X=yes\n"
    )
    if place.startswith("named"):
        base = {**base, "ANSIBLE_CONFIG": str(path if place == "named" else named)}
    found = settings.environment(base, ours)
    assert {name: found.get(name) for name in expected} == expected


def test_an_ansible_cfg_in_a_directory_that_everybody_can_write_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    here.chmod(0o777)
    (here / "ansible.cfg").write_text("[defaults]\nhost_key_checking = False\n")
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    found = settings.environment({}, Path("/ours"))
    assert found["ANSIBLE_HOST_KEY_CHECKING"] == "True"
    assert found["ANSIBLE_CONFIG"] == "/ours/ansible.cfg"


def test_our_own_values_reach_ansible_as_they_are_and_are_not_evaluated_as_templates(tmp_path: Path) -> None:
    texts = ["{{ x }}", "{% if %}", 'a"b\\c: #', "päth \U0001f600", "", "yes", "1"]
    given = {"list": [1, None], "flag": True, "args": {str(number): text for number, text in enumerate(texts)}}
    *_, last = runner.arguments(Options("i,", variables=given), tmp_path)
    assert DataLoader().load_from_file(last.removeprefix("@")) == given
    assert Path(last.removeprefix("@")).read_text().count("!unsafe ") == 2


@pytest.mark.parametrize(
    ("limit", "only", "hosts"),
    [
        (None, ["gpu1", "10.0.0.1", "gone"], ["gpu1", "10.0.0.1"]),
        ("gpu", ["gpu2", "gpu10", "cpu"], ["gpu2", "gpu10"]),
        ("gpu1,cpu", ["gpu10", "cpu"], ["cpu"]),
        ("gpu:!gpu2", ["gpu2", "gpu10"], ["gpu10"]),
        ("@some", ["gpu2", "cpu"], ["gpu2"]),
        ("gpu", ["cpu"], []),
        ("@some", None, ["gpu1", "gpu2"]),
        ("@some:&gpu2", None, ["gpu2"]),
    ],
)
def test_hosts_to_retry_are_intersected_with_the_limit(
    limit: str | None, only: list[str] | None, hosts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts.ini").write_text("10.0.0.1\ncpu\n[gpu]\ngpu1\ngpu2\ngpu10\n")
    (tmp_path / "some").write_text("gpu1\ngpu2\n")
    options = Options("hosts.ini", limit=limit, only=only)
    inventory = InventoryManager(DataLoader(), sources=["hosts.ini"])
    inventory.subset(runner.arguments(options, tmp_path)[3])
    assert sorted(host.name for host in inventory.get_hosts()) == sorted(hosts)


# ---- -e ---------------------------------------------------------------------------------------


def test_values_keep_their_order_among_files_and_ours_come_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v.yml").touch()
    given = ["a=1 b='2 3'", "@v.yml", '{"c": [1, null]}']
    words = runner.arguments(Options("i,", extra_vars=given, variables={"d": 4}), tmp_path)
    assert [Path(word).name for word in words[3::2]] == ["0.json", "v.yml", "2.json", "gpuprov.yml"]
    values = [json.loads((tmp_path / name).read_text()) for name in ("0.json", "2.json", "gpuprov.yml")]
    assert values == [{"a": "1", "b": "2 3"}, {"c": [1, None]}, {"d": 4}]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@/nonexistent.yml", "the file of -e @/nonexistent.yml does not exist"),
        ("novalue", "-e takes name=value, a JSON object, or @FILE"),
        ("", "-e takes name=value, a JSON object, or @FILE"),
        ("a='1", "-e cannot be read: failed at splitting arguments"),
        ("{broken", "-e is neither JSON nor YAML: expected ',' or '}'"),
        ("[1]", "-e must be a JSON or YAML object, or name=value"),
    ],
)
def test_a_value_that_is_none_is_said_before_anything_starts(text: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        runner.extra_vars(text)
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("base", "config", "enabled"),
    [
        ({}, "", OURS),
        (
            {},
            "[defaults]\ncallbacks_enabled = timer, profile_tasks\n",
            f"timer,profile_tasks,{OURS}",
        ),
        ({"ANSIBLE_CALLBACKS_ENABLED": "timer"}, "[defaults]\n", f"timer,{OURS}"),
        ({}, "no configuration", OURS),
    ],
)
def test_callbacks_that_the_person_enabled_stay_enabled(
    base: dict[str, str], config: str, enabled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ansible.cfg").write_text(config, encoding="utf-8")
    assert settings.environment(base, Path("/ours"))["ANSIBLE_CALLBACKS_ENABLED"] == enabled


@pytest.mark.parametrize(
    ("base", "config", "searched"),
    [
        ({}, "", ["{home}/.ansible/plugins/become", "/usr/share/ansible/plugins/become"]),
        ({"ANSIBLE_HOME": "/a"}, "[defaults]\n", ["/a/plugins/become", "/usr/share/ansible/plugins/become"]),
        ({}, "[defaults]\nbecome_plugins = own:~/more\n", ["{here}/own", "{home}/more"]),
        ({"ANSIBLE_BECOME_PLUGINS": "x:/y"}, "[defaults]\nbecome_plugins = own\n", ["{here}/x", "/y"]),
        ({"ANSIBLE_BECOME_PLUGINS": "/ours/" + settings.BECOME}, "", []),
        ({}, "no configuration", ["{home}/.ansible/plugins/become", "/usr/share/ansible/plugins/become"]),
    ],
)
def test_the_become_plugins_of_the_person_are_found_before_ours(
    base: dict[str, str], config: str, searched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "ansible.cfg").write_text(config, encoding="utf-8")
    said = settings.environment(base, Path("/ours"))["ANSIBLE_BECOME_PLUGINS"].split(":")
    assert said == [*(path.format(home="/home/me", here=tmp_path) for path in searched), f"/ours/{settings.BECOME}"]
