"""The parts of an image that are sent, and the archives that contain them."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pytest
from ansible.errors import AnsibleError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import image_archive
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images.image_archive import (
    Held,
    Image,
    Layer,
)

MIB = 1 << 20


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def image(*contents: bytes, **more: Any) -> Image:
    """An image whose layers have these contents."""
    layers = tuple(Layer(digest(content), digest(content), len(content)) for content in contents)
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [one.diff_id for one in layers]}, **more}
    return Image(json.dumps(config).encode(), layers)


ABC = image(b"a", b"b", b"c")
IDS = [layer.diff_id for layer in ABC.layers]


def held(*chains: list[str], blobs: set[str] | None = None, containerd: bool = False) -> Held:
    images = {f"sha256:{number}": ([f"x:{number}"], chain) for number, chain in enumerate(chains)}
    return Held(containerd, images, None if blobs is None else frozenset(blobs))


def test_a_host_lacks_what_comes_after_the_longest_beginning_that_it_has() -> None:
    assert image_archive.lacking(ABC, held()) == ABC.layers
    assert image_archive.lacking(ABC, held(IDS[:1], IDS[:2], IDS[1:])) == ABC.layers[2:]
    assert image_archive.lacking(ABC, held([*IDS, digest(b"d")])) == ()


def test_a_layer_on_another_one_is_another_layer_for_dockerd() -> None:
    assert image_archive.lacking(ABC, held(IDS[1:])) == ABC.layers


def test_containerd_has_a_layer_wherever_its_blob_is_and_lacks_all_where_nobody_can_tell() -> None:
    assert image_archive.lacking(ABC, held(blobs={IDS[0], IDS[2]}, containerd=True)) == ABC.layers[1:2]
    assert image_archive.lacking(ABC, held(IDS, containerd=True)) == ABC.layers


def sized(one: Image, *mebibytes: int) -> Image:
    layers = [Layer(layer.diff_id, layer.digest, MIB * mib) for layer, mib in zip(one.layers, mebibytes, strict=True)]
    return Image(one.config, tuple(layers))


def parts(one: Image, missing: Sequence[Layer]) -> list[tuple[int, list[int]]]:
    return [(count, [one.layers.index(layer) for layer in new]) for count, new in image_archive.parts(one, missing)]


def test_big_layers_are_loaded_by_themselves_and_small_ones_go_along() -> None:
    one = sized(image(*(bytes([number]) for number in range(6))), 1, 8, 1, 1, 9, 0)
    assert parts(one, one.layers) == [(2, [0, 1]), (6, [2, 3, 4, 5])]


def test_the_last_part_completes_the_image_even_where_nothing_is_missing() -> None:
    one = sized(ABC, 9, 9, 9)
    assert parts(one, []) == [(3, [])]
    assert parts(one, one.layers[:1]) == [(3, [0])]
    assert parts(one, one.layers[:2]) == [(1, [0]), (3, [1])]


def test_a_layer_that_an_image_has_twice_is_in_each_archive_that_needs_it_and_in_none_twice() -> None:
    twice = sized(image(b"a", b"0", b"b", b"0", b"0", b"c"), 9, 0, 9, 0, 0, 9)
    missing = image_archive.lacking(twice, held(blobs=set(), containerd=True))
    assert [layer.digest for layer in missing] == [twice.layers[number].digest for number in (0, 1, 2, 5)]
    # dockerd looks for a layer on another one in the archive, whatever it has by this digest.
    assert parts(twice, missing) == [(1, [0]), (3, [1, 2]), (6, [1, 5])]


def test_an_archive_for_dockerd_names_layers_that_are_not_in_it_and_its_list_comes_last() -> None:
    files = image_archive.last_files(ABC, ["x:1", "y:2"], False)
    assert [path for path, _ in files][-1] == "manifest.json"
    (entry,) = json.loads(files[-1][1])
    assert entry["RepoTags"] == ["x:1", "y:2"]
    assert entry["Layers"] == [image_archive.layer_path(layer, False) for layer in ABC.layers]
    assert dict(files)[entry["Config"]] == ABC.config


def test_a_beginning_is_the_same_image_whoever_makes_it_and_none_of_the_whole_one_s() -> None:
    other = image(b"a", b"b", b"z", config={"Cmd": ["x"]})
    assert ABC.beginning(2) == other.beginning(2)
    assert ABC.beginning(2).id != ABC.id
    assert json.loads(ABC.beginning(2).config)["rootfs"]["diff_ids"] == IDS[:2]
    assert ABC.beginning(3) == ABC


def test_an_archive_for_containerd_is_a_layout_whose_digests_fit() -> None:
    files = dict(image_archive.last_files(ABC, ["registry:5000/x:1"], True))
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "registry:5000/x:1"
    manifest = files[image_archive.blob_path(entry["digest"])]
    assert (digest(manifest), len(manifest)) == (entry["digest"], entry["size"])
    assert [(one["digest"], one["size"]) for one in json.loads(manifest)["layers"]] == [(one, 1) for one in IDS]
    assert ABC.shown_as(True) == entry["digest"]
    assert ABC.shown_as(False) == digest(ABC.config)


def test_an_image_is_told_as_export_image_py_describes_one() -> None:
    packed = [Layer(digest(b"a"), digest(b"packed"), 6, "t", ["containerd", "/x", "y"])]
    manifest = dumped({"layers": [{"digest": digest(b"packed"), "size": 6, "mediaType": "t"}]})
    for one in (ABC, image_archive.with_manifest(ABC.config, packed, manifest)):
        assert image_archive.from_json(json.loads(json.dumps(image_archive.as_json(one)))) == one


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("busybox:1", "docker.io/library/busybox:1"),
        ("team/x:1", "docker.io/team/x:1"),
        ("localhost/x:1", "localhost/x:1"),
        ("registry.example.com/x:1", "registry.example.com/x:1"),
        ("registry:5000/team/x:1", "registry:5000/team/x:1"),
    ],
)
def test_containerd_wants_names_with_their_registry(name: str, full: str) -> None:
    assert image_archive.full_name(name) == full


def test_what_is_left_of_an_interrupted_transfer_is_known_by_the_repository_whatever_the_tag() -> None:
    left = image_archive.partial_tag("registry:5000/x:1", ABC.id, 2)
    other = image_archive.partial_tag("registry:5000/y:1", ABC.id, 2)
    host = Held(False, {"a": ([left], []), "b": ([other], []), "c": (["registry:5000/x:1"], [])})
    assert host.partial_tags("registry:5000/x:2") == [left]


# ---- what an archive holds


Files = dict[str, bytes]


def blobs_of(files: Files) -> image_archive.Blobs:
    """Return the files that reading an archive finds."""
    found = {}
    for path, content in files.items():
        packed = content.startswith(b"\x1f\x8b")
        inner = gzip.decompress(content) if packed else content
        found[path] = image_archive.Blob(digest(content), digest(inner), len(content), "gzip" if packed else "none")
    return found


def read(files: Files, name: str | None = None) -> tuple[tuple[Image, ...], list[str]]:
    return image_archive.images_in(files, blobs_of(files), name)


def config_of(layers: Sequence[bytes], platform: str) -> bytes:
    system, architecture, *variant = platform.split("/")
    diff_ids = [digest(layer) for layer in layers]
    config = {"os": system, "architecture": architecture, "rootfs": {"diff_ids": diff_ids}}
    return json.dumps(config | ({"variant": variant[0]} if variant else {})).encode()


def docker_archive(*tags: str, layers: Sequence[bytes] = (b"a", b"b"), packed: bool = False, **more: Any) -> Files:
    """docker save before 25, podman and skopeo; kaniko's with packed layers."""
    config = config_of(layers, more.get("platform", "linux/amd64"))
    blobs = [gzip.compress(layer) if packed else layer for layer in layers]
    paths = [f"{digest(blob)[7:]}.tar{'.gz' if packed else ''}" for blob in blobs]
    config_path = more.get("config", f"{digest(config)[7:]}.json")
    entry = {"Config": config_path, "RepoTags": list(tags), "Layers": paths}
    return {**dict(zip(paths, blobs, strict=True)), config_path: config, "manifest.json": dumped([entry])}


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


class Layout:
    """An OCI layout, put together like tools do."""

    def __init__(self) -> None:
        self.files: Files = {"oci-layout": dumped({"imageLayoutVersion": "1.0.0"})}
        self.entries: list[dict[str, Any]] = []

    def blob(self, content: bytes, kind: str, **more: Any) -> dict[str, Any]:
        self.files[image_archive.blob_path(digest(content))] = content
        return {
            "mediaType": f"application/vnd.oci.image.{kind}",
            "digest": digest(content),
            "size": len(content),
            **more,
        }

    def image(self, platform: str, *layers: bytes, described: bool = True, **more: Any) -> dict[str, Any]:
        """The descriptor of an image for one platform."""
        layers = layers or (b"base", platform.encode())
        packed = [self.blob(gzip.compress(layer, mtime=0), "layer.v1.tar+gzip") for layer in layers]
        manifest = {"config": self.blob(config_of(layers, platform), "config.v1+json"), "layers": packed}
        keys = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
        return self.blob(dumped(manifest), "manifest.v1+json", **({"platform": keys} if described else {}), **more)

    def attestation(self, of: dict[str, Any]) -> dict[str, Any]:
        """Return BuildKit's attestations of an image."""
        statement = {**self.blob(b"{}", ""), "mediaType": "application/vnd.in-toto+json"}
        config = self.blob(
            dumped({"os": "unknown", "architecture": "unknown", "rootfs": {"diff_ids": []}}), "config.v1+json"
        )
        notes = {"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": of["digest"]}
        platform = {"os": "unknown", "architecture": "unknown"}
        manifest = dumped({"config": config, "layers": [statement]})
        return self.blob(manifest, "manifest.v1+json", annotations=notes, platform=platform)

    def index(self, *descriptors: dict[str, Any]) -> dict[str, Any]:
        return self.blob(dumped({"manifests": descriptors}), "index.v1+json")

    def add(self, descriptor: dict[str, Any], name: str = "", ref: str = "") -> None:
        notes = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": ref}
        notes = {key: value for key, value in notes.items() if value}
        self.entries.append({**descriptor, **({"annotations": notes} if notes else {})})

    def whole(self) -> Files:
        return {**self.files, "index.json": dumped({"manifests": self.entries})}


def layout(*platforms: str, name: str = "", ref: str = "", attested: bool = False, nested: bool = True) -> Files:
    """An OCI layout of one image for several platforms: buildx nests an index, others list them all."""
    made = Layout()
    images = [made.image(platform, described=nested) for platform in platforms]
    more = [made.attestation(image) for image in images] if attested else []
    for one in [made.index(*images, *more)] if nested else [*more, *images]:
        made.add(one, name, ref)
    return made.whole()


ARCHIVES: list[tuple[str, Files, list[str], list[str]]] = [
    # who writes it, its files, its names as docker shows them, other names by which it is found
    (
        "docker save",
        docker_archive("train:1.9.1"),
        ["train:1.9.1"],
        ["docker.io/library/train:1.9.1", "docker.io/train:1.9.1"],
    ),
    (
        "skopeo",
        docker_archive("docker.io/library/train:1.9.1"),
        ["train:1.9.1"],
        ["index.docker.io/library/train:1.9.1"],
    ),
    ("skopeo, a user's", docker_archive("docker.io/user/train:1"), ["user/train:1"], ["docker.io/user/train:1"]),
    ("a port", docker_archive("registry:5000/a/train:1"), ["registry:5000/a/train:1"], []),
    ("no tag", docker_archive("docker.io/library/train"), ["train:latest"], ["train"]),
    ("podman", docker_archive("localhost/train:1"), ["localhost/train:1"], ["train:1"]),
    (
        "podman, two names",
        docker_archive("localhost/train:1", "r.test/train:1"),
        ["localhost/train:1", "r.test/train:1"],
        [],
    ),
    ("kaniko", docker_archive("index.docker.io/library/train:1", packed=True, config="sha256:c0ffee"), ["train:1"], []),
    ("no name", docker_archive(), [], ["whatever:7"]),
    ("podman, OCI", layout("linux/amd64", ref="localhost/train:1", nested=False), ["localhost/train:1"], ["train:1"]),
    ("skopeo, OCI", layout("linux/amd64", ref="registry:5000/train:1", nested=False), ["registry:5000/train:1"], []),
    ("skopeo, OCI, a tag", layout("linux/amd64", ref="1.9.1", nested=False), [], ["train:1.9.1", "r.test/x:1.9.1"]),
    ("skopeo, OCI, no name", layout("linux/amd64", nested=False), [], ["whatever:7"]),
    ("buildx", layout("linux/amd64", name="docker.io/library/train:1", ref="1", attested=True), ["train:1"], []),
    ("no architecture", docker_archive("train:1", platform="/"), ["train:1"], []),
]


@pytest.mark.parametrize(("files", "names", "others"), [one[1:] for one in ARCHIVES], ids=[one[0] for one in ARCHIVES])
def test_an_archive_of_any_tool_is_found_by_its_names_as_docker_compares_them(
    files: Files, names: list[str], others: list[str]
) -> None:
    images, found = read(files)
    assert found == names
    (one,) = images
    for name in [*names, *others]:
        assert read(files, name)[0] == images
    assert image_archive.for_machine(images, "x86_64") == one
    if names:
        for wrong in ("train:2", "other/train:1", "r.test:5000/train:1.9.1"):
            with pytest.raises(AnsibleError, match=f"^{wrong} is not in the archive; it has "):
                read(files, wrong)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("name", ["docker.io/library/multi:1.0.0", ""])
def test_the_platform_of_the_host_is_chosen_whatever_comes_first(nested: bool, name: str) -> None:
    platforms = [
        "linux/arm64",
        "linux/arm/v7",
        "linux/arm/v6",
        "windows/amd64",
        "linux/amd64/v3",
        "linux/amd64",
        "linux/s390x",
    ]
    files = layout(*platforms, name=name, attested=True, nested=nested)
    images, names = read(files, "multi:1.0.0")
    assert [image_archive.platform_text(image) for image in images] == platforms
    assert names == (["multi:1.0.0"] if name else [])
    machines = {"x86_64": "linux/amd64", "aarch64": "linux/arm64", "armv7l": "linux/arm/v7", "armv6l": "linux/arm/v6"}
    for machine, platform in (machines | {"s390x": "linux/s390x"}).items():
        assert image_archive.platform_text(image_archive.for_machine(images, machine)) == platform


@pytest.mark.parametrize(
    ("platforms", "machine", "said"),
    [
        (["linux/arm64"], "x86_64", "the image is for linux/arm64, and this host is linux/amd64"),
        (["linux/amd64"], "aarch64", "the image is for linux/amd64, and this host is linux/arm64"),
        (["windows/amd64", "linux/arm/v7"], "x86_64", "the image is for linux/arm/v7, windows/amd64, and this host is"),
        (["linux/arm/v7"], "armv6l", "the image is for linux/arm/v7, and this host is linux/arm"),
        (["linux/amd64"], "riscv64", "the image is for linux/amd64, and this host is linux/riscv64"),
    ],
)
def test_an_image_for_other_platforms_alone_is_refused(platforms: list[str], machine: str, said: str) -> None:
    with pytest.raises(AnsibleError, match=said):
        image_archive.for_machine(read(layout(*platforms))[0], machine)


@pytest.mark.parametrize(("platform", "machine"), [("linux/386", "x86_64"), ("linux/arm/v7", "aarch64")])
def test_a_machine_takes_what_it_runs_besides_its_own(platform: str, machine: str) -> None:
    images, _ = read(layout(platform))
    assert image_archive.platform_text(image_archive.for_machine(images, machine)) == platform


def test_docker_save_leaves_out_what_it_does_not_have_of_other_platforms() -> None:
    files = layout("linux/arm64", "linux/amd64", name="docker.io/library/train:1")
    gone = [path for path, content in files.items() if gzip_of(content) == b"linux/arm64"]
    whole = {path: content for path, content in files.items() if path not in gone}
    assert [image_archive.platform_text(image) for image in read(whole)[0]] == ["linux/amd64"]
    both = [path for path, content in files.items() if gzip_of(content) in (b"linux/arm64", b"linux/amd64")]
    with pytest.raises(AnsibleError, match="damaged: layer 2 of 2 is not in it"):
        read({path: content for path, content in files.items() if path not in both})


def gzip_of(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else b""


def test_docker_save_from_25_on_has_two_lists_of_which_one_has_all_platforms_and_manifests() -> None:
    files = layout("linux/arm64", "linux/amd64", name="docker.io/library/train:1")
    old = docker_archive("train:1", layers=[b"base", b"linux/amd64"])
    images, names = read({**old, **files})
    assert (len(images), names) == (2, ["train:1"])
    assert all(image.manifest is not None for image in images)
    # One that lists nothing in its index is an archive of the old kind.
    assert read({**old, "oci-layout": b"{}", "index.json": b'{"manifests": []}'})[1] == ["train:1"]


def test_an_image_that_has_two_tags_is_one_image_and_signatures_are_none() -> None:
    made = Layout()
    image = made.image("linux/amd64")
    made.add(image, "docker.io/library/train:1")
    made.add(image, "docker.io/library/train:latest")
    signature = {**made.blob(b"s", ""), "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json"}
    config = made.blob(config_of([b"s"], "linux/amd64"), "config.v1+json")
    made.add(made.blob(dumped({"config": config, "layers": [signature]}), "manifest.v1+json"), ref="sha256-1.sig")
    images, names = read(made.whole())
    assert (len(images), names) == (1, ["train:1", "train:latest"])


def test_one_of_several_images_is_chosen_by_name() -> None:
    one, other = docker_archive("docker.io/library/x:1"), docker_archive("y:1", layers=[b"c"])
    entries = [*json.loads(one["manifest.json"]), *json.loads(other["manifest.json"])]
    both = {**one, **other, "manifest.json": dumped(entries)}
    assert len(read(both, "y:1")[0][0].layers) == 1
    assert len(read(both, "x:1")[0][0].layers) == 2
    with pytest.raises(AnsibleError, match=r"holds 2 images \(x:1, y:1\): say which one"):
        read(both)
    with pytest.raises(AnsibleError, match=r"z:1 is not in the archive; it has x:1, y:1"):
        read(both, "z:1")


@pytest.mark.parametrize("named", [True, False])
def test_two_images_of_a_layout_are_not_taken_for_platforms_of_one(named: bool) -> None:
    made = Layout()
    for number in (b"1", b"2"):
        made.add(made.image("linux/amd64", number), ref=f"1.{number.decode()}" if named else "")
    with pytest.raises(AnsibleError, match=r"holds 2 images \((1.1, 1.2|images without names)\): say which one"):
        read(made.whole())
    if named:
        assert read(made.whole(), "train:1.2")[0][0].layers[0].diff_id == digest(b"2")


def test_two_images_that_differ_in_their_configuration_alone_are_told_apart() -> None:
    one, other = docker_archive("x:1"), docker_archive("y:1", variant="v3", platform="linux/amd64/v3")
    entries = [*json.loads(one["manifest.json"]), *json.loads(other["manifest.json"])]
    both = {**one, **other, "manifest.json": dumped(entries)}
    for name, files in (("x:1", one), ("y:1", other)):
        assert read(both, name) == read(files)


def test_a_layer_of_a_layout_that_is_not_named_by_its_digest_is_damage() -> None:
    files = layout("linux/amd64", name="docker.io/library/train:1")
    (path,) = (path for path, content in files.items() if gzip_of(content) == b"base")
    with pytest.raises(AnsibleError, match="layer 1 of 2 does not have the digest"):
        read({**files, path: gzip.compress(b"base", compresslevel=1, mtime=1)})


def test_an_archive_of_ours_is_read_back_in_both_kinds() -> None:
    for containerd in (False, True):
        layers = {
            image_archive.layer_path(layer, containerd): data
            for layer, data in zip(ABC.layers, (b"a", b"b", b"c"), strict=True)
        }
        files = {**layers, **dict(image_archive.last_files(ABC, ["team/x:1"], containerd))}
        assert read(files) == ((ABC,), ["team/x:1"])


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_containerd_is_told_how_a_layer_of_an_old_archive_is_packed(form: str) -> None:
    files = docker_archive("train:1", layers=[b"a"], packed=True)
    told = {path: blob._replace(form=form if blob.form == "gzip" else "none") for path, blob in blobs_of(files).items()}
    (one,), _ = image_archive.images_in(files, told)
    (layer,) = json.loads(image_archive.manifest_of(one))["layers"]
    assert layer["mediaType"] == f"application/vnd.oci.image.layer.v1.tar+{form}"


def test_a_layer_that_is_not_what_the_image_says_is_damage() -> None:
    files = docker_archive("x:1", layers=[b"a", b"b", b"c"])
    path = next(iter(files))
    with pytest.raises(AnsibleError, match="layer 1 of 3 does not have the digest"):
        read({**files, path: b"z"})
    with pytest.raises(AnsibleError, match="layer 1 of 3 is not in it"):
        read({key: value for key, value in files.items() if key != path})


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"manifest.json": b"["},
        {"manifest.json": b"{}"},
        {"manifest.json": b"[]"},
        {"manifest.json": b"[1]"},
        {"manifest.json": b'[{"Config": "c"}]'},
        {"manifest.json": b'[{"Config": "c", "Layers": []}]', "c": b"no JSON"},
        {"manifest.json": b'[{"Config": "c", "Layers": 5}]', "c": b'{"rootfs": {"diff_ids": []}}'},
        {"index.json": b"[]", "oci-layout": b"{}"},
        {"index.json": b'{"manifests": [{"digest": "sha256:00"}]}', "oci-layout": b"{}"},
        {"index.json": b'{"manifests": [5, {}]}', "oci-layout": b"{}"},
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(files: Files) -> None:
    with pytest.raises(AnsibleError, match=r"not an archive of an image|damaged"):
        image_archive.images_in(files, {})


# ---- what a host has already


def test_a_host_has_an_image_whichever_manifest_or_index_names_it() -> None:
    by_id = Held(False, {ABC.id: (["x:1"], IDS)})
    by_index = Held(True, {"sha256:index": (["x:1", "x:2"], IDS)}, frozenset(), {"sha256:index": ["sha256:0", ABC.id]})
    for host in (by_id, by_index):
        assert host.has(ABC, "x:1")
        assert not host.has(ABC, "y:1")
        assert not host.has(image(b"z"), "x:1")
    assert not Held(True, {"sha256:index": (["x:1"], IDS)}, None).has(ABC, "x:1")


def test_a_manifest_is_kept_where_layers_are_packed_so_that_containerd_shows_the_same_id() -> None:
    layers = [Layer(digest(b"a"), digest(b"packed"), 6, "t")]
    manifest = json.dumps({"layers": [{"digest": digest(b"packed"), "size": 6, "mediaType": "t"}]}).encode()
    assert image_archive.with_manifest(ABC.config, layers, manifest).shown_as(True) == digest(manifest)
    assert image_archive.with_manifest(ABC.config, ABC.layers, manifest).manifest is None
