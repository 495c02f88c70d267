"""Errors: one clear line, the right exit status, and no unwanted change."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration import processes
from tests.integration.conftest import Answer, Hosts, document, run
from tests.lab import fleet
from tests.lab.lab import Lab
from tests.text import replaced
from tests.waiting import until

Gpuprov = Callable[..., Answer]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "does not exist"),
        ("", "is empty"),
        ("# nobody\n", "names no hosts"),
        ("[gpu\nx\n", "cannot be read"),
        ("[gpu]\na b c\n", "cannot be read"),
    ],
)
def test_an_inventory_that_is_none_ends_with_status_1_and_one_line(
    text: str | None, said: str, tmp_path: Path, gpuprov: Gpuprov
) -> None:
    path = tmp_path / "hosts.ini"
    if text is not None:
        path.write_text(text)
    answer = gpuprov("provision", inventory=path)
    assert answer.status == 1
    assert said in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1, answer.stderr


def test_a_directory_without_hosts_ends_with_status_1(tmp_path: Path, gpuprov: Gpuprov) -> None:
    (tmp_path / "empty").mkdir()
    answer = gpuprov("plan", inventory=tmp_path / "empty")
    assert (answer.status, answer.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    "words",
    [
        ["--frobnicate"],
        ["--forks", "0"],
        ["--forks", "many"],
        ["--limit", "nobody"],
        ["-e", "@/nonexistent.yml"],
        ["-e", "novalue"],
        ["-e", "{broken"],
        ["--private-key", "/nonexistent"],
    ],
)
def test_an_option_or_value_that_cannot_be_ends_with_status_1_and_one_line(words: list[str], gpuprov: Gpuprov) -> None:
    answer = gpuprov("provision", *words)
    assert answer.status == 1, answer.text
    assert len(answer.stderr.strip().splitlines()) == 1, answer.stderr
    assert "Traceback" not in answer.text


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ("docker_daemon_restart=sometimes", "docker_daemon_restart is 'sometimes', and must be one of"),
        ("docker_ce_hold=perhaps", "docker_ce_hold"),
        ('{"docker_daemon_options": "text"}', "docker_daemon_options"),
        ('{"docker_group_users": ["nobody-of-that-name"]}', "no account nobody-of-that-name"),
        ('{"docker_group_users": ["a;reboot"]}', "is not a user name"),
        ('{"docker_ce_version": "5:29 --allow-unauthenticated"}', "is not a version"),
        ('{"docker_ce_repo_url": "http://x/\\nevil"}', "is not the URL of a repository"),
    ],
)
def test_a_variable_that_cannot_be_fails_that_host_before_anything_is_touched(
    variables: str, said: str, pristine: Hosts, gpuprov: Gpuprov
) -> None:
    (host,) = pristine("debian12")
    answer = gpuprov("provision", "-l", "debian12", "-e", variables)
    assert answer.status == 2, answer.text
    assert said in answer.stdout
    assert host.run("ls /etc/apt/keyrings/docker.gpg /etc/docker 2>&1", check=False).returncode != 0


def test_a_version_that_the_repository_lacks_names_those_it_has(pristine: Hosts, gpuprov: Gpuprov) -> None:
    pristine("debian12")
    answer = gpuprov("provision", "-l", "debian12", "-e", "docker_ce_version=5:99.0.0-1")
    assert answer.status == 2
    assert "5:29.7.2-1~debian.12~bookworm" in answer.stdout


def test_an_unsupported_system_is_named_and_left_alone(pristine: Hosts, gpuprov: Gpuprov) -> None:
    (host,) = pristine("debian12")
    host.run("sed -i 's/bookworm/buster/; s/^ID=.*/ID=debian/' /etc/os-release")
    answer = gpuprov("provision", "-l", "debian12")
    assert answer.status == 2
    assert "is not supported" in answer.stdout
    assert host.run("ls /etc/apt/keyrings/docker.gpg", check=False).returncode != 0


def test_a_daemon_json_that_is_not_json_is_refused_with_line_and_column_and_left_alone(
    pristine: Hosts, gpuprov: Gpuprov
) -> None:
    (host,) = pristine("debian12")
    broken = '{\n  "debug": true,\n  "icc" true\n}\n'
    host.run("mkdir -p /etc/docker; cat > /etc/docker/daemon.json", input=broken)
    answer = gpuprov("provision", "-l", "debian12")
    assert answer.status == 2
    assert "/etc/docker/daemon.json is not JSON" in answer.stdout
    assert "line 3 column 9" in answer.stdout
    assert host.run("cat /etc/docker/daemon.json").stdout == broken


def test_a_key_of_another_fingerprint_is_not_trusted(pristine: Hosts, gpuprov: Gpuprov) -> None:
    (host,) = pristine("debian12")
    answer = gpuprov("provision", "-l", "debian12", "-e", f"docker_ce_repo_key_fingerprint={'AB' * 20}")
    assert answer.status == 2
    assert f"expected {'AB' * 20}" in answer.stdout
    assert host.run("ls /etc/apt/keyrings/docker.gpg", check=False).returncode != 0


def test_an_unreachable_and_a_failing_host_do_not_keep_two_good_ones_from_finishing(
    pristine: Hosts, gpuprov: Gpuprov, lab: Lab, tmp_path: Path
) -> None:
    _twelve, failing, _eleven = pristine("debian12", "debian13", "debian11")
    failing.run("mkdir -p /etc/docker; echo '[' > /etc/docker/daemon.json")
    inventory = tmp_path / "hosts.ini"
    known = lab.directory / "known_hosts"
    text = replaced(
        lab.inventory.read_text(), "[all:vars]", f"gone ansible_host={lab.server} ansible_port=2\n\n[all:vars]"
    )
    inventory.write_text(text)
    scanned = known.read_text()
    assert lab.server not in scanned
    answer = gpuprov("provision", "--limit", "debian11,debian12,debian13,gone", inventory=inventory)
    assert answer.status == 2, answer.text
    assert f"gone: unreachable: connection refused by {lab.server} port 2" in answer.stdout
    rows = {line.split()[0]: line for line in answer.stdout.splitlines() if line.split()[-2:-1]}
    assert "yes" in rows["debian11"]
    assert "yes" in rows["debian12"]
    assert "What to do" in answer.stdout
    only = gpuprov("plan", "--limit", "gone,debian11", inventory=inventory)
    assert only.status == 4


def test_a_wave_that_fails_is_the_last_and_the_hosts_not_reached_are_named(
    gpuprov: Gpuprov, pristine: Hosts, lab: Lab
) -> None:
    hosts = pristine("debian11", "debian12", "debian13")
    limit = ("-l", "debian11,debian12,debian13")
    assert gpuprov("provision", *limit).status == 0
    more = ("-e", json.dumps({"docker_daemon_registry_mirrors": [lab.mirror, "http://second.invalid"]}))
    hosts[0].run("chattr +i /etc/docker/daemon.json")
    answer = gpuprov("provision", *limit, *more, "--serial", "1,100%")
    assert answer.status == 2, answer.text
    assert "debian[12:13]: not reached: as before" in answer.stdout
    assert gpuprov("plan", "-l", "debian12,debian13", *more).status == 2
    answer = gpuprov("provision", *limit, *more, "--serial", "2", "--max-fail-percentage", "40")
    assert answer.status == 2, answer.text
    assert "not reached" not in answer.stdout
    assert gpuprov("plan", "-l", "debian12,debian13", *more).status == 0
    hosts[0].run("chattr -i /etc/docker/daemon.json")
    assert gpuprov("provision", *limit, *more, "--serial", "50%").status == 0


def test_a_sudo_that_wants_a_password_says_so_and_a_login_through_sudo_works(gpuprov: Gpuprov, pristine: Hosts) -> None:
    (host,) = pristine("debian12")
    assert gpuprov("provision", "-l", "debian12", "-u", "admin", "-e", "ansible_user=admin").status == 0
    host.run("echo 'admin ALL=(ALL) ALL' > /etc/sudoers.d/admin")
    answer = gpuprov("plan", "-l", "debian12", "-e", "ansible_user=admin")
    assert answer.status == 2, answer.text
    assert "sudo needs a password" in answer.stdout


def test_secrets_reach_neither_the_run_directory_nor_the_output(
    gpuprov: Gpuprov, tmp_path: Path, pristine: Hosts
) -> None:
    pristine("debian12")
    proxies = '{"docker_daemon_options": {"proxies": {"http-proxy": "http://me:s3cr3t@proxy.invalid:3128"}}}'
    answer = gpuprov("plan", "-l", "debian12", "-e", proxies, "--json")
    assert "proxies" in answer.stdout
    assert "s3cr3t" not in answer.text
    document(answer)
    assert not holding_secrets(tmp_path / "state")


def holding_secrets(place: Path) -> list[Path]:
    """Files that hold s3cr3t, as it is or in base64 at any offset."""
    coded = [base64.b64encode(b" " * offset + b"-s3cr3t-").decode()[4:10] for offset in range(3)]
    found = []
    for path in place.rglob("*"):
        text = path.read_text(errors="replace") if path.is_file() else ""
        if "s3cr3t" in text or any(one in text for one in coded):
            found.append(path)
    return found


def test_vault_text_and_passwords_are_in_no_process_list_log_or_document(
    tmp_path: Path, pristine: Hosts, lab: Lab
) -> None:
    (host,) = pristine("debian13")
    proxies = {"http-proxy": "http://me:-s3cr3t-@proxy.invalid:3128", "no-proxy": "10.0.0.0/8"}
    values = {"docker_daemon_options": {"proxies": proxies}}
    secret, key = tmp_path / "vault.json", tmp_path / "key"
    secret.write_text(json.dumps(values))
    key.write_text("-s3cr3t-of-the-vault")
    assert run(["ansible-vault", "encrypt", "--vault-password-file", str(key), str(secret)], tmp_path).status == 0
    words = ["--vault-password-file", str(key), "-e", f"@{secret}", "-e", "docker_daemon_config_mode=0640", "--json"]
    with processes.argument_lists() as seen:
        answer = run(["gpuprov", "provision", str(lab.inventory), "-l", "debian13", *words, "-vvvv"], tmp_path)
    assert answer.status == 0, answer.text
    assert "s3cr3t" in host.run("cat /etc/docker/daemon.json").stdout
    assert any("dockerd" in one or "apt-get" in one for one in seen)
    assert [one for one in seen if "s3cr3t" in one] == []
    (tmp_path / "state/said").write_text(answer.text)
    (tmp_path / "state/journal").write_text(host.run("journalctl --no-pager; cat /var/log/*.log", check=False).stdout)
    assert holding_secrets(tmp_path / "state") == []


def test_secrets_of_a_host_are_shown_nowhere_however_verbose_the_run(
    gpuprov: Gpuprov, tmp_path: Path, pristine: Hosts, lab: Lab, checkout: Path
) -> None:
    (host,) = pristine("debian12")
    options = {"splunk-token": "-s3cr3t-", "splunk-url": "http://me:-s3cr3t-@h.invalid"}
    config = {"log-driver": "splunk", "log-opts": options}
    host.run("mkdir -p /etc/docker; cat > /etc/docker/daemon.json", input=json.dumps(config))
    host.run("echo 'deb [trusted=yes] http://me:-s3cr3t-@h.invalid/ x y' > /etc/apt/sources.list.d/off.list.save")
    wanted = '{"docker_daemon_options": {"log-opts": {"splunk-token": "-s3cr3t-new"}}}'
    words = ["-i", str(lab.inventory), "-l", "debian12", "-e", wanted, "-vvv", "--diff"]
    answers = [
        gpuprov("provision", "-l", "debian12", "-e", wanted, "-vvv", "--diff", "--json"),
        run(["ansible-playbook", *words, "--check", str(checkout / "playbooks/provision.yml")], tmp_path),
    ]
    (tmp_path / "state/said").write_text("".join(answer.text for answer in answers))
    (tmp_path / "state/journal").write_text(host.run("journalctl --no-pager; cat /var/log/*.log", check=False).stdout)
    assert "splunk-token" in answers[0].stdout
    assert "29.7.2" in host.run("dpkg-query -W docker-ce").stdout
    assert holding_secrets(tmp_path / "state") == []
    pristine("debian12")  # its containers would log to nowhere


def test_the_wheel_provisions_a_host_from_anywhere(pristine: Hosts, lab: Lab, checkout: Path, tmp_path: Path) -> None:
    pristine("debian13")
    built = run([sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path / "dist"), str(checkout)], tmp_path)
    assert built.status == 0, built.text
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    subprocess.run([str(venv / "bin" / "pip"), "install", "-q", str(wheel)], check=True)
    environment = {"XDG_STATE_HOME": str(tmp_path / "state")}
    words = [str(venv / "bin" / "gpuprov"), "provision", str(lab.inventory), "-l", "debian13"]
    answer = run(words, Path("/"), **environment)
    assert answer.status == 0, answer.text
    assert "29.7.2" in answer.stdout


def test_a_login_that_sshd_resets_is_tried_again_and_dead_names_are_named(
    lab: Lab, pristine: Hosts, gpuprov: Gpuprov
) -> None:
    (host,) = pristine("debian12")
    # One connection that has not logged in is enough to have all others reset. sshd takes the last of these lines.
    host.run("echo 'MaxStartups 1:100:1' >/etc/ssh/sshd_config.d/zz.conf; systemctl restart ssh")
    inventory = fleet.make(lab, fleet.names([host], 4, {"refused": 1, "unknown": 1}))
    held = socket.create_connection((host.address, 22))
    assert held.recv(4) == b"SSH-"

    def release() -> None:
        with contextlib.closing(held):
            until(lambda: "past MaxStartups" in host.run("journalctl -u ssh -o cat").stdout, "sshd resets a login")

    releaser = threading.Thread(target=release)
    releaser.start()
    answer = gpuprov("plan", "--json", inventory=inventory)
    releaser.join()
    found = {name: (one["error"] or {}).get("message") for name, one in document(answer)["hosts"].items()}
    assert found == {
        "gpu1": None,
        "gpu2": f"connection refused by {host.address} port 20002",
        "gpu3": None,
        "gpu4": "the host key is not known",
    }, answer.text
    host.run("rm /etc/ssh/sshd_config.d/zz.conf; systemctl restart ssh")


def test_after_a_silent_host_the_other_hosts_get_less_time_to_connect(tmp_path: Path, gpuprov: Gpuprov) -> None:
    """The program in place of ssh notes the time that it has to connect, of which ssh takes the first that it finds."""
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f"""#!/bin/sh
printf '%s\\n' "$*" | grep -o 'ConnectTimeout=[0-9]*' | head -n 1 >>{tmp_path}/times
echo "ssh: connect to host $(hostname) port 22: Connection timed out" >&2
exit 255
"""
    )
    ssh.chmod(0o755)
    inventory = tmp_path / "hosts.ini"
    inventory.write_text("".join(f"gpu{number} ansible_host=192.0.2.{number}\n" for number in (1, 2, 3)))
    answer = gpuprov("plan", "--forks", "1", "-e", f"ansible_ssh_executable={ssh}", inventory=inventory)
    assert answer.status == 4, answer.text
    assert answer.stdout.count("no answer from") >= 1, answer.text
    assert (tmp_path / "times").read_text().split() == [f"ConnectTimeout={seconds}" for seconds in (20, 5, 5)]


def test_each_kind_of_trouble_in_a_fleet_is_named_and_slow_hosts_are_not_in_trouble(
    lab: Lab, pristine: Hosts, gpuprov: Gpuprov
) -> None:
    (host,) = pristine("debian12")
    names = fleet.names([host], 9, dict.fromkeys(fleet.KINDS, 1))
    inventory = fleet.make(lab, names)
    # Longer than late names take to answer.
    answer = gpuprov("plan", "--json", "-e", f"ansible_timeout={fleet.LATE + 8:.0f}", inventory=inventory)
    hosts = document(answer)["hosts"]
    port = {one.kind: f"{host.address} port {one.port}" for one in names}
    assert {one.kind: (hosts[one.name]["error"] or {}).get("message") for one in names} == {
        "": None,
        "slow": None,
        "late": None,
        "refused": f"connection refused by {port['refused']}",
        "silent": f"no answer from {port['silent']}",
        "unknown": "the host key is not known",
        "wrong": "the host, or a bastion before it, ended every login before it began",
        "garbage": "the host did not answer to the probe: it said ~~ garbage ~~",
    }, answer.text
