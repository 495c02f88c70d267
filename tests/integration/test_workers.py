"""Several machines share the work: what they say is one run's, and nothing stays on them."""

from __future__ import annotations

import contextlib
import functools
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import waiting
from tests.integration.conftest import document, run
from tests.integration.processes import argument_lists, command_line, started
from tests.lab import fleet
from tests.lab.lab import Host, Lab, podman
from tests.text import replaced

SECRET = "sesame-4711"
# A small change, which every host can be given again.
LAUNCHER = ("--tags", "dockerrun")
# The files of a run on a worker.
FILES = ("dev/shm/*", "tmp/*gpuprov*", "tmp/ansible*", "tmp/tmp*", "root/.ansible*")
HOLD = (
    "systemd-run -q --collect --unit hold flock /run/gpuprov.lock sleep infinity; "
    "while flock -n /run/gpuprov.lock true; do sleep 0.1; done"
)


@pytest.fixture(scope="module")
def lab(session_lab: Lab) -> Lab:
    """Three workers and three hosts for them."""
    session_lab.up("debian13:6", pristine=True)
    return session_lab


@pytest.fixture(scope="module")
def crew(lab: Lab) -> list[Host]:
    """The machines that are workers."""
    return lab.hosts()[:3]


@pytest.fixture
def hosts(lab: Lab) -> list[Host]:
    """The hosts that are worked on; nobody is at them, and they lack the launcher."""
    for host in lab.hosts()[3:]:
        host.run("systemctl stop hold 2>/dev/null; rm -f /usr/local/bin/dockerrun; nft flush ruleset", check=False)
    return lab.hosts()[3:]


def inventory(path: Path, lab: Lab, hosts: list[Host], more: str = "") -> str:
    """Write an inventory of some hosts of the lab."""
    lines = [line for line in lab.inventory.read_text().splitlines() if "ansible_host=" not in line]
    lines[1:1] = [f"{host.name} ansible_host={host.address} {more}" for host in hosts]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def workers(tmp_path: Path, lab: Lab, crew: list[Host]) -> str:
    """The inventory of the workers."""
    return inventory(tmp_path / "workers.ini", lab, crew)


@functools.cache
def init(host: Host) -> Path:
    """Return the directory of a host's first process. This machine sees into the host without a command there."""
    return Path("/proc", podman("inspect", "-f", "{{.State.Pid}}", host.container).stdout.strip())


def processes(host: Host) -> Iterator[Path]:
    """Yield the directories of the processes of a host."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "ns/pid").readlink() == (init(host) / "ns/pid").readlink():
                yield path


def has_work(host: Host) -> bool:
    """Return whether a worker has a slice."""
    lines = (command_line(int(path.name)) for path in processes(host))
    return any("gpuprov.workers" in line or "ansible-playbook" in line for line in lines)


def until_free(crew: list[Host]) -> None:
    """Wait until nothing of a run is left on the workers: no process, and no file but the installation."""

    def free(host: Host) -> bool:
        return not has_work(host) and not any(any((init(host) / "root").glob(pattern)) for pattern in FILES)

    waiting.until(lambda: all(map(free, crew)), "nothing is left on the workers")


def at_work(crew: list[Host]) -> list[Host]:
    """Return the workers that have a slice."""
    return list(filter(has_work, crew))


def hold(host: Host) -> None:
    """Take the lock of a host, as another run does."""
    host.run(HOLD)


def waits(host: Host) -> bool:
    """Return whether a Python has the file of the host's lock open."""
    for path in processes(host):
        with contextlib.suppress(OSError):
            opened = [str(file.readlink()) for file in (path / "fd").iterdir()]
            if "/run/gpuprov.lock" in opened and "python" in str((path / "exe").readlink()):
                return True
    return False


def until_one_waits(host: Host, crew: list[Host]) -> Host:
    """Wait until a worker waits for the lock of a host, and no other worker is at work; return it."""
    waiting.until(lambda: waits(host) and len(at_work(crew)) == 1, f"one waits for {host.name}")
    return at_work(crew)[0]


def callers(host: Host) -> set[str]:
    """Return the addresses that logged in to a host."""
    log = host.run("journalctl -q -u ssh -o cat | sed -n 's/^Accepted publickey for .* from \\([0-9.]*\\) .*/\\1/p'")
    return set(log.stdout.split())


def test_three_workers_plan_thirty_hosts_and_one_of_them_is_killed(
    lab: Lab, crew: list[Host], hosts: list[Host], workers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A host that does not answer keeps its worker at work, until it is killed.
    monkeypatch.setenv("ANSIBLE_TIMEOUT", "900")
    names = fleet.make(lab, fleet.names(hosts, 30, {"silent": 1}))
    with started(["gpuprov", "plan", str(names), "--workers", workers, "--json"], tmp_path) as (process, ended):
        waiting.until(lambda: process.poll() is not None or len(at_work(crew)) == 3, "all three are at work")
        waiting.until(lambda: process.poll() is not None or len(at_work(crew)) == 1, "one is left at work")
        (victim,) = at_work(crew)
        # Either one of the two processes there cleans up after the other.
        victim.run("kill -9 $(pgrep -of 'gpuprov[.]workers')")
        until_free([victim])
        fleet.make(lab, fleet.names(hosts, 30, {}))
        answer = ended()
    assert answer.status == 2, answer.text
    assert f"worker {victim.name} is lost: " in answer.stdout
    found = json.loads(answer.stdout[answer.stdout.index("{\n") :])["hosts"]
    assert {len(found), *(len(one["plan"]["changes"]) for one in found.values())} == {30, 17}
    assert set.union(*map(callers, hosts)) >= {one.address for one in crew}
    until_free(crew)


def test_a_slice_of_a_killed_worker_is_finished_by_another_one(
    lab: Lab, crew: list[Host], hosts: list[Host], workers: str, tmp_path: Path
) -> None:
    mine = inventory(tmp_path / "hosts.ini", lab, hosts)
    hold(hosts[0])
    words = ["gpuprov", "provision", mine, "--workers", workers, "--wait", *LAUNCHER]
    with started(words, tmp_path) as (_process, ended):
        victim = until_one_waits(hosts[0], crew)
        victim.run("kill -9 $(pgrep -nf 'gpuprov[.]workers')")
        until_free([victim])
        other = until_one_waits(hosts[0], crew)
        hosts[0].run("systemctl stop hold")
        answer = ended()
    assert answer.status == 0, answer.text
    assert victim != other
    assert f"worker {victim.name} is lost: " in answer.stdout
    assert answer.stdout.count(" yes ") == 3
    assert "Log in again" not in answer.stdout
    until_free(crew)


def test_secrets_are_in_no_argument_list_and_leave_nothing_on_a_worker(
    lab: Lab, crew: list[Host], hosts: list[Host], workers: str, tmp_path: Path
) -> None:
    hosts[1].run(
        "useradd -m -s /bin/bash asked 2>/dev/null; echo asked:sesame-4711 | chpasswd; echo 'asked ALL=(ALL) ALL' > "
        "/etc/sudoers.d/asked; install -d -m 0700 -o asked ~asked/.ssh; "
        "install -m 0600 -o asked ~/.ssh/authorized_keys ~asked/.ssh"
    )
    mine = Path(inventory(tmp_path / "hosts.ini", lab, hosts[1:2], "ansible_user=asked"))
    (tmp_path / "vault").write_text("of-the-vault")
    vault = ["--vault-password-file", str(tmp_path / "vault")]
    secret = run(["ansible-vault", "encrypt_string", *vault, "-n", "ansible_become_password", SECRET], tmp_path)
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all.yml").write_text(secret.stdout)
    extra = tmp_path / "extra.json"
    extra.write_text(json.dumps({"docker_daemon_proxy": {"http": "http://u:of-the-proxy@p:1"}}))
    # The worker knows the host because this machine does.
    known = lab.directory / "known_hosts"
    mine.write_text(replaced(mine.read_text(), lab.variables()["ansible_ssh_common_args"], "''"))
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/known_hosts").write_bytes(known.read_bytes())
    words = ["gpuprov", "provision", str(mine), "--workers", workers, *LAUNCHER, *vault, "-e", f"@{extra}"]
    with argument_lists() as seen:
        answer = run(words, tmp_path, HOME=str(tmp_path))
    assert answer.status == 0, answer.text
    key = (lab.directory / "id_ed25519").read_text().splitlines()[1]
    assert any("gpuprov.workers.remote" in words for words in seen)
    assert not [words for words in seen if any(text in words for text in (SECRET, "of-the-vault", "of-the-proxy"))]
    until_free(crew)
    texts = "".join(f" -e {text}" for text in (SECRET, "of-the-vault", "of-the-proxy", key))
    for host in crew:
        found = host.run(f"grep -rIlsF {texts} /root /tmp /var/tmp /var/log /run /dev/shm /home", check=False)
        assert found.stdout == ""


@contextlib.contextmanager
def cut_off(worker: Host, host: Host) -> Iterator[None]:
    """Keep a worker from reaching a host."""
    chain = f"type filter hook output priority 0; ip daddr {host.address} reject;"
    rule = f"table inet cut {{ chain out {{ {chain} }}; }}"
    worker.in_network("nft", rule)
    try:
        yield
    finally:
        worker.in_network("nft", "delete table inet cut")


def test_a_host_that_a_worker_cannot_reach_is_tried_from_another_one(
    lab: Lab, crew: list[Host], hosts: list[Host], workers: str, tmp_path: Path
) -> None:
    # The first worker is given the first host.
    mine = inventory(tmp_path / "hosts.ini", lab, hosts[:2])
    with cut_off(crew[0], hosts[0]):
        answer = run(["gpuprov", "provision", mine, "--workers", workers, *LAUNCHER, "--json"], tmp_path)
        assert answer.status == 0, answer.text
        assert {one["status"] for one in document(answer)["hosts"].values()} == {"changed"}
        # Of a group that one worker alone is for, and a worker that is for others.
        bound = inventory(tmp_path / "bound.ini", lab, crew[:1], "worker_groups=gpu")
        Path(bound).write_text(
            Path(bound).read_text().replace("[all:vars]", f"{crew[1].name} worker_groups=none\n[all:vars]")
        )
        answer = run(["gpuprov", "provision", mine, "--workers", bound, *LAUNCHER], tmp_path)
    assert answer.status == 4, answer.text
    assert f"{hosts[0].name}: unreachable at: " in answer.stdout
    for host in hosts[:2]:
        host.run("rm /usr/local/bin/dockerrun")
    answer = run(["gpuprov", "provision", mine, "--workers", bound, *LAUNCHER, "--retry", "--json"], tmp_path)
    assert answer.status == 0, answer.text
    assert {name: one["status"] for name, one in document(answer)["hosts"].items()} == {hosts[0].name: "changed"}
    until_free(crew)


def test_a_host_is_installed_proven_and_examined_by_workers(
    lab: Lab, crew: list[Host], hosts: list[Host], workers: str, tmp_path: Path
) -> None:
    one, every = (inventory(tmp_path / f"{count}.ini", lab, hosts[:count]) for count in (1, 3))

    def statuses(command: str, of: str, *words: str) -> tuple[int, list[str]]:
        answer = run(["gpuprov", command, of, "--workers", workers, *words, "--json"], tmp_path)
        return answer.status, [found["status"] for found in document(answer)["hosts"].values()]

    assert statuses("provision", one, "--full") == (0, ["changed"])
    assert statuses("provision", one, "--full", "--check") == (0, ["up-to-date"])
    # The other hosts have nothing of what was promised.
    assert statuses("verify", every) == (2, ["up-to-date", "failed", "failed"])
    hosts[1].run("rm /dev/nvidiactl")
    assert statuses("doctor", every) == (2, ["healthy", "ill", "healthy"])
    until_free(crew)


@pytest.mark.parametrize("way", ["once", "twice", "kill"])
def test_an_interrupted_run_leaves_nothing_running_on_a_worker(
    way: str, lab: Lab, crew: list[Host], hosts: list[Host], workers: str, tmp_path: Path
) -> None:
    mine = inventory(tmp_path / "hosts.ini", lab, hosts[:2])
    hold(hosts[0])
    words = ["gpuprov", "provision", mine, "--workers", workers, "--wait", "--serial", "1", *LAUNCHER]
    with started(words, tmp_path) as (process, ended):
        until_one_waits(hosts[0], crew)
        if way == "kill":
            process.kill()
            until_free(crew)
            return
        process.send_signal(signal.SIGINT)
        log = next((tmp_path / "state/gpuprov/runs").glob("*/log"))
        waiting.until(lambda: "finishing the tasks in flight" in log.read_text(), "the first Ctrl-C is heard")
        if way == "once":
            # The host at hand is finished, and no other one begun.
            hosts[0].run("systemctl stop hold")
        else:
            process.send_signal(signal.SIGINT)
        answer = ended()
    until_free(crew)
    assert answer.status == 130, answer.text
    assert f"{hosts[1].name}: not reached: as before" in answer.stdout
    finished = hosts[0].run("test -e /usr/local/bin/dockerrun", check=False).returncode == 0
    assert finished == (way == "once")
