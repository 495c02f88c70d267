"""What of an image travels, and the archives in which it does."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import image_archive
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.image_archive import ArchiveError, Held, Image, Layer

MIB = 1 << 20


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def image(*contents: bytes, **more: Any) -> Image:
    """An image whose layers have these contents."""
    layers = tuple(Layer(digest(content), digest(content), len(content)) for content in contents)
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": [one.diff_id for one in layers]}, **more}
    return Image(json.dumps(config).encode(), layers)


def sizes(layers: Iterable[Layer]) -> dict[str, int]:
    """Each layer has one byte."""
    return {layer.digest: 1 for layer in layers}


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


def test_big_layers_are_loaded_by_themselves_and_small_ones_go_along() -> None:
    one = image(*(bytes([number]) for number in range(6)))
    size = {layer.digest: MIB * mib for layer, mib in zip(one.layers, (1, 8, 1, 1, 9, 0), strict=True)}
    found = image_archive.parts(one, one.layers, size)
    assert [(count, [one.layers.index(layer) for layer in new]) for count, new in found] == [
        (2, [0, 1]),
        (6, [2, 3, 4, 5]),
    ]


def test_the_last_part_completes_the_image_even_where_nothing_is_missing() -> None:
    size = {layer.digest: 9 * MIB for layer in ABC.layers}
    assert image_archive.parts(ABC, [], size) == [(3, [])]
    assert image_archive.parts(ABC, ABC.layers[:1], size) == [(3, [ABC.layers[0]])]
    assert image_archive.parts(ABC, ABC.layers[:2], size) == [(1, [ABC.layers[0]]), (3, [ABC.layers[1]])]


def test_a_layer_that_an_image_has_twice_travels_once() -> None:
    twice = image(b"a", b"b", b"a")
    assert image_archive.lacking(twice, held(blobs=set(), containerd=True)) == twice.layers[:2]
    files = dict(image_archive.members(twice, 3, twice.layers, ["x:1"], False, sizes))
    assert sum(isinstance(content, Layer) for content in files.values()) == 2


def test_an_archive_for_dockerd_names_layers_that_are_not_in_it_and_its_list_comes_last() -> None:
    files = list(image_archive.members(ABC, 3, ABC.layers[2:], ["x:1", "y:2"], False, sizes))
    assert [path for path, _ in files][-1] == "manifest.json"
    entry = json.loads(files[-1][1])[0]  # type: ignore[arg-type]
    assert entry["RepoTags"] == ["x:1", "y:2"]
    assert len(entry["Layers"]) == 3
    assert [path for path, content in files if isinstance(content, Layer)] == entry["Layers"][2:]
    assert dict(files)[entry["Config"]] == ABC.config


def test_a_beginning_is_the_same_image_whoever_makes_it_and_none_of_the_whole_one_s() -> None:
    other = image(b"a", b"b", b"z", config={"Cmd": ["x"]})
    beginnings = []
    for one in (ABC, other):
        listed = dict(image_archive.members(one, 2, one.layers[:2], ["p:1"], False, sizes))["manifest.json"]
        assert isinstance(listed, bytes)
        beginnings.append(json.loads(listed))
    assert beginnings[0] == beginnings[1]


def test_an_archive_for_containerd_is_a_layout_whose_digests_fit() -> None:
    files = dict(image_archive.members(ABC, 3, ABC.layers[:1], ["registry:5000/x:1"], True, sizes))
    index = json.loads(files["index.json"])  # type: ignore[arg-type]
    (entry,) = index["manifests"]
    assert entry["annotations"]["io.containerd.image.name"] == "registry:5000/x:1"
    manifest = files[image_archive.blob_path(entry["digest"])]
    assert isinstance(manifest, bytes)
    assert (digest(manifest), len(manifest)) == (entry["digest"], entry["size"])
    assert [one["digest"] for one in json.loads(manifest)["layers"]] == IDS
    assert image_archive.id_on(ABC, True, sizes(ABC.layers)) == entry["digest"]
    assert image_archive.id_on(ABC, False, {}) == digest(ABC.config)


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


def files_of(one: Image, names: list[str]) -> tuple[dict[str, bytes], dict[str, tuple[str, str, int]]]:
    files, digests = {}, {}
    for path, content in image_archive.members(one, len(one.layers), one.layers, names, False, sizes):
        if isinstance(content, Layer):
            digests[path] = (content.digest, content.diff_id, content.size or 0)
        else:
            files[path] = content
    return files, digests


def test_an_archive_of_ours_is_read_back() -> None:
    files, digests = files_of(ABC, ["x:1"])
    found, names = image_archive.image_in(files, digests)
    assert (found.config, found.layers, names) == (ABC.config, ABC.layers, ["x:1"])


def test_one_of_several_images_is_chosen_by_name() -> None:
    files, digests = files_of(ABC, ["x:1"])
    more, other = files_of(image(b"a"), ["y:1"])
    entries = json.loads(files["manifest.json"]) + json.loads(more["manifest.json"])
    both = {**files, **more, "manifest.json": json.dumps(entries).encode()}
    found, _ = image_archive.image_in(both, {**digests, **other}, "y:1")
    assert len(found.layers) == 1
    with pytest.raises(ArchiveError, match=r"holds 2 images \(x:1, y:1\)"):
        image_archive.image_in(both, {**digests, **other})
    with pytest.raises(ArchiveError, match=r"z:1 is not in the archive; it has x:1, y:1"):
        image_archive.image_in(both, {**digests, **other}, "z:1")


def test_a_layer_that_is_not_what_the_image_says_is_damage() -> None:
    files, digests = files_of(ABC, ["x:1"])
    path = next(iter(digests))
    with pytest.raises(ArchiveError, match="layer 1 of 3 has not the digest"):
        image_archive.image_in(files, {**digests, path: (digest(b"z"), digest(b"z"), 1)})
    with pytest.raises(ArchiveError, match="layer 1 of 3 is not in it"):
        image_archive.image_in(files, {key: value for key, value in digests.items() if key != path})


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
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(files: dict[str, bytes]) -> None:
    with pytest.raises(ArchiveError, match=r"no archive of an image|damaged"):
        image_archive.image_in(files, {})


def test_a_layout_without_a_list_for_docker_is_an_image_too_and_what_a_build_attests_is_none() -> None:
    files, digests = {}, {}
    for path, content in image_archive.members(ABC, 3, ABC.layers, ["team/x:1"], True, sizes):
        if isinstance(content, Layer):
            digests[path] = (content.digest, content.diff_id, 1)
        else:
            files[path] = content
    index = json.loads(files["index.json"])
    index["manifests"].append({**index["manifests"][0], "platform": {"os": "unknown", "architecture": "unknown"}})
    files["index.json"] = json.dumps(index).encode()
    found, names = image_archive.image_in(files, digests)
    assert (found.id, names) == (ABC.id, ["team/x:1"])


def test_a_manifest_is_kept_where_layers_are_packed_so_that_containerd_shows_the_same_id() -> None:
    layers = [Layer(digest(b"a"), digest(b"packed"))]
    manifest = json.dumps({"layers": [{"digest": digest(b"packed"), "size": 6, "mediaType": "t"}]}).encode()
    kept = image_archive.with_manifest(ABC.config, layers, manifest)
    assert (kept.manifest, kept.layers[0].size, kept.layers[0].type) == (manifest, 6, "t")
    assert image_archive.with_manifest(ABC.config, ABC.layers, manifest).manifest is None


def test_headers_and_padding_make_an_archive_that_tar_reads() -> None:
    content = b"x" * 700
    data = image_archive.header("blobs/sha256/x", 700) + content + image_archive.padding(700) + image_archive.END
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile("blobs/sha256/x")
        assert file is not None
        assert file.read() == content


def test_a_layer_may_be_larger_than_the_8_gib_that_a_plain_header_can_name() -> None:
    with tarfile.open(fileobj=io.BytesIO(image_archive.header("x", 20 << 30)), mode="r|") as archive:
        entry = archive.next()
        assert entry is not None
        assert entry.size == 20 << 30
