"""Hosts without a network are provisioned from a bundle that was copied to them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import lock_file

from tests.integration.conftest import Answer
from tests.lab.lab import HTTP_PORT, Host, Lab

Gpuprov = Callable[..., Answer]
NAMES = {"debian13": "trixie", "resolute": "resolute"}
# Only the controller's ssh passes.
CUT = """\
table inet cut {
 chain in {
  type filter hook input priority 0; policy drop;
  tcp dport 22 accept
  iifname lo accept
 }
 chain out {
  type filter hook output priority 0; policy drop;
  tcp sport 22 accept
  oifname lo accept
 }
}
"""
SOURCE = """\
Types: deb
URIs: file:/srv/bundle/sources/{name}/{codename}/amd64
Suites: {suite}
{components}Signed-By: /srv/bundle/sources/{name}/{codename}/amd64/key.gpg
Check-Valid-Until: no
By-Hash: no

"""


@pytest.fixture(scope="module")
def lab(session_lab: Lab) -> Lab:
    """Two hosts whose apt checks signatures by sqv's policy."""
    session_lab.up(",".join(NAMES), pristine=True)
    return session_lab


def cut(host: Host, server: str) -> None:
    """Cut a host's network, but for ssh to it."""
    form = ["podman", "inspect", "-f", "{{.State.Pid}}", host.container]
    pid = subprocess.run(form, check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(["nsenter", "-t", pid, "-n", "nft", "-f", "-"], input=CUT, text=True, check=True)
    assert host.run(f"timeout 2 bash -c '> /dev/tcp/{server}/{HTTP_PORT}'", check=False).returncode != 0


def test_hosts_without_a_network_are_provisioned_from_a_bundle(lab: Lab, gpuprov: Gpuprov, tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.ini"
    inventory.write_text(lab.inventory.read_text())
    locked = gpuprov("lock", inventory=inventory)
    assert locked.status == 0, locked.text
    one, two = tmp_path / "one", tmp_path / "two"
    for bundle in (one, two):
        made = gpuprov("bundle", "-o", str(bundle), inventory=inventory)
        assert made.status == 0, made.text
    assert subprocess.run(["diff", "-r", str(one), str(two)], check=False).returncode == 0

    for name, codename in NAMES.items():
        host = lab.host(name)
        host.run("mkdir -p /srv && rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*; rm -rf /var/lib/apt/lists/*")
        subprocess.run(["podman", "cp", str(one), f"{host.container}:/srv/bundle"], check=True)
        text = SOURCE.format(name="docker_ce", codename=codename, suite=codename, components="Components: stable\n")
        text += SOURCE.format(name="nvidia_docker", codename=codename, suite="/", components="")
        text += SOURCE.format(name="distribution", codename=codename, suite="./", components="")
        host.run("cat > /etc/apt/sources.list.d/bundle.sources", input=text)
        cut(host, lab.server)
        assert host.run("apt-get -q update 2>&1 | grep -E '^(W|E|N)'", check=False).stdout == ""

    offline = {f"{role}_repo_manage": False for role in ("docker_ce", "nvidia_docker")}
    words = ("-e", json.dumps({**offline, "gpu_host_verify_containers": "none"}))
    done = gpuprov("provision", *words, inventory=inventory)
    assert done.status == 0, done.text
    assert gpuprov("plan", *words, inventory=inventory).status == 0
    for name, codename in NAMES.items():
        listed = lab.host(name).run("dpkg-query -W -f '${Package} ${Version}\n'").stdout.splitlines()
        pins = lock_file.load(tmp_path / lock_file.NAME).systems[codename, "amd64"].pins
        assert {f"{package} {version}" for package, version in pins.items()} <= set(listed)
