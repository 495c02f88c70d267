# SPDX-License-Identifier: MIT
"""Parse OpenPGP keyrings: certificates and their fingerprints.

Hosts need no gpg for it. Python 2.7 syntax. Formats: RFC 4880 and RFC 9580.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import base64
import binascii
import hashlib
import struct

_BEGIN = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"
_END = b"-----END PGP PUBLIC KEY BLOCK-----"
_BEGIN_SIGNATURE = b"-----BEGIN PGP SIGNATURE-----"
_END_SIGNATURE = b"-----END PGP SIGNATURE-----"
_SIGNATURE = 2
_PUBLIC_KEY = 6
_PUBLIC_SUBKEY = 14
# Subpackets of a signature: RFC 9580, 5.2.3.12 and 5.2.3.35.
_ISSUER = 16
_ISSUER_FINGERPRINT = 33
_HTML = (b"<!doctype", b"<html", b"<?xml")


class KeyringError(ValueError):
    """The data is not an OpenPGP keyring, or not the one that is trusted; the message is for people."""


def dearmor(data):
    """Return the binary form of a keyring given as bytes, armored (any number of blocks) or binary.

    Raises KeyringError for anything else, an HTML page for one.
    """
    if _BEGIN not in data:
        if bytearray(data[:1]) < bytearray([0x80]):
            page = data.lstrip()[:9].lower().startswith(_HTML)
            raise KeyringError("it is a web page, not an OpenPGP key" if page else "it is not an OpenPGP key")
        return data
    return _blocks(data, _BEGIN, _END)


def _blocks(data, begin, end):
    """Return the bytes of all armored blocks between such lines."""
    result, block = b"", None
    for line in data.splitlines():
        line = line.strip()
        if line == begin:
            block = []
        elif line == end:
            if block is None:
                raise KeyringError("its armor is damaged")
            result += _unpacked(block)
            block = None
        elif block is not None:
            block.append(line)
    if block is not None:
        raise KeyringError("it is cut off")
    return result


def _unpacked(lines):
    """Return the bytes of one block: headers, an empty line, base64, and perhaps a checksum."""
    if b"" not in lines:
        raise KeyringError("its armor is damaged")
    body = [line for line in lines[lines.index(b"") + 1 :] if line]
    checksum = body.pop()[1:] if body and body[-1].startswith(b"=") and len(body[-1]) == 5 else None
    try:
        data = base64.b64decode(b"".join(body))
        right = checksum is None or base64.b64decode(checksum) == struct.pack(">I", _crc24(data))[1:]
    except (binascii.Error, TypeError):
        right = False
    if not right:
        raise KeyringError("its armor is damaged")
    return data


def _crc24(data):
    # RFC 4880, 6.1
    crc = 0xB704CE
    for byte in bytearray(data):
        crc ^= byte << 16
        for _bit in range(8):
            crc <<= 1
            if crc & 0x1000000:
                crc ^= 0x1864CFB
    return crc


def _packets(data):
    """Yield (tag, where the packet starts, where its body starts, where it ends) for each packet."""
    octets = bytearray(data)
    place = 0
    while place < len(octets):
        start, head = place, octets[place]
        if not head & 0x80:
            raise KeyringError("it is not an OpenPGP key")
        place += 1
        first = octets[place] if place < len(octets) else 0
        if head & 0x40:
            tag = head & 0x3F
            if 224 <= first < 255:
                raise KeyringError("it has packets of partial length")
            size = 1 if first < 192 else 2 if first < 224 else 5
        else:
            tag = (head >> 2) & 0x0F
            if head & 3 == 3:
                raise KeyringError("it has packets of unknown length")
            size = (1, 2, 4)[head & 3]
        length = _number(octets[place : place + size])
        if head & 0x40 and size == 2:
            length = length - (192 << 8) + 192
        elif head & 0x40 and size == 5:
            length &= 0xFFFFFFFF
        place += size
        if place + length > len(octets):
            raise KeyringError("it is cut off")
        yield tag, start, place, place + length
        place += length


def _number(octets):
    result = 0
    for octet in octets:
        result = result << 8 | octet
    return result


def certificates(data):
    """Return [(fingerprint, bytes)] of a binary keyring, one for each primary key.

    The fingerprint is in upper-case hexadecimal: 40 digits for version 4, 64 for 5 and 6; for
    another version it is empty. Raises KeyringError where the data is not a keyring.
    """
    found = [(_fingerprint(data[body:end]), start) for tag, start, body, end in _packets(data) if tag == _PUBLIC_KEY]
    if not found or found[0][1] != 0:
        raise KeyringError("it holds no public key")
    ends = [start for _name, start in found[1:]] + [len(data)]
    return [(name, data[start:end]) for (name, start), end in zip(found, ends)]


def signers(signed, keyrings):
    """Return the fingerprints of the primary keys of keyrings (bytes) that made the signatures in signed (bytes).

    In the order of the signatures; those of unknown keys are left out. Verifies nothing: apt did. Raises KeyringError.
    """
    primary = {}
    for data in keyrings:
        for name, certificate in certificates(dearmor(data)):
            for tag, _start, body, end in _packets(certificate):
                if tag in (_PUBLIC_KEY, _PUBLIC_SUBKEY):
                    own = _fingerprint(certificate[body:end])
                    # The ID of a key is at the end of a fingerprint of version 4, and at the start of newer ones.
                    primary[own] = primary[own[-16:] if len(own) == 40 else own[:16]] = name
    found = []
    signatures = _blocks(signed, _BEGIN_SIGNATURE, _END_SIGNATURE) if _BEGIN_SIGNATURE in signed else signed
    for tag, _start, body, end in _packets(signatures):
        if tag == _SIGNATURE:
            names = [primary[issuer] for issuer in _issuers(signatures[body:end]) if issuer in primary]
            found += [name for name in names[:1] if name not in found]
    return found


def _issuers(body):
    """Return the fingerprints and IDs by which a signature names its key."""
    octets = bytearray(body)
    if octets[0] == 3:
        return [_hexadecimal(octets[7:15])]
    size = 4 if octets[0] == 6 else 2
    found, place = [], 4
    # The subpackets that are signed, and those that are not.
    for _part in range(2):
        length = _number(octets[place : place + size])
        place, behind = place + size, place + size + length
        while place < behind:
            first = octets[place]
            width = 1 if first < 192 else 2 if first < 255 else 5
            length = first if width == 1 else _number(octets[place : place + 2]) - (192 << 8) + 192
            length = _number(octets[place + 1 : place + 5]) if width == 5 else length
            kind, value = octets[place + width] & 0x7F, octets[place + width + 1 : place + width + length]
            if kind == _ISSUER_FINGERPRINT:
                found.insert(0, _hexadecimal(value[1:]))
            elif kind == _ISSUER:
                found.append(_hexadecimal(value))
            place += width + length
    return found


def _hexadecimal(octets):
    return binascii.hexlify(bytes(octets)).decode("ascii").upper()


def _fingerprint(body):
    version = _number(bytearray(body[:1]))
    if version == 4:
        return hashlib.sha1(b"\x99" + struct.pack(">I", len(body))[2:] + body).hexdigest().upper()
    if version in (5, 6):
        head = b"\x9a" if version == 5 else b"\x9b"
        return hashlib.sha256(head + struct.pack(">I", len(body)) + body).hexdigest().upper()
    return ""


def normal(fingerprint):
    """Return a fingerprint as certificates() writes it: without spaces, in upper case."""
    return "".join(fingerprint.split()).upper()


def only(data, fingerprint):
    """Return the certificate with a fingerprint, of a keyring in any form, as a binary keyring.

    Raises KeyringError where there is none, naming those that there are.
    """
    wanted = normal(fingerprint)
    have = certificates(dearmor(data))
    for name, certificate in have:
        if wanted and name == wanted:
            return certificate
    raise KeyringError(
        "it has the fingerprint %s, expected %s"
        % (", ".join(name or "of an unknown kind" for name, _certificate in have), wanted)
    )
