"""The lock as a file: what is written is read again, and a bad file is told in one line."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import yaml
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock.lock_file import (
    Lock,
    LockFileError,
    Package,
    Source,
    System,
    dump,
    load,
    parse,
)

DOCKER = Source(
    "https://download.docker.com/linux/debian", "bookworm", ("stable",), "9DC858229FC7DD38854AE2D88D81803C0EBFCD88",
    "2026-11-27T10:11:12Z", "0" * 64,
)  # fmt: skip
DEBIAN = Source(
    "http://deb.debian.org/debian", "bookworm-updates", ("main", "non-free-firmware"), "1" * 40, "2026-11-27T10:11:12Z",
    "1e" + "5" * 62, "20261127T101112Z",
)  # fmt: skip
ENGINE = Package(
    "docker-ce", "amd64", "5:29.7.2-1~debian.12~bookworm", "ab" * 32, 123,
    "dists/bookworm/pool/stable/amd64/docker-ce_29.7.2-1~debian.12~bookworm_amd64.deb", "docker_ce", "docker_ce",
)  # fmt: skip
LIBRARY = Package("libc6", "amd64", "2.36-9+deb12u10", "12" * 32, 0, "pool/main/g/glibc/libc6_2.36.deb", "bookworm-2")
SYSTEM = System({"docker-ce": ENGINE.version}, {"docker_ce": DOCKER, "bookworm-2": DEBIAN}, (ENGINE, LIBRARY))
FLAT = dataclasses.replace(DOCKER, uri="http://[::1]:8000/flat".replace("[::1]", "mirror"), suite="./", components=())
OTHER = System({}, {"no": FLAT}, ())
LOCK = Lock({("trixie", "arm64"): OTHER, ("bookworm", "arm64"): SYSTEM, ("bookworm", "amd64"): SYSTEM})

TEXT = """\
# Written by gpuprov lock. Keep it under version control, and review its changes as a diff.
version: 1
systems:
  bookworm:
    amd64:
      pins:
        docker-ce: "5:29.7.2-1~debian.12~bookworm"
      sources:
        bookworm-2:
          uri: http://deb.debian.org/debian
          suite: bookworm-updates
          components: [main, non-free-firmware]
          key: "1111111111111111111111111111111111111111"
          date: "2026-11-27T10:11:12Z"
          inrelease_sha256: "1e55555555555555555555555555555555555555555555555555555555555555"
          snapshot: "20261127T101112Z"
        docker_ce:
          uri: https://download.docker.com/linux/debian
          suite: bookworm
          components: [stable]
          key: "9DC858229FC7DD38854AE2D88D81803C0EBFCD88"
          date: "2026-11-27T10:11:12Z"
          inrelease_sha256: "0000000000000000000000000000000000000000000000000000000000000000"
      packages:
        - {name: docker-ce, version: "5:29.7.2-1~debian.12~bookworm", architecture: amd64, sha256: "HASH", size: 123, \
file: dists/bookworm/pool/stable/amd64/docker-ce_29.7.2-1~debian.12~bookworm_amd64.deb, source: docker_ce, \
role: docker_ce}
""".replace("HASH", "ab" * 32)
ZERO = ("date: ", "2026-11-27T10:11:12Z", '\n          inrelease_sha256: "0')


def test_a_lock_is_written_in_one_stable_form() -> None:
    system = System(SYSTEM.pins, SYSTEM.sources, (ENGINE,))
    assert dump(Lock({("bookworm", "amd64"): system})) == TEXT
    assert dump(Lock({})).splitlines()[1:] == ["version: 1", "systems: {}"]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "gpuprov.lock.yml"
    path.write_text(dump(LOCK))
    assert load(path) == LOCK
    # The order in which things were found does not matter.
    shuffled = System(SYSTEM.pins, dict(reversed(list(SYSTEM.sources.items()))), (LIBRARY, ENGINE))
    mixed = Lock({**dict(reversed(list(LOCK.systems.items()))), ("bookworm", "amd64"): shuffled})
    assert dump(mixed) == dump(LOCK)


def test_a_text_as_ansible_registers_it_is_read() -> None:
    class UnsafeText(str):
        pass

    assert parse(UnsafeText(TEXT)) == parse(TEXT)


@pytest.mark.parametrize(
    "text", ["", "[]", "hosts: all", "version: 2\nsystems: {}", "version: 1", "version: 1\nsystems: []", "{", "\0"]
)
def test_a_file_that_is_no_lock_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_text(text)
    with pytest.raises(LockFileError, match=r"x\.yml.*[Rr]un gpuprov lock to write it again$") as error:
        load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("bookworm:\n    amd64", "Bookworm:\n    amd64", "systems: 'Bookworm' is not a codename"),
        ("size: 123", "size: -1", "bookworm amd64: package 1 (docker-ce): size: -1 is not a number of bytes"),
        ("size: 123, ", "", "bookworm amd64: package 1: size is missing"),
        ("size: 123", "size: 123, priority: x", "bookworm amd64: package 1: 'priority' is unknown"),
        ("abab", "ABab", "is not a SHA-256"),
        ("name: docker-ce,", "name: --docker-ce,", "name: '--docker-ce' is not the name of a package"),
        ("file: dists/", "file: /dists/", "is not the path of a package below its source"),
        ("file: dists/", "file: dists/../", "is not the path of a package below its source"),
        ("source: docker_ce", "source: foreign", "docker-ce has the source 'foreign', which is not there"),
        ('docker-ce: "5:29.7.2', 'docker-ce: "5:29.7.1', "5:29.7.1-1~debian.12~bookworm is pinned, and not among"),
        ('docker-ce: "5:29', 'docker-ce-cli: "5:29', "docker-ce-cli 5:29.7.2-1~debian.12~bookworm is pinned, and not"),
        (f'{ZERO[0]}"{ZERO[1]}"{ZERO[2]}', "".join(ZERO), "source docker_ce: date"),
        ("uri: https://", "uri: ftp://", "is not the URL of a repository"),
        ('key: "9DC8', 'key: "X', "source docker_ce: key: "),
        ("components: [stable]", "components: stable", "source docker_ce: components: 'stable' is not a list"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_place(old: str, new: str, said: str) -> None:
    assert TEXT.count(old) >= 1
    with pytest.raises(LockFileError, match=r"^the lock a\.yml cannot be used: ") as error:
        parse(TEXT.replace(old, new, 1), "a.yml")
    assert said in str(error.value)


def test_a_package_twice_and_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(LockFileError, match="docker-ce is there twice"):
        parse(TEXT + TEXT.splitlines()[-1])
    with pytest.raises(LockFileError, match=r"none\.yml does not exist"):
        load(tmp_path / "none.yml")
    with pytest.raises(LockFileError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "latin").write_bytes(b"\xe9")
    with pytest.raises(LockFileError, match="is not UTF-8 text"):
        load(tmp_path / "latin")


def test_every_text_survives_yaml() -> None:
    for word in ("no", "y", "null", "~", ".", "./", "/", ".inf", ".5", "a#b", "1e5", "e5", "0x1f", "12:30:45", "a: b"):
        system = System({}, {"x": dataclasses.replace(DOCKER, components=(word,), suite=word)}, ())
        found = yaml.safe_load(dump(Lock({("a", "b"): system})))["systems"]["a"]["b"]["sources"]["x"]
        assert (found["components"], found["suite"]) == ([word], word)
