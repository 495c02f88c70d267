"""Which Python runs on a host, and who is a member of the group docker."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.conftest import Answer, Hosts, document, run
from tests.integration.test_become import SUDO, errors, inventory
from tests.lab.lab import Host, Lab

Gpuprov = Callable[..., Answer]


@pytest.fixture
def directory(tmp_path: Path, pristine: Hosts) -> Callable[[Host, str, str], None]:
    """Give a host a stand-in for a directory service, with these accounts and groups."""
    library = tmp_path / "libnss_directory.so.2"
    source = Path(__file__).with_name("nss_directory.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", library, source], check=True)

    def install(host: Host, accounts: str, groups: str) -> None:
        host.run(
            "base64 -d > /usr/lib/x86_64-linux-gnu/libnss_directory.so.2; mkdir -p /etc/directory; "
            "sed -i -E 's/^(passwd|group):.*/\\1: files directory/' /etc/nsswitch.conf",
            input=base64.encodebytes(library.read_bytes()).decode(),
        )
        host.run("cat > /etc/directory/passwd", input=accounts)
        host.run("cat > /etc/directory/group", input=groups)

    return install


DIRECTORY = """\
asmith:*:20001:20001:A Smith:/home/asmith:/bin/bash
corp\\svc bob:*:20002:20001:Bob:/:/bin/sh
123456:*:20003:20001:A number:/:/bin/sh
zoë:*:20004:20001:Zoë:/:/bin/sh
j.doe$:*:20005:20001:J. Doe:/:/bin/sh
MMeier@corp.example:*:20006:20001:A whole name:/:/bin/sh
CORP+eve:*:20007:20001:With winbind's separator:/:/bin/sh
o'neil & ~sons:*:20008:20001:Signs that shells know:/:/bin/sh
1# %x !y:*:20009:20001:More of them:/:/bin/sh
x-very-long-name-of-an-account-that-a-directory-made-of-two-names:*:20010:20001:Long:/:/bin/sh
"""
# What an inventory may say, and the account that the directory knows by it; None where it knows none.
SPELLINGS = {
    "asmith": "asmith", "ASmith": "asmith", "CORP\\asmith": "asmith", "corp\\ASMITH": "asmith",
    "asmith@corp.example": "asmith", "ASmith@CORP.example": "asmith", "corp\\svc bob": "corp\\svc bob",
    "CORP\\SVC Bob": "corp\\svc bob", "123456": "123456", "zoë": "zoë", "J.Doe$": "j.doe$", "alice": "alice",
    "mmeier@CORP.EXAMPLE": "MMeier@corp.example", "MMeier@corp.example": "MMeier@corp.example", "corp+EVE": "CORP+eve",
    "O'Neil & ~Sons": "o'neil & ~sons", "CORP\\1# %X !y": "1# %x !y", "root": "root",
    "X-very-long-name-of-an-account-that-a-directory-made-of-two-names":
        "x-very-long-name-of-an-account-that-a-directory-made-of-two-names",
    "20001": None, "MMeier": None, "eve": None, "ALICE": None, "alice@corp.example": None, "corp.example\\asmith": None,
    "OTHER\\asmith": None, "asmith@other.example": None, "asmit": None, "asmithy": None,
}  # fmt: skip


# The group docker in /etc/group and in the directory, the requested members, and those added or the error.
FOREIGN = "the group docker of this host comes from a directory service"
GROUPS: list[tuple[str, str, list[str], list[str] | str]] = [
    ("", "docker:x:990:asmith\\n", ["ASmith"], []),
    ("", "docker:x:990:asmith\\n", [], []),
    ("", "docker:x:990:asmith\\n", ["CORP\\asmith", "alice"], FOREIGN),
    ("", "docker:x:990:\\n", ["asmith@corp.example"], "make asmith a member in the directory"),
    ("", "Docker:x:990:asmith\\n", ["ASmith"], ["asmith"]),
    ("docker:x:991:\\n", "docker:x:990:asmith\\n", ["alice"], ["alice"]),
    ("docker:x:991:alice,asmith\\n", "docker:x:990:\\n", ["alice", "ASmith"], []),
]


def members_to_come(answer: Answer) -> list[str]:
    """Return the users whom the plan of the only host adds to the group docker."""
    (host,) = document(answer)["hosts"].values()
    return [change["to"] for change in host["plan"]["changes"] if change["role"] == "docker_group"]


def test_members_of_a_directory_are_added_by_the_name_that_it_answers(
    lab: Lab, pristine: Hosts, gpuprov: Gpuprov, checkout: Path, tmp_path: Path, directory: Callable[..., None]
) -> None:
    (host,) = pristine("debian12")
    directory(host, DIRECTORY, "")
    host.run("install -d -m 0700 -o 20001 /home/asmith /home/asmith/.ssh")
    host.run("install -m 0600 -o 20001 /root/.ssh/authorized_keys /home/asmith/.ssh")
    host.run("echo '%#20001 ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/corp")
    playbook = tmp_path / "role.yml"
    role = {"name": "gpuprov.gpuprov.docker_group", "vars": {"docker_group_users": "{{ users }}"}}
    playbook.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "become": True, "roles": [role]}]))

    def alone(users: list[str]) -> Answer:
        words = ["ansible-playbook", "-i", str(lab.inventory), "-l", "debian12", str(playbook)]
        collections = str(checkout / "playbooks/collections")
        extra = json.dumps({"users": users})
        return run([*words, "-e", extra], tmp_path, ANSIBLE_COLLECTIONS_PATH=collections)

    def planned(users: list[str]) -> Answer:
        extra = json.dumps({"docker_group_users": users})
        return gpuprov("plan", "-l", "debian12", "--json", "-e", extra)

    known = [name for name, answer in SPELLINGS.items() if answer]
    unknown = [name for name, answer in SPELLINGS.items() if not answer]
    added = members_to_come(planned(known))
    assert added == sorted({answer for answer in SPELLINGS.values() if answer})
    for answer in (planned([*known, *unknown]), alone([*known, *unknown])):
        assert answer.status == 2
        assert ", ".join(unknown) + " on this host" in " ".join(answer.text.replace("\\\\", "\\").split())
    answer = alone(known)
    assert answer.status == 0, answer.text
    assert host.run("getent group docker").stdout.rpartition(":")[2].strip().split(",") == added
    assert "changed=0" in alone(known).stdout
    assert members_to_come(planned(known)) == []
    # Whoever logs in by another spelling is a member by default, and no failure.
    for login in ("ASmith", "CORP\\asmith", "asmith@corp.example"):
        mine = inventory(lab, [("debian12", login, SUDO)], tmp_path / "login.json")
        text = json.loads(mine.read_text())
        del text["all"]["vars"]["docker_group_users"]
        mine.write_text(json.dumps(text))
        answer = gpuprov("plan", "--json", inventory=mine)
        assert errors(answer) == {}, answer.text
        assert members_to_come(answer) == []

    for local, directory_s, users, said in GROUPS:
        host.run(f"sed -i /^docker:/d /etc/group; printf '{local}' >> /etc/group")
        host.run(f"printf '{directory_s}' > /etc/directory/group")
        plan = planned(users)
        if isinstance(said, list):
            assert members_to_come(plan) == said
            continue
        for answer in (plan, alone(users)):
            assert answer.status == 2
            assert said in " ".join(answer.text.split())


def test_the_python_that_the_inventory_names_is_the_one_that_runs(
    lab: Lab, pristine: Hosts, gpuprov: Gpuprov, tmp_path: Path
) -> None:
    (host,) = pristine("debian12")
    host.run(
        "mkdir -p /opt/py/bin /opt/py/lib; mv /usr/bin/python3.11 /opt/py/bin/python3; rm /usr/bin/python3*; "
        "ln -s /usr/lib/python3.11 /opt/py/lib/python3.11; ln -s /usr/lib/python3 /opt/py/lib/python3"
    )
    named, own = "/opt/py/bin/python3", ("-l", "debian12", "--json")
    for words, said in (
        ((), "it has no Python"),
        (("-e", "ansible_python_interpreter=auto_silent"), "it has no Python"),
        (("-e", "ansible_python_interpreter=/opt/none/python3"), "is /opt/none/python3, which does not run"),
        (("-e", "ansible_python_interpreter=/bin/true"), "is /bin/true, which does not run"),
    ):
        assert said in errors(gpuprov("plan", *own, *words))["debian12"]
    for words in (
        ("-e", f"ansible_python_interpreter={named}"),
        ("-e", json.dumps({"ansible_python_interpreter": "/usr/bin/env PATH=/opt/py/bin python3"})),
        ("-e", json.dumps({"ansible_python_interpreter": "{{ where }}/python3", "where": "/opt/py/bin"})),
    ):
        assert errors(gpuprov("plan", *own, *words)) == {}
    (tmp_path / "ansible.cfg").write_text(f"[defaults]\ninterpreter_python = {named}\n")
    for command in ("provision", "verify", "plan"):
        answer = gpuprov(command, "-l", "debian12")
        assert answer.status == 0, answer.text
    saved = str(tmp_path / "hello.tar")
    for image in (
        ["save", "hello-world:latest", str(lab.inventory), "--from", "debian12", "--output", saved],
        ["load", saved, str(lab.inventory), "-l", "debian12"],
    ):
        answer = run(["gpuprov", "image", *image], tmp_path)
        assert answer.status == 0, answer.text
