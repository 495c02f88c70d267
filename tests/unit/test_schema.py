"""The JSON schema accepts the documents of every command, and nothing else. Real runs: tests/integration."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests import schema
from tests.documents import fleet
from tests.runs import Call, Runs

IMAGE = "sha256:" + 64 * "a"
GOING = {"id": "1", "name": "job", "image": "i", "bytes": 3, "why": "exited"}
IMAGES: dict[str, dict[str, Any]] = {
    "build": {"name": "train:1.0.0", "id": None, "size": None, "sent": {"files": 2, "bytes": 300}},
    "tag": {"name": "train:1.0.0", "id": IMAGE, "tags": ["1", "1.0", "1.0.0"]},
    "ls": {"engine": "29.7.2", "store": "overlay2", "images": []},
    "prune": {"containers": [GOING], "images": [], "bytes": 3, "stay": [{"id": "2", "name": "x", "why": "label"}]},
    "ship": {
        "id": IMAGE, "names": ["train:1.0.0"], "layers": 4, "sent_layers": 1, "shown_as": None, "sent_bytes": None,
        "seconds": 0.0,
    },
    "save": {"id": IMAGE, "names": ["train:1.0.0"], "file": "/a.tar", "bytes": 5, "sha256": 64 * "b"},
}  # fmt: skip


def of(command: str, **host: Any) -> dict[str, Any]:
    """The document of a command on one host."""
    document = fleet("verify" if command != "doctor" else "doctor", 1)
    document["hosts"]["gpu1"] |= host
    return {**document, "command": command}


def accepts(document: dict[str, Any]) -> bool:
    return bool(schema.validator().is_valid(document))


@pytest.mark.parametrize("command", ["plan", "provision", "verify", "doctor"])
def test_runs_on_many_hosts_conform(command: str) -> None:
    schema.check(fleet(command, 60))


@pytest.mark.parametrize("command", ["provision", "doctor"])
def test_a_line_is_a_host_of_the_document_with_its_name(command: str) -> None:
    hosts = fleet(command, 60)["hosts"]
    for name, host in hosts.items():
        schema.check({"host": name, **host}, "line.json")
        assert not schema.validator("line.json").is_valid(host)
    assert not accepts({**fleet(command, 1), "hosts": {"gpu1": {"host": "gpu1", **hosts["gpu1"]}}})


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_has_the_shape_of_its_command_and_of_no_other(kind: str) -> None:
    schema.check(of(f"image {kind}", image=IMAGES[kind]))
    others = [other for other in [*IMAGES, "load"] if other not in {kind, "load" if kind == "ship" else kind}]
    assert [other for other in others if accepts(of(f"image {other}", image=IMAGES[kind]))] == []
    assert not accepts(of("verify", image=IMAGES[kind]))


def test_what_only_one_command_has_is_refused_of_the_others() -> None:
    lock = {"path": "/gpuprov.lock.yml", "checked": False, "lines": ["x"], "systems": []}
    for command, host in (("lock", {"lock": lock}), ("uninstall", {"left": ["/var/lib/docker"]})):
        schema.check(of(command, **host))
        assert not accepts(of("verify", **host))
    assert not accepts(of("doctor", status="pending"))
    assert not accepts(of("plan", status="ill"))


@pytest.mark.parametrize(
    "wrong", [{"format": 2}, {"command": "frobnicate"}, {"status": 3}, {"seconds": "1"}, {"hosts": {"a": {}}}]
)
def test_another_document_is_refused(wrong: dict[str, Any]) -> None:
    assert not accepts({**fleet("plan", 1), **wrong})


@pytest.mark.parametrize("command", ["plan", "provision", "verify", "doctor", "uninstall --yes", "lock", "image ls"])
def test_what_a_command_prints_conforms(command: str, runs: Runs, gpuprov: Call) -> None:
    runs.events += [{"event": "runner_on_failed", "event_data": {"host": "b", "task": "x", "res": {"msg": "no"}}}]
    document = json.loads(gpuprov(*command.split(), "a,b", "--json")[1])
    schema.check(document)
    assert document["hosts"]["b"]["status"] == "failed"
