"""Values from an inventory: what each option takes, and what is said of a value that does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleUndefinedVariable
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import role_options
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import lock_file
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.role_options import OptionError

BOOL, INT, STR, DICT = {"type": "bool"}, {"type": "int"}, {"type": "str"}, {"type": "dict"}
LIST = {"type": "list", "elements": "str"}
DICTS = {"type": "list", "elements": "dict"}


@pytest.mark.parametrize(
    ("spec", "value", "expected"),
    [
        *((BOOL, value, False) for value in (False, 0, 0.0, "false", "False", "FALSE", "no", "off", "0", "n", " no ")),
        *((BOOL, value, True) for value in (True, 1, 1.0, "true", "True", "yes", "on", "1", "y", "t")),
        (INT, 5, 5),
        (INT, "5", 5),
        (INT, " 0600 ", 600),
        (INT, 5.0, 5),
        (INT, 0, 0),
        (STR, "1.19.1-1", "1.19.1-1"),
        (STR, 2, "2"),
        (STR, None, ""),
        (STR, "", ""),
        (STR, "{{.Name}}", "{{.Name}}"),
        (LIST, ["a", "b"], ["a", "b"]),
        (LIST, ("a",), ["a"]),
        (LIST, '["a", "b"]', ["a", "b"]),
        (LIST, " ['a', 'b'] ", ["a", "b"]),
        (LIST, "a", ["a"]),
        (LIST, "a, b,", ["a", "b"]),
        (LIST, 1000, ["1000"]),
        (LIST, [1, 2.5, "x"], ["1", "2.5", "x"]),
        (LIST, "[1, 2]", ["1", "2"]),
        (LIST, "", []),
        (LIST, [], []),
        (LIST, "[]", []),
        (LIST, None, []),
        (LIST, '["--mount type=bind,src=/a,dst=/b", "GPU=0,1"]', ["--mount type=bind,src=/a,dst=/b", "GPU=0,1"]),
        (DICTS, [{"a": 1}], [{"a": 1}]),
        (DICTS, '[{"a": 1}]', [{"a": 1}]),
        (DICT, {"a": {"b": [1, None, True]}}, {"a": {"b": [1, None, True]}}),
        (DICT, '{"live-restore": true, "log-opts": {"max-size": "50m"}}',
         {"live-restore": True, "log-opts": {"max-size": "50m"}}),
        (DICT, "{'live-restore': True, 'x': None}", {"live-restore": True, "x": None}),
        (DICT, ' {"a": null} ', {"a": None}),
        (DICT, {1: "a"}, {"1": "a"}),
        (DICT, "", {}),
        (DICT, "{}", {}),
        (DICT, None, {}),
        ({"type": "str", "choices": ["", "cdi"]}, None, ""),
        ({"type": "str", "choices": ["none", "toolkit"]}, "none", "none"),
    ],
)  # fmt: skip
def test_a_value_is_converted(spec: Mapping[str, Any], value: Any, expected: Any) -> None:
    found = role_options.convert("role_option", spec, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("spec", "value", "said"),
    [
        (BOOL, "maybe", "role_option is 'maybe', and must be true or false"),
        (BOOL, "", "role_option is empty, and must be true or false"),
        (BOOL, None, "role_option is empty, and must be true or false"),
        (BOOL, 2, "role_option is 2, and must be true or false"),
        (BOOL, [], "role_option is a list, and must be true or false"),
        (BOOL, {}, "role_option is a dictionary, and must be true or false"),
        (INT, "soon", "role_option is 'soon', and must be a whole number that is not negative"),
        (INT, "-1", "not negative"),
        (INT, -1, "not negative"),
        (INT, 1.5, "role_option is 1.5, and must be a whole number"),
        (INT, True, "role_option is True, and must be a whole number"),
        (INT, float("inf"), "whole number"),
        (INT, float("nan"), "whole number"),
        (INT, None, "role_option is empty"),
        (STR, True, "role_option is True, and must be text"),
        (STR, ["a"], "role_option is a list, and must be text"),
        (STR, {"a": 1}, "role_option is a dictionary, and must be text"),
        (LIST, {"a": 1}, "role_option is a dictionary, and must be a list"),
        (LIST, True, "role_option is True, and must be a list"),
        ({**LIST, "default": ["amd64"]}, None, "role_option is empty, and must be a list"),
        (LIST, ["a", None], "role_option: element 2 has no value"),
        (LIST, ["a", True], "role_option: element 2 is True, and must be text"),
        (LIST, '["a"', "role_option is not JSON: Expecting ',' delimiter at character 5"),
        (LIST, "[a, b]", "role_option is not JSON: Expecting value at character 2"),
        (DICTS, ["a"], "role_option: element 1 needs a dictionary"),
        (DICT, "a=b", "role_option needs a dictionary, in an INI file or on a command line JSON"),
        (DICT, ["a"], "role_option needs a dictionary"),
        (DICT, True, "role_option needs a dictionary"),
        (DICT, '{"a": yes}', "role_option is not JSON: Expecting value at character 7"),
        (DICT, '{"a": 1, "a": 2}', "role_option has the key 'a' twice"),
        (DICT, '{"b": {"a": 1, "a": 2}}', "role_option has the key 'a' twice"),
        (DICT, {True: 1}, "role_option: the key True is not text"),
        ({"type": "str", "choices": ["always", "never"]}, "sometimes",
         "role_option is 'sometimes', and must be one of always, never"),
        ({"type": "str", "choices": ["", "cdi"]}, "x", "one of an empty text, cdi"),
        ({"type": "str", "required": True}, "", "role_option is empty, and it is required"),
        (BOOL, "x" * 200, "…"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_in_one_line_that_names_the_option(
    spec: Mapping[str, Any], value: Any, said: str
) -> None:
    with pytest.raises(OptionError) as caught:
        role_options.convert("role_option", spec, value)
    assert said in str(caught.value)
    assert str(caught.value).startswith("role_option")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["0644", "0600", "", None])
def test_a_mode_is_four_octal_digits_or_empty(value: Any) -> None:
    assert role_options.convert("docker_daemon_config_mode", STR, value) == (value or "")


@pytest.mark.parametrize("value", [420, 644, "644", "0o644", "0888", "u=rw"])
def test_another_mode_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match='must be four octal digits in quotes such as "0644"'):
        role_options.convert("docker_daemon_config_mode", STR, value)


def test_a_wrong_dictionary_is_not_shown_for_it_may_hold_a_password() -> None:
    for value in ('{"proxies": {"http-proxy": "http://u:hunter2@p"}', "proxies=hunter2", ["hunter2"]):
        with pytest.raises(OptionError) as caught:
            role_options.convert("docker_daemon_options", DICT, value)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1,10%", [1, "10%"]), ([1, "10%"], [1, "10%"]), ('[1, "10%"]', [1, "10%"]), (2, [2]), ("2", [2]),
        ("100%", ["100%"]), (["5"], [5]),
    ],
)  # fmt: skip
def test_sizes_of_waves_are_read_in_every_form(value: Any, expected: list[int | str]) -> None:
    assert role_options.wave_sizes(value) == expected


@pytest.mark.parametrize("value", ["0", "x", "101%", "-1", "1,,x", {"a": 1}, True])
def test_a_wrong_size_of_a_wave_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="gpuprov_serial"):
        role_options.wave_sizes(value)


def test_what_is_wrong_with_the_variables_of_the_playbooks_is_said() -> None:
    values = {"gpuprov_full": "maybe", "gpuprov_serial": "often", "gpuprov_quiet": "no", "other": 1}
    assert [problem["name"] for problem in role_options.playbook_problems(values)] == ["gpuprov_full", "gpuprov_serial"]


# ---- A role's options ----------------------------------------------------------------------------


def _resolver(**variables: Any) -> role_options.Resolver:
    """A resolver whose templates are ``{{name}}`` alone."""

    def template(value: Any, variables: dict[str, Any]) -> Any:
        if isinstance(value, str) and value.startswith("{{"):
            name = value.strip("{} ").partition(" ")[0]
            if name not in variables:
                raise AnsibleUndefinedVariable(f"'{name}' is undefined")
            return template(variables[name], variables)
        return value

    def load(path: Path) -> dict[str, Any]:
        import yaml

        return dict(yaml.safe_load(path.read_text()) or {})

    return role_options.Resolver(variables, template, load)


def test_a_role_s_defaults_are_read_from_its_files_where_they_are_hidden() -> None:
    resolver = _resolver()
    assert resolver.resolve("dockerrun") == {"install": True, "defaults": []}
    assert resolver.problems == []


def test_a_value_of_the_inventory_is_converted_and_seen_by_templates_that_name_it() -> None:
    resolver = _resolver(dockerrun_install="{{ mine }}", mine="no")
    assert resolver.resolve("dockerrun") == {"install": False, "defaults": []}
    assert resolver.variables["__dockerrun"] == {"options": {"install": False, "defaults": []}}


def test_a_default_that_names_another_role_s_option_reads_it_converted() -> None:
    resolver = _resolver(docker_ce_restart="{{ docker_daemon_restart }}", docker_daemon_restart="sometimes")
    resolver.resolve("docker_ce")
    assert "docker_daemon_restart is 'sometimes'" in resolver.problems[0]["message"]


def test_options_that_another_role_of_the_play_resolved_are_seen() -> None:
    resolver = _resolver(__nvidia_docker={"options": {"stack": "toolkit"}})
    assert resolver.variables["nvidia_docker_stack"] == "toolkit"


def test_what_cannot_be_read_is_named_with_its_reason() -> None:
    resolver = _resolver(dockerrun_install="{{ absent }}")
    resolver.resolve("dockerrun")
    assert resolver.problems == [
        {"name": "dockerrun_install", "message": "dockerrun_install cannot be read: 'absent' is undefined"}
    ]


def test_a_required_option_that_is_not_set_is_named() -> None:
    resolver = _resolver()
    resolver.resolve("docker_image", "tag")
    assert resolver.problems == [
        {"name": "docker_image_name", "message": "docker_image_name is empty, and it is required"}
    ]


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("docker_image_transfer_from", "docker_image_transfer"),
        ("docker_image_prune_keep", "docker_image"),
        ("docker_ce_hold", "docker_ce"),
        ("nvidia_docker_stack", "nvidia_docker"),
        ("docker_image_transfer_nothing", None),
        ("ansible_user", None),
    ],
)
def test_the_role_of_an_option_is_found_by_its_name(name: str, role: str | None) -> None:
    assert role_options.owner(name) == role


# ---- The lock beside the inventory ---------------------------------------------------------------

PINS = {"docker-ce": "5:29.7.2-1", "containerd.io": "2.3.3-1"}
ENGINE = {
    "docker_ce_version": "5:29.7.2-1", "docker_ce_containerd_version": "2.3.3-1", "docker_ce_buildx_version": "",
    "docker_ce_compose_version": "", "docker_ce_restart": "never", "docker_ce_repo_url": "https://x",
    "docker_ce_proxy": {}, "docker_ce_remove_packages": [], "docker_ce_release": {},
}  # fmt: skip


def _locked(directory: Path, codename: str = "bookworm", **more: Any) -> role_options.Resolver:
    source = lock_file.Source("https://x", "bookworm", (), "1" * 40, "2026-11-27T10:11:12Z", "0" * 64)
    packages = tuple(
        lock_file.Package(name, "amd64", version, "a" * 64, 1, f"{name}.deb", "docker_ce", "docker_ce")
        for name, version in PINS.items()
    )
    system = lock_file.System(PINS, {"docker_ce": source}, packages)
    (directory / lock_file.NAME).write_text(lock_file.dump(lock_file.Lock({("bookworm", "amd64"): system})))
    facts = {"distribution_release": codename, "architecture": "x86_64"}
    return _resolver(**{**ENGINE, "inventory_dir": str(directory), "ansible_facts": facts, **more})


def test_a_role_gets_the_lock_of_the_inventory(tmp_path: Path) -> None:
    resolver = _locked(tmp_path)
    assert resolver.resolve("docker_ce")["version"] == "5:29.7.2-1"
    assert resolver.problems == []
    assert resolver.locked("docker_ce") == {name: [version, "a" * 64] for name, version in PINS.items()}
    # A channel says that the versions are those of the lock.
    moved = _locked(tmp_path, docker_ce_version="5:29.1", docker_ce_channel="29")
    assert moved.resolve("docker_ce")["version"] == moved.variables["docker_ce_version"] == "5:29.7.2-1"
    assert moved.problems == []


@pytest.mark.parametrize(
    ("more", "entry_point", "message"),
    [
        ({"docker_ce_version": "5:28"}, "main", "was made for docker-ce 5:29.7.2-1, the inventory says 5:28: run"),
        ({"docker_ce_channel": "28"}, "check", "has docker-ce 5:29.7.2-1, which is not in docker_ce_channel 28: run"),
        ({"docker_ce_channel": "next"}, "main", 'must be the beginning of a version in quotes such as "29"'),
        (
            {"codename": "trixie"},
            "main",
            "has nothing for trixie amd64 (it has bookworm amd64): add it with gpuprov lock",
        ),
        ({"gpuprov_lock": "other.yml"}, "main", "other.yml does not exist: gpuprov lock writes it"),
        # What is removed needs no lock that fits.
        ({"docker_ce_version": "5:28"}, "uninstall", ""),
        ({"docker_ce_version": "5:28", "gpuprov_lock": ""}, "main", ""),
    ],
)
def test_what_the_lock_does_not_have_stops_a_run(
    more: dict[str, str], entry_point: str, message: str, tmp_path: Path
) -> None:
    resolver = _locked(tmp_path, **more)
    resolver.resolve("docker_ce", entry_point)
    messages = [problem["message"] for problem in resolver.problems]
    assert (not messages) if not message else (len(messages) == 1 and message in messages[0]), messages
