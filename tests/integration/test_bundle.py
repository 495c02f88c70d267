"""Hosts without a network are provisioned from a bundle, over ssh alone, and upgraded."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import deb
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.bundle import repository
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import lock_file

from tests import waiting
from tests.integration.conftest import ROOT, Answer, run
from tests.integration.processes import kill, local_registry, started
from tests.lab.images import signing_home
from tests.lab.lab import HTTP_PORT, Lab

Gpuprov = Callable[..., Answer]
NAMES = {"debian11": "bullseye", "debian13": "trixie", "resolute": "resolute"}
HERE = "/var/lib/gpuprov/bundle"
SLOW = """\
table inet slow {
 chain in {
  type filter hook input priority -1
  tcp dport 22 limit rate over 25 mbytes/second drop
 }
}
"""
# What is on hosts of people: the same repository with another key, and settings that name a release of their own.
SITE = "deb [signed-by=/usr/share/keyrings/site.gpg] URL trixie stable\n"
SETTINGS = 'APT::Default-Release "bookworm";\nAPT::Update::Post-Invoke-Success {"false";};\n'


class Site(NamedTuple):
    """An inventory with its lock and bundle, and a later lock and bundle."""

    directory: Path
    inventory: Path
    bundle: Path
    later_lock: Path
    later: Path
    verify: tuple[str, str]  # an extra variable


@pytest.fixture(scope="module")
def lab(session_lab: Lab) -> Lab:
    """Hosts with an apt of three generations; the newer two check signatures by sqv's policy."""
    session_lab.up(",".join(NAMES), pristine=True)
    return session_lab


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Make locks and bundles while hosts have a network, and cut it."""
    directory = tmp_path_factory.mktemp("site")
    inventory = directory / "hosts.ini"
    inventory.write_text(lab.inventory.read_text())
    bundle, later_lock, later = directory / "bundle", directory / "later.lock.yml", directory / "later"
    newest = ("-e", "docker_ce_channel=29", "-e", f"gpuprov_lock={later_lock}", "--upgrade")
    with local_registry(directory) as hub:
        image = f"{hub}/library/hello-world"
        for words in (
            ("lock", str(inventory)), ("bundle", str(inventory), "-o", str(bundle), "--image", image),
            ("lock", str(inventory), *newest),
            ("bundle", "--lock", str(later_lock), "-o", str(later)),
        ):  # fmt: skip
            made = run(["gpuprov", *words], directory)
            assert made.status == 0, made.text
    for name in NAMES:
        host = lab.host(name)
        host.run("rm -rf /var/lib/apt/lists/*")
        host.cut()
        assert host.run(f"timeout 2 bash -c '> /dev/tcp/{lab.server}/{HTTP_PORT}'", check=False).returncode != 0
    yield Site(directory, inventory, bundle, later_lock, later, ("-e", f"gpu_host_verify_image={image}"))
    shutil.rmtree(directory)


def copied(bundle: Path, to: Path) -> Path:
    """Copy a bundle; packages are links, and must be replaced, not written to."""

    def copy(source: str, target: str) -> None:
        if source.endswith(".deb"):
            Path(target).hardlink_to(source)
        else:
            shutil.copyfile(source, target)

    shutil.copytree(bundle, to, copy_function=copy)
    return to


def described(bundle: Path) -> None:
    """Write a bundle's list of files again, as if it had been made with the files that are there."""
    lock, listed = bundle / lock_file.NAME, bundle / "bundle.yml"
    text = lock.read_text()
    document = yaml.safe_load(listed.read_text())
    found = {}
    for path, before in document["files"].items():
        if (bundle / path).is_file():
            found[path] = {"sha256": deb.sha256(bundle / path), "size": (bundle / path).stat().st_size}
            text = text.replace(before["sha256"], found[path]["sha256"])
    lock.write_text(text)
    found[lock_file.NAME] = {"sha256": deb.sha256(lock), "size": lock.stat().st_size}
    listed.write_text(yaml.safe_dump({**document, "files": found}))


def truncate(bundle: Path) -> None:
    file = next((bundle / "sources/docker_ce/trixie").rglob("docker-ce_*.deb"))
    data = file.read_bytes()[:-1]
    file.unlink()
    file.write_bytes(data)


def lose(bundle: Path) -> None:
    next((bundle / "sources/docker_ce/trixie").rglob("docker-ce_*.deb")).unlink()


def forget(bundle: Path) -> None:
    lose(bundle)
    described(bundle)


def thin(bundle: Path) -> None:
    """Make a bundle without a package that the engine depends on."""
    directory = bundle / "sources/distribution/trixie/amd64"
    next((directory / "pool").glob("libnftables1_*.deb")).unlink()
    repository.make(directory, "trixie", "amd64", "2026-11-27T10:11:12Z", repository.signing_key())
    described(bundle)


def alter(bundle: Path) -> None:
    file = next((bundle / "sources/docker_ce/trixie").rglob("Packages*"))
    file.write_bytes(file.read_bytes() + b"\n")


def unlist(bundle: Path) -> None:
    """Make a bundle without its image."""
    listed = bundle / "bundle.yml"
    document = yaml.safe_load(listed.read_text())
    listed.write_text(yaml.safe_dump({**document, "images": []}))


def resign(bundle: Path) -> None:
    """Put the key of another person into a bundle."""
    other = bundle / "sources/distribution/trixie/amd64/key.gpg"
    shutil.copyfile(other, bundle / "sources/docker_ce/trixie/amd64/key.gpg")
    described(bundle)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (truncate, "is not as it was made"),
        (lose, "cannot be read: No such file or directory"),
        (forget, "lacks docker-ce 5:"),
        (thin, "lacks libnftables1 "),
        (alter, "is not as it was made"),
        (unlist, "neither there nor in the bundle: add it with gpuprov bundle --image"),
        (resign, "apt cannot use the bundle: "),
    ],
)
def test_what_is_wrong_with_a_bundle_is_named_and_nothing_changes(
    spoil: Callable[[Path], None], said: str, lab: Lab, site: Site, gpuprov: Gpuprov, tmp_path: Path
) -> None:
    bundle = copied(site.bundle, tmp_path / "bundle")
    spoil(bundle)
    words = ("--bundle", str(bundle), *site.verify, "-l", "debian13", "-e", "gpuprov_lock=")
    done = gpuprov("provision", *words, inventory=site.inventory)
    assert done.status == 2, done.text
    assert said in done.text
    assert "Traceback" not in done.text
    host = lab.host("debian13")
    assert host.run("ls -d /var/lib/gpuprov /var/tmp/gpuprov* /etc/apt/keyrings/docker*", check=False).stdout == ""
    assert host.run("dpkg-query -W docker-ce", check=False).returncode != 0


def test_hosts_without_a_network_are_provisioned_and_upgraded(
    lab: Lab, site: Site, gpuprov: Gpuprov, tmp_path: Path
) -> None:
    words = ("--bundle", str(site.bundle), *site.verify)
    other = lab.host("debian13")
    url = f"http://{lab.server}:{HTTP_PORT}/docker/linux/debian"
    other.run("cat > /etc/apt/sources.list.d/site.list", input=SITE.replace("URL", url))
    other.run("cat > /etc/apt/apt.conf.d/99site", input=SETTINGS)
    other.run("echo umask 077 > /root/.bashrc")
    assert other.ssh(["test $(umask) = 0077"]) == 0
    planned = gpuprov("plan", *words, inventory=site.inventory)
    assert planned.status == 2, planned.text
    assert "from the bundle, over this connection" in planned.text
    assert lab.host("debian11").run("ls -d /var/lib/gpuprov* /var/tmp/gpuprov*", check=False).stdout == ""

    # Killed while it sends, it leaves what it has sent, and the next run goes on.
    host = lab.host("debian11")
    host.in_network("nft", "-f", "-", stdin=SLOW)
    command = ["gpuprov", "provision", str(site.inventory), "-l", "debian11", *words]
    count = f"find {HERE} -name '*.deb' | wc -l"
    with started(command, tmp_path) as (process, _ended):
        waiting.until(lambda: host.run(count, check=False).stdout.strip() not in ("0", "1"), "two packages were sent")
        kill(process)
    host.in_network("nft", "delete", "table", "inet", "slow")
    waiting.until(lambda: host.run("pgrep -x tar", check=False).stdout == "", "the host's tar has ended")
    sent = int(host.run(count).stdout)
    rest = gpuprov("plan", *words, "-l", "debian11", inventory=site.inventory).text
    total = gpuprov("plan", *words, "-l", "resolute", inventory=site.inventory).text
    assert sent > 1
    assert rest.split("over this connection: ")[1].split()[0] != total.split("over this connection: ")[1].split()[0]

    # A full disk: what was there stays, and the next run goes on.
    full = lab.host("resolute")
    full.run("mkdir /var/lib/gpuprov && mount -t tmpfs -o size=40m none /var/lib/gpuprov")
    done = gpuprov("provision", *words, "-l", "resolute", inventory=site.inventory)
    full.run("umount /var/lib/gpuprov")
    assert done.status == 2, done.text
    assert "No space left on device" in done.text

    # Without gpuprov, and role by role.
    values = json.dumps({"gpuprov_bundle": str(site.bundle), "gpuprov_full": True})
    book = ["ansible-playbook", "-i", str(site.inventory), str(ROOT / "playbooks/provision.yml")]
    config = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = run([*book, "-l", "resolute", "-e", values, *site.verify], tmp_path, **config)
    assert done.status == 0, done.text

    done = gpuprov("provision", *words, inventory=site.inventory)
    assert done.status == 0, done.text
    again = gpuprov("provision", *words, inventory=site.inventory)
    assert again.status == 0, again.text
    assert "bundle" not in again.text
    check(lab, lock_file.load(site.directory / lock_file.NAME))
    assert gpuprov("verify", *site.verify, inventory=site.inventory).status == 0
    assert url in other.run("cat /etc/apt/sources.list.d/*docker*").stdout
    assert other.run("grep -rl site.gpg /etc/apt", check=False).stdout == ""

    # The lock of an upgrade lies elsewhere, and its index is out of date by now: this is said.
    expire(site.later / "sources/docker_ce/trixie/amd64/dists/trixie/InRelease")
    described(site.later)
    channel = ("-e", "docker_ce_channel=29", "-e", "gpuprov_lock=")
    done = gpuprov("provision", "--bundle", str(site.later), *channel, *site.verify, inventory=site.inventory)
    assert done.status == 0, done.text
    assert "was valid until Thu, 02 Jan 2020" in done.text
    check(lab, lock_file.load(site.later_lock))


def expire(release: Path) -> None:
    """Sign an InRelease again, with a date until which it is valid."""
    home = ("gpg", "--homedir", str(signing_home()), "--batch", "--yes")
    plain = subprocess.run([*home, "--decrypt", str(release)], check=True, capture_output=True).stdout
    plain = plain.replace(b"\nDate:", b"\nValid-Until: Thu, 02 Jan 2020 00:00:00 UTC\nDate:")
    subprocess.run([*home, "--clearsign", "--output", str(release)], input=plain, check=True)


def check(lab: Lab, lock: lock_file.Lock) -> None:
    """See that hosts have the packages of a lock, and that nothing else is left."""
    for name, codename in NAMES.items():
        host = lab.host(name)
        listed = host.run("dpkg-query -W -f '${Package} ${Version}\n'").stdout.splitlines()
        pins = lock.systems[codename, "amd64"].pins
        assert {f"{package} {version}" for package, version in pins.items()} <= set(listed)
        assert host.run("ls -d /var/lib/gpuprov /var/tmp/gpuprov*", check=False).stdout == ""
