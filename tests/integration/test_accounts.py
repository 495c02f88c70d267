"""Who logs in, with which shell, and becomes root how; which Python runs; and who is a member of the group docker."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Answer, Hosts, document, run
from tests.lab.lab import Host, Lab

Gpuprov = Callable[..., Answer]
SHELLS = ("sh", "bash", "zsh", "fish", "tcsh")
# Of each shell an account that is asked for a password and one that is not, as far as the program can do without.
PACKAGES = {"debian12": "zsh fish tcsh opendoas", "resolute": "zsh fish tcsh"}
ACCOUNTS = """\
set -e
DEBIAN_FRONTEND=noninteractive apt-get -qq -o APT::Update::Error-Mode=any update
DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install {packages} >/dev/null
echo root:of-root | chpasswd
for shell in sh bash zsh fish tcsh; do
    for kind in asked free; do
        useradd -m -s "$(command -v $shell)" $kind-$shell
        echo $kind-$shell:own | chpasswd
        install -d -m 0700 -o $kind-$shell /home/$kind-$shell/.ssh
        install -m 0600 -o $kind-$shell /root/.ssh/authorized_keys /home/$kind-$shell/.ssh
        echo "permit $([ $kind = asked ] || echo nopass) $kind-$shell as root" >> /etc/doas.conf
        echo "$kind-$shell ALL=(ALL) $([ $kind = asked ] || echo NOPASSWD:) ALL" >> /etc/sudoers.d/accounts
    done
done
groupadd trusted
usermod -a -G trusted free-tcsh
sed -i '1i auth sufficient pam_wheel.so trust group=trusted' /etc/pam.d/su
chmod 0600 /etc/doas.conf
chmod 0440 /etc/sudoers.d/accounts
echo 'echo WELCOME; echo beware >&2' | tee /root/.bashrc /home/asked-tcsh/.cshrc > /home/asked-zsh/.zshenv
"""
SUDO = {"ansible_become_method": "sudo"}
SU = {"ansible_become_method": "su"}
DOAS = {"ansible_become_method": "doas"}
OWN = {"ansible_become_pass": "own"}
# (account, how it becomes root): every shell with every program, with a password and without.
WAYS = {
    "debian12": [
        *((f"asked-{shell}", how) for shell in SHELLS for how in (SUDO | OWN, DOAS | OWN)),
        *((f"asked-{shell}", SU | {"ansible_become_pass": "of-root"}) for shell in SHELLS),
        *((f"free-{shell}", how) for shell in SHELLS for how in (SUDO, DOAS)),
        ("free-tcsh", SU), ("root", {}),
    ],
    "resolute": [
        *((f"asked-{shell}", SUDO | OWN) for shell in SHELLS),
        ("free-tcsh", SUDO), ("free-fish", SUDO), ("asked-tcsh", SU | {"ansible_become_pass": "of-root"}),
    ],
}  # fmt: skip
SAVERS = {
    "debian12": [("asked-tcsh", DOAS | OWN), ("asked-fish", SU | {"ansible_become_pass": "of-root"}), ("root", {})],
    "resolute": [("asked-tcsh", SUDO | OWN)],
}
# What is said of a password that is wrong, or that nobody gave, or an account that may not.
REFUSED = {
    "debian12": [
        ("asked-tcsh", SUDO, "sudo needs a password"), ("asked-fish", DOAS, "doas needs a password"),
        ("asked-zsh", SU, "su needs a password"),
        ("asked-fish", SUDO | {"ansible_become_pass": "of-root"}, "sudo did not accept"),
        ("asked-tcsh", DOAS | {"ansible_become_pass": "of-root"}, "doas did not accept"),
        ("asked-sh", SU | OWN, "su did not accept"), ("alice", DOAS, "may not use doas"),
        ("alice", SUDO | {"ansible_become_pass": "lab"}, "may not use sudo"),
    ],
    "resolute": [
        ("asked-tcsh", SUDO, "sudo needs a password"),
        ("asked-fish", SUDO | {"ansible_become_pass": "of-root"}, "sudo did not accept"),
        ("asked-sh", SU | OWN, "su did not accept"),
        ("alice", SUDO | {"ansible_become_pass": "lab"}, "may not use sudo"),
    ],
}  # fmt: skip


def name(account: str, how: dict[str, str]) -> str:
    """The name of a way in the inventory."""
    secret = {"own": "own-password", "of-root": "root-password"}.get(how.get("ansible_become_pass", ""), "none")
    return f"{account}.{how.get('ansible_become_method', 'login')}.{secret}"


def inventory(lab: Lab, host: Host, ways: list[tuple[str, dict[str, str]]], path: Path, **more: Any) -> Path:
    """Write an inventory in which one host is there once for each way to it."""
    common = {key: json.loads(text) if text[0] in "[{" else text.strip("'") for key, text in lab.variables().items()}
    hosts = {
        name(account, how): {"ansible_host": host.address, **how, "ansible_user": account} for account, how in ways
    }
    path.write_text(json.dumps({"all": {"vars": common | more, "hosts": hosts}}))
    return path


def errors(answer: Answer) -> dict[str, str]:
    """{host: what is said of it} of the hosts that failed."""
    hosts = document(answer)["hosts"]
    return {host: said["error"]["message"] for host, said in hosts.items() if said.get("error")}


@pytest.mark.parametrize("system", ["debian12", "resolute"])
def test_every_login_shell_and_every_way_to_become_root(
    system: str, lab: Lab, pristine: Hosts, gpuprov: Gpuprov, tmp_path: Path
) -> None:
    (host,) = pristine(system)
    host.run(ACCOUNTS.format(packages=PACKAGES[system]))
    # sshd refuses some of many logins at once.
    few = ("--forks", "5", "--json")
    everybody = inventory(lab, host, WAYS[system], tmp_path / "hosts.json")
    answer = gpuprov("plan", *few, inventory=everybody)
    assert errors(answer) == {}, answer.text
    assert {len(one["plan"]["changes"]) > 5 for one in document(answer)["hosts"].values()} == {True}

    refused = [(account, how) for account, how, _said in REFUSED[system]]
    answer = gpuprov("plan", *few, inventory=inventory(lab, host, refused, tmp_path / "refused.json"))
    said = errors(answer)
    for account, how, words in REFUSED[system]:
        assert words in said[name(account, how)]

    shell, how = ("tcsh", SU | {"ansible_become_pass": "of-root"}) if system == "debian12" else ("tcsh", SUDO | OWN)
    one = inventory(lab, host, [(f"asked-{shell}", how)], tmp_path / "one.json")
    answer = gpuprov("provision", inventory=one)
    assert answer.status == 0, answer.text
    if system == "debian12":
        fish = inventory(lab, host, [("asked-fish", DOAS | OWN)], tmp_path / "fish.json")
        for command in ("verify", "doctor", "plan"):
            answer = gpuprov(command, inventory=fish)
            assert answer.status == 0, answer.text

    # By modules and by streams, in both directions.
    # The shells that take most for something else, with every program.
    some = [way for way in WAYS[system] if way[0].endswith(("tcsh", "asked-fish"))]
    hardest = inventory(lab, host, some, tmp_path / "hardest.json")
    answer = run(["gpuprov", "image", "ls", str(hardest), *few], tmp_path)
    assert answer.status == 0, answer.text
    saved = tmp_path / "hello.tar"
    for account, how in SAVERS[system]:
        save = ["gpuprov", "image", "save", "hello-world:latest", str(everybody), "--from", name(account, how)]
        answer = run([*save, "--output", str(saved)], tmp_path)
        assert answer.status == 0, (account, how, answer.text)
    host.run("docker image rm --force hello-world:latest")
    answer = run(["gpuprov", "image", "load", str(saved), str(hardest), *few], tmp_path)
    assert answer.status == 0, answer.text
    answer = run(["gpuprov", "image", "load", str(saved), str(tmp_path / "refused.json"), *few], tmp_path)
    said = errors(answer)
    for account, how, words in REFUSED[system]:
        assert words in said[name(account, how)]
    answer = gpuprov("uninstall", "--yes", inventory=one)
    assert answer.status == 0, answer.text


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
"""
# What an inventory may say, and the account that the directory knows by it; None where it knows none.
SPELLINGS = {
    "asmith": "asmith", "ASmith": "asmith", "CORP\\asmith": "asmith", "corp\\ASMITH": "asmith",
    "asmith@corp.example": "asmith", "ASmith@CORP.example": "asmith", "corp\\svc bob": "corp\\svc bob",
    "CORP\\SVC Bob": "corp\\svc bob", "123456": "123456", "zoë": "zoë", "J.Doe$": "j.doe$", "alice": "alice",
    "20001": None, "OTHER\\asmith": None, "asmith@other.example": None, "asmit": None, "asmithy": None,
}  # fmt: skip


def members_to_come(answer: Answer) -> list[str]:
    """Who is to become a member of the group docker of a plan's only host."""
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
        assert "no account 20001, OTHER\\" in answer.text
        assert "asmit, asmithy on this host" in answer.text
    answer = alone(known)
    assert answer.status == 0, answer.text
    assert host.run("getent group docker").stdout.rpartition(":")[2].strip().split(",") == added
    assert "changed=0" in alone(known).stdout
    assert members_to_come(planned(known)) == []
    # Whoever logs in by another spelling is a member by default, and no failure.
    for login in ("ASmith", "CORP\\asmith", "asmith@corp.example"):
        mine = inventory(lab, host, [(login, SUDO)], tmp_path / "login.json")
        text = json.loads(mine.read_text())
        del text["all"]["vars"]["docker_group_users"]
        mine.write_text(json.dumps(text))
        answer = gpuprov("plan", "--json", inventory=mine)
        assert errors(answer) == {}, answer.text
        assert members_to_come(answer) == []

    host.run("sed -i /^docker:/d /etc/group; echo docker:x:990:asmith > /etc/directory/group")
    assert errors(planned(["ASmith"])) == {}
    assert "changed=0" in alone(["ASmith"]).stdout
    for answer in (planned(["ASmith", "alice"]), alone(["ASmith", "alice"])):
        assert answer.status == 2
        assert "the group docker of this host comes from a directory service" in answer.text


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
