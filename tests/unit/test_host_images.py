"""Images and containers in dockerd's API, of old and new engines and both image stores."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import dockerd
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import host_images
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images.host_images import (
    content_of,
    is_kept,
    layers_of,
    seconds_of,
)


class Dockerd:
    """Stands in for dockerd: answers from a table, and takes down what was asked."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def request(self, method: str, path: str, timeout: int = 60) -> tuple[int, Any]:
        self.asked.append(f"{method} {path}")
        return (200, self.answers[path]) if path in self.answers else (404, {"message": "no such thing"})


INSPECTED = {
    "RootFS": {"Layers": ["sha256:aa", "sha256:bb"]},
    "Created": "2026-11-24T10:00:00.123456789Z",
    "Architecture": "amd64",
    "Config": {"Cmd": ["sh"], "Env": ["A=1"], "Labels": None, "Hostname": "x"},
    "Metadata": {"LastTagTime": "2026-11-24T11:00:00+01:00"},
}
HISTORY = [
    {"Size": 0, "CreatedBy": 'CMD ["sh"]'},
    {"Size": 30, "CreatedBy": "RUN make"},
    {"Size": 70, "CreatedBy": "COPY a /a"},
]


def serve(monkeypatch: pytest.MonkeyPatch, api: str, answers: dict[str, Any]) -> Dockerd:
    served = Dockerd({api + path: value for path, value in answers.items()})
    monkeypatch.setattr(dockerd, "request", served.request)
    monkeypatch.setattr(dockerd, "ask", lambda path, timeout=10: {"ApiVersion": api.removeprefix("/v")})
    return served


@pytest.mark.parametrize(
    ("speaks", "spoken"),
    [("1.39", "/v1.39"), ("1.44", "/v1.44"), ("1.52", "/v1.44"), ("1.9", "/v1.9"), ("2.0", "/v1.44")],
)
def test_the_newest_api_is_spoken_that_both_know(speaks: str, spoken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dockerd, "ask", lambda path, timeout=10: {"ApiVersion": speaks})
    assert dockerd.api() == spoken


def test_a_dockerd_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dockerd, "SOCKET", "/nonexistent")
    with pytest.raises(dockerd.DockerdError, match="dockerd does not answer at /nonexistent"):
        host_images.read()


@pytest.mark.parametrize(
    ("tags", "digests"),
    [(["<none>:<none>"], ["<none>@<none>"]), (None, None), ([], [])],
)
def test_an_image_without_a_name_has_none_in_whichever_shape_it_is_said(
    tags: Any, digests: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = {"Id": "sha256:1", "RepoTags": tags, "RepoDigests": digests, "Created": 5, "Size": 7, "Labels": None}
    serve(monkeypatch, "/v1.39", {"/info": {}, "/images/json": [listed], "/images/sha256:1/json": INSPECTED})
    (image,) = host_images.read()["images"]
    assert (image["tags"], image["digests"], image["created"], image["size"]) == ([], [], 5, 7)
    assert "layers" not in image


def test_images_and_containers_are_read_with_what_decides_about_them(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"org.gpuprov.keep": "true"}
    served = serve(
        monkeypatch,
        "/v1.44",
        {
            "/info": {"Driver": "overlayfs", "ServerVersion": "29.7.2",
                      "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]},
            "/images/json": [
                {"Id": "sha256:1", "RepoTags": ["b:1", "a:1"], "Created": 5, "Size": 100, "Labels": kept},
                {"Id": "sha256:gone", "RepoTags": ["c:1"]},
            ],
            "/images/sha256:1/json": INSPECTED,
            "/images/sha256:1/history": HISTORY,
            "/containers/json?all=1": [
                {"Id": "r", "Names": ["/job"], "Image": "a:1", "ImageID": "sha256:1", "State": "running", "Created": 6},
                {"Id": "e", "Names": ["/done"], "Image": "a:1", "ImageID": "sha256:1", "State": "exited",
                 "Created": 6, "Labels": kept},
                {"Id": "gone", "Names": ["/gone"], "State": "exited"},
            ],
            "/containers/e/json?size=1": {
                "State": {"Status": "exited", "FinishedAt": "1970-01-01T00:01:00Z"}, "SizeRw": 9},
        },
    )  # fmt: skip
    found = host_images.read(containers=True, layers=True)
    assert (found["engine"], found["store"]) == ("29.7.2", "containerd")
    ((image),) = found["images"]
    assert (image["tags"], image["keep"], image["tagged"]) == (["a:1", "b:1"], True, 1795514400)
    assert [size for _chain, size in image["layers"]] == [70, 30]
    job, done = found["containers"]
    assert (job["name"], job["image"], job["state"], job["bytes"]) == ("job", "sha256:1", "running", 0)
    assert (done["ended"], done["bytes"], done["keep"]) == (60, 9, True)
    assert "GET /v1.44/containers/r/json?size=1" not in served.asked


@pytest.mark.parametrize(
    ("sizes", "made_by", "layers", "expected"),
    [
        ([0, 30, 70], ["CMD", "RUN x", "ADD x"], 2, [70, 30]),
        ([0, 0, 70], ["RUN true", "/bin/sh -c #(nop)  ENV A=1", "ADD x"], 2, [70, 0]),
        ([5, 0, 0, 70], ["RUN x", "ENV A=1", "WORKDIR /a", "ADD x"], 3, [70, 0, 5]),
        ([5], [""], 1, [5]),
        ([], [], 2, [100, 0]),
        ([5, 6, 7], ["a", "b", "c"], 2, [100, 0]),
        ([], [], 0, []),
    ],
)
def test_the_bytes_of_layers_come_from_the_history(
    sizes: list[int], made_by: list[str], layers: int, expected: list[int]
) -> None:
    history = [{"Size": size, "CreatedBy": by} for size, by in zip(sizes, made_by, strict=True)]
    found = layers_of([f"sha256:{n}" for n in range(layers)], history, 100)
    assert [size for _chain, size in found] == expected


def test_layers_are_named_by_all_that_is_below_them() -> None:
    first = layers_of(["sha256:a", "sha256:c"], HISTORY, 1)
    second = layers_of(["sha256:b", "sha256:c"], HISTORY, 1)
    assert first[0][0] == "sha256:a"
    assert {chain for chain, _size in first} & {chain for chain, _size in second} == set()


@pytest.mark.parametrize("history", [None, []])
def test_an_image_without_a_history_has_its_layers_all_the_same(history: Any) -> None:
    assert layers_of(["sha256:a", "sha256:b"], history, 7) == [
        ["sha256:a", 7],
        [layers_of(["sha256:a", "sha256:b"], HISTORY, 1)[1][0], 0],
    ]


def test_content_is_the_same_whatever_an_engine_adds_and_another_for_another_image() -> None:
    newer = INSPECTED | {"Created": "2026-11-24T11:00:00+01:00", "Id": "sha256:other", "Size": 1}
    newer["Config"] = {"Cmd": ["sh"], "Env": ["A=1"], "Labels": {}, "OnBuild": None}
    assert content_of(newer) == content_of(INSPECTED)
    assert content_of(INSPECTED | {"Config": {"Cmd": ["sh"], "Env": ["A=2"]}}) != content_of(INSPECTED)


@pytest.mark.parametrize(
    ("value", "kept"), [("true", True), ("yes", True), ("7", True), ("false", False), (" No ", False), ("", False)]
)
def test_the_label_keeps_unless_it_says_no(value: str, kept: bool) -> None:
    assert is_kept({"org.gpuprov.keep": value}) is kept
    assert is_kept({"org.gpuprov.kept": value}) is False


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-02T00:00:00Z", 86400),
        ("1970-01-02T00:00:00.5-01:30", 91800),
        ("0001-01-01T00:00:00Z", 0),
        ("", 0),
        (None, 0),
        ("soon", 0),
    ],
)
def test_times_are_read_as_go_writes_them(text: str | None, seconds: int) -> None:
    assert seconds_of(text) == seconds
