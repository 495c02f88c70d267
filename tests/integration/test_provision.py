"""Provisioning of real hosts: the first run, the second run, and everything in between."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.integration.conftest import Answer, Hosts, document, run
from tests.integration.v1 import start_v1_plugin
from tests.lab.lab import Host, Lab

Gpuprov = Callable[..., Answer]
CONFIG = "/etc/docker/daemon.json"
# Everything that a run could have touched; logs and what the kernel shows are not of it.
SNAPSHOT = (
    "find /etc /usr /opt /root /home /var/lib/apt /var/lib/dpkg /var/cache/apt -xdev -type f "
    "-printf '%p %s %m %u %T@\\n' | sort | sha256sum; dpkg -l | sha256sum; ls /etc/systemd/system /run/systemd/units"
)


def containers_ids(host: Host) -> str:
    """The processes of the running containers."""
    return host.run("docker inspect -f '{{.State.Pid}}' $(docker ps -q)").stdout


def test_check_and_diff_on_pristine_hosts_fail_nowhere_and_change_nothing(pristine: Hosts, gpuprov: Gpuprov) -> None:
    hosts = pristine("debian11", "debian12", "debian13", "resolute", "xenial")
    before = [host.run(SNAPSHOT).stdout for host in hosts]
    answer = gpuprov("provision", "--check", "--diff")
    assert answer.status == 0, answer.text
    assert "URIs: " in answer.stdout
    assert [host.run(SNAPSHOT).stdout for host in hosts] == before


def test_a_first_run_changes_and_verifies_and_a_second_one_changes_nothing(pristine: Hosts, gpuprov: Gpuprov) -> None:
    hosts = pristine("debian11", "debian12", "debian13", "resolute", "xenial")
    first = document(gpuprov("provision", "--json"))
    assert first["status"] == 0, first
    for host in hosts:
        assert first["hosts"][host.name]["verify"]["ok"]
        checks = {check["name"] for check in first["hosts"][host.name]["verify"]["checks"]}
        assert {"container runs", "container sees the GPU"} <= checks
    full = document(gpuprov("provision", "--full", "--json"))
    assert full["status"] == 0
    assert [full["hosts"][host.name]["changes"] for host in hosts] == [[]] * 5
    assert gpuprov("plan").status == 0
    predicted = document(gpuprov("provision", "--full", "--check", "--json"))
    assert [predicted["hosts"][host.name]["status"] for host in hosts] == ["up-to-date"] * 5
    assert gpuprov("verify").status == 0


def test_the_playbook_alone_does_the_same_from_a_checkout(
    pristine: Hosts, lab: Lab, checkout: Path, tmp_path: Path, gpuprov: Gpuprov
) -> None:
    pristine("debian12")
    playbook = str(checkout / "playbooks" / "provision.yml")
    answer = run(["ansible-playbook", "-i", str(lab.inventory), "-l", "debian12", playbook], tmp_path)
    assert answer.status == 0, answer.text
    assert gpuprov("plan", "-l", "debian12").status == 0


def test_foreign_keys_of_daemon_json_stay_and_a_right_file_is_left_to_the_byte(
    pristine: Hosts, gpuprov: Gpuprov, lab: Lab
) -> None:
    (host,) = pristine("debian12")
    foreign = {"log-opts": {"max-size": "10m"}, "labels": ["rack=7"], "runtimes": {"other": {"path": "runc"}}}
    host.run(f"mkdir -p /etc/docker; cat > {CONFIG}", input=json.dumps(foreign))
    assert gpuprov("provision", "-l", "debian12").status == 0
    config = json.loads(host.run(f"cat {CONFIG}").stdout)
    assert config["log-opts"] == foreign["log-opts"]
    assert config["labels"] == foreign["labels"]
    assert config["registry-mirrors"] == [lab.mirror]
    assert set(config["runtimes"]) == {"other", "nvidia"}

    spelled = {**config, "runtimes": {"nvidia": {"args": [], "path": "/usr/bin/nvidia-container-runtime"}}}
    host.run(f"cat > {CONFIG}; systemctl reload docker", input=json.dumps(spelled, indent=7))
    before = host.run(f"stat -c '%i %y' {CONFIG}; sha256sum {CONFIG}").stdout
    answer = document(gpuprov("provision", "--full", "-l", "debian12", "--json"))
    assert answer["hosts"]["debian12"]["changes"] == []
    assert host.run(f"stat -c '%i %y' {CONFIG}; sha256sum {CONFIG}").stdout == before


def test_a_changed_mirror_is_reloaded_and_running_containers_run_on(gpuprov: Gpuprov, lab: Lab) -> None:
    host = lab.host("debian12")
    assert gpuprov("provision", "-l", "debian12").status == 0
    host.run("docker run -d --name job busybox sleep 36000")
    before = containers_ids(host)
    mirrors = json.dumps({"docker_daemon_registry_mirrors": [lab.mirror, "http://second.invalid"]})
    answer = gpuprov("provision", "-l", "debian12", "-e", mirrors)
    assert answer.status == 0, answer.text
    assert "(reload)" in answer.stdout
    assert "second.invalid" in host.run("docker info").stdout
    assert containers_ids(host) == before
    # A key that needs a restart waits for the container, which is named.
    answer = gpuprov("provision", "-l", "debian12", "-e", '{"docker_daemon_options": {"log-driver": "local"}}')
    assert answer.status == 2
    assert "job" in answer.stdout
    assert containers_ids(host) == before
    host.run("docker rm -f job")


def test_tags_change_one_thing_while_others_are_pending(gpuprov: Gpuprov, lab: Lab) -> None:
    host = lab.host("debian12")
    assert gpuprov("provision", "-l", "debian12").status == 0
    host.run(
        "rm /usr/local/bin/dockerrun /etc/apt/sources.list.d/docker.sources; apt-mark unhold docker-ce; "
        "gpasswd -d alice docker"
    )
    words = ("-l", "debian12", "--tags", "docker_group")
    plan = gpuprov("plan", *words)
    assert plan.status == 2
    assert "1 change\n  docker group  + alice\n" in plan.stdout
    assert "leave out 3 changes: docker_ce_source, docker_ce_packages, dockerrun_launcher" in plan.stdout
    done = document(gpuprov("provision", *words, "--json"))
    assert (done["status"], [change["role"] for change in done["hosts"]["debian12"]["changes"]]) == (
        0,
        ["docker_group"],
    )
    # The roles' own tasks.
    full = gpuprov("provision", "--full", "--check", "-l", "debian12", "-t", "docker_ce_source,docker_group", "--json")
    changes = document(full)["hosts"]["debian12"]["changes"]
    assert [change["subject"] for change in changes] == ["apt source docker"]
    rest = gpuprov("provision", "-l", "debian12", "--skip-tags", "docker_ce_source", "--json")
    assert {change["role"] for change in document(rest)["hosts"]["debian12"]["changes"]} == {"docker_ce", "dockerrun"}
    assert gpuprov("plan", "-l", "debian12").status == 0


def test_a_reader_never_finds_half_a_daemon_json_and_the_last_backups_stay(gpuprov: Gpuprov, lab: Lab) -> None:
    host = lab.host("debian12")
    assert gpuprov("provision", "-l", "debian12").status == 0
    reader = (
        "import json, time\n"
        f"while True:\n    json.load(open('{CONFIG}'))\n    print('.', end='', flush=True)\n    time.sleep(0.0005)\n"
    )
    host.run("cat > /tmp/reader.py; systemd-run -q --unit reader python3 /tmp/reader.py", input=reader)
    for number in range(4):
        mirrors = json.dumps({"docker_daemon_registry_mirrors": [lab.mirror, f"http://m{number}.invalid"]})
        answer = gpuprov("provision", "-l", "debian12", "-e", mirrors, "-e", "docker_daemon_backups=2")
        assert answer.status == 0, answer.text
    assert host.run("systemctl is-active reader; systemctl stop reader").stdout.startswith("active")
    assert len(host.run(f"ls {CONFIG}.gpuprov-*").stdout.split()) == 2
    assert host.run("ls -A /etc/docker | grep -v '^daemon.json' | grep -v key.json", check=False).stdout == ""


def test_upgrade_and_downgrade_go_where_they_are_told_and_the_hold_is_in_force_between(
    gpuprov: Gpuprov, lab: Lab
) -> None:
    host = lab.host("debian12")
    assert gpuprov("provision", "-l", "debian12").status == 0
    for version in ("5:28.5.2-1~debian.12~bookworm", "5:29.9.1-1~debian.12~bookworm", "5:29.7.2-1~debian.12~bookworm"):
        answer = gpuprov("provision", "-l", "debian12", "-e", f"docker_ce_version={version}")
        assert answer.status == 0, answer.text
        assert host.run("dpkg-query -W -f '${Version}' docker-ce").stdout == version
        upgrade = host.run("apt-get update -qq; apt-get -s upgrade").stdout
        assert "Inst docker-ce" not in upgrade


def test_docker_io_goes_and_its_images_and_containers_stay(pristine: Hosts, gpuprov: Gpuprov, lab: Lab) -> None:
    (host,) = pristine("debian12")
    host.run(f'mkdir -p /etc/docker; echo \'{{"registry-mirrors": ["{lab.mirror}"]}}\' > {CONFIG}')
    host.run("apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -y -qq docker.io")
    host.run("docker create --name kept busybox; docker volume create kept")
    answer = gpuprov("provision", "-l", "debian12")
    assert answer.status == 0, answer.text
    assert host.run("dpkg-query -W -f '${db:Status-Abbrev}' docker.io", check=False).stdout.strip() in ("rc", "un", "")
    assert "kept" in host.run("docker ps -a --format '{{.Names}}'").stdout
    assert "kept" in host.run("docker volume ls -q").stdout


def test_another_entry_of_the_same_repository_is_replaced_whatever_its_file_is_called(
    pristine: Hosts, gpuprov: Gpuprov, lab: Lab
) -> None:
    (host,) = pristine("debian13")
    url = lab.variables()["docker_ce_repo_url"]
    others = "# ours\ndeb [trusted=yes] http://other.invalid/debian trixie main\n"
    host.run(
        "cat > /etc/apt/sources.list.d/zz-site.list", input=f"{others}deb [trusted=yes] {url}/debian/ trixie stable\n"
    )
    assert gpuprov("provision", "-l", "debian13").status == 0
    assert host.run("cat /etc/apt/sources.list.d/zz-site.list").stdout == others
    assert "trusted" in host.run("cat /var/backups/gpuprov/*").stdout


def test_moving_from_nvidia_docker2_to_the_toolkit_keeps_daemon_json(gpuprov: Gpuprov, lab: Lab) -> None:
    host = lab.host("xenial")
    assert gpuprov("provision", "-l", "xenial").status == 0
    before = host.run(f"cat {CONFIG}").stdout
    answer = gpuprov("provision", "-l", "xenial", "-e", "nvidia_docker_stack=toolkit")
    assert answer.status == 0, answer.text
    assert host.run(f"cat {CONFIG}").stdout == before
    assert "1.19.1-1" in host.run("dpkg-query -W nvidia-container-toolkit").stdout


def test_nvidia_docker_v1_goes_with_its_volumes_and_with_containers_only_where_told(
    pristine: Hosts, gpuprov: Gpuprov
) -> None:
    (host,) = pristine("xenial")
    assert gpuprov("provision", "-l", "xenial", "-e", "nvidia_docker_stack=none").status == 0
    start_v1_plugin(host)
    host.run(
        "mkdir -p /tmp/v1/DEBIAN; cd /tmp; cat > v1/DEBIAN/control; dpkg-deb -b v1 v1.deb; dpkg -i v1.deb",
        input="Package: nvidia-docker\nVersion: 1.0.1-1\nArchitecture: all\nMaintainer: lab\nDescription: v1\n",
    )
    host.run(
        "docker run -d --name old --volume-driver nvidia-docker -v nvidia_driver_396.44:/usr/local/nvidia "
        "busybox sleep 36000; docker run -d --name other busybox sleep 36000"
    )
    # As the value of an INI inventory: text.
    refused = gpuprov("provision", "-l", "xenial", "-e", "nvidia_docker_remove_v1_containers=false")
    assert refused.status == 2, refused.text
    assert "containers use volumes of nvidia-docker v1: old - remove them" in refused.stdout
    assert host.run("docker ps --format '{{.Names}}' | sort").stdout.split() == ["old", "other"]
    assert "nvidia-docker" in host.run("dpkg -l nvidia-docker").stdout

    told = gpuprov("provision", "-l", "xenial", "-e", "nvidia_docker_remove_v1_containers=true")
    # The other container puts the restart off that --gpus waits for: the plan says so, and verify misses it.
    assert told.status == 2, told.text
    assert "docker run --gpus works after the next restart of dockerd" in told.stdout
    assert "xenial: failed: GPU with --gpus: " in told.stdout
    assert "volume of nvidia-docker v1" in told.stdout
    assert host.run("docker ps -a --format '{{.Names}}'").stdout.split() == ["other"]
    assert "nvidia_driver" not in host.run("docker volume ls").stdout
    assert host.run("dpkg-query -W -f '${db:Status-Abbrev}' nvidia-docker", check=False).stdout.strip() != "ii"


def test_uninstall_takes_packages_and_settings_and_leaves_the_data(gpuprov: Gpuprov, lab: Lab) -> None:
    host = lab.host("debian11")
    assert gpuprov("provision", "-l", "debian11").status == 0
    host.run("docker volume create kept; docker run -d --name busy busybox sleep 36000")
    refused = gpuprov("uninstall", "-l", "debian11", "--yes", "-e", "docker_ce_uninstall_running=no")
    assert refused.status == 2
    assert "Containers run: busy" in refused.text
    assert gpuprov("plan", "-l", "debian11").status == 0, "something was touched"
    host.run("docker rm -f busy")
    answer = gpuprov("uninstall", "-l", "debian11", "--yes", "-e", "docker_ce_uninstall_data=false")
    assert answer.status == 0, answer.text
    assert "docker-ce" not in host.run("dpkg -l | grep ^.i", check=False).stdout
    gone = f"{CONFIG} /etc/apt/sources.list.d/docker.sources /usr/local/bin/dockerrun /etc/gpuprov"
    assert host.run(f"ls -d {gone}", check=False).stdout == ""
    assert "kept" in host.run("ls /var/lib/docker/volumes").stdout
