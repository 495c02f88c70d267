"""A lock is made of what hosts resolved, compared, and held to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.apt_get import printed_uris
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.package_set import in_channel
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.transaction import given_file, unlocked
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import held, lock_file, resolved
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text.fleet import lock_lines

ENGINE, CONTAINERD, LIBRARY = "5:29.7.2-1~debian.12~bookworm", "2.3.3-1~debian.12~bookworm", "2.36-9+deb12u10"
A, B, C = "a" * 64, "b" * 64, "c" * 64
KEY = "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"


def engine_set(version: str = ENGINE, channel: str = "", **more: str) -> dict[str, Any]:
    versions = {"docker-ce": version, "docker-ce-cli": version, "containerd.io": CONTAINERD, **more}
    packages = [{"name": name, "version": one} for name, one in versions.items() if one]
    source = {"uris": ["https://me:secret@mirror.example.com/linux/debian"]}
    return {
        "role": "docker_ce", "packages": packages, "install_recommends": False, "source": source, "channel": channel,
    }  # fmt: skip


# ---- Channels


@pytest.mark.parametrize(
    ("version", "channel", "inside"),
    [
        (ENGINE, "29", True), (ENGINE, "29.7", True), (ENGINE, "29.7.2", True), (ENGINE, "", True),
        (ENGINE, "2", False), (ENGINE, "29.70", False), (ENGINE, "9", False), (ENGINE, "5", False),
        ("1.19.1-1", "1.19", True), ("1.19.1-1", "1.1", False), ("1.190.1-1", "1.19", False), ("29", "29", True),
        ("29.10.0~rc.1-1", "29.10", True), ("29.10.0-1", "29.1", False),
    ],
)  # fmt: skip
def test_a_channel_is_the_beginning_of_a_version(version: str, channel: str, inside: bool) -> None:
    assert in_channel(version, channel) == inside


OLD = lock_file.System({"docker-ce": "5:29.1.0-1", "docker-ce-cli": "5:29.1.0-1", "containerd.io": "2.1.0-1"}, {}, ())
NEWEST = {"docker-ce": ("29", None), "docker-ce-cli": ("29", None), "containerd.io": ("", None)}


@pytest.mark.parametrize(
    ("wanted", "old", "upgrade", "expected"),
    [
        # Without a channel, versions are exact, whatever is asked.
        (engine_set(), OLD, True, {"docker-ce": (None, ENGINE), "containerd.io": (None, CONTAINERD)}),
        # With one, those of the lock stay, then those of the inventory.
        (engine_set(channel="29"), OLD, False, {"docker-ce": (None, "5:29.1.0-1"), "containerd.io": (None, "2.1.0-1")}),
        (engine_set(channel="29"), None, False, {"docker-ce": (None, ENGINE), "containerd.io": (None, CONTAINERD)}),
        (engine_set(channel="29"), OLD, True, NEWEST),
        # Neither is in the channel.
        (engine_set(channel="28"), OLD, False, {"docker-ce": ("28", None), "containerd.io": ("", None)}),
    ],
)
def test_versions_move_only_in_a_channel_and_when_asked_or_needed(
    wanted: dict[str, Any], old: lock_file.System | None, upgrade: bool, expected: dict[str, tuple[str, str]]
) -> None:
    (one,) = resolved.asked([wanted], old, upgrade)
    found = {package["name"]: package for package in one["packages"]}
    for name, (channel, version) in expected.items():
        assert found[name].get("channel") == channel
        assert version is None or found[name]["version"] == version


# ---- Hosts of one kind


def test_hosts_of_one_kind_share_a_lock_if_they_do_not_contradict_each_other() -> None:
    toolkit = {
        "role": "nvidia_docker", "packages": [{"name": "nvidia-container-toolkit", "version": "1.19.1-1"}],
        "install_recommends": False, "source": None, "channel": "",
    }  # fmt: skip
    (engine, stack) = resolved.merged({"a": [engine_set(**{"containerd.io": ""})], "b": [engine_set(), toolkit]})
    assert [package["name"] for package in engine["packages"]] == ["docker-ce", "docker-ce-cli", "containerd.io"]
    assert stack == toolkit
    with pytest.raises(resolved.ResolutionError, match=r"docker-ce is 5:29.* on a and 5:28 on c: a lock has one"):
        resolved.merged({"a": [engine_set()], "c": [engine_set("5:28")]})
    with pytest.raises(resolved.ResolutionError, match=r"channel is empty on a and 29 on b"):
        resolved.merged({"a": [engine_set()], "b": [engine_set(channel="29")]})


# ---- What a host answers


def stanza(name: str, version: str, sha256: str, file: str, architecture: str = "amd64") -> str:
    return (
        f"Package: {name}\nArchitecture: {architecture}\nVersion: {version}\nDepends: libc6 (>= 2.2),\n libseccomp2\n"
        f"Filename: {file}\nSize: 12\nSHA256: {sha256}\nDescription: x\n .\n more\n\n"
    )


POOL = "dists/bookworm/pool/stable/amd64/docker-ce_29.deb"
QUOTED = "pool/main/z/zlib/zlib1g_1%3a1.2+x.deb"
SOURCES = [
    {
        "uri": "https://me:secret@mirror.example.com/linux/debian/", "suite": "bookworm", "role": "docker_ce",
        "number": 0, "key": KEY, "date": "Fri, 27 Nov 2026 11:11:12 +0100", "sha256": A, "origin": "Docker",
        "codename": "bookworm",
        "components": ["stable"],
    },
    {
        "uri": "http://deb.debian.org/debian/", "suite": "./", "role": "", "number": 0, "key": KEY,
        "date": "Fri, 27 Nov 2026 10:11:12 UTC", "sha256": B, "origin": "Debian", "codename": "bookworm",
        "components": [],
    },
    {
        "uri": "http://deb.debian.org/debian-security/", "suite": "bookworm-security/updates", "role": "", "number": 0,
        "key": KEY, "date": "Fri, 27 Nov 2026 10:11:12 UTC", "sha256": C, "origin": "Debian", "codename": "bookworm",
        "components": ["main"],
    },
]  # fmt: skip
ANSWER = {
    "sources": SOURCES,
    "versions": {"docker-ce": ENGINE},
    "packages": [
        ["http://deb.debian.org/debian/./pool/main/z/zlib/zlib1g_1%253a1.2%2bx.deb", "zlib1g_1%3a1.2_all.deb", 5, B],
        [
            f"https://mirror.example.com/linux/debian/{POOL}", "docker-ce_5%3a29.7.2-1~debian.12~bookworm_amd64.deb",
            12, A,
        ],
    ],
    "stanzas": (
        stanza("docker-ce", ENGINE, A, POOL)
        + stanza("zlib1g", "1:1.2", C, "other.deb", "all")
        + stanza("zlib1g", "1:1.2", B, f"./{QUOTED}", "all")
    ),
}  # fmt: skip


def test_what_a_host_resolves_becomes_a_part_of_the_lock() -> None:
    system = resolved.system(ANSWER, [engine_set()])
    assert system.pins == {"docker-ce": ENGINE}
    assert system.packages == (
        lock_file.Package("docker-ce", "amd64", ENGINE, A, 12, POOL, "docker_ce", "docker_ce"),
        lock_file.Package("zlib1g", "all", "1:1.2", B, 5, f"./{QUOTED}", "bookworm"),
    )
    # Sources that nothing comes from are left out, and so are passwords.
    assert system.sources == {
        "docker_ce": lock_file.Source(
            "https://mirror.example.com/linux/debian", "bookworm", ("stable",), KEY, "2026-11-27T10:11:12Z", A
        ),
        "bookworm": lock_file.Source(
            "http://deb.debian.org/debian", "./", (), KEY, "2026-11-27T10:11:12Z", B, "20261127T101112Z"
        ),
    }
    lock = lock_file.Lock({("bookworm", "amd64"): system})
    assert lock_file.parse(lock_file.dump(lock)) == lock


def test_a_package_without_a_hash_or_a_known_source_is_not_locked() -> None:
    with pytest.raises(resolved.ResolutionError, match=r"zlib1g 1:1.2 has no SHA-256"):
        resolved.system({**ANSWER, "stanzas": stanza("zlib1g", "1:1.2", "", "x.deb", "all")}, [])
    with pytest.raises(resolved.ResolutionError, match=r"get zlib1g from http://deb.debian.org/.* not one of the"):
        resolved.system({**ANSWER, "sources": SOURCES[:1]}, [])


def test_sources_of_one_name_are_numbered() -> None:
    legacy = [{**SOURCES[0], "role": "nvidia_docker", "uri": f"http://x/{n}", "number": 2 - n} for n in range(3)]
    names = resolved._names([*legacy, *SOURCES])
    assert {uri: name for (uri, _suite), name in names.items() if "//x/" in uri} == {
        "http://x/2": "nvidia_docker", "http://x/1": "nvidia_docker-2", "http://x/0": "nvidia_docker-3",
    }  # fmt: skip
    assert sorted(names.values())[:3] == ["bookworm", "bookworm-security-updates", "docker_ce"]


# ---- Comparing

LOCKED = resolved.system(ANSWER, [engine_set()])


def test_changes_name_versions_and_other_bits() -> None:
    engine, library = LOCKED.packages
    other = dataclasses.replace(engine, sha256=C)
    new = lock_file.System({}, {}, (other, dataclasses.replace(library, name="new", version="1")))
    assert [(one["subject"], one["from"], one["to"]) for one in resolved.changes(LOCKED, new)] == [
        ("docker-ce", ENGINE, f"{ENGINE}, other bits"), ("new", None, "1"), ("zlib1g", "1:1.2", None),
    ]  # fmt: skip
    assert resolved.changes(LOCKED, LOCKED) == []
    assert [one["subject"] for one in resolved.changes(None, LOCKED)] == ["docker-ce", "zlib1g"]


KNOWN: dict[str, Any] = {"known": ANSWER["stanzas"], "sources": SOURCES}
DECLARED: list[dict[str, Any]] = [{**engine_set(), "packages": [{"name": "docker-ce", "version": ENGINE}]}]


@pytest.mark.parametrize(
    ("declared", "answer", "said"),
    [
        (DECLARED, KNOWN, []),
        ([engine_set("5:28", **{"docker-ce-cli": "", "containerd.io": ""})], KNOWN,
         [f"docker-ce: the lock was made for {ENGINE}, the inventory says 5:28"]),
        ([engine_set(**{"docker-ce-cli": ""})], KNOWN,
         [f"containerd.io: the inventory says {CONTAINERD}, and the lock was made without it"]),
        ([], KNOWN, ["docker-ce: it is in the lock, and not in the inventory"]),
        ([{**DECLARED[0], "channel": "29.7"}], KNOWN, []),
        ([{**DECLARED[0], "channel": "28"}], KNOWN,
         [f"docker-ce: the lock has {ENGINE}, which is not in docker_ce_channel 28"]),
        (DECLARED, {**KNOWN, "known": stanza("docker-ce", ENGINE, C, POOL)},
         [f"docker-ce {ENGINE}: the repository has other bits, SHA-256 {C}",
          "zlib1g 1:1.2: the repository does not have it any more"]),
        (DECLARED, {**KNOWN, "sources": [{**one, "key": "1" * 40} for one in SOURCES]},
         [f"bookworm: signed by {'1' * 40}, and the lock has {KEY}",
          f"docker_ce: signed by {'1' * 40}, and the lock has {KEY}"]),
    ],
)  # fmt: skip
def test_a_lock_that_does_not_fit_is_told_line_by_line(declared: Any, answer: Any, said: list[str]) -> None:
    assert resolved.unfit(LOCKED, declared, answer) == said


def test_versions_without_security_fixes_are_named() -> None:
    engine, _library = LOCKED.packages
    old = [
        dataclasses.replace(engine, name=name, version=version)
        for name, version in (
            ("docker-ce", "5:29.3.0-1~debian"), ("containerd.io", "1.7.27-1"), ("nvidia-container-toolkit", "1.17.7-1"),
            ("containerd.io", "1.7.29-1"), ("libc6", "1.0"),
        )
    ]  # fmt: skip
    lines = resolved.below_floors(lock_file.System({}, {}, tuple(old)))
    assert [line.split(" lacks ")[0] for line in lines] == [
        "docker-ce 5:29.3.0-1~debian", "containerd.io 1.7.27-1", "nvidia-container-toolkit 1.17.7-1",
    ]  # fmt: skip
    assert "CVE-2025-31133" in lines[1]


def test_what_was_not_asked_for_stays() -> None:
    old, new = lock_file.Lock({("a", "x"): OLD, ("b", "x"): OLD}), lock_file.Lock({("b", "x"): LOCKED})
    assert set(resolved.kept(old, new, False).systems) == {("a", "x"), ("b", "x")}
    assert resolved.kept(old, new, True).systems == {("b", "x"): LOCKED}


def test_lines_for_people() -> None:
    view: dict[str, Any] = {
        "name": "bookworm amd64",
        "packages": 2,
        "new": True,
        "unfit": [],
        "below_floors": ["x is old"],
    }
    view["changes"] = resolved.changes(None, LOCKED)
    assert lock_lines({"checked": False, "systems": [view]}) == [
        "bookworm amd64: 2 packages, changed:", f"  docker-ce  + {ENGINE}", "  and 1 more that these pull in",
        "  ! x is old",
    ]  # fmt: skip
    assert lock_lines({"checked": True, "systems": [{**view, "unfit": ["a", "b"]}]})[:2] == [
        "bookworm amd64: 2 packages, 2 differences", "  a",
    ]  # fmt: skip
    assert lock_lines({"checked": False, "systems": [{**view, "changes": []}]})[0].endswith("2 packages, as before")


# ---- Holding hosts to it


def test_only_what_the_lock_names_may_be_installed() -> None:
    locked = held.packages_of(LOCKED)
    answer = (
        "Reading package lists...\n"
        f"'http://x/docker-ce.deb' docker-ce_5%3a29.7.2-1~debian.12~bookworm_amd64.deb 12 SHA256:{A}\n"
        f"'http://x/zlib.deb' zlib1g_1%3a1.2_all.deb 5 SHA256:{C}\n"
        "'http://x/zlib.deb' zlib1g_1%3a1.2_all.deb 5 \n"
        f"'http://x/zlib.deb' zlib1g_1%3a1.3_all.deb 5 SHA256:{B}\n"
        f"'http://x/zlib.deb' zlib1g_1%3a1.2_i386.deb 5 SHA256:{B}\n"
        f"'http://x/new.deb' new_1_all.deb 5 SHA256:{B}\n"
    )
    found = [unlocked(locked, "amd64", one) for one in printed_uris(answer)]
    assert found == [
        None,
        f"zlib1g 1:1.2 is not the file that was locked: it has SHA-256 {C}, the lock has {B}",
        f"zlib1g 1:1.2 is not the file that was locked: it has SHA-256 (none), the lock has {B}",
        "apt would install zlib1g 1:1.3, and the lock has 1:1.2: see gpuprov lock --check",
        "zlib1g 1:1.2 is not in the lock: add it with gpuprov lock",
        "new 1 is not in the lock: add it with gpuprov lock",
    ]


def test_a_file_that_was_given_by_hand_is_compared_too() -> None:
    given = {"name": "docker-ce", "version": ENGINE, "file": {"path": "/srv/x.deb", "sha256": C}}
    assert given_file({"name": "docker-ce", "version": ENGINE}, "amd64") is None
    said = unlocked(held.packages_of(LOCKED), "amd64", given_file(given, "amd64"))
    assert said == f"docker-ce {ENGINE} is not the file that was locked: it has SHA-256 {C}, the lock has {A}"


@pytest.mark.parametrize(
    ("options", "versions", "problem"),
    [
        ({"version": ENGINE, "buildx_version": ""}, {}, ""),
        ({"version": "5:28"}, {}, f"was made for docker-ce {ENGINE}, the inventory says 5:28: run gpuprov lock"),
        ({"version": ENGINE, "compose_version": "5"}, {}, "was made without docker-compose-plugin: run gpuprov lock"),
        ({"version": "5:28", "channel": "29"}, {"version": ENGINE}, ""),
        ({"version": "5:28", "channel": "28"}, {"version": ENGINE},
         f"has docker-ce {ENGINE}, which is not in docker_ce_channel 28: run gpuprov lock --upgrade"),
    ],
)  # fmt: skip
def test_options_are_held_to_the_lock(options: dict[str, str], versions: dict[str, str], problem: str) -> None:
    found, problems = held.held("docker_ce", options, LOCKED, "x.yml")
    assert found == versions
    assert problems == ([f"the lock x.yml {problem}"] if problem else [])
    assert held.held("docker_group", {"users": []}, LOCKED, "x.yml") == ({}, [])


def test_a_release_that_the_lock_lacks_is_told_with_what_it_has() -> None:
    lock = lock_file.Lock({("bookworm", "amd64"): LOCKED})
    with pytest.raises(
        lock_file.LockFileError, match=r"nothing for trixie arm64 \(it has bookworm amd64\): add it with"
    ):
        held.system_of(lock, "trixie", "arm64", "x.yml")


@pytest.mark.parametrize(
    ("named", "sources", "place"),
    [
        (None, ["hosts.ini"], "site/gpuprov.lock.yml"),
        (None, ["site"], "gpuprov.lock.yml"),
        ("other.yml", ["site"], "site/other.yml"),
        ("/etc/lock.yml", [], "/etc/lock.yml"),
        ("", ["hosts.ini"], None),
    ],
)
def test_the_lock_is_beside_the_inventory(
    tmp_path: Path, named: str | None, sources: list[str], place: str | None
) -> None:
    directory = tmp_path / "site"
    directory.mkdir()
    variables = {"inventory_dir": str(directory), "ansible_inventory_sources": [str(tmp_path / one) for one in sources]}
    path = held.path_of(variables, named)
    assert path == (place and tmp_path / place)
    if path and named is None:
        assert held.text_of(path, named) is None
    elif path:
        with pytest.raises(lock_file.LockFileError, match=r"does not exist: gpuprov lock writes it"):
            held.text_of(path, named)
