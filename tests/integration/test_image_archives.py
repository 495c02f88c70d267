"""Images and archives of today's tools, on an engine with the containerd store and on an old one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import lock_file

from tests.integration.conftest import Answer, document, run
from tests.integration.processes import local_registry
from tests.lab.lab import Host, Lab, podman

Images = Callable[..., Answer]
TWO = "debian12,resolute"
# An image without a base: nothing is pulled, and every platform is built without running a program of it.
CONTEXT = r"""set -e
mkdir -p /root/context && cd /root/context && echo a > a
printf 'FROM scratch\nCOPY a /a\nCMD ["/a"]\n' > Dockerfile
docker build -q -t attested:1.0.0 .
docker build -q --platform linux/arm64,linux/amd64 -t multi:1.0.0 .
oci() { docker buildx build -q --platform $1 -o type=oci,dest=/root/$2.tar,name=docker.io/library/$2:1.0.0 .; }
oci linux/arm64,linux/amd64 built
oci linux/arm64 arm
"""


@pytest.fixture(scope="module")
def hosts(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Host]:
    """An engine 20.10 with overlay2, and 28.5 with the containerd store and buildx; that one has built images."""
    lab.reset("debian12", "resolute")
    found = {name: lab.host(name) for name in ("debian12", "resolute")}
    setting = json.dumps({"features": {"containerd-snapshotter": True}})
    found["resolute"].run("mkdir -p /etc/docker; cat > /etc/docker/daemon.json", input=setting)
    options = json.dumps({"nvidia_docker_stack": "none", "gpu_host_verify_containers": "none"})
    there = tmp_path_factory.mktemp("provision")
    answer = run(["gpuprov", "provision", str(lab.inventory), "-l", TWO, "-e", options], there)
    assert answer.status == 0, answer.text
    assert "containerd.snapshotter" in found["resolute"].run("docker info --format '{{.DriverStatus}}'").stdout
    found["resolute"].run("bash -s", input=CONTEXT)
    return found


@pytest.fixture
def image(lab: Lab, hosts: dict[str, Host], tmp_path: Path) -> Images:
    """Run a command of gpuprov image on both hosts: image("ship", "x:1")."""

    def call(*words: str) -> Answer:
        return run(["gpuprov", "image", *words, str(lab.inventory), "-l", TWO], tmp_path)

    return call


def store(host: Host) -> tuple[str, str]:
    """All images of a host, the untagged ones too, and all that containerd keeps of them."""
    content = "ctr -n moby images ls; ctr -n moby content ls -q" if host.name == "resolute" else "true"
    listed = host.run("docker image ls -a --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}'").stdout
    return "\n".join(sorted(listed.splitlines())), host.run(content).stdout


def statuses(answer: Answer) -> dict[str, str]:
    assert answer.status == 0, answer.text
    return {name: host["status"] for name, host in document(answer)["hosts"].items()}


def test_the_source_and_a_host_that_has_the_image_are_left_as_they_are(
    hosts: dict[str, Host], image: Images, lab: Lab, tmp_path: Path
) -> None:
    old, new = hosts["debian12"], hosts["resolute"]
    before = store(new)
    assert "<none>" not in before[0]
    for name in ("attested:1.0.0", "multi:1.0.0"):
        kind = new.run(f"docker image inspect -f '{{{{.Descriptor.MediaType}}}}' {name}").stdout
        assert kind == "application/vnd.oci.image.index.v1+json\n"
        assert statuses(image("ship", name, "--from", "resolute", "--json")) == {
            "debian12": "changed",
            "resolute": "up-to-date",
        }
        again = image("ship", name, "--from", "resolute", "--json")
        assert set(statuses(again).values()) == {"up-to-date"}
        # The same image, whatever each engine calls it.
        told = document(again)["hosts"]
        assert (
            told["debian12"]["image"]["id"] == told["resolute"]["image"]["id"] == told["debian12"]["image"]["shown_as"]
        )
        assert old.run(f"docker image inspect -f '{{{{.Architecture}}}}' {name}").stdout == "amd64\n"
        # Back to where it came from, under an index.
        assert set(statuses(image("ship", name, "--from", "debian12", "--json")).values()) == {"up-to-date"}
        path = tmp_path / "saved.tar.gz"
        saved = run(
            ["gpuprov", "image", "save", name, str(lab.inventory), "--from", "resolute", "-o", str(path)], tmp_path
        )
        assert saved.status == 0, saved.text
        assert set(statuses(image("load", str(path), "--json")).values()) == {"up-to-date"}
    assert store(new) == before
    assert "2 images: 2 the same on all, 0 not." in image("ls").stdout


def kaniko(path: Path) -> None:
    """Write an archive as kaniko does: docker save's, with packed layers and a configuration named by its digest."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a"))
    packed = gzip.compress(layer.getvalue(), mtime=0)
    diff_id = f"sha256:{hashlib.sha256(layer.getvalue()).hexdigest()}"
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}, "config": {}}
    blob = json.dumps(config).encode()
    paths = [f"sha256:{hashlib.sha256(blob).hexdigest()}", f"{hashlib.sha256(packed).hexdigest()}.tar.gz"]
    entry = {"Config": paths[0], "Layers": paths[1:], "RepoTags": ["index.docker.io/library/kaniko:1.0.0"]}
    with tarfile.open(path, "w") as tar:
        for name, content in zip([*paths, "manifest.json"], [blob, packed, json.dumps([entry]).encode()], strict=True):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_archives_of_every_tool_are_loaded_once_for_the_platform_of_the_host(
    hosts: dict[str, Host], image: Images, tmp_path: Path
) -> None:
    new = hosts["resolute"]
    new.run("docker save -o /root/docker.tar --platform linux/amd64 multi:1.0.0")
    for made in ("docker", "built", "arm"):
        podman("cp", f"{new.container}:/root/{made}.tar", tmp_path / f"{made}.tar")
    kaniko(tmp_path / "kaniko.tar")

    def call(*words: str) -> None:
        subprocess.run(words, check=True, capture_output=True, cwd=tmp_path)

    copy = ("skopeo", "copy", "docker-archive:docker.tar")
    call(*copy, "docker-archive:skopeo.tar:skopeo:1.0.0")
    call(*copy, "docker-archive:port.tar:registry.example.com:5000/team/port:1.0.0")
    call(*copy, "oci-archive:tagged.tar:1.0.0")
    storage = ("podman", "--root", "storage", "--runroot", "run", "--storage-driver", "vfs")
    call(*storage, "pull", "docker-archive:docker.tar")
    call(*storage, "tag", "localhost/multi:1.0.0", "localhost/pod:1.0.0", "localhost/pod-oci:1.0.0")
    call(*storage, "save", "-o", "podman.tar", "localhost/pod:1.0.0")
    call(*storage, "save", "--format", "oci-archive", "-o", "podman-oci.tar", "localhost/pod-oci:1.0.0")
    port = "registry.example.com:5000/team/port:1.0.0"
    archives: list[tuple[list[str], str | None]] = [
        (["load", "built.tar"], "built:1.0.0"),
        (["load", "skopeo.tar"], "skopeo:1.0.0"),
        (["load", "podman.tar"], "localhost/pod:1.0.0"),
        (["load", "podman-oci.tar"], "localhost/pod-oci:1.0.0"),
        (["load", "kaniko.tar"], "kaniko:1.0.0"),
        (["ship", port, "--from", "port.tar"], port),
        (["ship", "docker.io/library/skopeo:1.0.0", "--from", "skopeo.tar"], None),
        (["ship", "pod:1.0.0", "--from", "podman.tar"], "pod:1.0.0"),
        (["ship", "tagged:1.0.0", "--from", "tagged.tar"], "tagged:1.0.0"),
    ]
    for given, name in archives:
        words = [str(tmp_path / word) if word.endswith(".tar") else word for word in given]
        if name is not None:
            assert set(statuses(image(*words, "--json")).values()) == {"changed"}, words
            for host in hosts.values():
                shown = host.run(f"docker image inspect -f '{{{{.Architecture}}}} {{{{.RepoTags}}}}' {name}").stdout
                assert shown.startswith("amd64 ")
                assert name in shown
                # Its layers are unpacked as they should be.
                listed = host.run(
                    f"docker create --name looked {name} x >/dev/null; docker export looked | tar t"
                ).stdout
                host.run("docker rm looked")
                assert "a" in listed.splitlines()
        assert set(statuses(image(*words, "--json")).values()) == {"up-to-date"}, words
    refused = image("load", str(tmp_path / "arm.tar"))
    assert refused.status == 2
    assert refused.stdout.count("the image is for linux/arm64, and this host is linux/amd64") == 2
    for host in hosts.values():
        assert "arm:1.0.0" not in store(host)[0]
        assert "<none>" not in store(host)[0]
        assert "gpuprov-partial" not in store(host)[0]


def test_variants_are_lines_of_versions_for_tag_and_prune_alike(hosts: dict[str, Host], image: Images) -> None:
    tags = [
        f"20.{minor}.1{variant}" for minor in (9, 10, 11) for variant in ("", "-alpine", "-cuda12.1-cudnn8-runtime")
    ]
    for host in hosts.values():
        host.run(
            "mkdir -p /root/node && cd /root/node && for tag in " + " ".join(tags) + "; do echo $tag > a; "
            "printf 'FROM scratch\\nCOPY a /a\\n' | docker build -q -t node:$tag -f - . >/dev/null; done"
        )
    tagged = image("tag", "node:20.9.1-alpine", "--json")
    assert tagged.status == 0, tagged.text
    moved = {change["subject"]: change["to"] for change in document(tagged)["hosts"]["resolute"]["changes"]}
    assert moved == {
        "node:20.9-alpine": "20.9.1-alpine", "node:20-alpine": "20.11.1-alpine", "node:latest-alpine": "20.11.1-alpine",
    }  # fmt: skip
    kept = image("prune", "--images", "--yes", "--json")
    assert kept.status == 0, kept.text
    assert [host["image"]["images"] for host in document(kept)["hosts"].values()] == [[], []]
    pruned = image("prune", "--images", "--keep", "2", "--yes", "--json")
    assert pruned.status == 0, pruned.text
    for name, host in hosts.items():
        gone = {
            one for image in document(pruned)["hosts"][name]["image"]["removed"]["images"] for one in image["names"]
        }
        # What 20.9-alpine points at stays.
        assert gone == {"node:20.9.1", "node:20.9.1-cuda12.1-cudnn8-runtime"}
        assert host.run("docker image ls -q --filter reference='node:20.11.1*'").stdout.count("\n") == 3


def test_the_reason_why_a_build_failed_is_said_once(hosts: dict[str, Host], lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY nothing /\n")
    for name in hosts:
        words = ["build", str(tmp_path), "-t", "broken:1.0.0", "--on", name, str(lab.inventory)]
        answer = run(["gpuprov", "image", *words], tmp_path)
        assert answer.status == 2, answer.text
        last = answer.stdout.splitlines()[-1]
        head, _, reason = last.partition("docker build ended with status 1: ")
        assert head == f"{name}: failed: "
        assert answer.text.count(reason) == 1


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of the lab's registry on this machine."""
    with local_registry(tmp_path) as address:
        yield address


def test_an_image_of_a_bundle_loads_with_gpuprov_and_with_docker_alone(
    hosts: dict[str, Host], image: Images, hub: str, tmp_path: Path
) -> None:
    source = lock_file.Source(f"http://{hub}/", "trixie", ("main",), "0" * 40, "2026-11-27T10:11:12Z", "0" * 64)
    lock = lock_file.Lock({("trixie", "amd64"): lock_file.System({}, {"trixie": source}, ())})
    (tmp_path / lock_file.NAME).write_text(lock_file.dump(lock))
    name = f"{hub}/library/hello-world"
    made = run(["gpuprov", "bundle", "--lock", lock_file.NAME, "-o", "bundle", "--image", name], tmp_path)
    assert made.status == 0, made.text
    (archive,) = (tmp_path / "bundle/images").iterdir()
    assert set(statuses(image("load", str(archive), "--json")).values()) == {"changed"}
    for host in hosts.values():
        assert "Hello from Docker!" in host.run(f"docker run --rm --pull never {name}").stdout
        host.run(f"docker image rm {name}")
        podman("cp", str(archive), f"{host.container}:/root/bundled.tar")
        assert f"Loaded image: {name}:latest" in host.run("docker load -i /root/bundled.tar").stdout
        assert "Hello from Docker!" in host.run(f"docker run --rm --pull never {name}").stdout
    # By either way it is the same image.
    assert set(statuses(image("load", str(archive), "--json")).values()) == {"up-to-date"}
