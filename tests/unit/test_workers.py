"""Slices for worker machines: who is given which hosts, in which waves, and what travels to a worker."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from gpuprov import settings, workers
from gpuprov.options import Options, UsageError
from gpuprov.result import Host, Run
from gpuprov.workers import machines, parcel, remote
from gpuprov.workers.fleet import Fleet, chosen
from gpuprov.workers.machines import Worker
from tests.text import replaced

INVENTORY = """\
[gpu]
g2 ansible_host=192.0.2.2
g1 worker_slots=4
[cpu]
c1
[site:children]
gpu
# Ansible takes groups that are in no other one in any order.
[world:children]
gpu
cpu
site
"""
HOSTS = ["g2", "g1", "c1"]
VARIABLES = """\
raw: !unsafe "{{ no template }}"
template: "{{ ansible_host }}"
ansible_ssh_private_key_file: "{{ inventory_dir }}/key"
ansible_ssh_common_args: -o 'UserKnownHostsFile={here}/known /dev/null' -o ProxyCommand="/bin/sh -x {here}/key %h %p"
ansible_python_interpreter: /bin/sh
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A person's directory: an inventory with groups and variables, a key, known hosts, and settings."""
    home = tmp_path_factory.mktemp("home")
    (home / "hosts.ini").write_text(INVENTORY)
    (home / "group_vars").mkdir()
    (home / "group_vars/all.yml").write_text(VARIABLES.replace("{here}", str(home)))
    for name in ("key", "known", "password"):
        (home / name).write_text(f"content of {name}")
    (home / "ansible.cfg").write_text(
        "[defaults]\nremote_user = ann\nvault_password_file = ./password\nexecutable = /bin/sh\nlog_path = ./log\n"
    )
    return home


@pytest.fixture
def options(home: Path, monkeypatch: pytest.MonkeyPatch) -> Options:
    """The options of a run on that inventory."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    return Options(str(home / "hosts.ini"))


@pytest.fixture(scope="module")
def fleet(home: Path) -> Fleet:
    """The hosts of that inventory."""
    return Fleet(str(home / "hosts.ini"), Options(str(home / "hosts.ini")))


class Crew(workers._Shift):
    """Records what is given out; fails: hosts that fail."""

    def __init__(self, options: Options, fleet: Fleet, fails: tuple[str, ...], pending: tuple[str, ...]) -> None:
        super().__init__(Run("provision", options), lambda event: None, print, Path("/nonexistent"), [], fleet)
        self.run.names = HOSTS
        self.fails, self.pending = fails, pending
        self.given: list[tuple[str, list[str], dict[str, Any]]] = []

    def work(self, playbook: str, hosts: list[str], variables: dict[str, Any], planning: bool = False) -> None:
        self.given.append((playbook, hosts, variables))
        for name in hosts:
            host = self.run.by_name.setdefault(name, Host(name))
            if planning:
                host.plan = {"steps": ["one"] if name in self.pending else [], "changes": []}
            elif name in self.fails:
                host.error = {"message": "no"}


@pytest.mark.parametrize(
    ("serial", "sizes"),
    [(None, [40, 40]), ("100%", [40, 40]), ("1,10%,25%", [1, 4, 10, 10]), ([1, "1%"], [1, 1, 1]), ("3", [3, 3])],
)
def test_waves_have_the_sizes_that_ansible_gives_them(serial: Any, sizes: list[int]) -> None:
    assert list(itertools.islice(workers.waves(serial, 40), len(sizes))) == sizes


@pytest.mark.parametrize(
    ("variables", "fails", "waves"),
    [
        ({}, ("g2",), [HOSTS]),
        ({"gpuprov_serial": "1"}, (), [["g2"], ["g1"], ["c1"]]),
        ({"gpuprov_serial": "1,2"}, ("g2",), [["g2"]]),
        ({"gpuprov_serial": "2,1", "gpuprov_max_fail_percentage": 50}, ("g2",), [["g2", "g1"], ["c1"]]),
        ({"gpuprov_serial": "2,1", "gpuprov_max_fail_percentage": 30}, ("g2",), [["g2", "g1"]]),
        ({"gpuprov_serial": "1", "gpuprov_max_fail_percentage": 100}, ("g2",), [["g2"]]),
    ],
)
def test_waves_hold_across_the_workers(
    options: Options, fleet: Fleet, variables: dict[str, Any], fails: tuple[str, ...], waves: list[list[str]]
) -> None:
    options.variables |= variables
    crew = Crew(options, fleet, fails, ("g1", "g2", "c1"))
    workers._provision(crew)
    planned, *applied = crew.given
    assert planned[:2] == ("plan.yml", HOSTS)
    assert [hosts for _playbook, hosts, _variables in applied] == waves
    # A slice has no waves of its own.
    assert {given["gpuprov_serial"] for _playbook, _hosts, given in applied} == {"100%"}


def test_only_pending_hosts_are_applied_unless_full_is_given(options: Options, fleet: Fleet) -> None:
    for extra, hosts in (([], [["g1"]]), (["gpuprov_full=true"], [HOSTS])):
        options.extra_vars = extra
        crew = Crew(options, fleet, (), ("g1",))
        workers._provision(crew)
        assert [given[1] for given in crew.given[1:]] == hosts


def test_a_worker_for_groups_is_given_their_hosts_and_no_others(options: Options, fleet: Fleet) -> None:
    site, other, lost = (Worker(name, [], 1, groups, "") for name, groups in (("s", ["site"]), ("o", []), ("l", [])))
    lost.lost = "gone"
    shift = workers._Shift(
        Run("plan", options), lambda event: None, print, Path("/nonexistent"), [site, other, lost], fleet
    )
    shift._tried = {"g1": {"o"}}
    assert shift._choose(site, HOSTS, 9) == ["g2"]  # g1 was tried before: it has a slice of its own
    assert shift._choose(site, ["g1", "c1"], 9) == ["g1"]
    assert shift._choose(other, HOSTS, 9) == ["c1"]
    assert shift._choose(lost, HOSTS, 9) == []


def test_the_inventory_of_the_workers_is_read(options: Options, tmp_path: Path) -> None:
    options.workers = options.inventory
    found = {worker.name: worker for worker in machines.read(options)}
    assert [(name, worker.slots) for name, worker in found.items()] == [("c1", 1), ("g1", 4), ("g2", 1)]
    assert found["g2"].ssh[-1] == "192.0.2.2"
    assert "BatchMode=yes" in found["g2"].ssh
    path = tmp_path / "workers.ini"
    path.write_text(replaced(INVENTORY, "worker_slots=4", "worker_slots=none"))
    options.workers = str(path)
    with pytest.raises(UsageError, match="worker_slots of the worker g1 is none, and must be a number from 1 on"):
        machines.read(options)


def test_a_worker_with_another_python_is_told_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    about = {"python": "/usr/bin/python3", "version": "python3.9", "machine": os.uname().machine, "path": "/there"}
    monkeypatch.setattr(machines, "_run", lambda *_: json.dumps(about))
    worker = Worker("w", [], 1, [], "")
    machines.prepare([worker])
    own = f"python3.{sys.version_info[1]}"
    assert worker.lost == (
        f"it has python3.9, and needs {own}, as this machine has: install {own} there, or set "
        "ansible_python_interpreter to it"
    )


def copies_of(directory: Path) -> dict[str, Path]:
    """The copies of files in a parcel, by the names of the files."""
    return {path.name.partition("-")[2]: path for path in (directory / "data/files").iterdir()}


def test_what_a_worker_is_given_names_nothing_of_this_machine(
    home: Path, options: Options, fleet: Fleet, tmp_path: Path
) -> None:
    (home / "vars.yml").write_text("a: 1\n")
    script = home / "script"
    script.write_text("#!/bin/sh\necho told\n")
    script.chmod(0o700)
    options.extra_vars, options.private_key = [f"@{home}/vars.yml", "b=secret"], home / "key"
    options.vault_password_files = [script]
    options.passwords, options.variables = {"--connection-password-file": "hidden"}, {"gpuprov_full": True}
    sent = parcel._Parcel(tmp_path / "data")
    for name in ("hosts.json", "limit"):
        sent.write(f"site/{name}", "g2")
    words = parcel._arguments(sent, options)
    host = parcel._variables(sent, fleet.variables["g2"], home)
    environment = parcel._environment(sent, "/there")
    config = (tmp_path / "data/site/ansible.cfg").read_text()
    # Directories that may be missing on a worker do no harm.
    assert environment.pop("ANSIBLE_BECOME_PLUGINS").endswith(":/there/" + settings.BECOME)
    said = json.dumps([words, host, environment, config])
    assert [text for text in (str(home), str(tmp_path), "secret", "hidden") if text in said] == []
    assert host["raw"] == {"__ansible_unsafe": "{{ no template }}"}
    assert host["template"] == "{{ ansible_host }}"
    assert host["ansible_ssh_common_args"].count("../files/") == 2
    assert "/dev/null" in host["ansible_ssh_common_args"]
    # Programs are those of the host and of the worker.
    assert "/bin/sh -x ../files/" in host["ansible_ssh_common_args"]
    assert (host["ansible_python_interpreter"], "executable = /bin/sh" in config) == ("/bin/sh", True)
    assert "remote_user = ann" in config
    assert "log_path" not in config
    assert environment["ANSIBLE_VAULT_PASSWORD_FILE"] == "../files/" + copies_of(tmp_path)["password"].name
    copies = copies_of(tmp_path)
    assert copies["script"].read_text() == "told\n"
    assert copies["key"].read_text() == "content of key"
    assert {path.stat().st_mode & 0o777 for path in copies.values()} == {0o600}


def test_an_inventory_that_is_sent_is_the_one_that_was_read(options: Options, fleet: Fleet, tmp_path: Path) -> None:
    assert chosen(options) == HOSTS
    options.limit = "site"
    assert chosen(options) == ["g2", "g1"]
    assert fleet.members("site") == {"g1", "g2"}
    (tmp_path / "sent.json").write_text(json.dumps(fleet.inventory(fleet.variables)))
    again = Fleet(str(tmp_path / "sent.json"), options)
    assert again.variables == fleet.variables
    assert {name: again.members(name) for name in ("site", "cpu")} == {"site": {"g1", "g2"}, "cpu": {"c1"}}


def test_a_bundle_stays_on_this_machine(options: Options, tmp_path: Path) -> None:
    (tmp_path / "bundle.yml").write_text("")
    with pytest.raises(UsageError, match="--bundle and --workers"):
        Options(options.inventory, workers=options.inventory, bundle=tmp_path)


def test_the_side_of_the_worker_is_where_the_commands_look_for_it() -> None:
    assert remote.__name__ == "gpuprov.workers.remote"
    names = [name for _path, name in machines._files()]
    of_collection = {f"gpuprov/ansible/{name}" for name in ("playbooks/plan.yml", "ansible.cfg")}
    assert {"gpuprov/workers/remote.py", *of_collection} <= set(names)
    assert not [name for name in names if "__pycache__" in name]
