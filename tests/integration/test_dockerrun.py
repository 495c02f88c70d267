"""dockerrun as people use it: over ssh, with a terminal and in pipes, with what shells and paths can hold."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pexpect
import pytest

from tests import waiting
from tests.integration.conftest import Answer, document, run
from tests.lab.lab import Host, Lab
from tests.text import replaced

LAUNCHER, CONFIG = "/usr/local/bin/dockerrun", "/etc/gpuprov/dockerrun.conf"
USERS_CONFIG = "/home/alice/.config/dockerrun.conf"
USERS = f"install -d -o alice /home/alice/.config; cat > {USERS_CONFIG}"
# Whatever a path may hold that a shell, CSV or docker's -v would read as something else.
ODD = "/home/alice/my runs, \"v1:2\" $(id) 'x'"
Gpuprov = Callable[..., Answer]


@pytest.fixture(scope="module")
def hosts(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Host]:
    """Provisioned hosts: engines 20.10 and 28.5, and the 16.04-shaped one."""
    hosts = {name: lab.host(name) for name in ("debian12", "resolute", "xenial")}
    directory = tmp_path_factory.mktemp("provision")
    answer = run(["gpuprov", "provision", str(lab.inventory), "-l", ",".join(hosts)], directory)
    assert answer.status == 0, answer.text
    for host in hosts.values():
        host.run(f"docker pull -q busybox; install -d -o alice -g alice {shlex.quote(ODD)}")
    return hosts


@pytest.fixture(params=["debian12", "resolute"])
def host(request: pytest.FixtureRequest, hosts: dict[str, Host]) -> Iterator[Host]:
    """A host on which no container is, nor stays."""
    host = hosts[request.param]
    yield host
    host.run(f"rm -f {CONFIG} {USERS_CONFIG}")
    assert left(host) == ""


@pytest.fixture
def one(hosts: dict[str, Host]) -> Iterator[Host]:
    """The host for what does not depend on the engine."""
    yield hosts["debian12"]
    hosts["debian12"].run(f"rm -f {CONFIG} {USERS_CONFIG}")
    assert left(hosts["debian12"]) == ""


def containers(host: Host) -> str:
    """The containers of dockerrun's, running or not; other tests leave some of their own."""
    return host.run("docker ps -a --filter label=gpuprov.dockerrun --format '{{.Names}}'").stdout


def left(host: Host) -> str:
    """The containers of dockerrun's that stay for longer than what tidies up may take."""
    with contextlib.suppress(TimeoutError):
        waiting.until(lambda: not containers(host), "dockerrun's containers are gone", 120)
    return containers(host)


def ssh(
    host: Host, command: str | list[str], input: bytes = b"", user: str = "alice"
) -> subprocess.CompletedProcess[bytes]:
    """Run a command over ssh without a terminal; words reach it as they are."""
    line = command if isinstance(command, str) else shlex.join(command)
    words = ["ssh", *host.ssh_options(), f"{user}@{host.address}", line]
    return subprocess.run(words, input=input, capture_output=True, check=False, timeout=waiting.PATIENCE)


def said(host: Host, command: str | list[str], user: str = "alice") -> str:
    """Return the output of a command, which must succeed."""
    done = ssh(host, command, user=user)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def refused(host: Host, command: str, user: str = "alice") -> str:
    """Return the line with which dockerrun refuses."""
    done = ssh(host, command, user=user)
    text = done.stderr.decode()
    assert (done.returncode, done.stdout, text.count("\n")) == (125, b"", 1), text
    return text


def terminal(host: Host, command: str) -> pexpect.spawn:
    """Run a command over ssh in a terminal."""
    words = [*host.ssh_options(), "-tt", f"alice@{host.address}", command]
    return pexpect.spawn("ssh", words, encoding="utf-8", timeout=waiting.PATIENCE, dimensions=(33, 111))


def ended(child: pexpect.spawn) -> int | None:
    """The exit status of what ran in the terminal."""
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


# ---- as the caller, in the calling directory


def test_a_command_runs_as_its_caller_in_the_calling_directory_and_its_files_are_the_caller_s(host: Host) -> None:
    script = "pwd; id -u; id -g; id -G; echo $HOME $USER; echo hello > 'made here'"
    lines = said(host, f"cd {shlex.quote(ODD)} && dockerrun busybox sh -c {shlex.quote(script)}").splitlines()
    groups = set(said(host, "id -G").split())
    assert lines[:3] == [ODD, *said(host, "id -u; id -g").split()]
    assert set(lines[3].split()) == groups
    assert lines[4] == "/tmp alice"
    assert host.run(f"stat -c '%U %G' {shlex.quote(ODD)}/made*").stdout == "alice alice\n"
    # The home directory is HOME only where the container has it.
    assert said(host, "dockerrun busybox sh -c 'echo $HOME; ls .ssh'").split() == ["/home/alice", "authorized_keys"]


def test_a_directory_is_there_by_the_path_that_leads_to_it_too(one: Host) -> None:
    said(one, "mkdir -p real && ln -sfn real link && echo data > real/file")
    script = "pwd; cat /home/alice/link/file /home/alice/real/file"
    assert said(one, f"cd link && dockerrun busybox sh -c {shlex.quote(script)}").split() == [
        "/home/alice/link", "data", "data",
    ]  # fmt: skip


def test_an_account_without_a_login_shell_or_a_home_can_use_it(host: Host) -> None:
    account = "--system --shell /usr/sbin/nologin --home-dir /nonexistent -G docker batch"
    host.run(f"id batch 2>/dev/null || useradd {account}")
    # As cron and services start it: hardly an environment.
    command = (
        "cd /var/tmp && env -i PATH=/usr/local/bin:/usr/bin:/bin setpriv --reuid batch --regid batch --init-groups"
    )
    answer = host.run(f"{command} dockerrun busybox sh -c 'id -u; pwd; echo $HOME'").stdout.split()
    assert answer == [host.run("id -u batch").stdout.strip(), "/var/tmp", "/tmp"]


def test_it_runs_on_the_16_04_shaped_host_with_its_nvidia_docker2(hosts: dict[str, Host]) -> None:
    assert "STAND-IN" in said(hosts["xenial"], "dockerrun busybox nvidia-smi -L")
    assert left(hosts["xenial"]) == ""


LIMITS = "--ulimit memlock=-1:-1 --ulimit stack=-1:-1 --ulimit nofile=1048576:1048576"


def test_locked_memory_stack_and_open_files_are_not_those_of_the_engine(one: Host) -> None:
    # The lab's hosts may not raise limits: the script leaves them, unless it takes them for hosts that may.
    assert "--ulimit" not in said(one, "dockerrun --dry-run busybox true")
    text = one.run(f"cat {LAUNCHER}").stdout
    one.run("install -m 755 /dev/stdin /tmp/may-raise", input=replaced(text, ">> 24", ">> 0"))
    printed = said(one, "/tmp/may-raise --dry-run --ulimit nofile=64:64 busybox true")
    assert LIMITS in printed
    # What the caller says comes later, and docker takes the last of a name.
    assert printed.index(LIMITS) < printed.index("nofile=64:64")
    assert said(one, "dockerrun --ulimit nofile=9:9 --ulimit nofile=64:64 busybox sh -c 'ulimit -n'").strip() == "64"
    assert "--ulimit" not in said(
        one, "DOCKER_HOST=unix:///run/user/1000/docker.sock /tmp/may-raise --dry-run busybox true"
    )


def test_the_limits_reach_the_container(hosts: dict[str, Host]) -> None:
    host = hosts["resolute"]
    shown = "dockerrun busybox sh -c 'ulimit -l; ulimit -s; ulimit -n'"
    # The most that the lab allows (tests/lab/README.md) in the place of what the launcher gives.
    locked, opened = (host.run(f"ulimit -H{letter}").stdout.strip() for letter in "ln")
    text = replaced(host.run(f"cat {LAUNCHER}").stdout, ">> 24", ">> 0")
    if locked != "unlimited":
        text = replaced(text, "memlock=-1:-1", f"memlock={int(locked) * 1024}:{int(locked) * 1024}")
    host.run("install -m 755 /dev/stdin /tmp/dockerrun", input=replaced(text, "1048576", opened))
    assert said(host, shown).split()[1:] == ["8192", "1024"]
    assert said(host, f"/tmp/{shown}").split() == [locked, "unlimited", opened]


# ---- terminal, pipe, arguments


def test_with_a_terminal_the_command_has_one_of_the_same_size(host: Host) -> None:
    child = terminal(host, "dockerrun busybox sh")
    child.expect("[$#] ")
    child.sendline("/busybox stty size; exit 7")
    child.expect("33 111")
    assert ended(child) == 7


def test_in_a_pipe_every_byte_passes_and_there_is_no_terminal(host: Host) -> None:
    data = bytes(range(256)) * 4096
    done = ssh(host, "cat | dockerrun busybox cat | cat", data)
    assert (done.returncode, done.stdout == data) == (0, True)
    assert ssh(host, "dockerrun busybox sh -c '[ -t 0 ] || [ -t 1 ] || echo none'").stdout == b"none\n"
    # Standard output and error stay apart.
    apart = ssh(host, "dockerrun busybox sh -c 'echo out; echo err >&2'")
    assert (apart.stdout, apart.stderr) == (b"out\n", b"err\n")


def test_with_a_terminal_and_output_into_a_file_the_terminal_is_still_read(one: Host) -> None:
    child = terminal(one, "dockerrun busybox sh -c 'read line; echo got $line' | /bin/sed s/got/passed/")
    child.sendline("word")
    child.expect("passed word")
    assert ended(child) == 0


def test_in_the_background_of_a_terminal_it_goes_on(one: Host) -> None:
    child = terminal(one, "bash -i -c 'dockerrun busybox sh -c \"read line; echo done\" > out & wait; cat out'")
    child.expect("done")
    assert ended(child) == 0


def test_arguments_reach_the_command_as_they_are(host: Host) -> None:
    words = ["", " ", "a  b", "'", '"', "\\", "$HOME", "$(id)", "`id`", "*", "a;b|c&d>e", "--rm", "-x", "a\nb", "ü"]
    done = ssh(host, ["dockerrun", "busybox", "sh", "-c", 'for word; do printf "%s\\0" "$word"; done', "sh", *words])
    assert done.stdout.decode().split("\0")[:-1] == words


# ---- exit status and signals


def test_the_exit_status_is_the_command_s_own(host: Host) -> None:
    for status in (0, 1, 42, 255):
        assert ssh(host, f"dockerrun busybox sh -c 'exit {status}'").returncode == status
    assert ssh(host, "dockerrun busybox no-such-command").returncode == 127
    assert ssh(host, "dockerrun --no-such-option busybox true").returncode == 125
    assert ssh(host, "dockerrun no-such-image true").returncode == 125


def test_ctrl_c_reaches_the_command_in_a_terminal(host: Host) -> None:
    child = terminal(host, "dockerrun busybox sh -c 'echo up; exec sleep 36000'")
    child.expect("up")
    child.sendcontrol("c")
    assert ended(child) == 130
    # Before a pipe, where the terminal sends its signal to docker's client, not a byte to the container.
    script = 'trap "echo bye > bye; exit 5" INT; echo up; while :; do sleep 0.1; done'
    child = terminal(host, f"rm -f bye; dockerrun busybox sh -c {shlex.quote(script)} | cat")
    child.expect("up")
    child.sendcontrol("c")
    ended(child)
    assert left(host) == ""
    assert said(host, "cat bye") == "bye\n"


@pytest.mark.parametrize(("signal", "status"), [("INT", 130), ("TERM", 143), ("HUP", 129), ("USR1", 138)])
def test_a_signal_reaches_the_command_and_nothing_stays(one: Host, signal: str, status: int) -> None:
    started = "set -m; cd; rm -f out; dockerrun busybox sh -c '{}' > out & until grep -qs up out; do sleep 0.1; done; "
    sent = f"kill -{signal} $!; wait $!; echo $?; cat out"
    plain = started.format("echo up; exec sleep 36000") + sent
    assert said(one, f"bash -c {shlex.quote(plain)}").split() == [str(status), "up"]
    # Once, and the command decides what becomes of it.
    handled = f'trap "echo {signal}; sleep 1; exit 5" {signal}; echo up; while :; do sleep 0.1; done'
    assert said(one, f"bash -c {shlex.quote(started.format(handled) + sent)}").split() == ["5", "up", signal]


def test_nothing_stays_of_a_run_that_is_ended_at_any_moment_or_killed(host: Host) -> None:
    moments = " ".join(f"{number / 25:.2f}" for number in range(1, 13))
    early = (
        f"for moment in {moments}; do dockerrun busybox sleep 3 & p=$!; sleep $moment; kill -TERM $p; done; wait; "
        "cd; rm -f out; dockerrun busybox sh -c 'echo up; exec sleep 36000' > out & "
        "until grep -qs up out; do sleep 0.1; done; kill -KILL $!; wait"
    )
    said(host, f"bash -c {shlex.quote(early)}")
    assert left(host) == ""
    assert host.run("find /tmp /dev/shm -name '*.id'").stdout == ""


def test_what_the_caller_holds_is_held_no_longer_than_the_run(one: Host) -> None:
    # The clean-up process outlives docker for a while; it must not hold a pipe or a lock of the caller.
    script = "exec 7> lock; flock 7; dockerrun no-such-image; exec 7>&-; flock -n lock true && echo free"
    assert said(one, f"bash -c {shlex.quote(script)}") == "free\n"


def test_runs_at_the_same_time_do_not_meet(one: Host) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: said(one, f"dockerrun busybox echo {number}"), range(4)))
    assert answers == ["0\n", "1\n", "2\n", "3\n"]


# ---- GPUs


def test_gpu_says_which_gpus_the_container_gets(host: Host) -> None:
    seen = "dockerrun busybox nvidia-smi -L"
    assert "GPU 0: STAND-IN" in said(host, seen)
    assert "GPU 0: STAND-IN" in said(host, f"GPU=0 {seen}")
    assert ssh(host, f"GPU=none {seen}").returncode == 127
    unknown = ssh(host, f"GPU=0,9 {seen}")
    assert (unknown.returncode, b"9: unknown device" in unknown.stderr) == (125, True)
    assert "GPU is all, none, or GPUs with commas" in refused(host, f"GPU='0 1' {seen}")


def test_a_host_without_a_gpu_gives_none_and_says_so_only_where_one_is_asked_for(one: Host) -> None:
    one.run("systemctl stop gpuprov-lab-gpu")
    try:
        assert said(one, "dockerrun busybox echo fine") == "fine\n"
        assert "GPU=0: debian12 has no GPU" in refused(one, "GPU=0 dockerrun busybox true")
    finally:
        one.run("systemctl start gpuprov-lab-gpu")


@pytest.mark.parametrize(
    ("info", "gpu", "words"),
    [
        ('"nvidia":{"path":"x"},"CDISpecDirs":["/etc/cdi"]', "0", "--runtime=nvidia --env NVIDIA_VISIBLE_DEVICES=0"),
        ('"runc":{},"CDISpecDirs":["/etc/cdi"]', "0,1", "--device nvidia.com/gpu=0 --device nvidia.com/gpu=1"),
        ('"runc":{},"CDISpecDirs":null', "0,1", '--gpus \\"device=0\\,1\\"'),
        ('"runc":{}', "", "--gpus all"),
    ],
)
def test_gpus_are_given_in_the_way_that_the_host_has(one: Host, info: str, gpu: str, words: str) -> None:
    # A docker that only says what it has: the lab's engines know neither CDI nor, with its stand-in, --gpus.
    one.run("mkdir -p /etc/cdi /tmp/stand-in; echo 'kind: nvidia.com/gpu' > /etc/cdi/nvidia.yaml")
    one.run("cat > /tmp/stand-in/docker; printf '#!/bin/sh\n' > /tmp/stand-in/nvidia-container-runtime-hook; "
            "chmod 755 /tmp/stand-in/*", input=f"#!/bin/sh\necho '{info}'\n")  # fmt: skip
    try:
        answer = said(one, f"PATH=/tmp/stand-in:$PATH GPU={gpu} dockerrun --dry-run busybox true")
    finally:
        one.run("rm -r /etc/cdi /tmp/stand-in")
    assert f" {words} " in answer


# ---- options and defaults


def test_options_before_the_image_are_docker_s_and_win(host: Host) -> None:
    answer = said(
        host, "dockerrun -e 'A=1 2' -v/etc:/theirs:ro --user 0 -w /theirs busybox "
        "sh -c 'id -u; pwd; echo $A; ls -d /theirs/gpuprov-lab'",
    )  # fmt: skip
    assert answer.splitlines() == ["0", "/theirs", "1 2", "/theirs/gpuprov-lab"]
    # In the background it stays until it is removed, and under the name that it was given.
    said(host, "dockerrun -d --name mine busybox sleep 36000")
    time.sleep(1)
    assert containers(host) == "mine\n"
    host.run("docker rm -f mine")
    assert ssh(host, "dockerrun --rm=false --name again busybox sh -c 'exit 3'").returncode == 3
    time.sleep(1)
    assert containers(host) == "again\n"
    host.run("docker rm again")


def test_defaults_of_the_host_and_of_the_user_come_before_what_is_said(one: Host, gpuprov: Gpuprov, lab: Lab) -> None:
    lines = ["--env A=host", '--env B=$(id) `id` a  "b"', "-v ${HOME}:/mine:ro", "GPU=none"]
    defaults = json.dumps({"dockerrun_defaults": lines})
    answer = gpuprov("provision", "-l", "debian12", "-e", defaults)
    assert answer.status == 0, answer.text
    one.run(USERS, input="# mine\n\n  --env C=user:${UID}\r\n-e A=user")
    script = 'echo "$A|$B|$C"; ls /mine/.ssh; nvidia-smi'
    done = ssh(one, f"cd /tmp && dockerrun busybox sh -c {shlex.quote(script)}")
    uid = one.run("id -u alice").stdout.strip()
    assert done.stdout.decode().splitlines() == [f'user|$(id) `id` a  "b"|user:{uid}', "authorized_keys"]
    assert done.returncode == 127  # no GPU, no nvidia-smi
    assert said(one, "GPU=0 dockerrun -e A=said busybox sh -c 'echo $A; nvidia-smi -L'").startswith("said\nGPU 0")
    assert gpuprov("plan", "-l", "debian12", "-e", defaults).status == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("--init\ntouch /tmp/no", f"{USERS_CONFIG}, line 2: neither an option of docker run nor GPU="),
        ("GPU=$(id)", f"{USERS_CONFIG}, line 1: GPU is all, none"),
        ("-- \n--init", "among the defaults, --init is not an option"),
    ],
)
def test_defaults_that_are_none_are_refused_with_their_line(one: Host, text: str, complaint: str) -> None:
    one.run(USERS, input=text)
    assert complaint in refused(one, "dockerrun busybox true")


# ---- who may not


def test_who_cannot_use_docker_is_told_what_to_do(one: Host) -> None:
    assert 'run "sudo gpasswd -a carol docker"' in refused(one, "dockerrun busybox true", user="carol")
    one.run("gpasswd -a carol docker")
    try:
        carol = "cd /tmp && setpriv --reuid carol --regid carol --clear-groups"
        old = one.run(f"{carol} dockerrun busybox true", check=False)
    finally:
        one.run("gpasswd -d carol docker")
    assert (old.returncode, "this session began before that: log in again" in old.stderr) == (125, True)
    one.run("systemctl stop docker.socket docker")
    try:
        # The socket's file is there still, and docker itself says it.
        assert b"Cannot connect to the Docker daemon" in ssh(one, "dockerrun busybox true").stderr
        one.run("rm /run/docker.sock")
        assert "dockerd does not run on debian12" in refused(one, "dockerrun busybox true")
    finally:
        one.run("systemctl start docker.socket docker")
    assert "no IMAGE was named" in refused(one, "dockerrun -v /a:/b")
    assert "/ cannot be the directory" in refused(one, "cd / && dockerrun busybox true")
    assert said(one, "dockerrun --help").startswith("usage: dockerrun [OPTION]... IMAGE")


# ---- installing


def test_a_launcher_of_somebody_else_s_is_named_and_kept_and_one_not_wanted_is_not_planned(
    one: Host, gpuprov: Gpuprov
) -> None:
    one.run(f"rm -f /var/backups/gpuprov/dockerrun.*; echo '#!/bin/sh' > {LAUNCHER}")
    left_out = ("-l", "debian12", "-e", "dockerrun_install=false")
    assert gpuprov("plan", *left_out).status == 0
    assert document(gpuprov("provision", "--full", "--json", *left_out))["hosts"]["debian12"]["changes"] == []
    answer = gpuprov("provision", "-l", "debian12")
    assert f"dockerrun  a file of somebody else's → {LAUNCHER}" in answer.stdout
    assert one.run("cat /var/backups/gpuprov/dockerrun.2*").stdout == "#!/bin/sh\n"
    assert said(one, "dockerrun busybox echo fine") == "fine\n"


def test_a_launcher_that_cannot_be_written_leaves_the_old_one(one: Host, gpuprov: Gpuprov, tmp_path: Path) -> None:
    one.run(f"echo '# older' >> {LAUNCHER}; cp {LAUNCHER} /tmp/older")
    one.run("mount -t tmpfs -o size=16k tmpfs /usr/local/bin && cp -p /tmp/older /usr/local/bin/dockerrun")
    try:
        answer = gpuprov("provision", "-l", "debian12")
        assert (answer.status, one.run(f"cmp {LAUNCHER} /tmp/older; ls /usr/local/bin").stdout) == (2, "dockerrun\n")
        assert "dockerrun cannot be written: " in answer.text
    finally:
        one.run("umount /usr/local/bin")
    assert gpuprov("provision", "-l", "debian12").status == 0
