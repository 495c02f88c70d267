"""The arguments of a plan's steps on a host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.modules.gpu_host_apply import concern_of
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.plan.host_planning import Desired, steps

ENGINE, STACK = {"role": "docker_ce"}, {"role": "nvidia_docker", "gpu": {"stack": "toolkit", "version": "1.19"}}
VOLUME = {"role": "nvidia_docker", "subject": "volume of nvidia-docker v1", "from": "v", "to": None}
LIMITS = {"lock_timeout": 300, "restart": "when-idle", "proxy": {"http": "http://u:p@proxy.test:3128"}}
WANTS = Desired(
    wanted={
        "docker_ce": ENGINE,
        "nvidia_docker": STACK,
        "docker_daemon": {"options": {"debug": True}, "restart": "never", "mode": "0644", "follow_symlink": False},
        "docker_group": {"group": "docker", "users": ["alice"]},
        "dockerrun": {"install": True, "sha256": "", "defaults": []},
    },
    options={
        "docker_ce": {**LIMITS, "start_timeout": 120},
        "nvidia_docker": {**LIMITS, "remove_v1_containers": False},
        "docker_daemon": {"backups": 5},
        "docker_group": {},
        "dockerrun": {},
    },
    problems=[],
    locked={"docker-ce": ["5:29", "ab"]},
)


def work(role: str, part: str, **plan: Any) -> list[dict[str, Any]]:
    step = {"role": role, "part": part, "name": "a name"}
    base = {"joined": False, "disruption": "reload", "engine_comes": False, "changes": [VOLUME]}
    return steps({**base, **plan, "steps": [step]}, WANTS)


@pytest.mark.parametrize(
    ("role", "part", "plan", "concern", "params"),
    [
        ("docker_ce", "source", {}, "packages", {"sets": [ENGINE], "sources_only": True, "restart": "when-idle"}),
        ("docker_ce", "source", {"joined": True}, "packages", {"sets": [ENGINE, STACK]}),
        ("docker_ce", "packages", {"joined": True}, "packages", {"sets": [ENGINE, STACK], "locked": WANTS.locked}),
        ("docker_ce", "service", {}, "service", {"timeout": 120}),
        ("nvidia_docker", "packages", {}, "packages", {"sets": [STACK], "sources_only": False}),
        ("nvidia_docker", "toolkit", {}, "toolkit", {"stack": "toolkit"}),
        ("nvidia_docker", "v1", {}, "v1", {"remove_containers": False, "changes": [VOLUME]}),
        ("docker_daemon", "settings", {}, "daemon", {"disruption": "reload", "validate": True, "backups": 5}),
        ("docker_daemon", "settings", {"engine_comes": True}, "daemon", {"validate": False, "restart": "never"}),
        ("docker_group", "members", {}, "group", {"users": ["alice"]}),
        ("dockerrun", "launcher", {}, "launcher", {"wanted": {"install": True, "sha256": "", "defaults": []}}),
    ],
)
def test_a_step_of_the_plan_is_given_what_its_role_would_give(
    role: str, part: str, plan: dict[str, Any], concern: str, params: dict[str, Any]
) -> None:
    (step,) = work(role, part, **plan)
    assert step["concern"] == concern
    assert {name: step["params"][name] for name in params} == params
    arguments = concern_of(concern).ARGUMENTS
    required = {name for name, spec in arguments.items() if spec.get("required")}
    assert required <= set(step["params"]) <= set(arguments)
