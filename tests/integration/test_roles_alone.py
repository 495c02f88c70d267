"""Each role, by each of its entry points, alone in a play of plain ansible-playbook.

Each play has a name of its own for the one host, so that no fact and no registered variable of another play is there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.conftest import Answer, run
from tests.lab.lab import Host, Lab

ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINTS = {
    (path.parents[1].name, name)
    for path in ROOT.glob("roles/*/meta/argument_specs.yml")
    for name in yaml.safe_load(path.read_text())["argument_specs"]
}
IMAGE = "hello-world:latest"
CACHE = {"registry_cache_upstream": "{{ docker_daemon_registry_mirrors[0] }}", "registry_cache_insecure": "yes"}
SAVED = "/tmp/gpuprov-alone.tar"  # on the controller


@dataclass(frozen=True)
class Use:
    """One play: the roles that it uses, by which entry point, and in which way."""

    roles: tuple[str, ...]
    entry_point: str = "main"
    way: str = "include_role"
    variables: tuple[tuple[str, Any], ...] = ()

    def play(self, host: str, gather_facts: bool) -> dict[str, Any]:
        play: dict[str, Any] = {
            "hosts": host,
            "become": True,
            "gather_facts": gather_facts,
            "vars": dict(self.variables),
        }
        names = [f"gpuprov.gpuprov.{role}" for role in self.roles]
        if self.way == "roles":
            return {**play, "roles": names}
        return {**play, "tasks": [{self.way: {"name": name, "tasks_from": self.entry_point}} for name in names]}


def one(role: str, entry_point: str = "main", way: str = "include_role", **variables: Any) -> Use:
    return Use((role,), entry_point, way, tuple(variables.items()))


IMAGES = [
    one("docker_image", "ls"),
    one("docker_image", "main", "roles"),
    one("docker_image", "tag", docker_image_name="busybox:1.0.0"),
    one("docker_image", "prune", "import_role", docker_image_prune_older_than="30d"),
    one("docker_image_transfer", "save", docker_image_transfer_name=IMAGE, docker_image_transfer_from="alone{number}",
        docker_image_transfer_file=SAVED),
    one("docker_image_transfer", "load", docker_image_transfer_file=SAVED),
    one("docker_image_transfer", "main", docker_image_transfer_name=IMAGE, docker_image_transfer_from=SAVED),
    one("docker_image_transfer", "ship", "import_role", docker_image_transfer_name=IMAGE,
        docker_image_transfer_from=SAVED),
]  # fmt: skip
# On a fresh host, in this order.
INSTALL = [
    one("docker_ce", "check"),
    one("docker_ce"),
    one("nvidia_docker", "check"),
    one("nvidia_docker"),
    # The second one has a default that depends on the first one's.
    Use(("nvidia_docker", "docker_daemon"), way="roles"),
    one("docker_group"),
    one("dockerrun"),
    one("gpu_host_probe", way="roles"),
    one("gpu_host_verify"),
    one("registry_cache", **CACHE),
]
# On a host that has all of it: nothing changes.
AGAIN = [
    one("docker_ce", "check", way="import_role"),
    one("nvidia_docker", "check", way="import_role"),
    *(one(role, way="import_role") for role in ("docker_ce", "nvidia_docker", "docker_group", "dockerrun")),
    one("docker_daemon", "main", "roles", docker_daemon_nvidia_runtime="yes"),
    *(one(role, way="roles") for role in ("docker_ce", "nvidia_docker", "docker_group", "dockerrun")),
    one("gpu_host_verify", "main", "import_role"),
    one("registry_cache", "main", "roles", **CACHE),
    Use(("docker_ce", "nvidia_docker", "docker_daemon", "docker_group", "dockerrun", "gpu_host_probe")),
]  # fmt: skip
UNINSTALL = [
    one("docker_ce", "check_uninstall"),
    one("registry_cache", "uninstall", registry_cache_uninstall_data="yes"),
    one("dockerrun", "uninstall"),
    one("docker_daemon", "uninstall"),
    one("nvidia_docker", "uninstall"),
    one("docker_ce", "uninstall", docker_ce_uninstall_data="false", docker_ce_uninstall_running="no"),
]


def test_every_entry_point_of_every_role_is_used_here() -> None:
    used = {(role, use.entry_point) for use in INSTALL + AGAIN + IMAGES + UNINSTALL for role in use.roles}
    # tests/integration/test_images.py builds.
    assert ENTRY_POINTS - used == {("docker_image", "build")}


@pytest.fixture(scope="module")
def host(lab: Lab) -> Iterator[Host]:
    """A fresh host, and a fresh one for those that come after."""
    lab.reset("debian12")
    yield lab.host("debian12")
    lab.reset("debian12")
    for path in (Path(SAVED), Path(f"{SAVED}.sha256")):
        path.unlink(missing_ok=True)


def play(
    lab: Lab, place: Path, core: str, uses: list[Use], settings: str, facts: bool = False, login: str | None = None
) -> Answer:
    """Run a playbook that has a play for each use, under an ansible-core, with a person's settings.

    login: who logs in, of which only ssh knows.
    """
    address, variables = lab.host("debian12").address, lab.inventory.read_text().partition("[all:vars]")[2]
    if login:
        variables = re.sub(r"\n(ansible_user|docker_group_users)=.*", "", variables)
        variables = variables.replace("-o UserKnown", f"-o User={login} -o ControlPath=none -o UserKnown")
    names = [f"alone{number}" for number in range(len(uses))]
    hosts = "".join(f"{name} ansible_host={address}\n" for name in names)
    (place / "hosts.ini").write_text(f"{hosts}\n[all:vars]{variables}")
    plays = [use.play(name, facts) for use, name in zip(uses, names, strict=True)]
    text = json.dumps(plays)
    for number, name in enumerate(names):
        text = text.replace("alone{number}", name, 1) if json.dumps(plays[number]).count("alone{number}") else text
    (place / "play.yml").write_text(text)
    (place / "ansible.cfg").write_text(f"[defaults]\n{settings}\n[ssh_connection]\npipelining = true\n")
    return run(
        [str(ROOT / core / "bin/ansible-playbook"), "-i", "hosts.ini", "play.yml"],
        place,
        ANSIBLE_COLLECTIONS_PATH=str(ROOT / "playbooks/collections"),
    )


def changed(answer: Answer, uses: list[Use]) -> list[tuple[str, ...]]:
    """The uses that changed something, in order; each of them has come through."""
    assert answer.status == 0, answer.text
    recap = {
        line.split()[0]: line for line in answer.stdout.partition("PLAY RECAP")[2].splitlines() if " : ok=" in line
    }
    assert len(recap) == len(uses), answer.text
    return [
        (*use.roles, use.entry_point) for number, use in enumerate(uses) if "changed=0" not in recap[f"alone{number}"]
    ]


def test_nothing_is_touched_where_a_value_is_wrong_and_each_is_named(host: Host, lab: Lab, tmp_path: Path) -> None:
    wrong = {
        "docker_ce_hold=maybe": "docker_ce_hold is 'maybe', and must be true or false",
        "docker_daemon_options={live-restore: true}": "docker_daemon_options is not JSON: ",
        "docker_daemon_config_mode=420": "docker_daemon_config_mode is 420, and must be four octal digits",
        "dockerrun_defaults=--env A=1,2": "dockerrun_defaults: '2' is neither an option",
        "gpu_host_verify_timeout=soon": "gpu_host_verify_timeout is 'soon', and must be a whole number",
        "gpuprov_wait=-1": "gpuprov_wait is -1, and must be a whole number",
    }
    looked = "find /etc /usr/local /var/lib/dpkg/status | xargs -d '\\n' stat -c '%n %s %y' | sha256sum"
    before = host.run(looked).stdout
    inventory = lab.inventory.read_text()
    for lines in ([line for line in wrong if "dockerrun" not in line], ["dockerrun_defaults=--env A=1,2"]):
        (tmp_path / "hosts.ini").write_text(inventory + "\n".join(lines) + "\n")
        answer = run(["gpuprov", "provision", "hosts.ini", "-l", "debian12"], tmp_path)
        assert answer.status == 2
        assert [line for line in lines if wrong[line] not in answer.text] == [], answer.text
        assert "Traceback" not in answer.text
    # Ansible's own validation comes first where a role is used without rolespec_validate: false.
    uses = [
        one("docker_ce", docker_ce_hold="maybe"),
        one("docker_ce", "uninstall", "import_role", docker_ce_uninstall_data="perhaps"),
        one("docker_daemon", "main", "roles", docker_daemon_options="live-restore"),
        one("docker_daemon", docker_daemon_config_mode=420),
        one("nvidia_docker", nvidia_docker_remove_v1_containers="None"),
        one("dockerrun", dockerrun_defaults="--env A=1,2"),
        one("docker_group", gpuprov_wait="-1"),
    ]
    for core, use in zip(cycle((".venv", ".venv-core218", ".venv-xenial")), uses, strict=False):
        answer = play(lab, tmp_path, core, [use], "gathering = explicit")
        assert answer.status == 2
        assert re.search(r"^alone0 .* changed=0 .* failed=1 ", answer.stdout, re.MULTILINE), answer.text
    assert host.run(looked).stdout == before


def test_roles_install_alone_without_facts_where_variables_of_roles_are_private(
    host: Host, lab: Lab, tmp_path: Path
) -> None:
    answer = play(lab, tmp_path, ".venv", INSTALL, "private_role_vars = True\ngathering = explicit")
    assert changed(answer, INSTALL) == [
        ("docker_ce", "main"), ("nvidia_docker", "main"),
        ("nvidia_docker", "docker_daemon", "main"), ("docker_group", "main"), ("dockerrun", "main"),
        ("registry_cache", "main"),
    ]  # fmt: skip
    assert "nvidia" in json.loads(host.run("cat /etc/docker/daemon.json").stdout)["runtimes"]


def test_the_login_user_joins_the_group_where_ssh_alone_knows_who_that_is(host: Host, lab: Lab, tmp_path: Path) -> None:
    uses = [one("docker_group")]
    answer = play(lab, tmp_path, ".venv", uses, "private_role_vars = True", login="admin")
    assert changed(answer, uses) == [("docker_group", "main")]
    assert "admin" in host.run("getent group docker").stdout


def test_roles_find_nothing_to_do_with_a_fact_cache_and_smart_gathering(host: Host, lab: Lab, tmp_path: Path) -> None:
    host.run("docker pull -q busybox && docker tag busybox busybox:1.0.0")
    uses = AGAIN + IMAGES
    settings = f"gathering = smart\nfact_caching = jsonfile\nfact_caching_connection = {tmp_path}/facts"
    answer = play(lab, tmp_path, ".venv-xenial", uses, settings, facts=True)
    assert changed(answer, uses) == [("docker_image", "tag"), ("docker_image_transfer", "save")]
    # What the cache says by now is of an earlier run: nothing of it is believed.
    host.run("docker run -d --name busy busybox sleep 36000")
    refused = play(lab, tmp_path, ".venv-core218", UNINSTALL[-1:], settings, facts=True)
    assert refused.status == 2
    assert "Containers run: busy. Stop them, or set docker_ce_uninstall_running: true" in refused.stdout
    assert host.run("docker ps --format '{{.Names}}'").stdout.split() == ["busy"]


def test_roles_uninstall_alone_and_leave_data_where_text_says_false(host: Host, lab: Lab, tmp_path: Path) -> None:
    host.run("docker ps -aq | xargs -r docker rm -f; docker volume create kept")
    answer = play(lab, tmp_path, ".venv-core218", UNINSTALL, "private_role_vars = True\ngathering = explicit")
    assert changed(answer, UNINSTALL) == [(*use.roles, "uninstall") for use in UNINSTALL[1:]]
    assert host.run("ls /var/lib/docker/volumes").stdout.split().count("kept") == 1
    again = play(lab, tmp_path, ".venv", UNINSTALL, "private_role_vars = True\ngathering = explicit")
    assert changed(again, UNINSTALL) == []
