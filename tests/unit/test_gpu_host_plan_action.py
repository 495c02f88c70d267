"""The task that reads a host and plans, with a host that answers as a recorded one did."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from ansible_collections.gpuprov.gpuprov.plugins.action import gpu_host_plan
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat, host_command

DATA = Path(__file__).parent / "data/probe"
SPECIAL: dict[str, Any] = {"ansible_run_tags": ["all"], "ansible_skip_tags": [], "docker_group_users": ""}


class Host:
    """A host that answers to the probe; what it was asked, and the groups it was put into."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[list[str]] = []
        self.groups: list[str] = []
        self.answer = ""
        monkeypatch.setattr(host_command, "execute", self._execute)
        monkeypatch.setattr(ansible_compat, "add_to_group", lambda _action, _result, group: self.groups.append(group))

    def _execute(self, _action: object, words: list[str]) -> dict[str, Any]:
        self.asked.append(words)
        nonce = words[words.index("gpuprov-probe") + 1]
        return {"rc": 0, "stdout": self.answer.replace(" recording", f" {nonce}"), "stderr": ""}

    def plan(self, recording: str, **variables: Any) -> dict[str, Any]:
        """Run the task against the host as it was recorded, in a play with these variables."""
        self.answer = (DATA / f"{recording}.txt").read_text()
        task_vars = {**SPECIAL, **variables}
        loader = DataLoader()
        shell = SimpleNamespace(tmpdir=None)
        task = SimpleNamespace(args={}, tags=["always"], async_val=0, check_mode=False, diff=False, no_log=False)
        action = gpu_host_plan.ActionModule(
            task=task, connection=SimpleNamespace(_shell=shell, become=None, _load_name="ssh"),
            play_context=SimpleNamespace(check_mode=False), loader=loader,
            templar=Templar(loader=loader, variables=task_vars), shared_loader_obj=None,
        )  # fmt: skip
        result: dict[str, Any] = action.run(task_vars=task_vars)
        return result


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


PLAYBOOK = {"gpu_host_probe_group_prefix": "gpuprov_"}  # provision.yml sets it


def test_a_host_with_changes_is_pending_and_its_facts_hold_the_plan(host: Host) -> None:
    result = host.plan("one-gpu", **PLAYBOOK)
    assert "failed" not in result, result
    plan = result["ansible_facts"]["gpu_host_plan"]
    assert {"docker_ce", "nvidia_docker", "docker_daemon"} <= {change["role"] for change in plan["changes"]}
    assert host.groups == ["gpuprov_pending"]
    assert result["ansible_facts"]["distribution_release"]


@pytest.mark.parametrize(
    ("variables", "group"),
    [
        ({"gpu_host_probe_full": "yes"}, ["gpuprov_full"]),
        # The only role that the tags choose has nothing to do.
        ({"ansible_run_tags": ["docker_group"]}, ["gpuprov_up_to_date"]),
        ({"gpu_host_probe_group_prefix": ""}, []),
    ],
)
def test_the_group_of_a_host_says_which_play_comes_next(
    variables: dict[str, Any], group: list[str], host: Host
) -> None:
    result = host.plan("one-gpu", **{**PLAYBOOK, **variables})
    assert "failed" not in result, result
    assert host.groups == group
    # Facts stay where a later task reads them.
    assert ("ansible_facts" in result) == (group != ["gpuprov_up_to_date"])


@pytest.mark.parametrize(
    ("recording", "variables", "said"),
    [
        ("one-gpu", {"docker_ce_hold": "maybe"}, "docker_ce_hold is 'maybe', and must be true or false"),
        ("one-gpu", {"gpuprov_wait": "-1"}, "gpuprov_wait is '-1', and must be a whole number"),
        ("one-gpu", {"docker_group_users": "alice"}, "docker_group_users: no account alice on this host"),
        ("no-driver", {}, "driver"),
        ("container", PLAYBOOK, "this host runs without systemd"),
    ],
)
def test_what_stands_in_the_way_fails_the_host_and_puts_it_into_no_group(
    recording: str, variables: dict[str, Any], said: str, host: Host
) -> None:
    result = host.plan(recording, **variables)
    assert result["failed"]
    assert said in result["msg"]
    assert host.groups == []


def test_a_wrong_option_of_the_probe_fails_before_the_host_is_asked(host: Host) -> None:
    result = host.plan("one-gpu", gpu_host_probe_timeout="soon")
    assert result["msg"].startswith("gpu_host_probe_timeout is 'soon'")
    assert host.asked == []


def test_problems_are_only_reported_where_the_plan_is_not_strict(host: Host) -> None:
    result = host.plan("no-driver", gpu_host_probe_strict="no")
    assert "failed" not in result
    assert [problem["name"] for problem in result["ansible_facts"]["gpu_host_plan"]["problems"]] == ["driver"]
    assert "no-driver" in [finding["name"] for finding in result["ansible_facts"]["gpu_host_findings"]]


def test_a_host_that_answers_something_else_is_named_as_such(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_command, "execute", lambda *_: {"rc": 124, "stdout": "", "stderr": ""})
    assert host.plan("one-gpu")["msg"] == "the host did not answer to the probe within 60 s"
