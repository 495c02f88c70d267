"""What daemon.json is to say, decided without a host."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import daemon_json
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.daemon_json import DaemonJsonError

MIRROR = "http://mirror.example:5000"
NVIDIA = {"nvidia": {"path": "nvidia-container-runtime"}}
WANTED: dict[str, Any] = {
    "options": {"registry-mirrors": [MIRROR], "runtimes": NVIDIA},
    "mode": "0644",
    "follow_symlink": False,
}


def docker(
    config: object = None,
    *,
    active: str = "active",
    info: dict[str, Any] | None = None,
    running: list[str] | None = None,
    exec_start: list[dict[str, str]] | None = None,
    **file: Any,
) -> dict[str, Any]:
    """A probe's ``docker`` object whose daemon.json holds config (bytes as they are)."""
    data = config if isinstance(config, bytes) else b"" if config is None else json.dumps(config).encode()
    kind = "absent" if config is None else "file"
    found_file = {
        "path": "/etc/docker/daemon.json",
        "kind": kind,
        "target": None,
        "mode": "0644",
        "mtime": 100,
    }
    return {
        "config": {**found_file, "data": base64.b64encode(data).decode(), **file},
        "service": {"load": "loaded", "active": active, "enabled": "enabled", "state_changed": 200},
        "exec_start": exec_start or [],
        "info": info,
        "running": [{"id": name, "name": name, "image": "x"} for name in running or []],
        "clock": 1000,
    }


def info(**more: Any) -> dict[str, Any]:
    """A `docker info` of a daemon with the mirror and NVIDIA's runtime in effect."""
    return {
        "RegistryConfig": {"Mirrors": [MIRROR + "/"], "IndexConfigs": {}},
        "Runtimes": {"runc": {"path": "runc"}, "nvidia": {"path": "nvidia-container-runtime"}},
        "LiveRestoreEnabled": False,
        **more,
    }


def decide(found: dict[str, Any], **options: Any) -> tuple[list[dict[str, Any]], Any]:
    changes, text = daemon_json.decide({**WANTED, **options}, found)
    return changes, None if text is None else json.loads(text)


def test_a_missing_file_is_written_with_exactly_what_is_wanted() -> None:
    changes, config = decide(docker(active="inactive"))
    assert config == {"registry-mirrors": [MIRROR], "runtimes": NVIDIA}
    assert [(change["from"], change["to"], change["disruption"]) for change in changes] == [
        (None, f'registry-mirrors ["{MIRROR}"]', "none"),
        (None, 'runtimes.nvidia {"path": "nvidia-container-runtime"}', "none"),
    ]


def test_keys_that_nobody_named_stay_also_nested_ones() -> None:
    foreign: dict[str, Any] = {
        "log-opts": {"max-size": "10m"},
        "runtimes": {"kata": {"path": "/opt/kata"}},
        "x": [1, {"y": None}],
    }
    _changes, config = decide(docker(foreign))
    assert config == {
        **foreign,
        "registry-mirrors": [MIRROR],
        "runtimes": {**foreign["runtimes"], **NVIDIA},
    }


@pytest.mark.parametrize(
    "runtime",
    [
        {"path": "nvidia-container-runtime", "args": []},
        {"path": "nvidia-container-runtime", "runtimeArgs": []},
        {"path": "/usr/bin/nvidia-container-runtime", "args": None},
        {"path": "nvidia-container-runtime", "args": ["--debug"]},
    ],
)
def test_other_spellings_of_the_same_are_left_to_the_byte(runtime: dict[str, Any]) -> None:
    found = docker({"registry-mirrors": [MIRROR + "/"], "runtimes": {"nvidia": runtime}}, info=info())
    assert decide(found) == ([], None)


def test_arguments_keep_the_spelling_that_the_file_has() -> None:
    options = {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "runtimeArgs": ["-v"]}}}
    found = docker({"runtimes": {"nvidia": {"path": "old", "args": []}}})
    _changes, config = decide(found, options=options)
    assert config == {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": ["-v"]}}}


def test_null_takes_a_key_away_and_nothing_else() -> None:
    _changes, config = decide(docker({"debug": True, "bip": "10.0.0.1/24"}), options={"debug": None})
    assert config == {"bip": "10.0.0.1/24"}


def test_an_object_whose_last_entry_is_taken_away_goes_with_it() -> None:
    away = {"runtimes": {"nvidia": None}}
    assert decide(docker({"runtimes": NVIDIA, "debug": True}), options=away)[1] == {"debug": True}
    assert decide(docker({"debug": True}), options=away) == ([], None)


@pytest.mark.parametrize(
    ("options", "disruption"),
    [
        ({"registry-mirrors": ["https://other.example"]}, "reload"),
        ({"runtimes": {"other": {"path": "other"}}}, "reload"),
        ({"features": {"buildkit": True}}, "reload"),
        ({"features": {"containerd-snapshotter": True}}, "restart"),
        ({"log-driver": "journald"}, "restart"),
        ({"debug": True, "data-root": "/data"}, "restart"),
    ],
)
def test_the_disruption_is_that_of_the_worst_key(options: dict[str, Any], disruption: str) -> None:
    changes, _config = decide(docker({}), options=options)
    assert daemon_json.worst(change["disruption"] for change in changes) == disruption


def test_a_daemon_that_does_not_run_is_not_disrupted() -> None:
    changes, _config = decide(docker({}, active="inactive"), options={"data-root": "/data"})
    assert [change["disruption"] for change in changes] == ["none"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (b'{"debug": true,}', "line 1 column"),
        (b'{\n  "debug": yes\n}', "line 2 column 12"),
        (b"[1]", "does not hold a JSON object"),
        (b'{"a": "\xff"}', "is not UTF-8"),
    ],
)
def test_what_is_no_json_object_is_refused_with_the_place(text: bytes, part: str) -> None:
    with pytest.raises(DaemonJsonError, match=part) as caught:
        decide(docker(text))
    assert "/etc/docker/daemon.json" in str(caught.value)


@pytest.mark.parametrize("text", [b"", b" \n", b"\xef\xbb\xbf{}"])
def test_an_empty_file_and_a_byte_order_mark_are_taken(text: bytes) -> None:
    assert decide(docker(text))[1] == WANTED["options"]


def test_a_link_that_leads_out_of_etc_docker_is_refused_unless_allowed() -> None:
    found = docker({}, kind="symlink", target="/srv/daemon.json")
    with pytest.raises(DaemonJsonError, match=r"/srv/daemon\.json"):
        decide(found)
    assert decide(found, follow_symlink=True)[1]
    assert decide(docker({}, kind="symlink", target="site.json"))[1]


def test_a_directory_in_the_files_place_is_refused() -> None:
    with pytest.raises(DaemonJsonError, match="neither a file"):
        decide(docker({}, kind="other"))


@pytest.mark.parametrize(
    ("line", "options", "key"),
    [
        ("/usr/bin/dockerd --registry-mirror=https://x", WANTED["options"], "registry-mirrors"),
        ("/usr/bin/dockerd -H fd://", {"hosts": ["fd://"]}, "hosts"),
        ("/usr/bin/dockerd -D", {"debug": True}, "debug"),
        ("/usr/bin/dockerd --data-root /x", {"data-root": "/y"}, "data-root"),
    ],
)
def test_a_key_that_is_a_flag_too_is_refused_naming_the_unit_file(line: str, options: Any, key: str) -> None:
    drop_in = "/etc/systemd/system/docker.service.d/site.conf"
    found = docker({}, exec_start=[{"file": drop_in, "line": line}])
    with pytest.raises(DaemonJsonError, match=f"{key} is in daemon.json and also a flag of dockerd in {drop_in}"):
        decide(found, options=options)


def test_a_drop_in_that_resets_exec_start_takes_the_flags_of_the_unit_away() -> None:
    lines = ["/usr/bin/dockerd --registry-mirror=https://x", "", "/usr/bin/dockerd -H fd://"]
    found = docker({}, exec_start=[{"file": "unit", "line": line} for line in lines])
    assert decide(found)[1]


def test_a_value_of_a_type_that_dockerd_cannot_read_is_refused() -> None:
    with pytest.raises(DaemonJsonError, match="registry-mirrors is to be of type list"):
        decide(docker({}), options={"registry-mirrors": "https://x"})


@pytest.mark.parametrize("mirror", ["mirror.example", '["https://x"]', "ftp://x", "https://x/path", 5])
def test_a_mirror_that_dockerd_would_not_start_with_is_refused(mirror: object) -> None:
    with pytest.raises(DaemonJsonError, match="is not the URL of a registry"):
        decide(docker({}), options={"registry-mirrors": [mirror]})


def test_a_wrong_mode_is_named_and_an_empty_wish_keeps_it() -> None:
    found = docker(WANTED["options"], info=info(), mode="0600")
    changes, config = decide(found)
    assert config is None
    assert [(change["subject"], change["from"], change["to"]) for change in changes] == [
        ("daemon.json mode", "0600", "0644")
    ]
    assert decide(found, mode="") == ([], None)


def test_a_daemon_that_runs_without_the_files_mirror_is_named() -> None:
    found = docker(WANTED["options"], info=info(RegistryConfig={"Mirrors": []}))
    changes, config = decide(found)
    assert config is None
    assert [(change["from"], change["disruption"]) for change in changes] == [
        ("runs without registry-mirrors", "reload")
    ]


def test_a_daemon_without_a_key_that_needs_a_restart_is_to_be_restarted() -> None:
    found = docker({**WANTED["options"], "log-driver": "journald"}, info=info(LoggingDriver="json-file"))
    assert [change["disruption"] for change in decide(found)[0]] == ["restart"]


def test_a_file_changed_after_the_daemon_took_it_over_is_named() -> None:
    found = docker({**WANTED["options"], "unseen": 1}, info=info(), mtime=500)
    assert [change["from"] for change in decide(found)[0]] == ["runs since before daemon.json was changed"]


@pytest.mark.parametrize("mtime", [150, 201, 5000])
def test_a_file_older_than_the_daemon_or_from_the_future_is_not(mtime: int) -> None:
    assert decide(docker(WANTED["options"], info=info(), mtime=mtime)) == ([], None)


def test_credentials_in_urls_are_not_shown() -> None:
    changes, _config = decide(docker({}), options={"proxies": {"http-proxy": "http://me:secret@proxy:3128"}})
    assert "secret" not in json.dumps(changes)
    assert "http://***@proxy:3128" in changes[0]["to"]


RESTART = [{"role": "docker_daemon", "subject": "daemon.json", "to": "data-root", "disruption": "restart"}]


@pytest.mark.parametrize(
    ("policy", "running", "live_restore", "refused"),
    [
        ("when-idle", ["train"], False, "train"),
        ("when-idle", ["train"], True, None),
        ("when-idle", [], False, None),
        ("always", ["train"], False, None),
        ("never", [], False, "never"),
    ],
)
def test_a_restart_waits_for_what_the_policy_says(
    policy: str, running: list[str], live_restore: bool, refused: str | None
) -> None:
    found = docker({}, running=running, info=info(LiveRestoreEnabled=live_restore))
    refusal = daemon_json.restart_refusal(policy, RESTART, found)
    assert (refused is None) == (refusal is None)
    assert (refused or "") in (refusal or "")


def test_a_reload_is_refused_by_no_policy() -> None:
    changes = [{"role": "docker_daemon", "subject": "daemon.json", "to": "x", "disruption": "reload"}]
    assert daemon_json.restart_refusal("never", changes, docker({}, running=["train"])) is None


def test_only_new_keys_that_an_older_dockerd_does_not_know_are_unknown() -> None:
    before = {"hand-made": 1}
    after = {"hand-made": 2, "registry-mirrors": [], "init": True, "regsitry-mirrors": [], "proxies": {}}
    assert daemon_json.unknown_keys(before, after) == ["proxies", "regsitry-mirrors"]
