"""The answers of dockerd on its socket."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import dockerd

HEAD = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        (HEAD + b'{"a": "\xc3\xa9"}', {"a": "\u00e9"}),
        (HEAD + b"[]", []),
        (HEAD + b"[", None),
        (b"HTTP/1.0 500 Internal Server Error\r\n\r\n{}", None),
        (b"HTTP/1.0 404 page not found\r\n\r\n{}", None),
        (b"", None),
        (b"nonsense", None),
    ],
)
def test_only_json_of_a_success_is_an_answer(answer: bytes, value: Any) -> None:
    assert dockerd.decoded(answer) == value


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """A dockerd that answers with what is put into the list, in two parts, and hangs where there is nothing."""
    answers: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        monkeypatch.setattr(dockerd, "SOCKET", str(tmp_path / "s"))

        def serve() -> None:
            try:
                while True:
                    connection, _address = listener.accept()
                    asked = connection.recv(1000)
                    if answers and asked.startswith(b"GET /containers/json HTTP/1.0\r\n"):
                        connection.sendall(answers[0][:20])
                        connection.sendall(answers[0][20:])
                        connection.close()
            except OSError:
                return

        threading.Thread(target=serve, daemon=True).start()
        yield answers
        listener.shutdown(socket.SHUT_RDWR)


def test_running_containers_are_named_as_people_name_them(served: list[bytes]) -> None:
    served.append(HEAD + b'[{"Id": "abc", "Names": ["/job"], "Image": "i"}, {"Id": "d", "Names": [], "Image": "j"}]')
    assert dockerd.running() == [
        {"id": "abc", "name": "job", "image": "i"},
        {"id": "d", "name": "d", "image": "j"},
    ]


def test_a_dockerd_that_hangs_or_is_not_there_gives_no_answer(
    served: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert dockerd.ask("/info", timeout=1) is None
    monkeypatch.setattr(dockerd, "SOCKET", "/nonexistent")
    assert dockerd.running() is None
