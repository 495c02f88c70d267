"""Hosts without a network are provisioned from a bundle, over ssh alone."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import lock_file

from tests.integration.conftest import Answer
from tests.lab.lab import HTTP_PORT, Host, Lab

Gpuprov = Callable[..., Answer]
NAMES = {"debian11": "bullseye", "debian13": "trixie", "resolute": "resolute"}
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


@pytest.fixture(scope="module")
def lab(session_lab: Lab) -> Lab:
    """Hosts with an apt of three generations; the newer two check signatures by sqv's policy."""
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

    for name in NAMES:
        lab.host(name).run("rm -rf /var/lib/apt/lists/*")
        cut(lab.host(name), lab.server)
    words = ("--bundle", str(one), "-e", "gpu_host_verify_containers=none")
    planned = gpuprov("plan", *words, inventory=inventory)
    assert planned.status == 2, planned.text
    assert "from the bundle, over this connection" in planned.text
    for name in NAMES:
        assert lab.host(name).run("ls -d /var/lib/gpuprov* /var/tmp/gpuprov*", check=False).stdout == ""

    done = gpuprov("provision", *words, inventory=inventory)
    assert done.status == 0, done.text
    again = gpuprov("provision", *words, inventory=inventory)
    assert again.status == 0, again.text
    assert "sending" not in again.text
    for name, codename in NAMES.items():
        host = lab.host(name)
        listed = host.run("dpkg-query -W -f '${Package} ${Version}\n'").stdout.splitlines()
        pins = lock_file.load(tmp_path / lock_file.NAME).systems[codename, "amd64"].pins
        assert {f"{package} {version}" for package, version in pins.items()} <= set(listed)
        assert lab.server in host.run("cat /etc/apt/sources.list.d/*docker*").stdout
        assert host.run("ls -d /var/lib/gpuprov/bundle /var/tmp/gpuprov*", check=False).stdout == ""
