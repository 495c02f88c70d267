"""The content of daemon.json, decided without a host."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_json, daemon_keys, dockerd_flags
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan import daemon_notes

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


def test_arguments_are_written_as_dockerd_reads_them() -> None:
    options = {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": ["-v"]}}}
    found = docker({"runtimes": {"nvidia": {"path": "old", "args": []}}})
    _changes, config = decide(found, options=options)
    assert config == {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": [], "runtimeArgs": ["-v"]}}}


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


@pytest.mark.parametrize(
    ("unseen", "more", "wanted", "disruption", "noted"),
    [
        (True, {}, {}, "restart", False),
        (False, {}, {}, "reload", False),
        (True, {"running": ["job"]}, {}, "reload", True),
        (True, {"running": ["job"]}, {"restart": "always"}, "restart", False),
        (True, {"running": ["job"], "info": {"LiveRestoreEnabled": True}}, {}, "restart", False),
        (True, {}, {"restart": "never"}, "reload", True),
        (True, {"info": {"ServerVersion": "18.09.4"}}, {}, "reload", False),
        (True, {"config": {"runtimes": NVIDIA}}, {}, "none", False),
    ],
)
def test_dockerd_starts_anew_for_the_hook_of_gpus_where_that_disturbs_nothing(
    unseen: bool, more: dict[str, Any], wanted: dict[str, Any], disruption: str, noted: bool
) -> None:
    said = info(**{"ServerVersion": "26.1.5", **more.get("info", {})})
    found = docker(more.get("config", {}), info=said, running=more.get("running"))
    found["hook_unseen"] = unseen
    asked = {**WANTED, "options": {"runtimes": NVIDIA}, **wanted}
    changes = daemon_json.decide(asked, found)[0]
    assert daemon_json.worst(change["disruption"] for change in changes) == disruption
    assert bool(daemon_notes.hook_note(asked, found)) is noted


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
    with pytest.raises(HostError, match=part) as caught:
        decide(docker(text))
    assert "/etc/docker/daemon.json" in str(caught.value)


@pytest.mark.parametrize("text", [b"", b" \n", b"\xef\xbb\xbf{}"])
def test_an_empty_file_and_a_byte_order_mark_are_taken(text: bytes) -> None:
    assert decide(docker(text))[1] == WANTED["options"]


def test_a_link_that_leads_out_of_etc_docker_is_refused_unless_allowed() -> None:
    found = docker({}, kind="symlink", target="/srv/daemon.json")
    with pytest.raises(HostError, match=r"/srv/daemon\.json"):
        decide(found)
    assert decide(found, follow_symlink=True)[1]
    assert decide(docker({}, kind="symlink", target="site.json"))[1]


def test_a_directory_in_the_files_place_is_refused() -> None:
    with pytest.raises(HostError, match="neither a file"):
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
    with pytest.raises(HostError, match=f"{key} is in daemon.json and also a flag of dockerd in {drop_in}"):
        decide(found, options=options)


def test_a_drop_in_that_resets_exec_start_takes_the_flags_of_the_unit_away() -> None:
    lines = ["/usr/bin/dockerd --registry-mirror=https://x", "", "/usr/bin/dockerd -H fd://"]
    found = docker({}, exec_start=[{"file": "unit", "line": line} for line in lines])
    assert decide(found)[1]


def test_a_value_of_a_type_that_dockerd_cannot_read_is_refused() -> None:
    with pytest.raises(HostError, match="registry-mirrors must be a list of strings"):
        decide(docker({}), options={"registry-mirrors": "https://x"})


@pytest.mark.parametrize("mirror", ["mirror.example", '["https://x"]', "ftp://x", "https://", "http://x:port"])
def test_a_mirror_that_dockerd_would_not_start_with_is_refused(mirror: object) -> None:
    with pytest.raises(HostError, match="is not the URL of a registry"):
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


def test_a_daemon_without_a_key_that_needs_a_restart_must_restart() -> None:
    options = {"log-driver": "journald"}
    found = docker(options, info=info(LoggingDriver="json-file"))
    assert [change["disruption"] for change in decide(found, options=options)[0]] == ["restart"]


def test_what_somebody_else_changed_after_dockerd_read_it_is_noted_and_not_acted_on() -> None:
    found = docker({**WANTED["options"], "userland-proxy": False}, info=info(), mtime=500)
    assert decide(found) == ([], None)
    assert "what gpuprov sets is in effect, and other keys may not be" in (
        daemon_notes.unread_note(WANTED, found) or ""
    )
    assert daemon_notes.unread_note(WANTED, docker(WANTED["options"], info=info())) is None
    # Beside keys of gpuprov's that dockerd does not show.
    wanted = {**WANTED, "options": {**WANTED["options"], "log-opts": {"max-size": "9m"}, "max-concurrent-downloads": 2}}
    found = docker({**wanted["options"], "userland-proxy": False}, info=info(), mtime=500)
    assert decide(found, options=wanted["options"]) == ([], None)
    assert "does not show whether log-opts, max-concurrent-downloads" in (daemon_notes.unread_note(wanted, found) or "")


@pytest.mark.parametrize("mtime", [150, 201, 5000])
def test_a_file_older_than_the_daemon_or_from_the_future_is_not(mtime: int) -> None:
    assert decide(docker(WANTED["options"], info=info(), mtime=mtime)) == ([], None)


def test_credentials_in_urls_are_not_shown() -> None:
    changes, _config = decide(docker({}), options={"proxies": {"http-proxy": "http://me:secret@proxy:3128"}})
    assert "secret" not in json.dumps(changes)
    assert "http://***@proxy:3128" in changes[0]["to"]


@pytest.mark.parametrize(
    ("policy", "running", "live_restore", "file", "options", "refused"),
    [
        ("when-idle", ["train"], False, {}, {}, "train"),
        ("when-idle", ["train"], True, {"live-restore": True}, {}, None),
        ("when-idle", [], False, {}, {}, None),
        ("always", ["train"], False, {}, {}, None),
        ("never", [], False, {}, {}, "never"),
        # A dockerd that starts without live-restore ends what the one before it kept.
        ("when-idle", ["train"], True, {"live-restore": True}, {"live-restore": None}, "train"),
        ("when-idle", ["train"], True, {"live-restore": True}, {"live-restore": False}, "train"),
        ("when-idle", ["train"], True, {"log-driver": "local"}, {}, "train"),
        ("when-idle", ["train"], True, {"live-restore": False}, {"live-restore": True}, None),
    ],
)
def test_a_restart_waits_for_what_the_policy_says(
    policy: str,
    running: list[str],
    live_restore: bool,
    file: dict[str, Any],
    options: dict[str, Any],
    refused: str | None,
) -> None:
    found = docker(file, running=running, info=info(LiveRestoreEnabled=live_restore))
    changes, _config = decide(found, options={"data-root": "/data", **options})
    refusal = daemon_json.restart_refusal(policy, changes, found)
    assert (refused is None) == (refusal is None)
    assert (refused or "") in (refusal or "")


def test_a_reload_is_refused_by_no_policy() -> None:
    changes = decide(docker({}), options={"debug": True})[0]
    assert daemon_json.restart_refusal("never", changes, docker({}, running=["train"])) is None


# Values of others, as a file has them and as dockerd shows them: whatever the form, gpuprov does not act.
FOREIGN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"insecure-registries": ["http://registry.example.com:5000"]}, {}),
    ({"insecure-registries": ["10.1.2.3/8", "https://R.example"]}, {"RegistryConfig": {"Mirrors": [MIRROR + "/"]}}),
    ({"data-root": "/var/lib/docker-data/"}, {"DockerRootDir": "/var/lib/docker-data"}),
    ({"data-root": "/data", "userns-remap": "default"}, {"DockerRootDir": "/srv/data/165536.165536"}),
    ({"storage-driver": "overlay2"}, {"Driver": "overlayfs"}),
    ({"default-runtime": ""}, {"DefaultRuntime": "runc"}),
    ({"log-driver": ""}, {"LoggingDriver": "json-file"}),
    ({"labels": ["a=1", "a=1"]}, {"Labels": ["a=1"]}),
    ({"debug": False}, {"Debug": True}),
    ({"live-restore": True}, {"LiveRestoreEnabled": False}),
    ({"experimental": None}, {"ExperimentalBuild": True}),
    ({"runtimes": {**NVIDIA, "kata": {"Path": "/opt/kata", "runtimeType": "io.containerd.kata.v2"}}}, {}),
    ({"runtimes": {**NVIDIA, "gone": {"path": "/x"}}}, {}),
    ({"log-opts": {"max-size": "9m"}, "mtu": 1400, "site-key": {"debug": True}}, {}),
]


@pytest.mark.parametrize(("foreign", "shown"), FOREIGN)
def test_keys_that_gpuprov_does_not_set_are_never_a_reason_to_act(
    foreign: dict[str, Any], shown: dict[str, Any]
) -> None:
    found = docker({**WANTED["options"], **foreign}, info=info(**shown))
    assert decide(found) == ([], None)
    assert daemon_notes.unread_note(WANTED, found) is None


# The same values, set by gpuprov: what dockerd shows is the same in its own form.
OWN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"insecure-registries": ["http://r.example:5000", "10.1.2.3/8", "fd00::1/16"]},
        {
            "RegistryConfig": {
                "IndexConfigs": {"r.example:5000": {"Secure": False}, "docker.io": {"Secure": True}},
                "InsecureRegistryCIDRs": ["127.0.0.0/8", "10.0.0.0/8", "fd00::/16"],
            }
        },
    ),
    (
        {"registry-mirrors": ["http://a/", "http://a", "http://b"]},
        {"RegistryConfig": {"Mirrors": ["http://a/", "http://b/"]}},
    ),
    *FOREIGN[2:8],
    ({"data-root": "/link"}, {"DockerRootDir": "/target"}),
    ({"runtimes": {"x": {"path": "/usr/bin/x"}}}, {"Runtimes": {"x": {"path": "x"}, "runc": {"path": "runc"}}}),
    ({"runtimes": {"k": {"runtimeType": "io.containerd.kata.v2"}}}, {"Runtimes": {"k": {"runtimeType": "x"}}}),
    ({"log-opts": {"max-size": "9m"}, "max-concurrent-downloads": 2}, {}),
]


@pytest.mark.parametrize(("options", "shown"), OWN)
def test_what_gpuprov_sets_is_compared_in_the_form_in_which_dockerd_shows_it(
    options: dict[str, Any], shown: dict[str, Any]
) -> None:
    assert decide(docker(options, info=info(**shown)), options=options) == ([], None)


def test_keys_that_a_run_wrote_and_dockerd_had_no_chance_to_take_over_are_named() -> None:
    options = {"log-opts": {"max-size": "9m"}, "registry-mirrors": [MIRROR]}
    found = docker(options, info=info())
    found["service"]["main_pid"] = 7
    gone = "runs with debug, which is not in daemon.json any more"
    for pid, keys, changes in (
        (7, ["log-opts", "registry-mirrors"], [("runs without log-opts", "restart")]),
        (7, ["authorization-plugins"], [(gone.replace("debug", "authorization-plugins"), "reload")]),
        (7, ["debug"], [(gone, "restart")]),
        (8, ["log-opts"], []),
        (0, ["log-opts"], []),
    ):
        found["pending"] = {"pid": pid, "keys": keys}
        assert [(one["from"], one["disruption"]) for one in decide(found, options=options)[0]] == changes


@pytest.mark.parametrize(
    ("text", "config"),
    [
        (
            '{"log-opts":{"max-size":"10m"},"runtimes":{"r":{"path":"/r"}},"log-opts":{"max-file":"3"},"runtimes":{"k":{}}}',
            {"log-opts": {"max-size": "10m", "max-file": "3"}, "runtimes": {"r": {"path": "/r"}, "k": {}}},
        ),
        ('{"features":{"a":true,"b":true},"features":{"b":false}}', {"features": {"a": True, "b": False}}),
        ('{"debug":true,"debug":false}', {"debug": False}),
        ('{"mtu":1400,"mtu":null}', {"mtu": 1400}),
        ('{"dns":["1.1.1.1"],"dns":["9.9.9.9"]}', {"dns": ["9.9.9.9"]}),
        ('{"log-opts":{"a":"1"},"log-opts":null,"log-opts":{"b":"2"}}', {"log-opts": {"b": "2"}}),
        # Go decodes an entry of a map afresh, and a struct into the one that is there.
        (
            '{"runtimes":{"x":{"path":"/a","runtimeArgs":["-v"]}},"runtimes":{"x":{"path":"/b"}}}',
            {"runtimes": {"x": {"path": "/b"}}},
        ),
        ('{"runtimes":{"x":{"path":"/a"},"x":{"path":"/b"}}}', {"runtimes": {"x": {"path": "/b"}}}),
        (
            '{"runtimes":{"x":{"Path":"/a","RUNTIMEARGS":["-v"]}}}',
            {"runtimes": {"x": {"path": "/a", "runtimeArgs": ["-v"]}}},
        ),
        (
            '{"builder":{"gc":{"enabled":true}},"builder":{"gc":{"defaultKeepStorage":"9GB"}}}',
            {"builder": {"gc": {"enabled": True, "defaultKeepStorage": "9GB"}}},
        ),
        (
            '{"proxies":{"no-proxy":"a"},"proxies":{"http-proxy":"http://b"}}',
            {"proxies": {"no-proxy": "a", "http-proxy": "http://b"}},
        ),
    ],
)
def test_a_key_that_stands_twice_is_read_as_dockerd_reads_it(text: str, config: dict[str, Any]) -> None:
    assert daemon_json.parse(text.encode(), "x") == config


def test_an_unknown_object_that_stands_twice_is_refused_by_name() -> None:
    with pytest.raises(HostError, match="the key site stands twice"):
        daemon_json.parse(b'{"site":{"a":1},"site":{"b":2}}', "x")


@pytest.mark.parametrize(
    ("mirror", "version", "good"),
    [
        ("https://harbor.example.com/hub-proxy", "25.0.0", True),
        ("https://harbor.example.com/hub-proxy/", "24.0.8", True),
        ("https://harbor.example.com/a/b", "29.7.2", True),
        ("https://harbor.example.com/hub-proxy", "24.0.7", False),
        ("https://harbor.example.com/hub-proxy", "20.10.24+dfsg1", False),
        ("https://harbor.example.com/hub-proxy", "5:18.09.4~3-0~ubuntu-xenial", False),
        ("http://[fd00::5]:5000", "26.1.5+dfsg1", True),
        ("http://[fd00::5]", "20.10.24", True),
        ("HTTPS://mirror.example", "29.7.2", True),
        ("https://me:secret@mirror.example", "29.7.2", False),
        ("https://mirror.example?x=1", "29.7.2", False),
        ("https://mirror.example/#x", "29.7.2", False),
        ("http://fd00::5:5000", "29.7.2", False),
    ],
)
def test_mirrors_are_those_that_the_engine_takes(mirror: str, version: str, good: bool) -> None:
    found = docker({}, info=info(ServerVersion=version, RegistryConfig={"Mirrors": []}))
    if good:
        assert decide(found, options={"registry-mirrors": [mirror]})[1]
        return
    with pytest.raises(HostError) as caught:
        decide(found, options={"registry-mirrors": [mirror]})
    assert "secret" not in str(caught.value)


def test_what_a_running_dockerd_has_read_is_not_said_to_stop_it() -> None:
    foreign = {"registry-mirrors": ["https://h.example/path"], "site-key": 1, "log-opts": {"max-file": 3}}
    assert decide(docker(foreign, info=info(ServerVersion="20.10.24")), options={"debug": True})[1]
    for host in (docker(foreign, active="failed"), docker(foreign, info=info(), mtime=500)):
        with pytest.raises(HostError, match=r"log-opts must be .*has no key site-key"):
            decide({**host, "version": "29.7.2"}, options={"debug": True})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"log-opt": {"max-size": "10m"}}, "no key log-opt (is log-opts meant?)"),
        ({"Registry-Mirrors": [MIRROR]}, "no key Registry-Mirrors (is registry-mirrors meant?)"),
        ({"regsitry-mirrors": []}, "no key regsitry-mirrors"),
        (
            {"default-ulimits": {"nofile": {"Name": "nofile", "Soft": "64000"}}},
            "default-ulimits.nofile.Soft must be an integer",
        ),
        ({"default-ulimits": {"nofile": 64000}}, "default-ulimits must be an object of objects"),
        ({"default-address-pools": [{"base": "10.0.0.0/8", "size": "24"}]}, "default-address-pools.0.size must be"),
        ({"default-address-pools": {"base": "10.0.0.0/8"}}, "default-address-pools must be a list of objects"),
        ({"runtimes": {"x": {"path": ["/x"]}}}, "runtimes.x.path must be a string"),
        ({"runtimes": {"x": {"path": "/x", "runtimeArgs": "-v"}}}, "runtimes.x.runtimeArgs must be a list of strings"),
        ({"features": {"buildkit": "true"}}, "features must be an object of booleans"),
        ({"storage-opts": [{"size": "1g"}]}, "storage-opts must be a list of strings"),
        ({"storage-opts": {"size": "1g"}}, "storage-opts must be a list of strings"),
        ({"labels": {"a": "b"}}, "labels must be a list of strings"),
        ({"labels": ["gpu"]}, "labels must be KEY=VALUE"),
        ({"exec-opts": ["systemd"]}, "exec-opts must be KEY=VALUE"),
        ({"log-opts": {"labels": ["a"]}}, "log-opts must be an object of strings"),
        ({"log-opts": {"max-siz": "1m"}}, "the log driver json-file has no option max-siz"),
        ({"mtu": "1400"}, "mtu must be an integer"),
        ({"mtu": -1}, "mtu must be an integer that is not negative"),
        ({"debug": "true"}, "debug must be true or false"),
        ({"shutdown-timeout": True}, "shutdown-timeout must be an integer"),
        ({"log-level": "loud"}, "log-level must be one of"),
        ({"default-runtime": "nvidia"}, "which is not among runtimes"),
        ({"nri-opts": []}, "nri-opts must be an object"),
        ({"graph": "/x"}, "dockerd 29.7.2 has no key graph"),
    ],
)
@pytest.mark.parametrize("host", [docker(active="inactive"), docker({}, info=info())])
def test_a_wrong_value_is_refused_before_anything_is_touched(
    options: dict[str, Any], said: str, host: dict[str, Any]
) -> None:
    with pytest.raises(HostError) as caught:
        decide({**host, "version": "29.7.2"}, options=options)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({"log-opts": {"max-file": 3, "compress": True}}, {"log-opts": {"max-file": "3", "compress": "true"}}),
        (
            {"default-network-opts": {"bridge": {"com.docker.network.driver.mtu": 1400}}},
            {"default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}}},
        ),
        (
            {"log-driver": "fluentd", "log-opts": {"fluentd-async": False}},
            {"log-driver": "fluentd", "log-opts": {"fluentd-async": "false"}},
        ),
    ],
)
def test_numbers_become_text_where_dockerd_takes_text_only(options: dict[str, Any], config: dict[str, Any]) -> None:
    assert decide({**docker(active="inactive"), "version": "29.7.2"}, options=options)[1] == config


@pytest.mark.parametrize(
    ("key", "version", "disruption"),
    [
        ("default-shm-size", "18.09.4", "reload"),
        ("default-ipc-mode", "26.1.5", "reload"),
        ("network-diagnostic-port", "28.5.2", "reload"),
        ("default-cgroupns-mode", "20.10.24", "reload"),
        ("nri-opts", "29.2.0", "reload"),
        ("default-stop-timeout", "29.7.2", "reload"),
        ("max-download-attempts", "29.7.2", "restart"),
        ("max-concurrent-downloads", "18.09.4", "reload"),
        ("log-opts", "29.7.2", "restart"),
        ("default-ulimits", "29.7.2", "restart"),
        ("something-new", "31.0.0", "restart"),
    ],
)
def test_what_a_reload_takes_over_depends_on_the_engine(key: str, version: str, disruption: str) -> None:
    assert daemon_json.disruption_of([key], version=daemon_keys.version_of(version)) == disruption


@pytest.mark.parametrize(
    ("config", "options", "version", "disruption"),
    [
        ({"debug": True}, {"debug": None}, "28.5.2", "restart"),
        ({"debug": True}, {"debug": False}, "28.5.2", "reload"),
        ({"default-runtime": "runc"}, {"default-runtime": None}, "20.10.24", "restart"),
        ({"default-runtime": "io.containerd.runc.v2"}, {"default-runtime": ""}, "26.1.5", "restart"),
        ({"default-ipc-mode": "private"}, {"default-ipc-mode": None}, "26.1.5", "restart"),
        ({"default-shm-size": "1G"}, {"default-shm-size": None}, "26.1.5", "restart"),
        ({"insecure-registries": ["a"]}, {"insecure-registries": None}, "28.5.2", "restart"),
        ({"labels": ["a=1"]}, {"labels": None}, "29.7.2", "restart"),
        ({"labels": ["a=1"]}, {"labels": []}, "29.7.2", "reload"),
        ({"live-restore": True}, {"live-restore": None}, "29.7.2", "restart"),
        ({"registry-mirrors": ["http://a"]}, {"registry-mirrors": None}, "29.7.2", "restart"),
        ({"shutdown-timeout": 9}, {"shutdown-timeout": None}, "29.7.2", "restart"),
        # The last runtime takes the key with it, the last but one does not.
        ({"runtimes": {"x": {"path": "x"}}}, {"runtimes": {"x": None}}, "28.5.2", "restart"),
        ({"runtimes": {"x": {"path": "x"}, "y": {"path": "y"}}}, {"runtimes": {"x": None}}, "28.5.2", "reload"),
        # What has a default again at a reload.
        ({"authorization-plugins": ["a"]}, {"authorization-plugins": None}, "20.10.24", "reload"),
        ({"features": {"buildkit": False}}, {"features": None}, "20.10.24", "reload"),
        ({"max-concurrent-downloads": 9}, {"max-concurrent-downloads": None}, "18.09.9", "restart"),
        ({"max-concurrent-downloads": 9}, {"max-concurrent-downloads": None}, "20.10.24", "reload"),
        ({"network-diagnostic-port": 9}, {"network-diagnostic-port": None}, "26.1.5", "reload"),
        ({"log-opts": {"max-size": "9m"}}, {"log-opts": None}, "28.5.2", "restart"),
    ],
)
def test_a_key_is_taken_away_by_a_reload_only_where_dockerd_lets_go_of_it(
    config: dict[str, Any], options: dict[str, Any], version: str, disruption: str
) -> None:
    changes, _config = decide({**docker(config), "version": version}, options=options)
    assert {change["disruption"] for change in changes} == {disruption}


UNIT = "[Unit]\nDescription=x\n[Service]\nExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/c.sock\n"
RESET = (
    "[Service]\nEnvironmentFile=-/etc/default/docker\nExecStart=\nExecStart=/usr/bin/dockerd -H fd:// $DOCKER_OPTS\n"
)


@pytest.mark.parametrize(
    ("drop_in", "defaults", "command", "options", "refused"),
    [
        (
            RESET,
            'DOCKER_OPTS="--registry-mirror=http://x --debug"\n',
            "",
            {"debug": True},
            "debug is in daemon.json and also a flag of dockerd in /etc/default/docker",
        ),
        (
            RESET,
            "DOCKER_OPTS='--registry-mirror http://x'\n",
            "",
            {"registry-mirrors": ["http://y"]},
            "/etc/default/docker",
        ),
        (RESET, 'DOCKER_OPTS="--data-root=/srv/dd"\n', "", {"registry-mirrors": ["http://y"]}, ""),
        (RESET, 'OTHER="--debug"\n#DOCKER_OPTS="--debug"\n', "", {"debug": True}, ""),
        (
            RESET,
            'DOCKER_OPTS="--add-runtime x=/x"\n',
            "",
            {"runtimes": {"y": {"path": "/y"}}, "default-runtime": "x"},
            "",
        ),
        (
            '[Service]\nEnvironment="A=--debug" B=2\nExecStart=\nExecStart=/usr/bin/dockerd ${A}\n',
            "",
            "",
            {"debug": True},
            "drop-in.conf",
        ),
        (
            "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd \\\n  --log-opt max-size=1m\n",
            "",
            "",
            {"log-opts": {"max-size": "2m"}},
            "log-opts",
        ),
        (
            "[Service]\nExecStart=\nExecStart=/bin/sh -c 'exec dockerd --debug'\n",
            "",
            "dockerd --debug",
            {"debug": True},
            "the running dockerd",
        ),
        (
            "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd --config-file=/srv/d.json\n",
            "",
            "",
            {"debug": True},
            "dockerd reads /srv/d.json",
        ),
        (
            "[Service]\nExecStart=\nExecStart=/usr/bin/dockerd --http-proxy=http://p\n",
            "",
            "",
            {"proxies": {"http-proxy": "http://q"}},
            "http-proxy",
        ),
        ("", "DOCKER_OPTS=--debug\n", "", {"debug": True}, ""),
    ],
)
def test_only_real_conflicts_with_flags_are_refused_wherever_they_stand(
    drop_in: str, defaults: str, command: str, options: dict[str, Any], refused: str
) -> None:
    units = [("docker.service", UNIT), ("drop-in.conf", drop_in)]
    found = docker({}, exec_start=dockerd_flags.exec_start(units, {"/etc/default/docker": defaults}, command))
    if not refused:
        assert decide(found, options=options)[1]
        return
    with pytest.raises(HostError) as caught:
        decide(found, options=options)
    assert refused in str(caught.value)
