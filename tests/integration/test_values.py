"""Values as inventories, -e and templates give them, under each supported ansible-core. Takes no lab host."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.integration.conftest import run

ROOT = Path(__file__).resolve().parents[2]
SPECS = {
    path.parents[1].name: yaml.safe_load(path.read_text())["argument_specs"]
    for path in sorted(ROOT.glob("roles/*/meta/argument_specs.yml"))
}
ENTRY_POINTS = [
    {"role": role, "entry_point": name}
    for role, specs in SPECS.items()
    for name, spec in specs.items()
    if spec["options"]
]
OPTIONS = {name: spec for specs in SPECS.values() for name, spec in specs["main"]["options"].items()}
# Spellings in an INI inventory: of a boolean as a host's variable and in [all:vars], and what it means.
FALSE = ["false", "no", "False", "0", '"false"', "'No'", "off"]
TRUE = ["true", "yes", "True", "1", '"true"', "on"]
DICT = {
    "live-restore": True,
    "log-opts": {"max-size": "50m", "tag": "a b"},
    "gone": None,
    "n": 3,
    "hosts": ["a", 'b"c'],
}
PROXY = {"http": "http://me:p%40ss@proxy.test:3128", "no_proxy": "localhost,.test"}
LISTS = {"str": ["alice", "--mount type=bind,src=/a,dst=/b"], "raw": [{"a": {"b": True}}, {}]}

PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - gpuprov.gpuprov.role_options:
        role: "{{ item.role }}"
        entry_point: "{{ item.entry_point }}"
      loop: "{{ entry_points if everything else entry_points | selectattr('entry_point', 'eq', 'main') }}"
      loop_control: {label: "{{ item.role }} {{ item.entry_point }}"}
      register: __found
      failed_when: false
    - ansible.builtin.copy:
        content: >-
          {{ dict(ansible_play_hosts | zip(ansible_play_hosts | map('extract', hostvars, '__found'))) | to_json }}
        dest: "{{ result }}"
        mode: "0600"
      run_once: true
"""


def _plain(name: str, spec: dict[str, Any]) -> Any:
    """The value that an option is given, and has to come out as, beside its spelling in INI."""
    if spec["type"] == "list":
        return LISTS[spec.get("elements", "str")]
    return {"dict": PROXY if name.endswith("_proxy") else DICT, "int": 7}.get(spec["type"])


def _ini(boolean: str) -> str:
    """Every option in [all:vars]: booleans in a spelling, lists and dictionaries as JSON text, numbers as they are."""
    lines = []
    for name, spec in OPTIONS.items():
        kind = spec.get("type", "str")
        if kind == "bool":
            lines.append(f"{name}={boolean}")
        elif kind in ("list", "dict"):
            lines.append(f"{name}={json.dumps(_plain(name, spec))}")
        elif kind == "int":
            lines.append(f"{name}=7")
        elif name == "docker_image_name":
            lines.append(f"{name}=train:1.9.1")
    return "\n".join(lines)


def _expected(boolean: bool) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, spec in OPTIONS.items():
        kind = spec.get("type", "str")
        if kind != "str":
            values[name] = boolean if kind == "bool" else _plain(name, spec)
    return values


Results = dict[str, list[tuple[dict[str, str], dict[str, Any]]]]


def ask(core: Path, place: Path, inventory: str, *extra: str) -> Results:
    """Return {host: the entry points that it was asked for, each with the result of role_options}."""
    (place / "hosts.ini").write_text(inventory)
    (place / "play.yml").write_text(PLAYBOOK)
    (place / "entry_points.json").write_text(json.dumps({"entry_points": ENTRY_POINTS, "result": str(place / "found")}))
    words = ["ansible-playbook", "-i", "hosts.ini", "play.yml", "-e", "@entry_points.json", *extra]
    done = run(
        [str(core / "bin" / words[0]), *words[1:]],
        place,
        ANSIBLE_COLLECTIONS_PATH=str(ROOT / "playbooks/collections"),
        ANSIBLE_FORKS="4",
    )
    assert done.status == 0, done.text
    found = json.loads((place / "found").read_text())
    return {host: [(one["item"], one) for one in answer["results"]] for host, answer in found.items()}


END = """
[all:vars]
ansible_connection=local
ansible_python_interpreter=/usr/bin/python3
docker_image_name=train:1.9.1
everything=False
"""


def by_option(results: list[tuple[dict[str, str], dict[str, Any]]]) -> Iterator[tuple[str, Any]]:
    """Each option of each entry point, under its own name, with its value."""
    for entry, result in results:
        assert "msg" not in result, (entry, result["msg"])
        for name, value in result["options"].items():
            yield f"{entry['role']}_{name}", value


# A variable of an INI inventory, and what is said of it. As many hosts as there are rows.
WRONG = [
    ("docker_ce_hold=maybe", "docker_ce_hold is 'maybe', and must be true or false"),
    ("docker_ce_uninstall_data=", "docker_ce_uninstall_data is empty, and must be true or false"),
    ("nvidia_docker_remove_v1_containers=None", "nvidia_docker_remove_v1_containers is empty, and must be true"),
    ("docker_daemon_options={live-restore}", "docker_daemon_options is not JSON: "),
    ("docker_daemon_options=live-restore", "docker_daemon_options needs a dictionary"),
    ('docker_daemon_options=["a"]', "docker_daemon_options needs a dictionary"),
    ('docker_daemon_options={"a": true, "a": false}', "docker_daemon_options has the key 'a' twice"),
    ('docker_ce_proxy={"http": "proxy.test:3128"}', "docker_ce_proxy: http must be the URL of a proxy"),
    ('docker_daemon_registry_mirrors={"a": 1}', "docker_daemon_registry_mirrors is a dictionary, and must be a list"),
    ("docker_daemon_registry_mirrors=[https://a]", "docker_daemon_registry_mirrors is not JSON: "),
    ("docker_daemon_backups=few", "docker_daemon_backups is 'few', and must be a whole number"),
    ("docker_daemon_backups=-1", "docker_daemon_backups is -1, and must be a whole number that is not negative"),
    ("docker_daemon_restart=sometimes",
     "docker_daemon_restart is 'sometimes', and must be one of when-idle, always, never"),
    ("docker_group_users=[1, None]", "docker_group_users: element 2 has no value"),
    ("dockerrun_install={{ absent }}", "dockerrun_install cannot be read: 'absent' is undefined"),
    ("dockerrun_defaults=True", "dockerrun_defaults is True, and must be a list"),
    ("docker_image_prune_keep=1.5", "docker_image_prune_keep is 1.5, and must be a whole number"),
    ("gpu_host_verify_containers=all", "gpu_host_verify_containers is 'all', and must be one of none, image, gpu"),
    ("nvidia_docker_stack=cuda", "nvidia_docker_stack is 'cuda', and must be one of nvidia-docker2, toolkit, none"),
    ("docker_image_prune_keep=newest", "docker_image_prune_keep is 'newest', and must be a whole number"),
    ("docker_image_transfer_from=['a']", "docker_image_transfer_from is a list, and must be text"),
]  # fmt: skip


def test_every_value_of_an_ini_inventory_is_what_it_says_or_named_in_one_line(core: Path, tmp_path: Path) -> None:
    spellings = {f"h{number}": word for number, word in enumerate([*FALSE, *TRUE])}
    groups = "".join(
        f"[g{host}]\n{host}\n[g{host}:vars]\n{_ini(word)}\neverything={word in ('false', '1')}\n"
        for host, word in spellings.items()
    )
    wrong = {f"w{number}": row for number, row in enumerate(WRONG)}
    groups += "".join(f"[g{host}]\n{host}\n[g{host}:vars]\n{line}\n" for host, (line, _said) in wrong.items())
    groups += "everything=True\n"  # for the last one
    found = ask(core, tmp_path, groups + END)
    for host, word in spellings.items():
        expected = _expected(word in TRUE)
        seen = [(name, value) for name, value in by_option(found[host]) if name in expected]
        assert {name for name, _value in seen} == set(expected)
        for name, value in seen:
            assert (name, type(value), value) == (name, type(expected[name]), expected[name])
    for host, (line, said) in wrong.items():
        _assert_named(found[host], line.partition("=")[0], said)


def _assert_named(results: list[tuple[dict[str, str], dict[str, Any]]], name: str, said: str) -> None:
    """Every entry point that has the option says the one line, and nobody says anything else."""
    messages = {result["msg"] for _entry, result in results if "msg" in result}
    assert len(messages) == 1, (name, messages)
    message = messages.pop()
    assert message.startswith(said)
    assert "\n" not in message
    for entry, result in results:
        if name in SPECS[entry["role"]][entry["entry_point"]]["options"]:
            assert "msg" in result, (entry, name)


EXTRA = [
    "docker_ce_hold=no docker_ce_uninstall_data=false",
    '{"nvidia_docker_hold": "false", "docker_image_build_no_cache": 0}',
    """docker_daemon_options='{"a": {"b": [1]}}'""",
    "docker_group_users=alice,bob",
    "docker_daemon_backups=0",
    """dockerrun_defaults='["--env A=1,2"]'""",
]
TEMPLATES = """
word: "false"
mirror: https://m.example.com
nvidia_docker_cdi: "{{ word }}"
docker_daemon_cdi: "{{ nvidia_docker_cdi }}"
docker_daemon_follow_symlink: "{{ 'fal' ~ 'se' }}"
docker_daemon_registry_mirrors: '["{{ mirror }}"]'
docker_image_build_args: '{"A": "{{ mirror }}", "B": null}'
docker_ce_remove_packages: "{{ ['a', 'b'] | to_json }}"
docker_image_prune_only: "{{ {'h': ['x']} | to_json }}"
docker_image_build_target: !unsafe "{{.Name}}"
gpu_host_probe_strict: "{{ 0 }}"
gpu_host_probe_timeout: "{{ 30 + 1 }}"
gpu_host_verify_gpu: "{{ word | bool }}"
gpu_host_verify_image:
"""
EXPECTED = {
    "docker_ce_hold": False,
    "docker_ce_uninstall_data": False,
    "nvidia_docker_hold": False,
    "docker_image_build_no_cache": False,
    "docker_daemon_options": {"a": {"b": [1]}},
    "docker_group_users": ["alice", "bob"],
    "docker_daemon_backups": 0,
    "dockerrun_defaults": ["--env A=1,2"],
    "nvidia_docker_cdi": False,
    "docker_daemon_cdi": False,
    "docker_daemon_follow_symlink": False,
    "docker_daemon_registry_mirrors": ["https://m.example.com"],
    "docker_image_build_args": {"A": "https://m.example.com", "B": None},
    "docker_ce_remove_packages": ["a", "b"],
    "docker_image_prune_only": {"h": ["x"]},
    "docker_image_build_target": "{{.Name}}",
    "gpu_host_probe_strict": False,
    "gpu_host_probe_timeout": 31,
    "gpu_host_verify_gpu": False,
    "gpu_host_verify_image": "",
}


def test_values_of_the_command_line_and_of_templates_are_what_they_say(core: Path, tmp_path: Path) -> None:
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text(TEMPLATES)
    extra = [word for text in EXTRA for word in ("-e", text)]
    found = dict(by_option(ask(core, tmp_path, "h\n" + END, *extra)["h"]))
    assert {name: found[name] for name in EXPECTED} == EXPECTED


# Spellings of each type. Those that our conversion accepts must pass Ansible's own validation of roles too, which
# comes first where a role is used without rolespec_validate: false.
SPELLINGS: dict[str, list[Any]] = {
    "bool": [True, False, 0, 1, 1.0, *FALSE, *TRUE, "n", "t", " true "],
    "int": [0, 7, "7", " 7 ", "07", None, ""],
    "str": ["", "x", 5, 1.5, None, "a,b", "[1]", "{}", "{{.Name}}", "07"],
    "list": [[], None, "", "a,b", "a", "[]", '["a", "b,c"]', "['a']", 7, [1, "2"], json.dumps(LISTS["raw"]), [{}]],
    "dict": [{}, DICT, None, "", "{}", json.dumps(DICT), "{'a': True}", {"a": None}],
}
VALIDATE = """
import json, sys
from ansible import release
from ansible.plugins import loader
if hasattr(loader, "init_plugin_loader"):
    loader.init_plugin_loader([sys.argv[1]])
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import role_options
specs, spellings = json.load(sys.stdin)
accepted, refused = 0, []
for name, spec in specs.items():
    for value in spellings[spec.get("type", "str")] + (spec.get("choices") or []):
        try:
            role_options.convert(name, spec, value)
        except role_options.OptionError:
            continue
        accepted += 1
        found = ArgumentSpecValidator({name: spec}).validate({name: value}, validate_role_argument_spec=True)
        if found.error_messages:
            refused.append([name, value])
json.dump([accepted, refused], sys.stdout)
"""


def test_what_our_conversion_accepts_passes_ansible_s_own_validation_of_roles(core: Path, tmp_path: Path) -> None:
    asked = subprocess.run(
        [core / "bin/python", "-c", VALIDATE, ROOT / "playbooks/collections"],
        input=json.dumps([OPTIONS, SPELLINGS]), capture_output=True, text=True, check=True,
    )  # fmt: skip
    accepted, refused = json.loads(asked.stdout)
    assert accepted > 500
    # Ansible has no word for an empty dictionary in text, nor for an empty choice; before 2.19 a null is none where
    # the specification has a default.
    known = [[name, ""] for name, spec in OPTIONS.items() if spec.get("type") == "dict"] + [
        ["nvidia_docker_mode", None]
    ]
    if core.name != ".venv":
        known += [[name, None] for name, spec in OPTIONS.items() if spec["type"] == "str" and spec.get("default")]
    assert [one for one in refused if one not in known] == []
