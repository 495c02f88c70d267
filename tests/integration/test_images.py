"""Images on lab hosts, in both image stores: build, tag, ls and prune as a person runs them."""

from __future__ import annotations

import json
import os
import pty
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import waiting
from tests.integration.conftest import Answer, document, run
from tests.integration.processes import started
from tests.lab.lab import Host, Lab, podman

Images = Callable[..., Answer]
NAME = "registry.test:5000/team/train"
TWO = "debian12,resolute"


@pytest.fixture(scope="module")
def hosts(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> list[Host]:
    """Debian 12 with the store of its engine, and resolute with containerd's, both with busybox."""
    there = tmp_path_factory.mktemp("provision")
    # containerd's store takes no mirror over plain HTTP, so nothing is pulled there.
    options = '{"docker_daemon_options": {"features": {"containerd-snapshotter": true}}, '
    options += '"gpu_host_verify_containers": "none"}'
    for name, more in (("debian12", []), ("resolute", ["-e", options])):
        answer = run(["gpuprov", "provision", str(lab.inventory), "-l", name, *more], there)
        assert answer.status == 0, answer.text
    first, second = (lab.host(name) for name in ("debian12", "resolute"))
    first.run("docker pull -q busybox; docker pull -q hello-world; docker save busybox -o /root/busybox.tar")
    first.run("docker save hello-world -o /root/hello.tar; docker rmi hello-world")
    for name in ("busybox.tar", "hello.tar"):
        podman("cp", f"{first.container}:/root/{name}", there / name)
        podman("cp", there / name, f"{second.container}:/root/{name}")
    second.run("docker load -i /root/busybox.tar")
    assert "containerd.snapshotter" in second.run("docker info --format '{{.DriverStatus}}'").stdout
    return [first, second]


@pytest.fixture(autouse=True)
def clean(hosts: list[Host]) -> None:
    """No container, and no image but busybox."""
    for host in hosts:
        host.run(
            "docker ps -aq | xargs -r docker rm -f; docker images --format '{{.Repository}}:{{.Tag}}' "
            "| grep -v -e '^busybox:' -e '<none>' | xargs -r docker rmi -f; docker image prune -f"
        )


@pytest.fixture
def image(lab: Lab, tmp_path: Path) -> Images:
    """Run a command of gpuprov image on both hosts: image("tag", NAME)."""

    def call(*words: str, limit: str | None = TWO, **environment: str) -> Answer:
        limited = [] if limit is None else ["-l", limit]
        return run(["gpuprov", "image", *words, str(lab.inventory), *limited], tmp_path, **environment)

    return call


def make(host: Host, *names: str, label: str = "") -> None:
    """Make images with a layer of a megabyte each."""
    for name in names:
        text = f"FROM busybox\n{label}\nRUN echo {name} >/name; dd if=/dev/urandom of=/data bs=1M count=1\n"
        host.run(f"DOCKER_BUILDKIT=0 docker build -q -t {name} -", input=text)


def ids(host: Host) -> dict[str, str]:
    """{name: ID} of the images of a host."""
    said = host.run("docker images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}'").stdout
    return dict(line.rsplit(" ", 1) for line in said.splitlines())


def names(host: Host) -> set[str]:
    return set(host.run("docker ps -a --format '{{.Names}}'").stdout.split())


# ---- build


def test_a_build_on_a_host_is_live_sends_what_changed_and_keeps_secrets(
    hosts: list[Host], image: Images, tmp_path: Path
) -> None:
    (host, _other) = hosts
    context = tmp_path / "a context"
    (context / "data").mkdir(parents=True)
    (context / "Dockerfile").write_text(
        "FROM busybox\nARG VERSION\nARG TOKEN\nRUN echo seen $TOKEN; for i in 1 2 3; do echo step $i; sleep 1; done\n"
        "RUN echo $VERSION >/version\nCOPY . /src\n"
    )
    (context / ".dockerignore").write_text("*.log\ndata/*\n!data/kept\n")
    for name, text in {"a": "1", "b.log": "log", "data/kept": "k", "data/not": "n"}.items():
        (context / name).write_text(text)
    words = ["build", str(context), "-t", f"{NAME}:1.0.0", "--on", "debian12", "--build-arg", "VERSION=it's $(id)"]
    words += ["--build-arg", "TOKEN"]
    host.run("touch /root/watch; (while [ -e /root/watch ]; do ps -eo args; sleep 0.2; done) >/root/seen 2>&1 & ")
    first = image(*words, limit=None, TOKEN="s3cr3t-t0ken $x")
    assert first.status == 0, first.text
    assert "debian12 | " in first.stdout
    assert "seen ***" in first.stdout
    assert "4 files" in first.stdout.splitlines()[-1]
    said = host.run(f"docker run --rm {NAME}:1.0.0 sh -c 'cat /version; cd /src; find . -type f'").stdout
    assert said.splitlines()[0] == "it's $(id)"
    assert set(said.split()[2:]) == {"./a", "./data/kept", "./Dockerfile"} | ({"./.dockerignore"} & set(said.split()))
    everywhere = host.run(
        "rm /root/watch; cat /root/seen; journalctl --no-pager; cat /var/cache/gpuprov/build/*/.state.json"
    ).stdout
    kept = "".join(path.read_text() for path in (tmp_path / "state").rglob("*") if path.is_file())
    assert "docker build" in everywhere
    assert "s3cr3t-t0ken" not in everywhere + kept + first.text
    # Nothing but the file that changed travels the next time, and one that is gone is gone there too.
    (context / "a").write_text("22")
    (context / "data/kept").unlink()
    second = document(image(*words, "--json", limit=None, TOKEN="s3cr3t-t0ken $x"))
    assert second["hosts"]["debian12"]["image"]["sent"] == {"files": 1, "bytes": 2}
    assert host.run(f"docker run --rm {NAME}:1.0.0 sh -c 'find /src -name kept'").stdout == ""
    assert host.run("ls /tmp /root/.ansible/tmp | grep -e gpuprov -e ansible-tmp", check=False).stdout == ""


def test_a_build_that_fails_says_why_and_a_name_that_is_none_reaches_no_host(
    hosts: list[Host], image: Images, tmp_path: Path
) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo it is broken >&2; exit 7\n")
    for on in ("debian12", "resolute"):
        answer = image("build", str(tmp_path), "-t", f"{NAME}:1.0.0", "--on", on, limit=None)
        assert answer.status == 2, answer.text
        assert "it is broken" in answer.stdout
        assert re.search(rf"^{on}: failed: docker build ended with status \d: .*7", answer.stdout, re.MULTILINE)
    assert [host for host in hosts if f"{NAME}:1.0.0" in ids(host)] == []
    answer = image("build", str(tmp_path), "-t", "a;reboot:1", "--on", "debian12", limit=None)
    assert (answer.status, answer.stdout, answer.stderr.count("\n")) == (1, "", 1)
    answer = image("build", str(tmp_path), "-t", f"{NAME}:1.0.0", "--on", "nobody", limit=None)
    assert (answer.status, answer.stderr) == (1, "gpuprov: no host of the inventory matches --on nobody\n")


def test_a_build_ends_with_the_run_that_waits_for_it(hosts: list[Host], lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN echo begun; exec sleep 36001\n")
    sleeps = "pgrep -fx 'sleep 36001'"
    words = ["gpuprov", "image", "build", str(tmp_path), "-t", f"{NAME}:1.0.0", "--on", "debian12", str(lab.inventory)]
    with started(words, tmp_path):
        waiting.until(lambda: hosts[0].run(sleeps, check=False).stdout, "the build runs")
    waiting.until(lambda: not hosts[0].run(sleeps, check=False).stdout, "the build has ended")


# ---- tag and ls


def test_tags_are_at_the_newest_versions_of_each_host_whichever_store_it_has(
    hosts: list[Host], image: Images, lab: Lab, checkout: Path, tmp_path: Path
) -> None:
    for host, versions in zip(hosts, (["1.9.2", "1.8.5", "2.0.0-rc.1"], ["1.8.5"]), strict=True):
        make(host, *(f"{NAME}:{version}" for version in versions))
    hosts[0].run(f"docker tag {NAME}:1.9.2 {NAME}:1.9 && docker tag {NAME}:1.8.5 {NAME}:latest")
    before = [ids(host) for host in hosts]
    answer = image("tag", f"{NAME}:1.8.5", "--dry-run")
    assert answer.status == 0, answer.text
    assert f"{NAME}:latest  1.8.5 → 1.9.2" in answer.stdout
    assert [ids(host) for host in hosts] == before
    assert image("tag", f"{NAME}:1.8.5").status == 0
    first, second = (ids(host) for host in hosts)
    assert {tag: first[f"{NAME}:{tag}"] for tag in ("1.8", "1", "latest")} == {
        "1.8": first[f"{NAME}:1.8.5"], "1": first[f"{NAME}:1.9.2"], "latest": first[f"{NAME}:1.9.2"],
    }  # fmt: skip
    assert len({second[f"{NAME}:{tag}"] for tag in ("1.8.5", "1.8", "1", "latest")}) == 1
    again = document(image("tag", f"{NAME}:1.8.5", "--json"))
    assert [host["changes"] for host in again["hosts"].values()] == [[], []]
    # A pre-release is on one host only, and moves nothing there. The playbook alone does the same.
    playbook = [str(checkout / "playbooks/image_tag.yml"), "-e", f"docker_image_name={NAME}:2.0.0-rc.1"]
    alone = run(["ansible-playbook", "-i", str(lab.inventory), "-l", TWO, *playbook], tmp_path)
    assert alone.status == 2, alone.text
    assert "is not on this host, which has 1.8.5" in alone.text
    assert ids(hosts[0]) == first


def test_the_table_shows_what_differs_and_an_image_that_is_the_same_in_both_stores_as_the_same(
    hosts: list[Host], image: Images
) -> None:
    make(hosts[0], f"{NAME}:1.0.0", f"{NAME}:1.1.0")
    make(hosts[1], f"{NAME}:1.0.0")
    answer = image("ls")
    assert answer.status == 0, answer.text
    assert max(len(line) for line in answer.stdout.splitlines()) <= 80
    assert re.search(rf"^≠  {NAME}:1.0.0 .* debian12\n +[0-9a-f]{{12}} .* resolute$", answer.stdout, re.MULTILINE)
    assert re.search(rf"^≠  {NAME}:1.1.0 .* debian12\n +- +resolute$", answer.stdout, re.MULTILINE)
    assert re.search(r"^   busybox:latest .* all$", answer.stdout, re.MULTILINE)
    stores = {name: host["image"]["store"] for name, host in document(image("ls", "--json"))["hosts"].items()}
    assert stores == {"debian12": "overlay2", "resolute": "containerd"}


def test_an_image_that_no_host_has_and_a_dockerd_that_is_down_are_one_line_each(
    hosts: list[Host], image: Images
) -> None:
    before = [ids(host) for host in hosts]
    answer = image("tag", "nobody/has-this:1.0.0")
    assert answer.status == 2
    assert answer.stdout.splitlines()[-1].startswith(
        "debian12, resolute: failed: nobody/has-this:1.0.0 is not on this host"
    )
    assert [ids(host) for host in hosts] == before
    hosts[0].run("systemctl stop docker.socket docker")
    try:
        answer = image("prune", "--yes")
        assert answer.status == 2
        assert "debian12: failed: dockerd does not answer at /var/run/docker.sock" in answer.stdout
    finally:
        hosts[0].run("systemctl start docker.socket docker")


# ---- prune


def busy(host: Host) -> None:
    """Make a host that is at work: a job of an old version, and things that nobody needs."""
    make(host, *(f"{NAME}:{version}" for version in ("1.0.0", "1.1.0", "1.2.0", "1.3.0", "dev")))
    make(host, "kept", label="LABEL org.gpuprov.keep=true")
    # An image without a name that is older than the step of a build could be.
    host.run("docker load -qi /root/hello.tar && docker tag busybox hello-world")
    host.run(f"docker tag {NAME}:1.2.0 {NAME}:latest && docker tag kept kept:x && docker rmi kept:latest")
    host.run(f"docker run -d --name job {NAME}:1.0.0 sleep 10000")
    host.run("docker run --name done busybox sh -c 'dd if=/dev/zero of=/x bs=1M count=2'")
    host.run("docker run --name marked --label org.gpuprov.keep=1 busybox true")


def test_whatever_is_asked_what_runs_its_image_and_the_newest_versions_stay(
    hosts: list[Host], image: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    for host in hosts:
        busy(host)
    before = [(ids(host), names(host)) for host in hosts]
    refused = image("prune", "--all", "--keep", "1")
    assert (refused.status, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    looked = image("prune", "--all", "--keep", "1", "--check")
    assert looked.status == 0, looked.text
    assert f"image {NAME}:1.1.0" in looked.stdout
    assert [(ids(host), names(host)) for host in hosts] == before
    used = [
        int(host.run("du -sbc /var/lib/docker /var/lib/containerd | tail -n 1").stdout.split()[0]) for host in hosts
    ]
    answer = image("prune", "--all", "--keep", "1", "--yes", "--json")
    assert answer.status == 0, answer.text
    for host, space, found in zip(hosts, used, document(answer)["hosts"].values(), strict=True):
        left = {name for name in ids(host) if "<none>" not in name}
        assert left == {"busybox:latest", "hello-world:latest", "kept:x", *(f"{NAME}:{tag}" for tag in _LEFT)}
        assert names(host) == {"job", "marked"}
        assert host.run("docker inspect --format '{{.State.Running}}' job").stdout == "true\n"
        now = int(host.run("du -sbc /var/lib/docker /var/lib/containerd | tail -n 1").stdout.split()[0])
        freed = found["image"]["freed"]
        # Three images, and what the container wrote; containerd's store has compressed layers beside those.
        assert 4_500_000 < freed < 5_500_000
        assert freed * 0.9 < space - now < freed * 2.2


_LEFT = ("1.0.0", "1.2.0", "1.3.0", "latest")


def test_a_container_that_starts_between_the_decision_and_the_removal_stays(
    hosts: list[Host], lab: Lab, checkout: Path, tmp_path: Path
) -> None:
    (host, _other) = hosts
    make(host, "old:dev")
    host.run("docker create --name late old:dev sleep 10000 && docker run --name done busybox true")
    host.run("docker start late && docker kill late && docker wait late")
    (tmp_path / "play.yml").write_text(
        json.dumps(
            [{"hosts": "debian12", "gather_facts": False, "become": True, "tasks": [
                {"gpuprov.gpuprov.docker_image_prune": {"look": True, "all": True}, "register": "decided"},
                {"ansible.builtin.command": "docker start late"},
                {"gpuprov.gpuprov.docker_image_prune": {"all": True, "decided": "{{ decided }}"}, "register": "done"},
                {"ansible.builtin.copy": {"content": "{{ [decided, done] }}", "dest": str(tmp_path / "out")},
                 "delegate_to": "localhost", "become": False},
            ]}]
        )
    )  # fmt: skip
    answer = run(
        ["ansible-playbook", "-i", str(lab.inventory), "play.yml"], tmp_path,
        ANSIBLE_COLLECTIONS_PATH=str(checkout / "playbooks/collections"),
    )  # fmt: skip
    assert answer.status == 0, answer.text
    decided, done = json.loads((tmp_path / "out").read_text())
    assert {one["name"] for one in decided["docker_image"]["containers"]} == {"late", "done"}
    assert [one["name"] for one in done["docker_image"]["removed"]["containers"]] == ["done"]
    assert {one["name"]: one["why"] for one in done["docker_image"]["stayed"]} == {
        "container late": "running", "old:dev": "runs in late",
    }  # fmt: skip
    assert (names(host), "old:dev" in ids(host)) == ({"late"}, True)


@pytest.mark.parametrize(("answer", "left"), [("n", {"done"}), ("y", set())])
def test_on_a_terminal_it_asks(answer: str, left: set[str], hosts: list[Host], lab: Lab, tmp_path: Path) -> None:
    (host, _other) = hosts
    host.run("docker run --name done busybox true")
    words = ["gpuprov", "image", "prune", str(lab.inventory), "-l", "debian12", "--containers"]
    said, status = on_terminal(words, {"Remove this?": answer}, tmp_path)
    assert "container done" in said
    assert status == (1 if left else 0), said
    assert names(host) == left


def on_terminal(words: list[str], answers: dict[str, str], cwd: Path) -> tuple[str, int]:
    """Run a command on a terminal and answer its questions; (what it said, its exit status)."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(cwd)
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        os.execvpe(words[0], words, {**os.environ, "PATH": path, "XDG_STATE_HOME": str(cwd / "state"), "TERM": "xterm"})
    said = ""
    waiting = dict(answers)
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            break
        if not part:
            break
        said += part.decode(errors="replace")
        for question in [question for question in waiting if question in said]:
            os.write(terminal, f"{waiting.pop(question)}\n".encode())
    return said, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
