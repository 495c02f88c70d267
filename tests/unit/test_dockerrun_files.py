"""The differences of dockerrun's files, decided without a host."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import dockerrun_files
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker.dockerrun_files import DEFAULTS, LAUNCHER
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

ROLE = Path(__file__).resolve().parents[2] / "roles/dockerrun"
TEXT = (ROLE / "files/dockerrun").read_bytes()


def wanted(*defaults: Any, install: bool = True) -> dict[str, Any]:
    return {"install": install, "sha256": hashlib.sha256(TEXT).hexdigest(), "defaults": list(defaults)}


def entry(data: bytes = TEXT, mode: str = "0755", uid: int = 0, gid: int = 0) -> Any:
    return dockerrun_files.entry(data, mode, uid, gid)


def defaults(*lines: str) -> Any:
    return entry((dockerrun_files.defaults_text(wanted(*lines)) or "").encode(), "0644")


def said(changes: list[dict[str, Any]]) -> list[tuple[str, Any, Any]]:
    assert all((change["role"], change["disruption"]) == ("dockerrun", "none") for change in changes)
    return [(change["subject"], change["from"], change["to"]) for change in changes]


def test_the_role_names_the_digest_of_its_launcher() -> None:
    variables = yaml.safe_load((ROLE / "vars/main.yml").read_text())["dockerrun_desired"]
    assert variables["sha256"] == wanted()["sha256"], "write this one into roles/dockerrun/vars/main.yml"


def test_the_launcher_and_its_defaults_have_the_mark_of_what_is_ours() -> None:
    assert entry()["ours"]
    assert defaults("--privileged")["ours"]
    assert not entry(b'#!/bin/sh\nexec docker run --rm -it "$@"\n')["ours"]
    assert not entry(b"\n\n\n# " + dockerrun_files.MARK)["ours"]


@pytest.mark.parametrize(
    ("files", "changes"),
    [
        ({LAUNCHER: entry()}, []),
        ({}, [("dockerrun", None, LAUNCHER)]),
        ({LAUNCHER: entry(TEXT + b"#\n")}, [("dockerrun", "other content", LAUNCHER)]),
        ({LAUNCHER: entry(b"my own")}, [("dockerrun", "a file of somebody else's", LAUNCHER)]),
        ({LAUNCHER: entry(mode="4755")}, [("dockerrun", "0:0 4755", "0:0 0755")]),
        ({LAUNCHER: entry(uid=1000)}, [("dockerrun", "1000:0 0755", "0:0 0755")]),
    ],
)
def test_a_launcher_that_differs_is_named(files: dict[str, Any], changes: list[tuple[str, Any, Any]]) -> None:
    assert said(dockerrun_files.decide(wanted(), files)) == changes
    assert dockerrun_files.decide(wanted(install=False), files) == []


@pytest.mark.parametrize(
    ("lines", "have", "changes"),
    [
        (["--privileged"], None, [("dockerrun.conf", None, DEFAULTS)]),
        (["--privileged"], defaults("--privileged"), []),
        (["--privileged"], defaults("--init"), [("dockerrun.conf", "other content", DEFAULTS)]),
        (["--privileged"], entry(b"--init\n"), [("dockerrun.conf", "a file of somebody else's", DEFAULTS)]),
        ([], defaults("--init"), [("dockerrun.conf", DEFAULTS, None)]),
        ([], entry(b"--init\n"), []),
        ([], None, []),
    ],
)
def test_defaults_that_differ_are_named_and_those_of_others_stay_where_none_are_wanted(
    lines: list[str], have: Any, changes: list[tuple[str, Any, Any]]
) -> None:
    files = {LAUNCHER: entry(), **({DEFAULTS: have} if have else {})}
    assert said(dockerrun_files.decide(wanted(*lines), files)) == changes


def test_only_what_gpuprov_wrote_is_taken_away() -> None:
    changes = dockerrun_files.leftovers({LAUNCHER: entry(), DEFAULTS: entry(b"my own")})
    assert said(changes) == [("dockerrun", LAUNCHER, None)]
    assert dockerrun_files.leftovers({}) == []


@pytest.mark.parametrize("line", ["--volume /a b:/c", "-v=/a:/b", "GPU=0,1", "GPU=none", "--env A=$(id) `x` \"'"])
def test_a_default_is_a_line_that_the_launcher_takes(line: str) -> None:
    assert (dockerrun_files.defaults_text(wanted(line)) or "").splitlines()[1:] == [line]


@pytest.mark.parametrize(
    "line", ["", "bash", "--env A=1\n--privileged", "- x", "GPU=", "GPU=0 1", "--env A=\x1b[31m", 7]
)
def test_a_default_that_is_no_line_of_the_file_is_refused(line: Any) -> None:
    with pytest.raises(HostError, match="neither an option of docker run in one line nor GPU"):
        dockerrun_files.decide(wanted(line), {})
