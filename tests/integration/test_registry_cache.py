"""A registry cache for a fleet, and what the upstream registry is asked for."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Answer, run
from tests.lab.lab import Lab

ROOT = Path(__file__).resolve().parents[2]
CACHE, PORT = "debian13", 443
CONFIG = str(ROOT / "ansible.cfg")
SETTINGS = "/etc/gpuprov-registry-cache"


@pytest.fixture(scope="module")
def lab(session_lab: Lab) -> Lab:
    """Ten hosts."""
    session_lab.up("debian11,debian12,debian13,resolute,xenial,debian12:5", pristine=True)
    return session_lab


def playbook(lab: Lab, cwd: Path, name: str, hosts: str, *words: str, **variables: Any) -> Answer:
    values = {"gpuprov_registry_cache_hosts": hosts, "registry_cache_upstream": lab.mirror, **variables}
    words = ("-i", str(lab.inventory), "-e", json.dumps({key: value for key, value in values.items() if value}), *words)
    return run(["ansible-playbook", str(ROOT / f"playbooks/{name}.yml"), *words], cwd, ANSIBLE_CONFIG=CONFIG)


def changed(answer: Answer) -> dict[str, int]:
    """How many tasks changed something, by host, in a run that did not fail."""
    assert answer.status == 0, answer.text
    found = re.findall(r"^(\S+) +: ok=.* changed=([1-9]\d*) ", answer.stdout, re.MULTILINE)
    return {host: int(count) for host, count in found}


def fetched(lab: Lab) -> Counter[str]:
    """How often each blob left the upstream registry, by its own log."""
    log = subprocess.run(["podman", "logs", f"{lab.network}-server"], capture_output=True, text=True, check=True)
    return Counter(re.findall(r'"GET \S+/blobs/(\S+) HTTP/1.1" 200', log.stdout))


@pytest.fixture(scope="module")
def certificate(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for the cache's address, with its key beside it."""
    path = tmp_path_factory.mktemp("tls") / "cache.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=cache", "-addext",
         f"subjectAltName=IP:{lab.host(CACHE).address}", "-keyout", path.with_suffix(".key"), "-out", path],
        check=True, capture_output=True,
    )  # fmt: skip
    return path


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "open": ("debian12", {"registry_cache_insecure": False}, "(registry_cache_insecure: true)"),
    "port": ("debian12", {"registry_cache_port": 22}, "port 22 is taken by sshd (pid "),
    "certificate": (
        "debian12",
        {
            "registry_cache_insecure": False,
            "registry_cache_certificate": "/etc/gone.pem",
            "registry_cache_certificate_key": "/etc/hostname",
        },
        "/etc/gone.pem is missing on this host",
    ),
    "silent": ("debian12", {"registry_cache_upstream": "http://127.0.0.1:9"}, "http://127.0.0.1:9 does not answer"),
    "account": (
        "debian12",
        {"registry_cache_username": "fleet", "registry_cache_password": "s3cret"},
        "gives out no tokens",
    ),
    "size": ("debian12", {"registry_cache_max_size": "many"}, 'a size such as "50G"'),
    "unoffered": ("debian11", {}, "apt offers no package docker-registry here: enable Debian's main"),
    "foreign": ("resolute", {}, "docker-registry is installed here for another purpose"),
}


def test_a_host_that_cannot_be_a_cache_is_refused_in_one_line_before_anything_changes(lab: Lab, tmp_path: Path) -> None:
    lab.host("debian11").run("echo > /etc/apt/sources.list")
    lab.host("resolute").run("apt-get -q update && apt-get -qy install docker-registry")
    hosts = {
        name: {
            "ansible_host": lab.host(host).address,
            "registry_cache_upstream": lab.mirror,
            "registry_cache_insecure": True,
            **more,
        }
        for name, (host, more, _message) in REFUSED.items()
    }
    inventory = tmp_path / "cases.json"
    inventory.write_text(json.dumps({"cases": {"hosts": hosts}}))
    words = ("-i", str(inventory), "--limit", "cases", "--forks", "8", "-e", "gpuprov_registry_cache_hosts=cases")
    book = str(ROOT / "playbooks/registry_cache.yml")
    answer = run(["ansible-playbook", book, "-i", str(lab.inventory), *words], tmp_path, ANSIBLE_CONFIG=CONFIG)
    assert answer.status == 2, answer.text
    said = {
        name: json.loads(text)["msg"]
        for name, text in re.findall(r"^fatal: \[(\w+)\]: FAILED! => (.*)$", answer.text, re.MULTILINE)
    }
    assert {name: said[name] for name, (_host, _more, message) in REFUSED.items() if message not in said[name]} == {}
    assert [name for name, text in said.items() if "\n" in text] == []
    assert "s3cret" not in answer.text
    for name in ("debian11", "debian12"):
        assert lab.host(name).run(f"! id docker-registry; ls -d {SETTINGS}", check=False).stdout == ""

    # Nor is it removed.
    assert changed(playbook(lab, tmp_path, "registry_cache_uninstall", "resolute")) == {}
    lab.host("resolute").run("systemctl is-active docker-registry")
    lab.reset("debian11", "resolute")


def test_it_must_be_said_which_hosts_are_caches(lab: Lab, tmp_path: Path) -> None:
    answer = playbook(lab, tmp_path, "registry_cache", "")
    assert answer.status == 2
    assert "say which hosts run the cache: -e gpuprov_registry_cache_hosts=cache01" in answer.text


def test_hosts_that_pull_at_the_same_time_cost_one_fetch_of_each_layer(
    lab: Lab, tmp_path: Path, certificate: Path
) -> None:
    cache = lab.host(CACHE)
    settings = {
        "registry_cache_certificate": str(certificate),
        "registry_cache_certificate_key": str(certificate.with_suffix(".key")),
        "registry_cache_certificate_from": "controller",
        "registry_cache_port": PORT,
        "registry_cache_images": ["hello-world", "busybox"],
    }
    before = fetched(lab)
    plan = playbook(lab, tmp_path, "registry_cache", CACHE, "--check", **settings)
    assert list(changed(plan)) == [CACHE]
    assert cache.run(f"! id docker-registry; ls -d {SETTINGS}", check=False).stdout == ""
    assert fetched(lab) == before

    assert list(changed(playbook(lab, tmp_path, "registry_cache", CACHE, **settings))) == [CACHE]
    modes = cache.run(f"stat -c '%a %U' {SETTINGS}/config.yml {SETTINGS}/tls.*").stdout.split("\n")
    assert modes == [*["600 docker-registry"] * 3, ""]

    mirror = f"https://{cache.address}:{PORT}"
    names = [host.name for host in lab.hosts()]
    assert len(names) == 10
    for name in names:
        trusted = f"/etc/docker/certs.d/{cache.address}:{PORT}"
        lab.host(name).run(f"mkdir -p {trusted}; cat > {trusted}/ca.crt", input=certificate.read_text())
    values = json.dumps({"docker_daemon_registry_mirrors": [mirror], "nvidia_docker_stack": "none"})
    answer = run(["gpuprov", "provision", str(lab.inventory), "-e", values], tmp_path)
    assert answer.status == 0, answer.text
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: lab.host(name).run("docker pull -q busybox"), names))
    new = fetched(lab) - before
    assert len(new) == 4
    assert set(new.values()) == {1}
    pulls = cache.run("journalctl -u docker-registry | grep -c 'GET /v2/library/busybox/blobs/'").stdout
    assert int(pulls) >= len(names)

    # What was removed for the size is fetched again.
    cache.run(f"{SETTINGS}/trim /var/lib/docker-registry 1")
    lab.host("debian12").run("docker rmi -f busybox && docker pull -q busybox")
    assert sum((fetched(lab) - before - new).values()) > 0


def test_changed_settings_of_an_interrupted_run_take_effect_and_uninstall_removes_it_all(
    lab: Lab, tmp_path: Path
) -> None:
    cache = lab.host(CACHE)
    settings = {"registry_cache_insecure": True, "registry_cache_port": 5001}
    assert playbook(lab, tmp_path, "registry_cache", CACHE, "--tags", "registry_cache_settings", **settings).status == 0
    assert changed(playbook(lab, tmp_path, "registry_cache", CACHE, **settings)) == {CACHE: 1}
    assert f"{PORT} " not in cache.run("ss -Hltn").stdout

    assert playbook(lab, tmp_path, "registry_cache_uninstall", CACHE).status == 0
    left = cache.run(
        f"ls -d {SETTINGS} /etc/systemd/system/*registry* /usr/bin/docker-registry; "
        "systemctl list-units --all | grep registry",
        check=False,
    )
    assert left.stdout == ""
    cache.run("ls -d /var/lib/docker-registry/docker")
