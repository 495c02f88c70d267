"""Packed data are the same after unpacking, and damage is noticed."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import packing

FORMS = ("none", "gzip", "zstd", "bzip2")
DATA = [os.urandom(300_000), bytes(3_000_000), b"words " * 200_000, b"x"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("level", [1, 6])
def test_what_is_packed_comes_out_as_it_went_in(form: str, level: int) -> None:
    packed = b"".join(packing.packed(form, iter(DATA), level))
    assert packing.form_of(packed) == form
    pieces = (packed[start : start + 77_777] for start in range(0, len(packed), 77_777))
    assert b"".join(packing.unpacked(form, pieces)) == b"".join(DATA)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_packed_and_unpacked_too(form: str) -> None:
    packed = b"".join(packing.packed(form, iter(())))
    assert b"".join(packing.unpacked(form, [packed])) == b""


@pytest.mark.parametrize("form", ["gzip", "zstd", "bzip2"])
def test_damage_is_noticed(form: str) -> None:
    packed = b"".join(packing.packed(form, [b"words " * 100_000], 6))
    wrong = bytearray(packed)
    wrong[len(packed) // 2] ^= 0x55
    for broken in (packed[:-5], packed[: len(packed) // 2], bytes(wrong)):
        with pytest.raises(AnsibleError, match="damaged"):
            b"".join(packing.unpacked(form, [broken]))


def test_a_file_may_have_zeros_after_its_end_as_tapes_have() -> None:
    assert b"".join(packing.unpacked("gzip", [gzip.compress(b"x"), bytes(1024)])) == b"x"


def test_an_error_of_whoever_gives_the_data_is_not_lost() -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield b"x"
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(packing.packed("zstd", broken()))


def test_a_program_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not packing.has_zstd()
    with pytest.raises(AnsibleError, match="install zstd"):
        list(packing.packed("zstd", [b"x"]))


@pytest.mark.parametrize(
    ("option", "here", "there", "form"),
    [
        ("auto", True, True, "zstd"), ("auto", True, False, "none"), ("auto", False, True, "none"),
        ("gzip", True, True, "gzip"), ("gzip", False, False, "gzip"), ("none", True, True, "none"),
    ],
)  # fmt: skip
def test_the_form_depends_on_the_option_and_on_who_has_zstd(
    option: str, here: bool, there: bool, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "has_zstd", lambda: here)
    assert packing.wire_form(option, there) == form


@pytest.mark.parametrize(
    ("name", "form"),
    [("x.tar", "none"), ("x.1.tar.gz", "gzip"), ("x.tgz", "gzip"), ("x.tar.zst", "zstd"), ("x.tar.bz2", "bzip2")],
)
def test_a_file_s_name_says_how_it_is_packed(name: str, form: str) -> None:
    assert packing.form_by_name(Path(name)) == form


def test_a_file_that_cannot_be_written_in_the_form_of_its_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "has_zstd", lambda: False)
    for name, said in (("x.zip", "x.zip must end in .tar, "), ("tar", "tar must end"), ("x.tar.zst", "install zstd")):
        with pytest.raises(AnsibleError, match=said):
            packing.form_by_name(Path(name))
