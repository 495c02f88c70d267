"""Images on their way: from a host, from here and from an archive, cut off and finished."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import waiting
from tests.integration.conftest import Answer, document, run
from tests.integration.processes import Process, command_line, descendants, left_of, started
from tests.lab.lab import Host, Lab, podman

Gpuprov = Callable[..., Answer]
IMAGE = "registry.example.com:5000/team/train"
# Three layers that do not shrink, one that does, and a small one that tells versions apart.
CONTEXT = r"""set -e
mkdir -p /tmp/context && cd /tmp/context
for name in a b c; do [ -e $name ] || head -c 8000000 /dev/urandom > $name; done
[ -e zeros ] || head -c 20000000 /dev/zero > zeros
echo $2 > version
cat > Dockerfile <<'END'
FROM busybox
COPY a /a
COPY b /b
COPY zeros /zeros
COPY c /c
COPY version /version
CMD ["cat", "/version"]
END
docker build -q -t $1:$2 .
"""
BIG = 8_000_000
# So the zeros hardly count.
GZIP = ("-e", "docker_image_transfer_compression=gzip")
PARTIAL = "docker image ls --format '{{.Repository}}:{{.Tag}}' | grep gpuprov-partial"


def build(host: Host, version: str) -> str:
    """Build a version of the image on a host; return its ID."""
    return host.run(f"bash -s {IMAGE} {version}", input=CONTEXT).stdout.strip()


def came(host: Host) -> int:
    """Bytes that came to a host since it was started."""
    return int(host.run("cat /sys/class/net/eth0/statistics/rx_bytes").stdout)


def image_id(host: Host, name: str) -> str:
    return host.run(f"docker image inspect -f '{{{{.Id}}}}' {name}", check=False).stdout.strip()


def forget(*hosts: Host) -> None:
    """Take the image away, whatever is left of it."""
    for host in hosts:
        host.run(
            f"docker image ls -aq {IMAGE} | sort -u | xargs -r docker image rm -f; {PARTIAL} | xargs -r docker image rm"
        )


@pytest.fixture(scope="module")
def hosts(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Host]:
    """Three hosts with docker; debian12 has the image, resolute stores images in containerd."""
    directory = tmp_path_factory.mktemp("provision")
    answer = run(
        ["gpuprov", "provision", str(lab.inventory), "-l", "debian11,debian12,resolute", "-e",
         json.dumps({"nvidia_docker_stack": "none"})], directory,
    )  # fmt: skip
    assert answer.status == 0, answer.text
    found = {name: lab.host(name) for name in ("debian11", "debian12", "resolute")}
    build(found["debian12"], "1")
    build(found["debian12"], "2")
    found["resolute"].run(
        'python3 -c \'import json; p = "/etc/docker/daemon.json"; d = json.load(open(p)); '
        'd["features"] = {"containerd-snapshotter": True}; json.dump(d, open(p, "w"))\'; systemctl restart docker'
    )
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    directory = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(directory))
    return directory


@pytest.fixture
def ship(lab: Lab, tmp_path: Path) -> Gpuprov:
    """Ship the image, or run another command of ``gpuprov image``: ship("1", "-l", "debian11")."""

    def call(version: str, *words: str, source: str = "debian12") -> Answer:
        return run(
            ["gpuprov", "image", "ship", f"{IMAGE}:{version}", str(lab.inventory), "--from", source, *words], tmp_path
        )

    return call


EVERY = ("-l", "debian11,debian12,resolute")


def test_every_host_gets_the_same_image_and_of_the_next_version_only_what_is_new(
    hosts: dict[str, Host], ship: Gpuprov, cache: Path
) -> None:
    wanted = image_id(hosts["debian12"], f"{IMAGE}:1")
    first = ship("1", *EVERY)
    assert first.status == 0, first.text
    assert f"{IMAGE}:1 is {wanted} on all 3 hosts." in first.stdout
    assert image_id(hosts["debian11"], f"{IMAGE}:1") == wanted
    assert re.search(r"debian12 .* 0 of 6 ", first.stdout)
    before = {name: came(hosts[name]) for name in ("debian11", "resolute")}
    second = ship("2", *EVERY, "--json")
    assert second.status == 0, second.text
    for name in before:
        assert came(hosts[name]) - before[name] < 0.01 * 44_000_000, name
        image = document(second)["hosts"][name]["image"]
        assert (image["id"], image["sent_layers"]) == (image_id(hosts["debian12"], f"{IMAGE}:2"), 1)
        assert document(second)["hosts"][name]["status"] == "changed"
    for host in hosts.values():
        assert host.run(f"docker run --rm {IMAGE}:2").stdout.strip() == "2"
        assert host.run(PARTIAL, check=False).stdout == ""
    # containerd has all of it, and can give it on.
    hosts["resolute"].run(f"docker image save {IMAGE}:2 | wc -c")
    again = ship("2", *EVERY)
    assert again.status == 0
    assert again.stdout.count("0 of 6") == 3
    assert [path.name for path in cache.rglob("*") if path.suffix in (".none", ".gzip", ".zstd")] == []


@pytest.mark.parametrize("name", ["debian11", "resolute"])
def test_a_ship_that_is_cut_off_goes_on_and_moves_each_finished_layer_once(
    name: str, hosts: dict[str, Host], ship: Gpuprov, lab: Lab, tmp_path: Path
) -> None:
    host = hosts[name]
    for cut in (interrupt, hang_up, reboot) if name == "debian11" else (reboot,):
        # Where the cut comes too late, the next line is slower.
        for mbit in (100, 20, 4):
            forget(host)
            before = came(host)
            words = ["ship", f"{IMAGE}:1", str(lab.inventory), "--from", "debian12", "-l", name, *GZIP]
            run_of = started(["gpuprov", "image", *words], tmp_path)
            with slow_line(hosts["debian12"], mbit), run_of as (process, ended):
                wait_for_a_layer(process, host)
                cut(process, host)
                # The connection that Ansible keeps is meant to outlive it.
                below = [pid for pid in descendants(process.pid) if "[mux]" not in command_line(pid)]
                first = ended()
                assert left_of(below) == []
            moved_before = came(host) - before if cut is not reboot else 0
            if first.status != 0:
                break
        assert first.status == {interrupt: 130, hang_up: 4, reboot: 4}[cut], first.text
        assert image_id(host, f"{IMAGE}:1") == ""
        assert host.run(PARTIAL, check=False).stdout != ""
        begun = came(host)
        second = ship("1", "-l", name, *GZIP)
        assert second.status == 0, second.text
        moved = came(host) - begun
        # a and what is below it were there; b and c came, and zeros, which pack to little.
        assert moved < 2.3 * BIG, f"{cut.__name__}: {moved}"
        assert moved_before < 3 * BIG, f"{cut.__name__}: {moved_before}"
        assert host.run(f"docker run --rm {IMAGE}:1").stdout.strip() == "1"
        assert host.run("docker image ls -a | grep -E 'gpuprov-partial|<none>'", check=False).stdout == ""


def wait_for_a_layer(process: Process, host: Host) -> None:
    """Wait until the host has the first layer, or the ship has ended."""
    look = f"for i in $(seq 100); do if {PARTIAL}; then exit 0; fi; sleep 0.01; done; exit 1"
    waiting.until(
        lambda: process.poll() is not None or host.run(look, check=False).stdout, "the host has the first layer"
    )


@contextlib.contextmanager
def slow_line(host: Host, mbit: int = 100) -> Iterator[None]:
    """Let no more than so many Mbit a second leave a host."""
    host.run(f"tc qdisc add dev eth0 root tbf rate {mbit}mbit burst 64kb latency 50ms")
    try:
        yield
    finally:
        host.run("tc qdisc del dev eth0 root")


def interrupt(process: Process, _host: Host) -> None:
    process.send_signal(signal.SIGINT)


def hang_up(process: Process, host: Host) -> None:
    host.run("pkill -KILL -f '^sshd(-session)?: root'", check=False)


def reboot(_process: Process, host: Host) -> None:
    podman("restart", "-t", "0", host.container)
    waiting.until(lambda: host.run("docker version", check=False).returncode == 0, "dockerd answers again")


@pytest.mark.parametrize("both", [False, True])
def test_zstd_packs_where_source_and_controller_have_it_and_a_host_without_it_gets_layers_unpacked(
    both: bool, hosts: dict[str, Host], ship: Gpuprov
) -> None:
    source, target = hosts["debian12"], hosts["resolute"]
    some = [source, target] if both else [source]
    forget(target)
    for host in some:
        podman("cp", "/usr/bin/zstd", f"{host.container}:/usr/local/bin/zstd")
        # Whether it is what packs shows at whom it is asked for.
        host.run(
            "cd /usr/local/bin && mv zstd zstd.real && "
            "printf '#!/bin/sh\\necho used >> /tmp/zstd.used\\nexec zstd.real \"$@\"\\n' > zstd && chmod +x zstd"
        )
    try:
        answer = ship("1", "-l", "resolute")
        assert answer.status == 0, answer.text
        assert target.run(f"docker run --rm {IMAGE}:1").stdout.strip() == "1"
        used = {host.name: host.run("cat /tmp/zstd.used", check=False).stdout != "" for host in (source, target)}
        assert used == {"debian12": True, "resolute": both}
    finally:
        for host in some:
            host.run("rm -f /usr/local/bin/zstd /usr/local/bin/zstd.real /tmp/zstd.used")


def test_a_layer_that_is_damaged_at_the_source_reaches_no_host(hosts: dict[str, Host], ship: Gpuprov) -> None:
    source, target = hosts["debian12"], hosts["debian11"]
    forget(target)
    source.run(
        "cd /tmp/context && head -c 50000000 /dev/urandom > d && "
        f"printf 'FROM {IMAGE}:1\\nCOPY d /d\\n' | docker build -q -t {IMAGE}:damaged -f - . && rm d"
    )
    layer = source.run(f"docker image inspect -f '{{{{.GraphDriver.Data.UpperDir}}}}' {IMAGE}:damaged").stdout.strip()
    for damage in ("printf x | dd of=d bs=1 seek=49000000 conv=notrunc", "truncate -s 40000000 d"):
        source.run(f"cd {layer} && {damage}")
        answer = ship("damaged", "-l", "debian11")
        assert answer.status == 2, answer.text
        # On a slow machine it says how far it is, too.
        (line,) = [line for line in answer.stdout.splitlines() if " | sending: " not in line]
        assert "debian12" in line, answer.text
        assert image_id(target, f"{IMAGE}:damaged") == ""
    source.run(f"docker image rm {IMAGE}:damaged")
    # What is whole of it is there, and is of use to the next one.
    assert ship("1", "-l", "debian11").status == 0
    assert target.run(PARTIAL, check=False).stdout == ""


def test_a_full_disk_fails_that_host_alone_and_leaves_nothing_there(hosts: dict[str, Host], ship: Gpuprov) -> None:
    full = hosts["debian11"]
    forget(full, hosts["resolute"])
    for size, said in (("30m", "the disk is too full"), ("48m", "the disk is full")):
        full.run(
            "systemctl stop docker.socket docker; systemctl reset-failed docker docker.socket; "
            f"mount -t tmpfs -o size={size} tmpfs /var/lib/docker; systemctl start docker"
        )
        try:
            answer = ship("1", *EVERY)
            assert answer.status == 2, answer.text
            assert f"debian11: failed: {said}" in answer.stdout
            assert "2 of 3 hosts" in answer.stdout
            assert full.run("docker image ls -aq").stdout == ""
            assert full.run("du -sm /var/lib/docker/overlay2 | cut -f1").stdout.strip() in "0123"
        finally:
            full.run(
                "systemctl stop docker.socket docker; umount /var/lib/docker; "
                "systemctl reset-failed docker docker.socket; systemctl start docker"
            )
    assert ship("1", *EVERY).status == 0


@pytest.mark.parametrize("ending", ["tar", "tar.gz", "tar.zst", "tar.bz2"])
def test_an_image_goes_into_an_archive_and_out_of_it(
    ending: str, hosts: dict[str, Host], gpuprov: Gpuprov, lab: Lab, tmp_path: Path
) -> None:
    path = tmp_path / f"it is.{ending}"
    saved = run(
        ["gpuprov", "image", "save", f"{IMAGE}:1", str(lab.inventory), "--from", "debian12", "-o", str(path)], tmp_path
    )
    assert saved.status == 0, saved.text
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.with_name(f"{path.name}.sha256").read_text() == f"{digest}  {path.name}\n"
    assert subprocess.run(["sha256sum", "-c", f"{path.name}.sha256"], cwd=tmp_path, check=False).returncode == 0
    forget(hosts["debian11"], hosts["resolute"])
    loaded = run(["gpuprov", "image", "load", str(path), str(lab.inventory), *EVERY], tmp_path)
    assert loaded.status == 0, loaded.text
    assert image_id(hosts["debian11"], f"{IMAGE}:1") == image_id(hosts["debian12"], f"{IMAGE}:1")
    assert hosts["resolute"].run(f"docker run --rm {IMAGE}:1").stdout.strip() == "1"
    # One wrong byte, and one that is missing: refused, and no host is asked.
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    flipped = bytes([*data[:middle], data[middle] ^ 1, *data[middle + 1 :]])
    for wrong in (flipped, data[:-9000], flipped):
        path.write_bytes(wrong)
        answer = run(["gpuprov", "image", "load", str(path), "192.0.2.1,"], tmp_path)
        assert (answer.status, answer.stderr.count("\n")) == (1, 1), answer.text
        assert "damaged" in answer.stderr
        # The first time the checksum shows it.
        path.with_name(f"{path.name}.sha256").unlink(missing_ok=True)


def test_what_cannot_be_shipped_is_refused_in_one_line(
    hosts: dict[str, Host], ship: Gpuprov, lab: Lab, tmp_path: Path
) -> None:
    (tmp_path / "text.tar").write_text("no archive " * 1000)
    nowhere = "192.0.2.1,"
    for words in (
        ["ship", "a;reboot:1", nowhere],
        ["ship", "$(id):1", nowhere],
        ["ship", "train:1", nowhere, "--from", "nobody"],
        ["ship", "train:1", nowhere, "--from", str(tmp_path / "text.tar")],
        ["load", str(tmp_path / "text.tar"), nowhere],
        ["load", str(tmp_path / "nothing.tar"), nowhere],
        ["save", "train:1", "-o", str(tmp_path / "x.zip")],
        ["save", "train:1", "-o", str(tmp_path / "no/x.tar")],
        ["save", "train:1", "-o", str(tmp_path / "x.tar"), "--from", "debian12"],
    ):
        answer = run(["gpuprov", "image", *words], tmp_path)
        assert (answer.status, answer.stdout, answer.stderr.count("\n")) == (1, "", 1), (words, answer.text)
    answer = run(["gpuprov", "image", "ship", "nosuch:1", str(lab.inventory), "--from", "debian12"], tmp_path)
    assert (answer.status, answer.text) == (2, "debian12: failed: image nosuch:1 not found on debian12\n")
    answer = ship("1", "-e", "ansible_host=192.0.2.1", "-e", "ansible_timeout=1")
    assert answer.status == 4, answer.text
    assert answer.stdout.startswith("debian12: unreachable: ")


def test_a_host_whose_docker_does_not_answer_fails_alone(hosts: dict[str, Host], ship: Gpuprov) -> None:
    hosts["debian11"].run("systemctl stop docker.socket docker")
    try:
        answer = ship("1", *EVERY)
    finally:
        hosts["debian11"].run("systemctl reset-failed docker docker.socket; systemctl start docker")
    assert answer.status == 2
    assert "debian11: failed: docker does not answer\n" in answer.stdout
    assert "on 2 of 3 hosts" in answer.stdout


def test_passwords_of_login_and_sudo_are_given_and_plain_ansible_does_it_too(
    hosts: dict[str, Host], lab: Lab, tmp_path: Path
) -> None:
    forget(hosts["debian11"])
    secrets = tmp_path / "secrets.json"
    secrets.write_text(json.dumps({"ansible_password": "lab", "ansible_become_password": "lab"}))
    answer = run(
        ["ansible-playbook", "-i", str(lab.inventory), str(Path.cwd() / "playbooks/image_ship.yml"), "-l", "debian11",
         "-u", "carol", "-e", "ansible_user=carol", "-e", f"@{secrets}", "-e", f"docker_image_transfer_name={IMAGE}:1",
         "-e", "docker_image_transfer_from=debian12", "-e",
         json.dumps({"ansible_ssh_private_key_file": "/dev/null"})], tmp_path,
    )  # fmt: skip
    assert answer.status == 0, answer.text
    assert image_id(hosts["debian11"], f"{IMAGE}:1") == image_id(hosts["debian12"], f"{IMAGE}:1")


def test_source_and_host_are_logged_in_to_once_each(hosts: dict[str, Host], lab: Lab, tmp_path: Path) -> None:
    def logins() -> list[int]:
        listing = "journalctl -o cat -u ssh | grep -c '^Accepted ' || true"
        return [int(hosts[name].run(listing).stdout) for name in ("debian12", "debian11")]

    forget(hosts["debian11"])
    before = logins()
    words = ["gpuprov", "image", "ship", f"{IMAGE}:1", str(lab.inventory), "--from", "debian12", "-l", "debian11"]
    # No connection of another run exists; the path of a socket must be short.
    with tempfile.TemporaryDirectory(dir="/tmp") as sockets:
        answer = run(words, tmp_path, ANSIBLE_SSH_CONTROL_PATH_DIR=sockets)
        for socket in Path(sockets).iterdir():
            subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "host"], check=False)
    assert answer.status == 0, answer.text
    assert [after - one for one, after in zip(before, logins(), strict=True)] == [1, 1]


def test_the_docker_here_is_a_source_even_where_its_files_cannot_be_read(
    hosts: dict[str, Host], lab: Lab, tmp_path: Path
) -> None:
    source, target = hosts["debian12"], hosts["debian11"]
    forget(target)
    forward = subprocess.Popen(
        [
            "ssh",
            *source.ssh_options(),
            "-N",
            "-L",
            f"{tmp_path}/docker.sock:/var/run/docker.sock",
            f"root@{source.address}",
        ]
    )
    try:
        waiting.until((tmp_path / "docker.sock").exists, "ssh forwards docker's socket")
        words = ["gpuprov", "image", "ship", f"{IMAGE}:1", str(lab.inventory), "-l", "debian11"]
        answer = run(words, tmp_path, DOCKER_HOST=f"unix://{tmp_path}/docker.sock")
        assert answer.status == 0, answer.text
        assert image_id(target, f"{IMAGE}:1") == image_id(source, f"{IMAGE}:1")
        nothing = run([*words[:3], "nosuch:1", *words[4:]], tmp_path, DOCKER_HOST=f"unix://{tmp_path}/docker.sock")
        assert (nothing.status, nothing.stderr) == (1, "gpuprov: image nosuch:1 not found on this machine\n")
    finally:
        forward.terminate()
        forward.wait()


def test_a_terminal_shows_bars(hosts: dict[str, Host], lab: Lab, tmp_path: Path) -> None:
    forget(hosts["debian11"])
    shown = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 65536)
        shown.extend(data)
        return data

    words = ["gpuprov", "image", "ship", f"{IMAGE}:1", str(lab.inventory), "--from", "debian12", "-l", "debian11"]
    before = dict(os.environ)
    os.environ.update(PATH=f"{Path(sys.executable).parent}:{before['PATH']}", TERM="xterm", COLUMNS="120", LINES="30",
                      XDG_STATE_HOME=str(tmp_path))  # fmt: skip
    try:
        with slow_line(hosts["debian12"]):
            status = pty.spawn(words, read)
    finally:
        os.environ.clear()
        os.environ.update(before)
    text = shown.decode()
    assert os.waitstatus_to_exitcode(status) == 0, text
    assert re.search(r"debian11 \| sending: [0-9.]+ of [0-9.]+ MB", text), text
    assert "all | sending: " in text
