"""Which changes a package set needs, decided without a host."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import apt_sources, package_set
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

BODY = b"\x04a key"
KEY = b"\x98" + bytes([len(BODY)]) + BODY
OTHER_KEY = b"\x98\x02\x04x"
FINGERPRINT = hashlib.sha1(b"\x99" + len(BODY).to_bytes(2, "big") + BODY).hexdigest().upper()
OTHER_FINGERPRINT = hashlib.sha1(b"\x99\x00\x02\x04x").hexdigest().upper()
KEYRING = "/etc/apt/keyrings/docker.gpg"
URI = "https://download.docker.com/linux/debian"
SOURCE: dict[str, Any] = {
    "name": "docker",
    "format": "deb822",
    "uris": [URI],
    "suites": ["bookworm"],
    "components": ["stable"],
    "architectures": ["amd64"],
    "keyring": KEYRING,
    "key_url": f"{URI}/gpg",
    "key_fingerprint": FINGERPRINT,
}
OURS = apt_sources.path_of(SOURCE)
LIST = "/etc/apt/sources.list.d/docker.list"


def wanted(*packages: str, **more: Any) -> dict[str, Any]:
    """A set of packages, each "name=version"."""
    named = [dict(zip(("name", "version"), package.split("="), strict=True)) for package in packages]
    return {"role": "docker_ce", "hold": True, "remove": [], "packages": named, "source": None, **more}


def keyring(data: bytes = KEY, **more: Any) -> dict[str, Any]:
    return {KEYRING: {"data": base64.b64encode(data).decode(), "mode": "0644", "uid": 0, "gid": 0, **more}}


def decide(
    wanted: dict[str, Any],
    packages: dict[str, str] | None = None,
    keyrings: dict[str, Any] | None = None,
    files: dict[str, str] | None = None,
) -> list[tuple[Any, ...]]:
    """The changes on a host with packages {name: "STATUS VERSION"}; each is of the set's role."""
    found = {}
    for name, state in (packages or {}).items():
        status, version = state.split()
        found[name] = {"version": version, "status": status, "hold": status.startswith("h")}
    apt = {"packages": found, "keyrings": keyrings or {}, "source_files": files or {}}
    changes = package_set.decide(wanted, apt, "amd64")
    assert {change["role"] for change in changes} <= {wanted["role"]}
    return [(change["subject"], change["from"], change["to"], change["disruption"]) for change in changes]


ENGINE = wanted("docker-ce=5:29", "docker-ce-cli=5:29", "containerd.io=2.3")
HELD = {"docker-ce": "hi 5:29", "docker-ce-cli": "hi 5:29", "containerd.io": "hi 2.3"}


def test_a_set_that_is_there_and_held_needs_nothing() -> None:
    assert decide(ENGINE, {**HELD, "vim": "ii 9"}) == []


def test_on_a_pristine_host_everything_comes_and_nothing_is_disrupted() -> None:
    assert decide({**ENGINE, "source": SOURCE, "remove": ["docker.io"]}) == [
        ("keyring docker", None, FINGERPRINT, "none"),
        ("apt source docker", None, URI, "none"),
        ("docker-ce", None, "5:29", "none"),
        ("docker-ce-cli", None, "5:29", "none"),
        ("containerd.io", None, "2.3", "none"),
    ]


@pytest.mark.parametrize(
    ("drift", "change"),
    [
        ({"docker-ce": "hi 5:28"}, ("docker-ce", "5:28", "5:29", "restart")),
        ({"docker-ce": "hi 5:30"}, ("docker-ce", "5:30", "5:29", "restart")),
        ({"docker-ce": "hi 29"}, ("docker-ce", "29", "5:29", "restart")),
        ({"containerd.io": "hi 2.2"}, ("containerd.io", "2.2", "2.3", "restart")),
        ({"containerd.io": "un 2.3"}, ("containerd.io", None, "2.3", "restart")),
        ({"docker-ce-cli": "hi 5:28"}, ("docker-ce-cli", "5:28", "5:29", "none")),
        ({"docker-ce-cli": "rc 5:29"}, ("docker-ce-cli", None, "5:29", "none")),
        ({"docker-ce-cli": "ii 5:29"}, ("docker-ce-cli hold", "not held", "held", "none")),
        ({"docker-ce-cli": "hF 5:29"}, ("docker-ce-cli", "5:29, half installed", "5:29", "none")),
        ({"docker-ce": "hU 5:28"}, ("docker-ce", "5:28, half installed", "5:29", "restart")),
        ({"docker-ce": "hiR 5:29"}, ("docker-ce", "5:29, half installed", "5:29", "restart")),
    ],
)
def test_one_package_that_drifted_is_the_only_change(drift: dict[str, str], change: tuple[Any, ...]) -> None:
    assert decide(ENGINE, {**HELD, **drift}) == [change]


def test_a_wrong_version_that_is_not_held_is_two_changes() -> None:
    assert decide(wanted("buildx=2"), {"buildx": "ii 1"}) == [
        ("buildx", "1", "2", "none"),
        ("buildx hold", "not held", "held", "none"),
    ]


def test_a_hold_that_is_not_wanted_goes() -> None:
    unheld = wanted("buildx=2", "compose=5", hold=False)
    assert decide(unheld, {"buildx": "hi 2", "compose": "ii 5"}) == [("buildx hold", "held", "not held", "none")]


@pytest.mark.parametrize(
    ("name", "state", "changes"),
    [
        ("docker.io", "ii 20.10", [("docker.io", "20.10", None, "restart")]),
        ("docker.io", "iF 20.10", [("docker.io", "20.10", None, "restart")]),
        ("docker.io", "rc 20.10", []),
        ("runc", "hi 1.1", [("runc", "1.1", None, "none")]),
    ],
)
def test_what_must_be_absent_goes_unless_only_its_settings_are_left(name: str, state: str, changes: list[Any]) -> None:
    assert decide(wanted(remove=["docker.io", "runc"]), {name: state}) == changes


@pytest.mark.parametrize(
    ("name", "disruption"), [("docker.io", "restart"), ("docker-engine", "restart"), ("runc", "none")]
)
def test_an_engine_that_takes_the_place_of_another_restarts_it(name: str, disruption: str) -> None:
    assert decide(wanted("docker-ce=5:29"), {name: "ii 1"}) == [("docker-ce", None, "5:29", disruption)]


@pytest.mark.parametrize(
    ("have", "before", "after"),
    [
        (keyring(OTHER_KEY), OTHER_FINGERPRINT, FINGERPRINT),
        (keyring(KEY + OTHER_KEY), f"{FINGERPRINT}, {OTHER_FINGERPRINT}", FINGERPRINT),
        (keyring(b"<html>"), "no key", FINGERPRINT),
        (keyring(b""), "no key", FINGERPRINT),
        (keyring(mode="0600"), "0:0 0600", "0:0 0644"),
        (keyring(uid=1000), "1000:0 0644", "0:0 0644"),
    ],
)
def test_a_keyring_holds_the_trusted_key_alone_and_is_root_s(have: dict[str, Any], before: str, after: str) -> None:
    found = decide(wanted(source=SOURCE), None, have, {OURS: apt_sources.render(SOURCE)})
    assert found == [("keyring docker", before, after, "none")]


def test_a_keyring_and_a_source_that_are_right_stay() -> None:
    spaced = {**SOURCE, "key_fingerprint": f" {FINGERPRINT[:20].lower()} {FINGERPRINT[20:]}"}
    assert decide(wanted(source=spaced), None, keyring(), {OURS: apt_sources.render(SOURCE)}) == []


@pytest.mark.parametrize(
    ("files", "before", "after"),
    [
        ({}, None, URI),
        ({OURS: "Types: deb\n"}, "other content", URI),
        ({LIST: f"deb {URI} bookworm stable"}, f"{LIST} (goes)", URI),
        ({LIST: f"deb {URI} bookworm stable\ndeb https://a b c"}, LIST, URI),
        ({OURS: "Types: deb\n", LIST: f"deb {URI} bookworm stable"}, f"other content, also in {LIST} (goes)", URI),
        (
            {OURS: apt_sources.render(SOURCE), LIST: f"deb {URI} x y", apt_sources.MAIN: f"deb {URI} x y"},
            f"also in {apt_sources.MAIN}, {LIST} (goes)",
            f"only in {OURS}",
        ),
    ],
)
def test_a_source_is_in_our_file_and_in_no_other(files: dict[str, str], before: str | None, after: str) -> None:
    found = decide(wanted(source=SOURCE), None, keyring(), files)
    assert found == [("apt source docker", before, after, "none")]


def test_links_are_named_with_the_file_that_changes() -> None:
    apt = {
        "packages": {},
        "keyrings": keyring(),
        "source_files": {OURS: "Types: deb\n", LIST: f"deb {URI} x y"},
        "source_links": {OURS: "/srv/docker.sources", LIST: "/srv/site.list"},
    }
    (change,) = package_set.decide(wanted(source=SOURCE), apt, "amd64")
    assert change["from"] == f"other content of /srv/docker.sources, also in {LIST} (a link to /srv/site.list)"


@pytest.mark.parametrize(
    ("package", "state", "disruption"),
    [
        ("nvidia-container-toolkit-base=1.19.1-1", "hi 1.18.2-1", "daemon-reload"),
        ("nvidia-container-toolkit-base=1.18.0-1", "hi 1.17.8-1", "daemon-reload"),
        ("nvidia-container-toolkit-base=1.17.8-1", "hi 1.18.0~rc.1-1", "daemon-reload"),
        ("nvidia-container-toolkit-base=1.17.8-1", "hi 1.17.5-1", "none"),
        ("nvidia-container-toolkit-base=1.19.1-1", "un 0", "daemon-reload"),
        ("nvidia-container-toolkit-base=1.19.1-1", "hF 1.19.1-1", "daemon-reload"),
        ("nvidia-container-toolkit=1.19.1-1", "hi 1.18.2-1", "none"),
        ("libnvidia-container1=1.19.1-1", "hi 1.18.2-1", "none"),
        ("docker-ce-cli=5:29", "hi 5:28", "none"),
        ("docker-buildx-plugin=2", "hi 1", "none"),
        ("containerd.io=2", "hi 1", "restart"),
    ],
)
def test_a_package_that_has_systemd_read_its_units_again_is_a_disruption(
    package: str, state: str, disruption: str
) -> None:
    name = package.split("=")[0]
    (change,) = decide(wanted(package), {"docker-ce": "hi 5:29", name: state})
    assert change[3] == disruption
    # Without an engine there is no container to lose a GPU.
    (change,) = decide(wanted(package), {name: state}) if name != "containerd.io" else [change]
    assert change[3] == ("restart" if name == "containerd.io" else "none")


@pytest.mark.parametrize(
    ("version", "disruption"),
    [("1.19.1-1", "daemon-reload"), ("1.17.8-1", "none"), ("2:1.20.0~rc.1-1", "daemon-reload")],
)
def test_so_is_its_removal(version: str, disruption: str) -> None:
    name = "nvidia-container-toolkit-base"
    assert decide(wanted(remove=[name]), {"docker-ce": "hi 5:29", name: f"hi {version}"}) == [
        (name, version, None, disruption)
    ]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (wanted("Docker=1"), "docker_ce: 'Docker' is not a package name"),
        (wanted("-o=1"), "docker_ce: '-o' is not a package name"),
        (wanted("docker-ce\n=1"), r"docker_ce: 'docker-ce\n' is not a package name"),
        (wanted(remove=["docker*"]), "docker_ce: 'docker*' is not a package name"),
        (wanted("docker-ce="), "docker_ce: '' is not a version of docker-ce"),
        (wanted("docker-ce=5:29*"), "docker_ce: '5:29*' is not a version of docker-ce"),
        (wanted("docker-ce=1 2"), "docker_ce: '1 2' is not a version of docker-ce"),
        (
            wanted(source={**SOURCE, "uris": [URI, "x.org/apt"]}),
            "docker_ce: 'x.org/apt' is not the URL of a repository",
        ),
        (wanted(source={**SOURCE, "key_url": "gpg"}), "docker_ce: 'gpg' is neither a URL nor a path of a key"),
        (
            wanted(source={**SOURCE, "key_fingerprint": "0EBFCD88"}),
            "docker_ce: '0EBFCD88' is not a fingerprint: 40 hexadecimal digits",
        ),
    ],
)
def test_what_apt_could_take_for_something_else_is_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(HostError) as caught:
        decide(bad)
    assert str(caught.value) == message


@pytest.mark.parametrize("key_url", ["/root/docker.gpg", "http://mirror/key", "file:///srv/key"])
def test_a_key_may_come_from_a_url_or_from_a_path_of_the_host(key_url: str) -> None:
    package_set.check(wanted("a1=1:2.3+b~c-4", source={**SOURCE, "key_url": key_url}))
