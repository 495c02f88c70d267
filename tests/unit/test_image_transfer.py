"""The commands that move images, up to ansible-runner and back."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from gpuprov import display
from gpuprov.options import Options
from gpuprov.result import Host, Run
from tests.runs import Call, Runs

ID, SHOWN = "sha256:" + "a" * 64, "sha256:" + "b" * 64


def event(kind: str, host: str, task: str = "Load the image", **result: Any) -> dict[str, Any]:
    return {"event": f"runner_{kind}", "event_data": {"host": host, "task": task, "res": result}}


def shipped(host: str, shown: str = ID, **more: Any) -> dict[str, Any]:
    image = {"id": ID, "names": ["x:1"], "layers": 5, "sent_layers": 1, "sent_bytes": 1234, "shown_as": shown}
    image |= {"seconds": 0.5, **more}
    return event("on_ok", host, changed=True, docker_image=image)


def test_the_playbook_gets_the_name_in_full_and_the_source(runs: Runs, gpuprov: Call, tmp_path: Path) -> None:
    runs.events = [shipped("a")]
    (tmp_path / "x.tar").touch()
    for words, source in (((), "local"), (("--from", "gpu1"), "gpu1"), (("--from", "x.tar"), str(tmp_path / "x.tar"))):
        assert gpuprov("image", "ship", "team/x", "a,", *words)[0] == 0
        playbook, options, _ = runs.calls[-1]
        assert playbook == "image_ship.yml"
        assert options.variables == {
            "docker_image_transfer_name": "team/x:latest",
            "docker_image_transfer_from": source,
            "gpuprov_quiet": True,
        }


def test_save_needs_an_inventory_only_for_a_host(runs: Runs, gpuprov: Call, tmp_path: Path) -> None:
    saved = {"id": ID, "names": ["x:1"], "file": str(tmp_path / "x.tar"), "bytes": 1500, "sha256": "c" * 64}
    runs.events = [event("on_ok", "localhost", docker_image=saved, source="localhost")]
    status, out, _ = gpuprov("image", "save", "x:1", "-o", "x.tar")
    assert (status, runs.calls[0][1].inventory) == (0, "localhost,")
    assert out == f"x:1  aaaaaaaaaaaa  1.5 kB  {tmp_path}/x.tar\nsha256 {'c' * 64}, in x.tar.sha256\n"
    assert gpuprov("image", "save", "x:1", "-o", "x.tar", "--from", "gpu1")[0] == 1
    assert gpuprov("image", "save", "x:1")[0] == 1
    assert len(runs.calls) == 1
    runs.events = [event("on_ok", "a", "Save | Write the archive", docker_image=saved, source="gpu1", changed=True)]
    out = gpuprov("image", "save", "x:1", "-o", "x.tar", "--from", "gpu1", "a,gpu1")[1]
    assert out.startswith("gpu1: changed: Write the archive\n")


def test_the_end_says_which_image_is_on_which_hosts(runs: Runs, gpuprov: Call) -> None:
    runs.events = [shipped("gpu1"), shipped("gpu2"), shipped("gpu10", SHOWN)]
    status, out, _ = gpuprov("image", "ship", "x:1", "a,")
    assert status == 0
    assert out.splitlines()[-2:] == [
        f"x:1 is {ID} on all 3 hosts.",
        "containerd shows it as bbbbbbbbbbbb, the digest of a manifest or an index: gpu10",
    ]
    assert "gpu10  bbbbbbbbbbbb  1 of 5  1.2 kB" in out


def test_the_end_says_which_platform_s_image_is_on_which_hosts(runs: Runs, gpuprov: Call) -> None:
    runs.events = [shipped("gpu1"), shipped("gpu2"), shipped("grace1", SHOWN, id=SHOWN)]
    assert gpuprov("image", "ship", "x:1", "a,")[1].splitlines()[-2:] == [
        f"x:1 is {ID} on gpu[1:2].",
        f"x:1 is {SHOWN} on grace1.",
    ]


def test_a_host_that_fails_has_one_line_and_the_others_are_counted(runs: Runs, gpuprov: Call) -> None:
    runs.events = [shipped("gpu1"), event("on_failed", "gpu2", msg="the disk is full: 7 MB")]
    status, out, _ = gpuprov("image", "ship", "x:1", "a,")
    assert status == 2
    assert out.count("gpu2") == 1
    assert "gpu2: failed: the disk is full: 7 MB\n" in out
    assert f"x:1 is {ID} on 1 of 2 hosts." in out


def test_what_fails_before_a_host_is_asked_is_one_line_and_status_1(runs: Runs, gpuprov: Call) -> None:
    runs.events = [event("on_failed", "gpu1", "Describe the image", msg="x.tar is damaged", before_hosts=True)]
    assert gpuprov("image", "ship", "x:1", "a,") == (1, "", "gpuprov: x.tar is damaged\n")


@pytest.mark.parametrize(("unreachable", "status"), [(False, 2), (True, 4)])
def test_what_fails_at_the_source_is_said_of_the_source(
    unreachable: bool, status: int, runs: Runs, gpuprov: Call
) -> None:
    failed = {"msg": "build: gone", "reason": "gone", "source": "build", "source_unreachable": unreachable}
    runs.events = [event("on_failed", "gpu1", "Describe the image", **failed)]
    word = "unreachable" if unreachable else "failed"
    assert gpuprov("image", "ship", "x:1", "a,") == (status, f"build: {word}: gone\n", "")


def test_an_interrupted_run_blames_no_host(runs: Runs, gpuprov: Call) -> None:
    runs.events = [shipped("gpu1"), event("on_failed", "gpu2", msg="interrupted", interrupted=True)]
    runs.interrupted = True
    status, out, _ = gpuprov("image", "ship", "x:1", "a,")
    assert status == 130
    assert "gpu2" not in out
    assert "Run it again to finish" in out


def test_json_has_what_was_sent(runs: Runs, gpuprov: Call) -> None:
    runs.events = [shipped("gpu1")]
    status, out, err = gpuprov("image", "ship", "x:1", "a,", "--json")
    document = json.loads(out)
    assert (status, document["command"]) == (0, "image ship")
    assert document["hosts"]["gpu1"]["image"]["sent_bytes"] == 1234
    assert "x:1 is" in err


def test_nothing_is_said_of_an_image_that_a_check_did_not_send(runs: Runs, gpuprov: Call) -> None:
    runs.events = [shipped("gpu1", sent_bytes=None, shown_as=None)]
    status, out, _ = gpuprov("image", "ship", "x:1", "a,", "--check")
    assert (status, runs.calls[0][1].check) == (0, True)
    assert "not yet" in out
    assert "x:1 is" not in out


@pytest.mark.parametrize("name", ["a;b:1", "$(id)", "X:1", "x:1@sha256:" + "a" * 64, "a" * 64, ""])
def test_names_that_are_none_are_refused_before_anything_runs(name: str, runs: Runs, gpuprov: Call) -> None:
    status, _, err = gpuprov("image", "ship", name, "a,")
    assert (status, err.count("\n"), runs.calls) == (1, 1, [])


# ---- while it runs


def transfer(**more: Any) -> Any:
    told = {"what": "sending", "label": "gpu1", "done": 50_000_000, "total": 150_000_000, "begun": time.time() - 10}
    return display._progress.Transfer(**{**told, **more})


def test_a_line_has_bytes_rate_and_the_time_left() -> None:
    one = transfer()
    line = display._progress.line
    assert line(one, one.begun + 10) == "gpu1 | sending: 50.0 of 150.0 MB, 5.0 MB/s, 20 s left"
    assert line(transfer(label="gpu1 1a2b", what="fetching"), one.begun + 10).startswith("gpu1 | fetching 1a2b: 50.0")
    assert "left" not in line(transfer(total=0), time.time())


def test_without_bars_a_line_is_printed_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("GPUPROV_PROGRESS", raising=False)
    monkeypatch.setattr(display._progress, "time", clock := Clock())
    with display._progress.Progress("sending", "gpu1", 4_000_000) as progress:
        for _block in progress.counted([b"x" * 1_000_000] * 4):
            clock.now += 2
    assert capsys.readouterr().out == "gpu1 | sending: 4.0 of 4.0 MB, 0.7 MB/s\n"


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def time(self) -> float:
        return self.now

    monotonic = time


def test_a_terminal_has_a_bar_for_each_host_and_one_for_all(tmp_path: Path) -> None:
    import io

    from rich.console import Console

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with display.Live(Run("image ship", Options("a,")), Terminal(), tmp_path) as bars:
        for label in ("gpu1", "gpu2"):
            (tmp_path / "progress" / f"{label}.json").write_text(json.dumps(vars(transfer(label=label))))
        (tmp_path / "progress" / "torn.json").write_text("half a li")
        bars.update("start", Host("gpu1"))
        shown = io.StringIO()
        Console(file=shown, width=80).print(bars._render())
    rows = shown.getvalue().splitlines()
    assert [row.count("━") for row in rows] == [6, 6, 6]
    assert [re.split("[━╸ ]{20} ", row)[1].partition(",")[0] for row in rows] == [
        "gpu1 | sending: 50.0 of 150.0 MB", "gpu2 | sending: 50.0 of 150.0 MB", "all | sending: 100.0 of 300.0 MB",
    ]  # fmt: skip
    assert all(re.search(r" MB/s, \d+ s left *$", row) for row in rows)
