# SPDX-License-Identifier: MIT
"""OpenPGP keyrings, as far as trusting one takes: certificates and their fingerprints.

Hosts need no gpg for it. Python 2.7 syntax. Formats: RFC 4880 and RFC 9580.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import base64
import binascii
import hashlib
import re
import struct

_ARMOR = re.compile(
    br"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\r\n]+\r?\n)*?\r?\n(.*?)-----END PGP PUBLIC KEY BLOCK-----", re.S
)
_PUBLIC_KEY = 6


class KeyringError(ValueError):
    """The data is no OpenPGP keyring."""


def dearmor(data):
    """Return the binary form of a keyring given as bytes, armored (any number of blocks) or binary.

    Raises KeyringError for anything else, an HTML page for one.
    """
    if b"-----BEGIN PGP" not in data:
        if not data or not bytearray(data)[0] & 0x80:
            raise KeyringError("it is no OpenPGP key")
        return data
    result = b""
    for body in _ARMOR.findall(data):
        lines = [line.strip() for line in body.splitlines()]
        text = b"".join(line for line in lines if line and not line.startswith(b"="))
        try:
            result += base64.b64decode(text)
        except (binascii.Error, TypeError):
            raise KeyringError("its armor is damaged")
    if not result:
        raise KeyringError("its armor is damaged")
    return result


def _packets(data):
    """Yield (tag, start, body, end) for each packet."""
    data = bytearray(data)
    place = 0
    while place < len(data):
        start, head = place, data[place]
        if not head & 0x80:
            raise KeyringError("it is no OpenPGP key")
        place += 1
        try:
            if head & 0x40:
                tag, first = head & 0x3F, data[place]
                place += 1
                if first < 192:
                    length = first
                elif first < 224:
                    length = ((first - 192) << 8) + data[place] + 192
                    place += 1
                elif first == 255:
                    length = struct.unpack(">I", bytes(data[place : place + 4]))[0]
                    place += 4
                else:
                    raise KeyringError("it has packets of partial length")
            else:
                tag, kind = (head >> 2) & 0x0F, head & 3
                if kind == 3:
                    raise KeyringError("it has packets of unknown length")
                size = (1, 2, 4)[kind]
                length = 0
                for byte in data[place : place + size]:
                    length = length << 8 | byte
                place += size
        except (IndexError, struct.error):
            raise KeyringError("it is cut off")
        if place + length > len(data):
            raise KeyringError("it is cut off")
        yield tag, start, bytes(data[place : place + length]), place + length
        place += length


def certificates(data):
    """Return [(fingerprint, bytes)] of a binary keyring, one for each primary key.

    The fingerprint is in upper-case hexadecimal: 40 digits for version 4, 64 for 5 and 6.
    """
    found = []
    for tag, start, body, _end in _packets(data):
        if tag == _PUBLIC_KEY:
            found.append((_fingerprint(body), start))
    if not found:
        raise KeyringError("it holds no public key")
    ends = [start for _fingerprint_, start in found[1:]] + [len(data)]
    return [(fingerprint, data[start:end]) for (fingerprint, start), end in zip(found, ends)]


def _fingerprint(body):
    version = bytearray(body)[:1]
    if version == bytearray([4]):
        return hashlib.sha1(b"\x99" + struct.pack(">H", len(body)) + body).hexdigest().upper()
    if version in (bytearray([5]), bytearray([6])):
        head = b"\x9a" if version == bytearray([5]) else b"\x9b"
        return hashlib.sha256(head + struct.pack(">I", len(body)) + body).hexdigest().upper()
    raise KeyringError("its key is of an unknown version")


def normal(fingerprint):
    """Return a fingerprint as certificates() writes it: without spaces, in upper case."""
    return fingerprint.replace(" ", "").upper()


def only(data, fingerprint):
    """Return the certificates with a fingerprint, of a keyring in any form, as one binary keyring.

    Raises KeyringError where there is none, naming those that there are.
    """
    wanted = normal(fingerprint)
    have = certificates(dearmor(data))
    trusted = [certificate for name, certificate in have if name == wanted]
    if not trusted:
        raise KeyringError(
            "it has the fingerprint %s, expected %s" % (" and ".join(name for name, _certificate in have), wanted)
        )
    return trusted[0]
