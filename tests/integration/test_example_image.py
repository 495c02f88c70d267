"""examples/image, built on a lab host of a stand-in base and a stand-in installer, as far as that goes."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import run
from tests.lab.lab import Host, Lab

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/image"
INSTALLER = "Miniconda3-stand-in.sh"
# Does what the Dockerfile needs of Miniconda's installer, prints its arguments, and leaves files to clean up:
# caches, and files that are for root alone.
MINICONDA = r"""#!/bin/bash
[ "$1 $2 $3" = "-b -p /opt/conda" ] || exit 1
mkdir -p /opt/conda/bin /opt/conda/pkgs
head -c 1000000 /dev/zero > /opt/conda/pkgs/cache.conda
cat > /opt/conda/bin/conda <<'CONDA'
#!/bin/sh
echo "conda $*" >> /opt/conda/said
bin=/opt/conda/envs/main/bin
case $1 in
create)
    mkdir -p $bin && chmod 0700 /opt/conda/envs && ln -s /usr/bin/python3 $bin/python
    printf '#!/bin/sh\necho "pip $* PIP_INDEX_URL=${PIP_INDEX_URL-}" >> /opt/conda/said\n' > $bin/pip
    chmod 0700 $bin/pip
    ;;
clean) rm -r /opt/conda/pkgs ;;
esac
CONDA
chmod 0700 /opt/conda/bin/conda
"""
SHA256 = hashlib.sha256(MINICONDA.encode()).hexdigest()
# This host's own system is the base: bash, coreutils, curl and a Python.
BASE = "tar -C / -c bin sbin lib lib64 usr etc/ssl etc/passwd etc/group var/lib/dpkg/status | docker import"


@pytest.fixture(scope="module")
def host(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A provisioned host with the example, the base and, over HTTP, the installer."""
    host = lab.host("debian12")
    directory = tmp_path_factory.mktemp("provision")
    answer = run(["gpuprov", "provision", str(lab.inventory), "-l", host.name], directory)
    assert answer.status == 0, answer.text
    host.run("mkdir -p /root/example /root/mirror")
    for path in EXAMPLE.iterdir():
        if not path.name.startswith("Miniconda3-"):
            host.run(f"cat > /root/example/{path.name}", input=path.read_text())
    host.run(f"cat > /root/mirror/{INSTALLER}", input=MINICONDA)
    host.run(f'{BASE} --change \'CMD ["bash"]\' --change \'ENTRYPOINT ["echo", "banner"]\' - stand-in/cuda:1')
    host.run("systemd-run -q --unit mirror python3 -m http.server --directory /root/mirror --bind 172.17.0.1 8099")
    yield host
    host.run("systemctl stop mirror; docker rmi -f $(docker images -q stand-in/cuda) example:1 example:2; "
             "docker builder prune -af; rm -r /root/example /root/mirror", check=False)  # fmt: skip


def build(host: Host, name: str, *words: str, buildkit: bool = False, sha256: str = SHA256) -> str:
    """Build the example; return what docker said, its exit status in the last line."""
    arguments = {
        "BASE_IMAGE": "stand-in/cuda:1",
        "MINICONDA": INSTALLER,
        "MINICONDA_SHA256": sha256,
        "MINICONDA_URL": "http://172.17.0.1:8099",
        "CONDA_CHANNEL": "https://conda.invalid/cloud/conda-forge",
        "PYTHON_VERSION": "3.11",
        "PIP_INDEX_URL": "https://pip.invalid/simple",
        "TORCH_INDEX_URL": "https://torch.invalid/whl/cu128",
        "TORCH_VERSION": "2.8.0",
    }
    given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
    command = shlex.join(["docker", "build", "--force-rm", *given, "-t", name, *words, "/root/example"])
    return host.run(f"DOCKER_BUILDKIT={int(buildkit)} {command} 2>&1; echo $?").stdout


def test_arguments_reach_what_they_are_for_and_the_image_runs_under_any_uid(host: Host) -> None:
    said = build(host, "example:1")
    assert said.endswith("\n0\n"), said
    asked = host.run("docker run --rm example:1 cat /opt/conda/said").stdout.splitlines()
    channel = "--channel https://conda.invalid/cloud/conda-forge"
    assert asked[0] == f"conda create --yes --quiet --override-channels {channel} --name main python=3.11 pip"
    assert asked[1].startswith("conda clean ")
    assert "--index-url https://torch.invalid/whl/cu128 torch==2.8.0 " in asked[2]
    assert asked[3].endswith("--requirement /opt/requirements.txt PIP_INDEX_URL=https://pip.invalid/simple")
    # As dockerrun runs it: an account of the host's that the image knows nothing of.
    script = "import os, sys; print(os.getuid(), os.environ['HOME'], sys.executable); open('here', 'w')"
    seen = host.run(f"cd /home/alice && runuser -u alice -- dockerrun example:1 python -c {shlex.quote(script)}").stdout
    assert seen.split() == [host.run("id -u alice").stdout.strip(), "/home/alice", "/opt/conda/envs/main/bin/python"]
    unreadable = "find /opt/conda ! -readable -o -perm /022 ! -type l; conda --version"
    assert host.run(f"cd /tmp; runuser -u alice -- dockerrun example:1 bash -c {shlex.quote(unreadable)}").stdout == ""


def test_what_only_the_build_needs_is_in_no_layer(host: Host) -> None:
    build(host, "example:1")
    names = "docker save example:1 | tar -xO --wildcards '*layer.tar' -i | tar -t -i 2>/dev/null"
    looked_for = "opt/conda/bin/conda$|tmp/installer|Miniconda3|conda/pkgs|train.py|Dockerfile"
    assert host.run(f"{names} | grep -E '{looked_for}'").stdout == "opt/conda/bin/conda\n"
    layers = host.run("docker image inspect -f '{{len .RootFS.Layers}}' stand-in/cuda:1 example:1").stdout.split()
    # conda, PyTorch, requirements.txt, what it names
    assert int(layers[1]) - int(layers[0]) == 4


def test_a_changed_requirement_changes_the_last_layers_only(host: Host) -> None:
    build(host, "example:1")
    host.run("echo '# more' >> /root/example/requirements.txt")
    assert build(host, "example:2").endswith("\n0\n")
    layers = [
        host.run(f"docker image inspect -f '{{{{join .RootFS.Layers \" \"}}}}' example:{number}").stdout.split()
        for number in (1, 2)
    ]
    assert layers[0][:-2] == layers[1][:-2]
    assert layers[0][-2] != layers[1][-2]


@pytest.mark.parametrize("buildkit", [False, True], ids=["classic", "buildkit"])
def test_the_installer_is_taken_from_beside_the_dockerfile_and_checked_wherever_it_is_from(
    host: Host, buildkit: bool
) -> None:
    host.run("docker builder prune -af")
    wrong = build(host, "example:3", "--no-cache", buildkit=buildkit, sha256="0" * 64)
    assert f"{INSTALLER} has sha256 {SHA256}, expected MINICONDA_SHA256" in wrong
    assert not wrong.endswith("\n0\n")
    # Without the server only a local file will do.
    host.run(f"mv /root/mirror/{INSTALLER} /root/example")
    try:
        assert build(host, "example:3", "--no-cache", buildkit=buildkit).endswith("\n0\n")
        host.run(f"mv /root/example/{INSTALLER} /root")
        gone = build(host, "example:3", "--no-cache", buildkit=buildkit)
    finally:
        host.run(f"mv /root/example/{INSTALLER} /root/{INSTALLER} /root/mirror", check=False)
    assert f"{INSTALLER} cannot be downloaded: put the file into the Dockerfile's directory, or name a mirror" in gone
    host.run("docker rmi -f example:3")


def test_the_readme_s_command_runs_on_every_host(host: Host, lab: Lab, tmp_path: Path) -> None:
    build(host, "pytorch:1")
    # Without PyTorch there, another program in the place of the example's.
    program = f"src={EXAMPLE / 'requirements.txt'} dest=~/run/ mode=0644"
    ansible = ["ansible", "-i", str(lab.inventory), host.name]
    copied = run([*ansible, "-m", "ansible.builtin.copy", "-a", program], tmp_path)
    assert copied.status == 0, copied.text
    command = "dockerrun pytorch:1 python -c 'import os;print(os.listdir())' chdir=~/run"
    ran = run([*ansible, "-m", "ansible.builtin.command", "-a", command], tmp_path)
    assert (ran.status, "['requirements.txt']" in ran.text) == (0, True), ran.text
    host.run("docker rmi -f pytorch:1; rm -r /root/run")
