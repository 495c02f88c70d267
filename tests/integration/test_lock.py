"""A lock is made on hosts that stay as they are, and hosts then get exactly its files."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import lock_file

from tests.integration.conftest import ROOT, Answer, run
from tests.lab import images, repositories
from tests.lab.lab import Host, Lab

Gpuprov = Callable[..., Answer]
TOOLKIT = "nvidia/libnvidia-container/stable/deb/amd64"
REBUILT = "nvidia-container-toolkit_1.19.1-1_amd64.deb"
# All that apt and dpkg know and keep, and what a run could leave.
APT_STATE = (
    "find /etc/apt /var/lib/apt /var/lib/dpkg /var/cache/apt /var/log/apt -printf '%p %T@ %s %m\n'; "
    "find /var/tmp /tmp -mindepth 1 -not -name 'systemd-private-*'"
)


class Silent(http.server.SimpleHTTPRequestHandler):
    """A server without a log."""

    def log_message(self, *words: object) -> None:
        """Say nothing."""


@pytest.fixture
def repository(tmp_path: Path, lab: Lab) -> Iterator[tuple[Path, str]]:
    """A copy of NVIDIA's repository that a test may change, and its URL."""
    root = tmp_path / "www"
    # Hard links: files are replaced, never written to.
    shutil.copytree(
        repositories.directory() / "nvidia", root / "nvidia", copy_function=lambda a, b: Path(b).hardlink_to(a)
    )
    with http.server.ThreadingHTTPServer(("", 0), partial(Silent, directory=root)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        gateway = lab.server.rsplit(".", 1)[0] + ".1"
        yield root / TOOLKIT, f"http://{gateway}:{server.server_port}/nvidia"
        server.shutdown()


def rebuild(directory: Path) -> None:
    """Put another file with the same version into a repository, which is signed as before."""
    tree = directory.parent / "tree"
    images.run("dpkg-deb", "-R", directory / REBUILT, tree)
    (tree / "usr/share/doc").mkdir(parents=True, exist_ok=True)
    (tree / "usr/share/doc/rebuilt").write_text("other bits\n")
    for name in (REBUILT, "Packages", "Release", "InRelease"):
        (directory / name).unlink()
    images.run("dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, directory / REBUILT)
    repositories._flat(directory)


def person(directory: Path, lab: Lab, url: str, *hosts: str) -> Path:
    """Return an inventory of some hosts of the lab in a directory of its own."""
    directory.mkdir()
    inventory = directory / "hosts.ini"
    lines = lab.inventory.read_text().splitlines()
    kept = [line for line in lines if "ansible_host=" not in line or line.split()[0] in hosts]
    kept = [f"nvidia_docker_repo_url={url}" if line.startswith("nvidia_docker_repo_url=") else line for line in kept]
    inventory.write_text("\n".join(kept) + "\n")
    return inventory


def files_of(host: Host) -> dict[str, str]:
    """Return {name of a file: SHA-256} of the packages that apt downloaded."""
    listed = host.run("cd /var/cache/apt/archives && sha256sum *.deb").stdout.splitlines()
    return {line.split()[1]: line.split()[0] for line in listed}


def test_hosts_get_the_files_of_the_lock_and_no_others(
    lab: Lab, gpuprov: Gpuprov, tmp_path: Path, repository: tuple[Path, str]
) -> None:
    served, url = repository
    first, second = lab.host("debian12"), lab.host("debian13")
    # Dependencies that a host lacks come from the lock, too.
    first.run("apt-get -q update && dpkg --purge iptables")
    before = [set(host.run(APT_STATE).stdout.splitlines()) for host in (first, second)]
    mine, theirs = (person(tmp_path / name, lab, url, "debian12", "debian13") for name in ("mine", "theirs"))
    lock, other = (inventory.parent / lock_file.NAME for inventory in (mine, theirs))

    # Two people's locks of the same day; making one changes nothing on a host.
    made = gpuprov("lock", inventory=mine)
    assert made.status == 0, made.text
    assert "bookworm amd64: " in made.stdout
    assert "  docker-ce " in made.stdout
    assert f"{lock}: written" in made.stdout
    words = ["ansible-playbook", "-i", str(theirs), str(ROOT / "playbooks/lock.yml")]
    plain = run(words, tmp_path)
    assert plain.status == 0, plain.text
    assert lock.read_bytes() == other.read_bytes()
    for host, state in zip((first, second), before, strict=True):
        assert set(host.run(APT_STATE).stdout.splitlines()) ^ state == set()
    assert gpuprov("lock", "--check", inventory=mine).status == 0

    # What is installed is what the lock has, to the hash.
    done = gpuprov("provision", "-l", "debian12", inventory=mine)
    assert done.status == 0, done.text
    system = lock_file.load(lock).systems["bookworm", "amd64"]
    versions = first.run("dpkg-query -W -f '${Package} ${Version}\n'").stdout.splitlines()
    installed = dict(line.split() for line in versions)
    names = {package.name for package in system.packages if package.role} | {"iptables", "nftables"}
    assert {name: installed[name] for name in names} == {
        package.name: package.version for package in system.packages if package.name in names
    }
    hashes = {package.sha256 for package in system.packages}
    fetched = files_of(first)
    assert set(fetched.values()) <= hashes
    assert len(fetched) >= len(names)
    assert gpuprov("verify", "-l", "debian12", inventory=mine).status == 0

    # Another file under the same version is refused, and the host stays as it was.
    rebuild(served)
    refused = gpuprov("provision", "-l", "debian13", inventory=mine)
    assert refused.status == 2
    assert "nvidia-container-toolkit 1.19.1-1 is not the file that was locked" in refused.stdout
    left = second.run("ls /etc/apt/keyrings/* /etc/apt/sources.list.d/* /etc/docker /usr/bin/dockerd", check=False)
    assert left.stdout == ""
    unfit = gpuprov("lock", "--check", inventory=mine)
    assert unfit.status == 2
    assert unfit.stdout.count("nvidia-container-toolkit 1.19.1-1: the repository has other bits") == 2
    assert run([*words, "--check"], tmp_path).status == 2
    assert lock.read_bytes() == other.read_bytes()
    # A file that is left in apt's cache is not taken for the locked one either.
    again = gpuprov("lock", inventory=mine)
    assert again.stdout.count("1.19.1-1 → 1.19.1-1, other bits") == 2
    path = f"/var/cache/apt/archives/{REBUILT}"
    size = (served / REBUILT).stat().st_size
    second.run(f"truncate -s {size} {path}")
    done = gpuprov("provision", "-l", "debian13", inventory=mine)
    assert done.status == 0, done.text
    assert second.run("cat /usr/share/doc/rebuilt").stdout == "other bits\n"


def test_a_lock_moves_within_channels_and_is_named_where_it_does_not_fit(
    lab: Lab, gpuprov: Gpuprov, tmp_path: Path, repository: tuple[Path, str]
) -> None:
    inventory = person(tmp_path / "site", lab, repository[1], "debian12")
    lock = inventory.parent / lock_file.NAME
    made = gpuprov("lock", "-e", "docker_ce_version=5:28.5.2-1~debian.12~bookworm", inventory=inventory)
    assert made.status == 0, made.text
    assert "! docker-ce 5:28.5.2-1~debian.12~bookworm lacks the fix of CVE-2026-34040" in made.stdout
    planned = gpuprov("plan", inventory=inventory)
    assert planned.status == 2
    sentence = "was made for docker-ce 5:28.5.2-1~debian.12~bookworm, the inventory says 5:29.7.2-1~debian.12~bookworm"
    assert f"the lock {lock} {sentence}: run gpuprov lock" in planned.stdout
    checked = gpuprov("lock", "--check", inventory=inventory)
    assert checked.status == 2
    assert f"docker-ce: the lock {sentence}".replace("for docker-ce ", "for ") in checked.stdout
    assert gpuprov("lock", inventory=inventory).status == 0

    channels = ["-e", "docker_ce_channel=29", "-e", "nvidia_docker_channel=1.19"]
    before = lock.read_bytes()
    assert gpuprov("lock", *channels, inventory=inventory).status == 0
    assert lock.read_bytes() == before
    moved = gpuprov("lock", "--upgrade", *channels, inventory=inventory)
    assert moved.status == 0, moved.text
    lines = [" ".join(line.split()) for line in moved.stdout.splitlines()]
    assert "docker-ce 5:29.7.2-1~debian.12~bookworm → 5:29.9.1-1~debian.12~bookworm" in lines
    assert "containerd.io 2.3.3-1~debian.12~bookworm → 2.3.9-1~debian.12~bookworm" in lines
    assert not [line for line in lines if line.startswith("nvidia-container-toolkit")]
    planned = gpuprov("plan", *channels, inventory=inventory)
    assert "docker-ce" in planned.stdout
    assert "5:29.9.1-1~debian.12~bookworm" in planned.stdout

    # Hosts of a release that is not in the lock.
    missing = gpuprov("plan", "-l", "debian11", *channels, "-e", f"gpuprov_lock={lock}")
    assert missing.status == 2
    assert "has nothing for bullseye amd64 (it has bookworm amd64): add it with gpuprov lock" in missing.stdout
