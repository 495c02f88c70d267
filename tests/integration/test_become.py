"""Every command by every program that becomes root, with a password and without, from every login shell."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import typer

from gpuprov import cli
from tests.integration.conftest import CORES, ROOT, Answer, document, run
from tests.lab.lab import Host, Lab

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
OF_ROOT = {"ansible_become_pass": "of-root"}
# (host, account, how it becomes root). sudo is sudo-rs on resolute, which has no doas.
Way = tuple[str, str, dict[str, str]]

# What becomes root, by which kind of account: each command is run by each, one on debian12 with one on resolute.
METHODS: dict[str, tuple[str, str, dict[str, str]]] = {
    "sudo, password": ("debian12", "asked", SUDO | OWN),
    "sudo-rs, password": ("resolute", "asked", SUDO | OWN),
    "doas, password": ("debian12", "asked", DOAS | OWN),
    "su, password": ("resolute", "asked", SU | OF_ROOT),
    "doas": ("debian12", "free", DOAS),
    "sudo-rs": ("resolute", "free", SUDO),
}
ROUNDS = range(len(METHODS) // 2)
# The place of a command and that of a method make the shell. In this order: the first of a method meets sh, the next
# one bash, and so on.
COMMANDS = (
    "provision", "plan", "verify", "doctor", "image ls", "image build", "image ship", "image tag", "image save",
    "image load", "image prune", "lock", "uninstall",
)  # fmt: skip
# Every shell with every program, for what reads the host.
PLANS: list[Way] = [
    *(("debian12", f"asked-{shell}", how) for shell in SHELLS for how in (SUDO | OWN, DOAS | OWN, SU | OF_ROOT)),
    *(("debian12", f"free-{shell}", how) for shell in SHELLS for how in (SUDO, DOAS)),
    ("debian12", "free-tcsh", SU), ("debian12", "root", {}),
    *(("resolute", f"asked-{shell}", how) for shell in SHELLS for how in (SUDO | OWN, SU | OF_ROOT)),
    *(("resolute", f"free-{shell}", SUDO) for shell in SHELLS),
]  # fmt: skip
# What is said of a password that is wrong, or that nobody gave, or an account that may not.
REFUSED: list[tuple[Way, str]] = [
    (("debian12", "asked-tcsh", SUDO), "sudo needs a password"),
    (("debian12", "asked-fish", DOAS), "doas needs a password"),
    (("debian12", "asked-zsh", SU), "su needs a password"),
    (("debian12", "asked-fish", SUDO | OF_ROOT), "sudo did not accept"),
    (("debian12", "asked-tcsh", DOAS | OF_ROOT), "doas did not accept"),
    (("debian12", "asked-sh", SU | OWN), "su did not accept"),
    (("debian12", "alice", DOAS), "may not use doas"),
    (("debian12", "alice", SUDO | {"ansible_become_pass": "lab"}), "may not use sudo"),
    (("resolute", "asked-tcsh", SUDO), "sudo needs a password"),
    (("resolute", "asked-fish", SUDO | OF_ROOT), "sudo did not accept"),
    (("resolute", "asked-sh", SU | OWN), "su did not accept"),
    (("resolute", "alice", SUDO | {"ansible_become_pass": "lab"}), "may not use sudo"),
]


def ways(command: str) -> list[Way]:
    """How a command becomes root: by each method, from a shell each."""
    first = COMMANDS.index(command)
    return [
        (host, f"{kind}-{SHELLS[(first + number) % len(SHELLS)]}", how)
        for number, (host, kind, how) in enumerate(METHODS.values())
    ]


def name(way: Way) -> str:
    """The name of a way in the inventory."""
    host, account, how = way
    secret = {"own": "own-password", "of-root": "root-password"}.get(how.get("ansible_become_pass", ""), "none")
    return f"{host}.{account}.{how.get('ansible_become_method', 'login')}.{secret}"


def inventory(lab: Lab, some: list[Way], path: Path) -> Path:
    """Write an inventory in which a host is there once for each way to it."""
    common = {key: json.loads(text) if text[0] in "[{" else text.strip("'") for key, text in lab.variables().items()}
    hosts = {name(way): {"ansible_host": lab.host(way[0]).address, **way[2], "ansible_user": way[1]} for way in some}
    path.write_text(json.dumps({"all": {"vars": common, "hosts": hosts}}))
    return path


def errors(answer: Answer) -> dict[str, str]:
    """{host: what is said of it} of the hosts that failed."""
    hosts = document(answer)["hosts"]
    return {host: said["error"]["message"] for host, said in hosts.items() if said.get("error")}


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> dict[str, Host]:
    """A debian12 and a resolute with the accounts."""
    found = {system: lab.host(system) for system in PACKAGES}
    with ThreadPoolExecutor() as pool:
        texts = {system: ACCOUNTS.format(packages=packages) for system, packages in PACKAGES.items()}
        list(pool.map(lambda system: found[system].run(texts[system]), found))
    return found


def test_each_command_is_run_by_each_method_and_each_method_from_each_shell() -> None:
    command: Any = typer.main.get_command(cli.app)
    image = {f"image {name}" for name in command.commands["image"].commands}
    on_this_machine = {"image", "bundle", "runs", "report", "init", "explain", "support-bundle"}
    assert {*command.commands, *image} - on_this_machine == set(COMMANDS)
    seen = {
        (method, way[1].partition("-")[2]) for name in COMMANDS for method, way in zip(METHODS, ways(name), strict=True)
    }
    assert seen == set(itertools.product(METHODS, SHELLS))


def test_every_login_shell_and_every_program_reads_a_host_or_says_why_not(
    hosts: dict[str, Host], lab: Lab, gpuprov: Callable[..., Answer], tmp_path: Path
) -> None:
    # sshd refuses some of many logins at once.
    few = ("--forks", "8", "--json")
    answer = gpuprov("plan", *few, inventory=inventory(lab, PLANS, tmp_path / "hosts.json"))
    assert errors(answer) == {}, answer.text
    assert {len(one["plan"]["changes"]) > 5 for one in document(answer)["hosts"].values()} == {True}

    refused = inventory(lab, [way for way, _said in REFUSED], tmp_path / "refused.json")
    said = errors(gpuprov("plan", *few, inventory=refused))
    assert [(name(way), said[name(way)]) for way, words in REFUSED if words not in said[name(way)]] == []


# What plain ansible-playbook, with the become plugins of Ansible alone and pipelining, says of a host; None where the
# modules of a role run. Before ansible-core 2.19 doas gets no password with pipelining.
PLAIN: list[tuple[Way, tuple[str | None, str | None]]] = [
    (("resolute", "asked-bash", SUDO | OWN), ("sudo on this host is sudo-rs, whose password prompt",) * 2),
    (("resolute", "asked-tcsh", {"ansible_become_method": "gpuprov.gpuprov.sudo"} | OWN), (None, None)),
    (("resolute", "asked-fish", SU), ("su needs a password", "su needs a password")),
    (("debian12", "asked-fish", SUDO | OWN), (None, None)),
    (("debian12", "asked-zsh", SU | OF_ROOT), (None, None)),
    (("debian12", "asked-sh", {"ansible_become_method": "gpuprov.gpuprov.doas"} | OWN), (
        "doas reads its password from a terminal, which", None,
    )),
    (("debian12", "free-tcsh", {"ansible_become_method": "gpuprov.gpuprov.doas"}), (None, None)),
]  # fmt: skip


# ansible-core 2.16 finds no Python where a login shell's start-up files print something.
PLAINLY = ("-e", "ansible_pipelining=true", "-e", "ansible_python_interpreter=/usr/bin/python3")


@pytest.mark.parametrize("core", CORES)
def test_plain_ansible_says_the_cure_at_once_where_it_cannot_become_root(
    core: str, hosts: dict[str, Host], lab: Lab, tmp_path: Path
) -> None:
    def play(text: str | Path, way: list[Way], *words: str) -> Answer:
        given = str(inventory(lab, way, tmp_path / "hosts.json"))
        program = str(ROOT / core / "bin/ansible-playbook")
        path = str(ROOT / "playbooks/collections")
        return run([program, "-i", given, str(text), *words], tmp_path, ANSIBLE_COLLECTIONS_PATH=path)

    def messages(answer: Answer) -> dict[str, str]:
        return dict(re.findall(r'^fatal: \[(\S+)\]: \w+! => .*"msg": "(.*?)"[,}]', answer.stdout, re.MULTILINE))

    task = {"ansible.builtin.import_role": {"name": "gpuprov.gpuprov.docker_group"}, "vars": {"docker_group_users": []}}
    alone = tmp_path / "alone.yml"
    alone.write_text(json.dumps([{"hosts": "all", "become": True, "gather_facts": False, "tasks": [task]}]))
    said = messages(play(alone, [way for way, _words in PLAIN], "--check", *PLAINLY))
    expected = {name(way): words[core == ".venv"] for way, words in PLAIN}
    assert {host for host, words in expected.items() if words} == set(said), said
    assert [said[host] for host, words in expected.items() if words and not said[host].startswith(words)] == []

    # Every playbook but those of transfers, which answer the prompt themselves: they come to what is wrong there.
    for playbook in sorted(ROOT.glob("playbooks/*.yml")) if core == ".venv" else ():
        way = ("resolute", "asked-bash", SUDO | OWN)
        variables = {
            "docker_image_name": "train:1.0.0",
            "gpuprov_build_on": name(way),
            "docker_image_transfer_file": "/none.tar",
            "docker_image_transfer_name": "train:1.0.0",
            "docker_image_transfer_from": name(way),
            "docker_image_build_context": ".",
            "gpuprov_registry_cache_hosts": name(way),
        }
        found = messages(play(playbook, [way], "-e", json.dumps(variables)))
        words = "there is no|none.tar" if "transfer" in playbook.read_text() else "sudo on this host is sudo-rs"
        assert re.search(words, found[name(way)]), (playbook.name, found)


def test_every_command_becomes_root_by_every_method(hosts: dict[str, Host], lab: Lab, tmp_path: Path) -> None:
    everybody = [*itertools.chain(*(ways(command) for command in COMMANDS)), *(way for way, _said in REFUSED)]
    text = str(inventory(lab, everybody, tmp_path / "hosts.json"))

    def go(*words: str) -> Answer:
        answer = run(["gpuprov", *words], tmp_path)
        assert answer.status == 0, answer.text
        return answer

    def at(command: str, number: int) -> list[str]:
        return [name(way) for way in ways(command)[2 * number : 2 * number + 2]]

    def images(host: Host) -> dict[str, str]:
        said = host.run("docker images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}'").stdout
        return dict(line.split() for line in said.splitlines())

    for number in ROUNDS:
        options = {
            "dockerrun_defaults": [f"--env ROUND={number}"],
            "docker_daemon_options": {"max-concurrent-downloads": 4 + number},
        }
        extra = ["-e", json.dumps(options)]
        answer = go("provision", text, "-l", ",".join(at("provision", number)), *extra, "--json")
        assert {one["status"] for one in document(answer)["hosts"].values()} == {"changed"}
    for command in ("plan", "verify", "doctor", "lock", "image ls"):
        words = [*command.split(), text, "-l", ",".join(name(way) for way in ways(command)), "--json"]
        answer = go(*words, *(() if command == "image ls" else extra))
        assert len(document(answer)["hosts"]) == len(METHODS)

    context = tmp_path / "context"
    context.mkdir()
    for number in ROUNDS:
        built = [f"at-{system}:1.0.{number}" for system in hosts]
        for image, builder in zip(built, at("image build", number), strict=True):
            (context / "Dockerfile").write_text(f"FROM hello-world\nLABEL made={image}\n")
            go("image", "build", str(context), text, "--tag", image, "--on", builder)
        one, other = at("image ship", number)
        go("image", "ship", built[0], text, "--from", one, "-l", other)
        go("image", "ship", built[1], text, "--from", other, "-l", one)
        go("image", "tag", built[0], text, "-l", ",".join(at("image tag", number)))
        for host in hosts.values():
            assert images(host)["at-debian12:latest"] == images(host)[built[0]]
            assert built[1] in images(host)
        archives = [str(tmp_path / f"{image}.tar") for image in built]
        for image, source, archive in zip(built, at("image save", number), archives, strict=True):
            go("image", "save", image, text, "--from", source, "--output", archive)
        for host in hosts.values():
            host.run(f"docker rmi --force $(docker images -q '{built[0]}') $(docker images -q '{built[1]}')")
        for archive in archives:
            go("image", "load", archive, text, "-l", ",".join(at("image load", number)))
        for host in hosts.values():
            assert set(built) <= set(images(host))
            host.run("docker run --name ended hello-world")
        go("image", "prune", text, "-l", ",".join(at("image prune", number)), "--yes")
        assert [host.run("docker ps -aq").stdout for host in hosts.values()] == ["", ""]
    refused = ["-l", ",".join(name(way) for way, _said in REFUSED), "--forks", "8", "--json"]
    said = errors(run(["gpuprov", "image", "load", archives[0], text, *refused], tmp_path))
    assert [(name(way), said[name(way)]) for way, words in REFUSED if words not in said[name(way)]] == []

    source = "/etc/apt/sources.list.d/docker.sources"
    for host in hosts.values():
        host.run(f"cp -a {source} /root")
    for number in ROUNDS:
        answer = go("uninstall", text, "-l", ",".join(at("uninstall", number)), "--yes", "--json")
        assert {one["status"] for one in document(answer)["hosts"].values()} == {"changed"}
        for host in hosts.values():
            # So that there is something to remove in the next round.
            host.run(f"test ! -e {source} && cp -a /root/docker.sources {source}")
