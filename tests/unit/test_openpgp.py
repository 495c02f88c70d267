"""OpenPGP keyrings, read without gpg."""

from __future__ import annotations

import base64
import hashlib

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import openpgp
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt.openpgp import KeyringError

from tests.text import replaced

# Made for this test, and its private half thrown away; the fingerprint is what gpg 2.2.40 says.
FINGERPRINT = "7A1AC230DC5F9ACD13CBABE42AB0EEF01E871EB8"
BODY = """\
mDMEawTt8xYJKwYBBAHaRw8BAQdAPj9kSWGAFD6W1+DWtYdrH8Wrz/XSTs8BgHzh
zRiDoXu0B3ggPHhAeD6IkAQTFggAOBYhBHoawjDcX5rNE8ur5Cqw7vAehx64BQJr
BO3zAhsDBQsJCAcCBhUKCQgLAgQWAgMBAh4BAheAAAoJECqw7vAehx64QQsA/RIp
q1ziSHmvzWAbJnbhr2WVV879HdfMebNNmAG2si54AQD2+/Vb6CxpWv0kbgsMvvTe
ekh1HB26d2o4VBffyBMGAQ==
"""
KEY = base64.b64decode(BODY)
BEGIN = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n"
END = "-----END PGP PUBLIC KEY BLOCK-----\n"
ARMORED = f"{BEGIN}\n{BODY}=zkzI\n{END}"
OLD_HEADS = {1: b"\x98", 2: b"\x99", 4: b"\x9a"}


def key_packet(body: bytes, octets: int = 2) -> bytes:
    """A public-key packet in the old format, its length in that many octets."""
    return OLD_HEADS[octets] + len(body).to_bytes(octets, "big") + body


def new_packet(tag: int, body: bytes) -> bytes:
    """A packet in the new format; lengths as RFC 9580, 4.2.1 has them."""
    size = len(body)
    if size < 192:
        return bytes([0xC0 | tag, size]) + body
    if size < 8384:
        return bytes([0xC0 | tag, ((size - 192) >> 8) + 192, (size - 192) & 0xFF]) + body
    return bytes([0xC0 | tag, 0xFF]) + size.to_bytes(4, "big") + body


def version4(body: bytes) -> str:
    return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body).hexdigest().upper()


@pytest.mark.parametrize(
    "text",
    [
        ARMORED,
        replaced(ARMORED, "\n", "\r\n"),
        replaced(ARMORED, "\n", " \n  "),
        replaced(ARMORED, "=zkzI\n", ""),
        f"Says who?\n\n{ARMORED}\nthe end\n",
        replaced(ARMORED, BEGIN, f"{BEGIN}Version: GnuPG v1\nComment: a b\n"),
    ],
)
def test_armor_is_taken_off(text: str) -> None:
    assert openpgp.dearmor(text.encode()) == KEY


def test_a_binary_keyring_is_left_as_it_is_and_blocks_are_joined() -> None:
    assert openpgp.dearmor(KEY) == KEY
    assert openpgp.dearmor((ARMORED + ARMORED).encode()) == KEY + KEY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is not an OpenPGP key"),
        ("404 page not found\n", "it is not an OpenPGP key"),
        ("\n <!DOCTYPE html><html>", "it is a web page, not an OpenPGP key"),
        ("<HTML><body>log in</body>", "it is a web page, not an OpenPGP key"),
        ("<?xml version='1.0'?><Error/>", "it is a web page, not an OpenPGP key"),
        (replaced(ARMORED, END, ""), "it is cut off"),
        (ARMORED[:200], "it is cut off"),
        (replaced(ARMORED, "=zkzI", "=zkzJ"), "its armor is damaged"),
        (replaced(ARMORED, "mDME", "mDMF"), "its armor is damaged"),
        (replaced(ARMORED, "AQ==\n=zkzI", "AQ"), "its armor is damaged"),
        (f"{BEGIN}{BODY}{END}", "its armor is damaged"),
        (END + ARMORED, "its armor is damaged"),
    ],
)
def test_what_is_no_whole_armored_key_is_refused(text: str, message: str) -> None:
    with pytest.raises(KeyringError) as caught:
        openpgp.dearmor(text.encode())
    assert str(caught.value) == message


def test_a_real_key_has_the_fingerprint_that_gpg_says() -> None:
    assert openpgp.certificates(KEY) == [(FINGERPRINT, KEY)]


def test_each_primary_key_begins_a_certificate_of_its_own() -> None:
    other = b"\x04other"
    second = key_packet(other) + new_packet(13, b"a user") + new_packet(14, b"\x04a subkey")
    assert openpgp.certificates(KEY + second + KEY) == [
        (FINGERPRINT, KEY),
        (version4(other), second),
        (FINGERPRINT, KEY),
    ]


@pytest.mark.parametrize("size", [191, 192, 255, 8383, 8384])
def test_lengths_of_every_form_are_read(size: int) -> None:
    body = b"\x04" + bytes(size - 1)
    octets = 1 if size < 256 else 2
    for packet in (new_packet(6, body), key_packet(body, octets), key_packet(body, 4)):
        assert openpgp.certificates(packet) == [(version4(body), packet)]


@pytest.mark.parametrize(
    ("body", "fingerprint"),
    [
        (b"\x05abc", hashlib.sha256(b"\x9a\x00\x00\x00\x04\x05abc").hexdigest().upper()),
        (b"\x06abc", hashlib.sha256(b"\x9b\x00\x00\x00\x04\x06abc").hexdigest().upper()),
        (b"\x03abc", ""),
        (b"", ""),
    ],
)
def test_a_fingerprint_is_that_of_the_key_s_version(body: bytes, fingerprint: str) -> None:
    assert [name for name, _certificate in openpgp.certificates(key_packet(body))] == [fingerprint]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it holds no public key"),
        (new_packet(13, b"a user"), "it holds no public key"),
        (new_packet(13, b"a user") + KEY, "it holds no public key"),
        (new_packet(5, b"\x04secret"), "it holds no public key"),
        (KEY[:-1], "it is cut off"),
        (KEY[:1], "it is cut off"),
        (KEY + b"\x99", "it is cut off"),
        (KEY + b"\n", "it is not an OpenPGP key"),
        (ARMORED.encode(), "it is not an OpenPGP key"),
        (b"\x9b" + KEY, "it has packets of unknown length"),
        (b"\xc6\xe1" + KEY, "it has packets of partial length"),
    ],
)
def test_what_is_no_whole_binary_keyring_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(KeyringError) as caught:
        openpgp.certificates(data)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "wanted", [FINGERPRINT, FINGERPRINT.lower(), "7A1A C230 DC5F 9ACD 13CB  ABE4 2AB0 EEF0 1E87 1EB8"]
)
def test_a_fingerprint_may_be_written_as_people_do(wanted: str) -> None:
    assert openpgp.normal(wanted) == FINGERPRINT
    assert openpgp.only(ARMORED.encode(), wanted) == KEY


def test_only_the_trusted_certificate_is_kept_wherever_it_lies() -> None:
    other = key_packet(b"\x04other")
    assert openpgp.only(other + KEY, FINGERPRINT) == KEY
    assert openpgp.only(KEY + other, FINGERPRINT) == KEY


def test_another_key_is_refused_by_the_fingerprints_that_there_are() -> None:
    with pytest.raises(KeyringError) as caught:
        openpgp.only(KEY + key_packet(b"\x03old"), "ab" * 20)
    assert str(caught.value) == f"it has the fingerprint {FINGERPRINT}, of an unknown kind, expected {'AB' * 20}"


@pytest.mark.parametrize("wanted", ["", FINGERPRINT[-16:], FINGERPRINT[:-1]])
def test_a_part_of_a_fingerprint_is_not_enough(wanted: str) -> None:
    with pytest.raises(KeyringError, match="it has the fingerprint"):
        openpgp.only(KEY + key_packet(b"\x03old"), wanted)


def signature(*subpackets: bytes, version: int = 4) -> bytes:
    """A signature packet whose subpackets that are not signed are these, and that has none that are."""
    data = b"".join(bytes([len(one)]) + one for one in subpackets)
    size = 4 if version == 6 else 2
    body = bytes([version, 1, 22, 8]) + bytes(size) + len(data).to_bytes(size, "big") + data + b"\0\0"
    return new_packet(2, body)


SUBKEY = b"\4" + bytes(50)
BY_FINGERPRINT = b"\x21\4" + bytes.fromhex(FINGERPRINT)
BY_ID = b"\x10" + bytes.fromhex(FINGERPRINT[-16:])


@pytest.mark.parametrize(
    ("signed", "found"),
    [
        (KEY, [FINGERPRINT]),  # its own signature of itself
        (signature(BY_FINGERPRINT), [FINGERPRINT]),
        (signature(b"\x02time", BY_ID), [FINGERPRINT]),
        (signature(BY_ID, version=6), [FINGERPRINT]),
        (signature(b"\x10" + bytes.fromhex(version4(SUBKEY)[-16:])), [FINGERPRINT]),
        (new_packet(2, b"\3\5\0" + b"time" + BY_ID[1:] + b"\1\1"), [FINGERPRINT]),
        (signature(b"\x10" + bytes(8)), []),
        (signature(b"\x10" + bytes(8)) + signature(BY_ID) + signature(BY_FINGERPRINT), [FINGERPRINT]),
    ],
)
def test_the_primary_keys_behind_signatures_are_found(signed: bytes, found: list[str]) -> None:
    keyring = KEY + new_packet(14, SUBKEY)
    assert openpgp.signers(signed, [keyring]) == found
    armored = b"-----BEGIN PGP SIGNATURE-----\n\n" + base64.b64encode(signed) + b"\n-----END PGP SIGNATURE-----\n"
    text = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nOrigin: x\n" + armored
    assert openpgp.signers(text, [keyring]) == found
