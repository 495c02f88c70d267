"""Each use of undocumented Ansible API, under every supported ansible-core. Takes no lab host."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What is found with Ansible's undocumented API, and with its documented API alone.
EXPECTED: dict[str, tuple[Any, Any]] = {
    "builtin_become": ("sudo", "sudo"),
    "becomes": (True, True),
    "become_command": (True, True),
    "success_command": (True, True),
    "run_command": ("yes fed", "yes fed"),
    "run_command, no become": ([3, "", "no\n"], [3, "", "no\n"]),
    "uses_pipelining": (True, True),
    "send_file": ("whole gone", "whole gone"),
    "render": ("a42", "a42"),
    "load_variables": (["a42", [{"two": "a42"}], "{{.Name}}"], ["a42", [{"two": "a42"}], "{{.Name}}"]),
    "cause": ("'nowhere' is undefined", "'nowhere' is undefined"),
    "key_values": ({"a": "1", "b": "x y", "_raw_params": "other"},) * 2,
    "interpreter_setting": (sys.executable, sys.executable),
    "run_directory": (True, False),
    "preload_plugins": (True, True),
}
SSH = ["far.example", "2222", "someone", "Compression=no", "echo it's me", True]
PLAY = """
- hosts: one:far
  gather_facts: false
  tasks: []
- hosts: far
  gather_facts: false
  tasks:
    - compat: {out: "{{ playbook_dir }}/whole-ssh.json"}
    - compat: {out: "{{ playbook_dir }}/documented-ssh.json", documented_only: true}
- hosts: one
  gather_facts: false
  become: true
  tasks:
    - compat: {out: "{{ playbook_dir }}/whole.json"}
      register: answer_of_compat
    - compat: {out: "{{ playbook_dir }}/documented.json", documented_only: true}
- hosts: added
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{ answer_of_compat.secret }}"
        dest: "{{ playbook_dir }}/registered"
        mode: "0600"
- hosts: one
  gather_facts: false
  tasks:
    - ansible.builtin.copy: {content: "", dest: "{{ playbook_dir }}/stop", mode: "0600"}
    - ansible.builtin.copy: {content: "", dest: "{{ playbook_dir }}/too-far", mode: "0600"}
"""
INVENTORY = """
one ansible_connection=local ansible_become_user=nobody answer="a{{ 40 + 2 }}" outer="{{ inner }}" inner="{{ nowhere }}"
far ansible_host=far.example ansible_port=2222 ansible_user=someone ansible_password=x
[all:vars]
ansible_ssh_common_args=-o Compression=no
"""
SUDO = """#!/bin/sh
while :; do case $1 in -u | -p) shift 2 ;; -*) shift ;; *) break ;; esac; done
BECAME=yes exec "$@"
"""


@pytest.fixture(scope="module")
def played(core: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The directory of a run of the play, and what it printed."""
    place = tmp_path_factory.mktemp(core.name)
    (place / "action_plugins").mkdir()
    shutil.copy(ROOT / "tests/integration/compat_action.py", place / "action_plugins/compat.py")
    (place / "play.yml").write_text(PLAY)
    (place / "hosts.ini").write_text(INVENTORY)
    sudo = place / "fake-sudo"
    sudo.write_text(SUDO)
    sudo.chmod(0o755)
    environment = {
        **os.environ,
        "ANSIBLE_BECOME_EXE": str(sudo),
        "ANSIBLE_CALLBACKS_ENABLED": ",".join(
            f"gpuprov.gpuprov.{name}" for name in ("stop_between_tasks", "play_hosts", "preload")
        ),
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "playbooks/collections"),
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "GPUPROV_HOSTS": str(place / "play-hosts"),
        "GPUPROV_STOP": str(place / "stop"),
    }
    words = ["bin/ansible-playbook", "-vv", "-i", "hosts.ini", "play.yml"]
    done = subprocess.run(
        [core / words[0], *words[1:]], cwd=place, env=environment, text=True, capture_output=True, check=False
    )
    return place, done.stdout + done.stderr


@pytest.mark.parametrize("name", EXPECTED)
def test_each_use_works_and_so_does_its_fallback(played: tuple[Path, str], name: str) -> None:
    place, printed = played
    found = [json.loads((place / f"{part}.json").read_text())[name] for part in ("whole", "documented")]
    assert found == list(EXPECTED[name]), printed


@pytest.mark.parametrize("part", ["whole", "documented"])
def test_a_command_travels_by_the_ssh_that_the_inventory_describes(played: tuple[Path, str], part: str) -> None:
    place, printed = played
    assert json.loads((place / f"{part}-ssh.json").read_text())["ssh_words"] == SSH, printed


def test_a_hidden_result_can_be_registered_by_a_host_that_joined_a_group(played: tuple[Path, str]) -> None:
    place, printed = played
    assert (place / "registered").read_text() == "hidden-from-callbacks"
    assert "hidden-from-callbacks" not in printed


def test_the_hosts_of_the_first_play_are_written_down(played: tuple[Path, str]) -> None:
    place, printed = played
    assert (place / "play-hosts").read_text() == "one\nfar\n", printed


def test_a_run_ends_between_two_tasks(played: tuple[Path, str]) -> None:
    place, printed = played
    assert (place / "stop").exists(), printed
    assert not (place / "too-far").exists(), printed
