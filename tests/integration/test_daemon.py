"""daemon.json as people have it, read by real dockerds: 20.10, 26.1 and 28.5."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Answer, run
from tests.lab.lab import Host, Lab

NAMES = ("debian12", "debian13", "resolute")
CONFIG = "/etc/docker/daemon.json"
DROP_IN = "/etc/systemd/system/docker.service.d/site.conf"
# Each is shown by dockerd in another form than the file has, or not at all.
FOREIGN = {
    "insecure-registries": ["http://registry.example.com:5000", "HTTPS://b.example.com", "10.1.2.3/8"],
    "data-root": "/var/lib/docker-data//",
    "labels": ["site=a", "rack=1", "site=a"],
    "default-runtime": "",
    "log-driver": "",
    "log-opts": {"max-size": "10m"},
    "shutdown-timeout": 20,
    "exec-root": "/var/run/docker/",
}
TWICE = (
    '{"registry-mirrors":["%s"],"log-opts":{"max-size":"10m"},"runtimes":{"runsc":{"Path":"/usr/local/bin/runsc"}},'
    '"log-opts":{"max-file":"3"},"runtimes":{"kata":{"path":"/usr/bin/kata-runtime"}},"debug":true,"debug":false}'
)
# Tests restart dockerd more often than its unit allows in a minute.
RESTART = "systemctl reset-failed docker; systemctl restart docker"


class Site:
    """The lab's hosts, and gpuprov run on them."""

    def __init__(self, lab: Lab, directory: Path) -> None:
        self.lab, self.directory = lab, directory

    def host(self, name: str) -> Host:
        return self.lab.host(name)

    def say(self, verb: str, *names: str, **variables: Any) -> Answer:
        limit = ["--limit", ",".join(names or NAMES), "-e", json.dumps({"gpu_host_verify_gpu": False, **variables})]
        yes = ["--yes"] if verb == "uninstall" else []
        return run(["gpuprov", verb, str(self.lab.inventory), *limit, *yes, "--json"], self.directory)

    def hosts(self, verb: str, *names: str, **variables: Any) -> dict[str, Any]:
        """Return the output of a command on each host; the command must not fail."""
        answer = self.say(verb, *names, **variables)
        hosts: dict[str, Any] = json.loads(answer.stdout)["hosts"]
        assert {name: one["error"] for name, one in hosts.items() if one["error"]} == {}
        return hosts

    def refused(self, verb: str, *names: str, **variables: Any) -> dict[str, str]:
        """The messages of the hosts, which must all fail."""
        answer = self.say(verb, *names, **variables)
        hosts = json.loads(answer.stdout)["hosts"]
        assert answer.status == 2
        return {name: one["error"]["message"] for name, one in hosts.items()}

    def config(self, name: str) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.host(name).run(f"cat {CONFIG}").stdout)
        return parsed

    def put(self, name: str, text: str, then: str = RESTART) -> None:
        self.host(name).run(f"cat > {CONFIG}; {then}", input=text)

    def process(self, name: str) -> str:
        return self.host(name).run("pidof dockerd; systemctl show -p ExecMainStartTimestamp docker").stdout

    def shown(self, name: str) -> dict[str, Any]:
        info: dict[str, Any] = json.loads(self.host(name).run("docker info -f '{{json .}}'").stdout)
        return info


@pytest.fixture(scope="module")
def site(worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three provisioned hosts."""
    lab = Lab(f"daemon-{worker_id}")
    lab.up(",".join(NAMES), pristine=True)
    site = Site(lab, tmp_path_factory.mktemp("daemon"))
    site.hosts("provision")
    yield site
    lab.down()


def test_other_people_s_keys_are_no_reason_to_act_and_a_reload_stays_a_reload(site: Site) -> None:
    before = {name: site.config(name) for name in NAMES}
    for name in NAMES:
        site.put(name, json.dumps({**before[name], **FOREIGN}))
    assert {name: one["plan"]["changes"] for name, one in site.hosts("plan").items()} == {name: [] for name in NAMES}
    processes = {name: site.process(name) for name in NAMES}
    mirrors = [site.lab.mirror, "http://second.example.com"]
    for name, host in site.hosts("provision", docker_daemon_registry_mirrors=mirrors).items():
        assert [change["disruption"] for change in host["plan"]["changes"]] == ["reload"]
        assert site.process(name) == processes[name]
        assert site.config(name) == {**before[name], **FOREIGN, "registry-mirrors": mirrors}
        assert site.shown(name)["RegistryConfig"]["Mirrors"] == [f"{mirror}/" for mirror in mirrors]
    for name in NAMES:
        # A key of somebody else's that dockerd has not read yet is noted.
        site.put(name, json.dumps({**before[name], "shutdown-timeout": 25}), then="sleep 3; touch " + CONFIG)
    for host in site.hosts("plan", docker_daemon_registry_mirrors=[]).values():
        assert host["plan"]["changes"] == []
        assert [note["name"] for note in host["plan"]["notes"]] == ["daemon-json-unread"]
    # Also beside a key of gpuprov's that dockerd does not show.
    options = {"log-opts": {"max-size": "10m"}, "max-concurrent-downloads": 5}
    site.hosts("provision", docker_daemon_options=options)
    for name in NAMES:
        config = {**site.config(name), "shutdown-timeout": 30}
        site.put(name, json.dumps(config), then="sleep 3; touch " + CONFIG)
    for host in site.hosts("plan", docker_daemon_options=options).values():
        assert host["plan"]["changes"] == []
        assert [note["name"] for note in host["plan"]["notes"]] == ["daemon-json-unread"]
    for name in NAMES:
        site.put(name, json.dumps(before[name]))


def test_what_goes_is_planned_as_what_it_takes_and_is_gone_then(site: Site) -> None:
    before = {name: site.config(name) for name in NAMES}
    more = {
        "labels": ["site=a"],
        "debug": True,
        "live-restore": True,
        "default-runtime": "other",
        "max-concurrent-downloads": 9,
    }
    for name in NAMES:
        runtimes = {**before[name]["runtimes"], "other": {"path": "runc"}}
        site.put(name, json.dumps({**before[name], **more, "runtimes": runtimes}))
    processes = {name: site.process(name) for name in NAMES}
    # What a reload takes away ...
    gone: dict[str, Any] = {"max-concurrent-downloads": None, "debug": False}
    for name, host in site.hosts("provision", docker_daemon_options=gone).items():
        assert {change["disruption"] for change in host["plan"]["changes"]} == {"reload"}
        assert site.process(name) == processes[name]
        assert site.shown(name)["Debug"] is False
    # ... and what dockerd keeps until it starts anew. Without live-restore that ends the containers.
    gone = {**dict.fromkeys(more), "runtimes": {"other": None}}
    for name in NAMES:
        site.host(name).run("docker run -d --name job busybox sleep 36000")
    for said in site.refused("provision", docker_daemon_options=gone).values():
        assert "1 containers run: job" in said
    for name, host in site.hosts("provision", docker_daemon_options=gone, docker_daemon_restart="always").items():
        needed = {change["from"].split(" ")[0]: change["disruption"] for change in host["plan"]["changes"]}
        assert needed == {
            "debug": "restart",
            "default-runtime": "restart",
            "labels": "restart",
            "live-restore": "restart",
            "runtimes.other": "reload",
        }
        shown = site.shown(name)
        assert (shown["Labels"], shown["LiveRestoreEnabled"], shown["DefaultRuntime"]) == ([], False, "runc")
        assert "other" not in shown["Runtimes"]
    for name in NAMES:
        site.host(name).run("docker rm -f job")
        site.put(name, json.dumps(before[name]))


def test_a_reload_that_dockerd_does_not_take_over_stops_the_run_unless_restarts_are_always_allowed(site: Site) -> None:
    host = site.host("debian13")
    host.run(
        f"mkdir -p {Path(DROP_IN).parent}; printf '[Service]\\nExecReload=\\nExecReload=/bin/true\\n' > {DROP_IN}; "
        "systemctl daemon-reload"
    )
    process, config = site.process("debian13"), site.config("debian13")
    mirrors = {"docker_daemon_registry_mirrors": [site.lab.mirror, "http://third.example.com"]}
    said = site.refused("provision", "debian13", **mirrors)["debian13"]
    assert "dockerd did not take registry-mirrors over at a reload" in said
    assert "docker_daemon_restart: always" in said
    assert (site.process("debian13"), site.config("debian13")) == (process, config)
    site.hosts("provision", "debian13", **mirrors, docker_daemon_restart="always")
    assert "http://third.example.com/" in site.shown("debian13")["RegistryConfig"]["Mirrors"]
    host.run(f"rm {DROP_IN}; systemctl daemon-reload")
    site.put("debian13", json.dumps(config))


def test_what_stands_twice_is_merged_and_flags_and_mirrors_are_those_of_the_host(site: Site) -> None:
    before = {name: site.config(name) for name in NAMES}
    for name in NAMES:
        site.put(name, TWICE % site.lab.mirror)
        running = site.shown(name)["Runtimes"]
        assert {"runsc", "kata"} <= set(running)
    site.hosts("provision")
    for name in NAMES:
        config = site.config(name)
        assert config["log-opts"] == {"max-size": "10m", "max-file": "3"}
        assert set(config["runtimes"]) == {"runsc", "kata", "nvidia"}
        assert {"runsc", "kata", "nvidia"} <= set(site.shown(name)["Runtimes"])

    # Mirrors with a path are 24.0.8's and newer; an address of IPv6 is any engine's.
    path = ["https://harbor.example.com/hub-proxy", "http://[fd00::5]:5000"]
    assert "20.10.24 refuses" in site.refused("plan", "debian12", docker_daemon_registry_mirrors=path)["debian12"]
    newer = ("debian13", "resolute")
    for name in newer:
        site.put(name, json.dumps({**before[name], "registry-mirrors": path}))
    for host in site.hosts("plan", *newer, docker_daemon_registry_mirrors=path).values():
        assert host["plan"]["changes"] == []
    for host in site.hosts("doctor", *newer, docker_daemon_registry_mirrors=[]).values():
        assert "daemon-json" not in [finding["name"] for finding in host["findings"]]

    # Flags of an environment file: dockerd merges runtimes, and nothing else.
    for name in NAMES:
        host = site.host(name)
        host.run(
            f"mkdir -p {Path(DROP_IN).parent}; cat > {DROP_IN}; systemctl daemon-reload; "
            "echo 'DOCKER_OPTS=\"--registry-mirror=http://f.example.com --add-runtime flag=/x\"' > /etc/default/docker",
            input="[Service]\nEnvironmentFile=-/etc/default/docker\nExecStart=\n"
            "ExecStart=/usr/bin/dockerd -H fd:// $DOCKER_OPTS\n",
        )
        site.put(name, "{}")
    processes = {name: site.process(name) for name in NAMES}
    for said in site.refused("provision").values():
        assert "registry-mirrors is in daemon.json and also a flag of dockerd in /etc/default/docker" in said
    assert {name: site.process(name) for name in NAMES} == processes
    for name in NAMES:
        site.host(name).run("echo 'DOCKER_OPTS=\"--add-runtime flag=/x\"' > /etc/default/docker")
        site.put(name, json.dumps(before[name]))
    for host in site.hosts("plan").values():
        assert host["plan"]["changes"] == []
    for name in NAMES:
        site.host(name).run(f"rm {DROP_IN} /etc/default/docker; systemctl daemon-reload; {RESTART}")


def test_a_dockerd_that_is_down_starts_with_the_corrected_file_and_the_cures_of_the_doctor_work(site: Site) -> None:
    config = site.config("debian12")
    site.put("debian12", json.dumps({**config, "log-opt": {"max-size": "10m"}}), "systemctl restart docker; true")
    site.host("debian13").run("systemctl stop docker.socket docker; systemctl mask docker.socket containerd")
    site.host("resolute").run("systemctl stop docker.socket docker; systemctl mask docker docker.socket")
    site.host("debian12").run("until systemctl is-failed -q docker; do sleep 0.2; done")
    assert "no key log-opt (is log-opts meant?)" in site.refused("plan", "debian12")["debian12"]

    cured = site.host("resolute")
    for finding in site.hosts("doctor", "resolute")["resolute"]["findings"]:
        if finding["name"].startswith("dockerd-"):
            cured.run(finding["cure"])
    assert cured.run("systemctl is-active docker; systemctl is-enabled docker").stdout.split() == ["active", "enabled"]

    options = {"log-opt": None, "log-opts": {"max-size": "10m", "max-file": 3}}
    result = site.hosts("provision", docker_daemon_options=options, docker_daemon_restart="always")
    assert {one["verify"]["ok"] for one in result.values()} == {True}
    for name in NAMES:
        assert site.config(name)["log-opts"] == {"max-size": "10m", "max-file": "3"}
    for host in site.hosts("plan", docker_daemon_options=options).values():
        assert host["plan"]["changes"] == []


# What dockerd alone can refuse, and what it says.
REFUSED = [
    ({"storage-driver": "nonesuch"}, "nonesuch"),
    ({"data-root": "/etc/hostname/docker"}, "/etc/hostname/docker: not a directory"),
    ({"bip": "10.0.0.0/99"}, "invalid CIDR address: 10.0.0.0/99"),
]


def turned(number: int) -> tuple[dict[str, Any], dict[str, str]]:
    """A value that dockerd refuses for each host, as an option of gpuprov, and what is said of it."""
    given = {name: REFUSED[(number + place) % len(REFUSED)] for place, name in enumerate(NAMES)}
    values = json.dumps({name: value for name, (value, _said) in given.items()})
    return {"docker_daemon_options": f"{{{{ {values}[inventory_hostname] }}}}"}, {
        name: one[1] for name, one in given.items()
    }


def test_what_dockerd_alone_refuses_leaves_a_host_as_it_was_and_the_next_run_finishes(site: Site) -> None:
    site.lab.reset(*NAMES)
    small = "/srv/small/docker/"
    for name in NAMES:
        site.host(name).run("mkdir /srv/small; mount -t tmpfs -o size=9m tmpfs /srv/small")
    for said in site.refused("provision", docker_daemon_options={"data-root": small}).values():
        assert said == f"{small} has 9 MiB free; 1024 MiB are needed"
    # Fresh hosts, then such as have the packages and a dockerd that does not run.
    for number in range(2):
        wrong, complaints = turned(number)
        for name, said in site.refused("provision", **wrong).items():
            assert said.startswith("dockerd did not start: ")
            assert complaints[name] in said
            assert "level=info" not in said
            assert said.endswith(f". The file {CONFIG} is as it was before this run, there was none")
            assert site.host(name).run(f"ls {CONFIG}", check=False).returncode != 0
    # With userns-remap dockerd keeps its data below data-root. The kernel lets nobody mount /proc in a namespace of
    # users where it lies half hidden, as it does under the lab's GPU.
    for name in NAMES:
        site.host(name).run("systemctl stop gpuprov-lab-gpu; rm -rf /srv/dd")
    right = {"docker_daemon_options": {"data-root": "/srv/dd/", "userns-remap": "default"}}
    assert {one["verify"]["ok"] for one in site.hosts("provision", **right).values()} == {True}
    assert {name: one["plan"]["changes"] for name, one in site.hosts("plan", **right).items()} == {
        name: [] for name in NAMES
    }
    before = {name: site.config(name) for name in NAMES}
    # Hosts that run: what they had is back, and dockerd runs with it.
    wrong, complaints = turned(2)
    for name, said in site.refused("provision", **wrong).items():
        assert complaints[name] in said
        assert said.endswith(". The old daemon.json is back, and dockerd runs with it")
        assert site.config(name) == before[name]
        assert site.shown(name)["DockerRootDir"].startswith("/srv/dd/")


def test_no_data_is_left_unmentioned(site: Site) -> None:
    host = site.host("debian12")
    options: dict[str, Any] = {"data-root": "/srv/dd/", "userns-remap": None, "log-opts": {"max-file": 3}}
    site.hosts("provision", "debian12", docker_daemon_options=options)
    site.hosts("provision", "debian13", "resolute", docker_daemon_options=dict.fromkeys(options))
    host.run("touch /srv/dd/thesis; test -d /srv/dd/containers")
    # The lab's /var/lib/docker is a mount point; on resolute containerd's directory is a link to elsewhere.
    site.host("resolute").run(
        "systemctl stop docker.socket docker containerd; mkdir -p /etc/containerd /srv/target; ln -s target /srv/link; "
        "printf \"version = 2\\nroot = '/srv/link'\\n\" > /etc/containerd/config.toml; "
        "systemctl start containerd docker; ls -d /srv/target/io.containerd.*"
    )
    kept = site.hosts("uninstall", "debian13", "resolute")
    assert "/var/lib/docker: images, containers and volumes" in kept["debian13"]["left"]
    assert "/srv/link: images, containers and volumes" in kept["resolute"]["left"]
    gone = site.hosts("uninstall", docker_ce_uninstall_data=True, docker_daemon_options={"data-root": "/srv/dd/"})
    assert "/srv/dd: thesis, which the engine did not write" in gone["debian12"]["left"]
    assert host.run("ls /srv/dd").stdout.split() == ["thesis"]
    for name in NAMES:
        site.host(name).run("! find /var/lib/docker /var/lib/containerd -mindepth 1 2>/dev/null | grep -q .")
    site.host("resolute").run("! test -e /srv/target; ! test -L /srv/link")
    # A mount point that cannot be removed does not fail the next run.
    site.hosts("uninstall", docker_ce_uninstall_data=True)
