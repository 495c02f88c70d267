"""docker_daemon_proxy on real engines: 18.09 by its pin, 20.10, 26.1 and 28.5, behind a proxy that asks for a login."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import processes
from tests.integration.conftest import Answer, run
from tests.lab.lab import Host, Lab
from tests.lab.proxy import Proxy

# The version strings of debian12 are those of 29, its code is 20.10: a plan for the pristine host is wrong there.
IN_UNIT, IN_FILE = ("debian12", "xenial"), ("debian13", "resolute")
ENVIRONMENT, DROP_IN = "/etc/docker/gpuprov-proxy.env", "/etc/systemd/system/docker.service.d/gpuprov-proxy.conf"
SECRET = "pr0xyw%21"
# What may hold the password: it is given on standard input, as no argument may have it.
HOLDING = "grep -rlFf /dev/stdin /etc /run /root /tmp /var/log /var/backups /var/cache/apt /var/lib/apt 2>/dev/null"
PUBLIC = "journalctl --no-pager; systemctl show docker; docker info; cat /var/log/*.log"


def shown(changes: list[dict[str, Any]]) -> list[tuple[str, Any, Any, str]]:
    return [(change["subject"], change["from"], change["to"], change["disruption"]) for change in changes]


class Site:
    """The lab's hosts behind a proxy, gpuprov run on them, and everything that was said and run meanwhile."""

    def __init__(self, lab: Lab, proxy: Proxy, directory: Path) -> None:
        self.lab, self.proxy, self.directory = lab, proxy, directory
        self.variables = {"gpu_host_verify_gpu": False}
        self.behind = {"docker_daemon_proxy": {"http": proxy.url, "https": proxy.url, "no_proxy": "localhost,.test"}}
        self.said = ""

    def host(self, name: str) -> Host:
        return self.lab.host(name)

    def run(self, verb: str, *words: str, **variables: Any) -> Answer:
        values = self.directory / "values.json"
        values.write_text(json.dumps({**self.variables, **variables}))
        answer = run(["gpuprov", verb, str(self.lab.inventory), "-e", f"@{values}", *words], self.directory)
        values.unlink()
        self.said += answer.text
        return answer

    def hosts(self, verb: str, *words: str, **variables: Any) -> dict[str, Any]:
        """Return the output of a command on each host; the command must not fail."""
        hosts: dict[str, Any] = json.loads(self.run(verb, "--json", *words, **variables).stdout)["hosts"]
        assert {name: one["error"] for name, one in hosts.items() if one["error"]} == {}
        return hosts

    def holding(self, name: str) -> set[str]:
        """Return the files of a host that hold the password, without backups."""
        found = self.host(name).run(HOLDING, check=False, input=SECRET[:6]).stdout.split()
        return {path for path in found if ".gpuprov-" not in path}


@pytest.fixture(scope="module")
def site(worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Pristine hosts, but for debian12, which is provisioned. No process has the password in its arguments."""
    lab = Lab(f"proxy-{worker_id}")
    lab.up(",".join(IN_UNIT + IN_FILE), pristine=True)
    try:
        with (
            processes.argument_lists() as seen,
            Proxy(lab.server.rpartition(".")[0] + ".1", f"me:{SECRET}").running() as proxy,
        ):
            site = Site(lab, proxy, tmp_path_factory.mktemp("proxy"))
            site.hosts("provision", "-l", "debian12")
            site.host("debian12").run("docker rmi hello-world")
            yield site
    finally:
        lab.down()
    assert any("apt-get" in words for words in seen)
    assert [words for words in seen if "pr0xyw" in words] == []


def test_hosts_are_provisioned_through_the_proxy_and_its_password_stays_in_root_s_files(site: Site) -> None:
    words = ["-l", ",".join((*IN_UNIT, *IN_FILE))]
    for name, host in site.hosts("provision", "--check", "--diff", *words, **site.behind).items():
        changes = host["plan"]["changes"]
        places = [change["subject"] for change in changes if "***@" in str(change["to"])]
        assert places == ["proxy of docker.service" if name in IN_UNIT else "daemon.json"], name
        assert sorted(map(str, shown(host["changes"]))) == sorted(map(str, shown(changes))), name
    answer = site.run("provision", "-vvvv", "--diff", *words, **site.behind)
    assert answer.status == 0, answer.text
    for name in (*IN_UNIT, *IN_FILE):
        host = site.host(name)
        asked = [url for client, url in site.proxy.asked if client == host.address]
        assert any("/v2/library/hello-world/" in url for url in asked), name
        assert any(url.endswith(".deb") for url in asked) == (name != "debian12"), name
        holding = site.holding(name)
        assert holding == {ENVIRONMENT if name in IN_UNIT else "/etc/docker/daemon.json"}, name
        assert host.run(f"stat -c '%a %u:%g' {' '.join(holding)}").stdout == "600 0:0\n"
        assert SECRET[:6] not in host.run(PUBLIC, check=False).stdout, name
        assert host.run(f"ls {DROP_IN}", check=False).returncode == (0 if name in IN_UNIT else 2)
    kept = "".join(path.read_text(errors="replace") for path in site.directory.rglob("*") if path.is_file())
    assert "***@" in site.said
    assert "pr0xyw" not in site.said + kept
    assert site.proxy.refused == 0
    # Nothing is left to do, for the plan and for the roles.
    for name, result in site.hosts("provision", "--full", *words, **site.behind).items():
        assert (result["plan"]["changes"], result["changes"]) == ([], []), name


DRIFTS = {
    f"sed -i s/me:/you:/ {ENVIRONMENT}": ("restart", ", other credentials"),
    f"rm {DROP_IN}; systemctl daemon-reload": ("restart", ", not in use"),
    f"chmod 0644 {ENVIRONMENT}": ("none", "0:0 0644"),
}


def test_drift_is_found_and_containers_keep_running(site: Site) -> None:
    host = site.host("debian12")
    host.run("docker pull -q busybox; docker run -d --name job busybox sleep 1000")
    for number, (done, (disruption, before)) in enumerate(DRIFTS.items()):
        host.run(done)
        if number == 0:
            refused = site.run("provision", "-l", "debian12", **site.behind)
            assert refused.status == 2
            assert "and 1 containers run: job" in refused.stdout
        made = site.hosts("provision", "-l", "debian12", **site.behind, docker_daemon_restart="always")["debian12"]
        changes = shown(made["plan"]["changes"])
        assert [(change[3], str(change[1]).endswith(before)) for change in changes] == [(disruption, True)], done
        assert SECRET in host.run("docker start job; tr '\\0' '\\n' < /proc/$(pidof dockerd)/environ").stdout
    assert host.run("docker ps --format '{{.Names}}'").stdout == "job\n"
    host.run("docker rm -f job")


def test_builds_get_the_proxy_and_images_do_not_keep_it(site: Site, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\n"
        'RUN [ -n "$http_proxy" ] && [ -n "$HTTPS_PROXY" ] && echo "$HTTP_PROXY" && echo "$no_proxy" >/no\n'
    )
    site.host("resolute").run("docker pull -q busybox")
    for name in ("debian12", "resolute"):
        values = tmp_path / "values.json"
        values.write_text(json.dumps(site.behind))
        words = ["gpuprov", "image", "build", str(tmp_path), "-t", "proxied:1.0.0", "--on", name, "-e", f"@{values}"]
        answer = run([*words, str(site.lab.inventory)], site.directory)
        assert answer.status == 0, answer.text
        assert "http://***@" in answer.text
        site.said += answer.text
        host = site.host(name)
        assert host.run("docker run --rm proxied:1.0.0 cat /no").stdout == "localhost,.test\n"
        image = host.run("docker history --no-trunc proxied:1.0.0; docker image inspect proxied:1.0.0").stdout
        assert "pr0xyw" not in image + site.said


def test_without_the_variable_the_drop_in_goes_and_uninstall_leaves_nothing(site: Site) -> None:
    host = site.host("debian12")
    # Somebody's own drop-in, with which dockerd does not start behind a proxy.
    own = '[Service]\nExecStartPre=/bin/sh -c "[ -z $HTTP_PROXY ]"\n'
    host.run("cat > /etc/systemd/system/docker.service.d/own.conf; systemctl daemon-reload", input=own)
    made = site.hosts("provision", "-l", "debian12")["debian12"]
    assert [change[2:] for change in shown(made["plan"]["changes"])] == [(None, "restart")]
    assert host.run(f"ls {ENVIRONMENT} {DROP_IN}", check=False).stdout == ""
    assert SECRET not in host.run("cat /proc/$(pidof dockerd)/environ").stdout
    refused = site.run("provision", "-l", "debian12", **site.behind)
    assert refused.status == 2
    assert "is back, and dockerd runs with it" in refused.stdout
    assert site.holding("debian12") == set()
    assert (
        host.run("ls /etc/systemd/system/docker.service.d; systemctl is-active docker").stdout == "own.conf\nactive\n"
    )
    answer = site.run("uninstall", "--yes", "-l", "xenial,debian13", **site.behind)
    assert answer.status == 0, answer.text
    for name in ("xenial", "debian13"):
        assert site.holding(name) == set(), name
        assert site.host(name).run("ls /etc/systemd/system/docker.service.d", check=False).stdout == "", name
