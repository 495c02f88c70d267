"""docker_daemon_proxy: what it takes, where each engine is told of it, and that no password is shown."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_json, daemon_proxy
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import role_options
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.role_options import OptionError

from tests.unit.test_daemon_json import docker, info
from tests.unit.test_gpu_host_plan_action import Host

URL, OTHER = "http://me:s3cr3t@proxy.test:3128", "http://me:0ther@proxy.test:3128"
PROXY = {"http": URL, "no_proxy": "localhost,.test"}
SHOWN = "HTTP_PROXY=http://***@proxy.test:3128, NO_PROXY=localhost,.test"
JSON = 'proxies {"http-proxy": "http://***@proxy.test:3128", "no-proxy": "localhost,.test"}'
TEXTS = {
    daemon_proxy.ENVIRONMENT: f'HTTP_PROXY="{URL}"\nNO_PROXY="localhost,.test"\n',
    daemon_proxy.DROP_IN: "# Written by gpuprov's role docker_daemon\n[Service]\n"
    "EnvironmentFile=-/etc/docker/gpuprov-proxy.env\n",
}


def convert(value: Any) -> Any:
    return role_options.convert("docker_daemon_proxy", {"type": "dict"}, value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, {}),
        (None, {}),
        ({"http": "", "https": None, "no_proxy": []}, {}),
        ('{"http": "http://p:1"}', {"http": "http://p:1"}),
        ({"https": "https://a%40b:p%2Fw@[fd00::1]:3128/"}, {"https": "https://a%40b:p%2Fw@[fd00::1]:3128/"}),
        ({"http": "socks5://10.0.0.1:1080"}, {"http": "socks5://10.0.0.1:1080"}),
        ({"no_proxy": ["localhost", "10.0.0.0/8"]}, {"no_proxy": "localhost,10.0.0.0/8"}),
        ({"no_proxy": "localhost, *.test ,[fd00::1]"}, {"no_proxy": "localhost,*.test,[fd00::1]"}),
    ],
)
def test_a_proxy_is_taken_as_people_write_it(value: Any, expected: dict[str, str]) -> None:
    assert convert(value) == expected


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"htp": "http://p:1"}, "unknown key htp; the keys are http, https and no_proxy"),
        ({"http": "s3cr3t@proxy.test:3128"}, "http must be the URL of a proxy"),
        ({"http": "http://me:s3cr3t@x@proxy.test:3128"}, "percent-encoded (@ is %40)"),
        ({"http": "http://me:s3cr3t/x@proxy.test"}, "http must be"),
        ({"https": 'http://me:"s3cr3t@proxy.test'}, "https must be"),
        ({"https": "http://me:s3cr3t\n@proxy.test"}, "https must be"),
        ({"https": "http://proxy.test/path"}, "https must be"),
        ({"http": "http://me:s3cr3té@proxy.test"}, "http must be"),
        ({"http": 3128}, "http must be"),
        ({"http": ["http://p:1"]}, "http must be"),
        ({"no_proxy": "a b"}, "no_proxy must be names, domains and networks, joined by commas"),
        ({"no_proxy": {"a": 1}}, "no_proxy must be"),
        ("http://me:s3cr3t@proxy.test", "needs a dictionary"),
    ],
)
def test_a_wrong_proxy_is_refused_in_one_line_without_its_password(value: Any, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        convert(value)
    message = str(caught.value)
    assert message.startswith("docker_daemon_proxy")
    assert said in message
    assert "s3cr3t" not in message
    assert "\n" not in message


def decide(version: str, proxy: dict[str, str], found: dict[str, Any]) -> tuple[list[Any], Any]:
    wanted = {"options": {}, "mode": "0644", "follow_symlink": False, "proxy": proxy}
    changes, text = daemon_json.decide(wanted, {**found, "version": version})
    shown = [(change["subject"], change["from"], change["to"], change["disruption"]) for change in changes]
    assert "s3cr3t" not in json.dumps(shown)
    return shown, None if text is None else json.loads(text)


def files(texts: dict[str, str], **modes: str) -> dict[str, Any]:
    return {
        path: {
            "mode": modes.get(path.rpartition(".")[2], f"{daemon_proxy.MODES[path]:04o}"),
            "uid": 0,
            "gid": 0,
            "data": base64.b64encode(text.encode()).decode(),
        }
        for path, text in texts.items()
    }


IN_FILE = {"proxies": {"http-proxy": URL, "no-proxy": "localhost,.test"}}
OLDER, NEWER = "5:20.10.24~3-0~debian-bookworm", "26.1.5"


@pytest.mark.parametrize(
    ("version", "config", "there", "mode", "changes", "text"),
    [
        # Each engine is told where it looks, and only there.
        (OLDER, None, {}, "0644", [("proxy of docker.service", None, SHOWN, "restart")], None),
        (NEWER, None, {}, "0644", [("daemon.json", None, JSON, "restart")], IN_FILE),
        ("23.0.6", None, {}, "0644", [("daemon.json", None, JSON, "restart")], IN_FILE),
        ("", None, {}, "0644", [("daemon.json", None, JSON, "restart")], IN_FILE),
        (OLDER, None, TEXTS, "0644", [], None),
        (NEWER, IN_FILE, {}, "0600", [], None),
        # An upgrade past 23, and back.
        (NEWER, None, TEXTS, "0644",
         [("daemon.json", None, JSON, "restart"), ("proxy of docker.service", SHOWN, None, "restart")], IN_FILE),
        (OLDER, {**IN_FILE, "debug": True}, {}, "0600",
         [("daemon.json", JSON, None, "restart"), ("daemon.json mode", "0600", "0644", "none"),
          ("proxy of docker.service", None, SHOWN, "restart")], {"debug": True}),
        # Other members of proxies are not wanted; one with a password is root's alone.
        (NEWER, {"proxies": {**IN_FILE["proxies"], "https-proxy": "http://x"}}, {}, "0600",
         [("daemon.json", JSON.replace('"no-', '"https-proxy": "http://x", "no-'), JSON,
           "restart")], IN_FILE),
        (NEWER, IN_FILE, {}, "0644", [("daemon.json mode", "0644", "0600", "none")], None),
        # Somebody edited our files.
        (OLDER, None, {daemon_proxy.ENVIRONMENT: TEXTS[daemon_proxy.ENVIRONMENT]}, "0644",
         [("proxy of docker.service", f"{SHOWN}, not in use", SHOWN, "restart")], None),
        (OLDER, None, {**TEXTS, daemon_proxy.ENVIRONMENT: TEXTS[daemon_proxy.ENVIRONMENT].replace(URL, OTHER)}, "0644",
         [("proxy of docker.service", f"{SHOWN}, other credentials", SHOWN, "restart")], None),
    ],
)  # fmt: skip
def test_an_engine_is_told_of_its_proxy_where_it_looks(
    version: str, config: Any, there: dict[str, str], mode: str, changes: list[Any], text: Any
) -> None:
    found = {**docker(config, mode=mode), "proxy_files": files(there)}
    assert decide(version, PROXY, found) == (changes, text)


def test_files_of_ours_that_others_can_read_are_closed_without_a_restart() -> None:
    found = {**docker(None), "proxy_files": files(TEXTS, env="0644")}
    assert decide(OLDER, PROXY, found)[0] == [
        ("proxy of docker.service, gpuprov-proxy.env", "0:0 0644", "0:0 0600", "none")
    ]


@pytest.mark.parametrize("version", [OLDER, NEWER])
def test_without_a_proxy_our_files_go_and_daemon_json_keeps_its_keys(version: str) -> None:
    own = {"proxies": {"http-proxy": "http://own.test:1"}} if version == NEWER else {"debug": True}
    found = {**docker(own, active="inactive"), "proxy_files": files(TEXTS)}
    assert decide(version, {}, found) == ([("proxy of docker.service", SHOWN, None, "none")], None)
    assert decide(version, {}, {**found, "proxy_files": {}}) == ([], None)


@pytest.mark.parametrize(
    ("shown", "in_effect"),
    [
        ({"HttpProxy": "http://xxxxx:xxxxx@proxy.test:3128", "NoProxy": "localhost,.test"}, None),
        ({"HttpProxy": "http://xxxxx:xxxxx@old.test:3128", "NoProxy": "localhost,.test"}, False),
        ({"HttpProxy": "", "NoProxy": ""}, False),
        ({"HttpProxy": URL, "NoProxy": "localhost,.test"}, True),
        ({"HttpProxy": URL, "NoProxy": "localhost"}, False),
        ({}, None),
    ],
)
def test_docker_info_tells_whether_a_proxy_is_in_effect(shown: dict[str, str], in_effect: bool | None) -> None:
    assert daemon_proxy.in_effect(daemon_proxy.members(PROXY), shown) is in_effect


@pytest.mark.parametrize(("version", "config"), [(OLDER, None), (NEWER, IN_FILE)])
def test_a_dockerd_that_runs_without_its_proxy_is_restarted(version: str, config: Any) -> None:
    there = TEXTS if version == OLDER else {}
    found = docker(config, mode="0600", info=info(HttpProxy="", NoProxy=""))
    changes, text = decide(version, PROXY, {**found, "proxy_files": files(there)})
    assert changes == [("docker daemon", "runs without proxies", "daemon.json in effect", "restart")]
    assert text is None


def test_a_new_password_that_dockerd_was_kept_from_reading_is_still_pending() -> None:
    found = docker(None, info=info(HttpProxy="http://xxxxx:xxxxx@proxy.test:3128", NoProxy="localhost,.test"))
    found["service"]["main_pid"] = 7
    found |= {"proxy_files": files(TEXTS), "pending": {"pid": 7, "keys": ["proxies"]}}
    assert decide(OLDER, PROXY, found)[0] == [
        ("docker daemon", "runs without proxies", "daemon.json in effect", "restart")
    ]
    assert decide(OLDER, PROXY, {**found, "pending": {"pid": 6, "keys": ["proxies"]}})[0] == []


@pytest.mark.parametrize(
    ("pinned", "subject"),
    [(OLDER, "proxy of docker.service"), ("5:29.7.2-1~ubuntu.24.04~noble", "daemon.json")],
)
def test_the_plan_goes_by_the_engine_that_will_be_installed_and_shows_no_password(
    pinned: str, subject: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = Host(monkeypatch).plan("no-gpu", docker_daemon_proxy=PROXY, docker_ce_version=pinned)
    assert "failed" not in result, result
    plan = result["ansible_facts"]["gpu_host_plan"]
    said = [change["subject"] for change in plan["changes"] if "proxy.test" in str(change["to"])]
    assert said == [subject]
    assert "s3cr3t" not in json.dumps(result)


def test_secrets_in_daemon_json_close_the_file_whatever_its_mode_should_be() -> None:
    for text, mode in ((json.dumps(IN_FILE), "0600"), ('{"debug": true}', "0640")):
        assert daemon_json.mode_of("0640", text.encode()) == mode


def test_the_paths_of_our_files_are_those_that_the_probe_reads() -> None:
    script = (Path(role_options.ROLES_DIRECTORY) / "gpu_host_probe/files/probe.sh").read_text()
    assert [path for path in daemon_proxy.MODES if path not in script] == []
