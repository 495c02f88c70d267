"""What hosts are sent of a bundle."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.bundle import errors, sending

PLACE = "sources/docker_ce/trixie/amd64"
FILES = {
    f"{PLACE}/dists/trixie/InRelease": b"Suite: trixie\nValid-Until: Thu, 02 Jan 2020 00:00:00 UTC\n",
    f"{PLACE}/key.gpg": b"key",
    f"{PLACE}/pool/docker-ce_29.7.2-1~debian.13~trixie_amd64.deb": bytes(range(256)) * 2,
    f"{PLACE}/pool/{'long' * 40}_1_amd64.deb": b"",
    "images/hello-world=latest_amd64.tar": b"x" * 513,
}


@pytest.fixture
def bundle(tmp_path: Path) -> sending.Bundle:
    for path, data in FILES.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(data)
    listed = {path: (hashlib.sha256(data).hexdigest(), len(data)) for path, data in FILES.items()}
    return sending.Bundle(tmp_path, listed, [], {})


def archive(bundle: sending.Bundle) -> bytes:
    return b"".join(sending._archive(bundle, FILES, iter)) + bytes(1024)


def test_a_stream_of_files_is_what_tar_reads(bundle: sending.Bundle) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(bundle))) as found:
        members = {one.name: (one.mode, found.extractfile(one)) for one in found}
        assert {name: file.read() for name, (_mode, file) in members.items() if file} == FILES
        assert {mode for mode, _file in members.values()} == {0o644}


@pytest.mark.parametrize("data", [b"", b"shorter", b"longer" * 100])
def test_a_file_that_changes_while_it_is_sent_ends_the_stream(data: bytes, bundle: sending.Bundle) -> None:
    (bundle.directory / PLACE / "pool/docker-ce_29.7.2-1~debian.13~trixie_amd64.deb").write_bytes(data)
    with pytest.raises(errors.BundleError, match="changed while it was sent"):
        archive(bundle)


def test_the_indexes_are_all_but_packages_and_images(bundle: sending.Bundle) -> None:
    assert bundle.indexes == [f"{PLACE}/dists/trixie/InRelease", f"{PLACE}/key.gpg"]


def test_an_index_that_is_out_of_date_is_said(bundle: sending.Bundle) -> None:
    (said,) = sending.expired(bundle)
    assert said.startswith(f"{PLACE}/dists/trixie/InRelease in the bundle was valid until Thu, 02 Jan 2020")
    release = bundle.directory / PLACE / "dists/trixie/InRelease"
    for line in (b"Valid-Until: Sat, 02 Jan 2100 00:00:00 UTC\n", b""):
        release.write_bytes(b"Suite: trixie\n" + line)
        assert sending.expired(bundle) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda file: file.write_bytes(b"kex"), "is not as it was made: see gpuprov bundle --verify"),
        (lambda file: file.write_bytes(b"key and more"), "is not as it was made: see gpuprov bundle --verify"),
        (lambda file: file.unlink(), "cannot be read: No such file or directory"),
    ],
)
def test_a_wrong_file_is_named_before_it_is_sent(spoil, said: str, bundle: sending.Bundle) -> None:  # type: ignore[no-untyped-def]
    sending._check(bundle, bundle.indexes)
    spoil(bundle.directory / PLACE / "key.gpg")
    with pytest.raises(errors.BundleError, match=said):
        sending._check(bundle, bundle.indexes)
