# SPDX-License-Identifier: MIT
"""Remove secrets from text before people or logs see it. Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import re

_CREDENTIALS = re.compile(r"(://)[^/@\s\"']+@")
_NAME = r"[\w.-]*(?:password|passwd|passphrase|token|secret|credential|api[_-]?key)[\w.-]*"
_JSON_MEMBER = re.compile(r"(\"%s\"\s*:\s*)\"(?:[^\"\\]|\\.)*\"" % _NAME, re.IGNORECASE)
_SECRET = re.compile(_NAME + r"\Z", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"(\b%s=)[^\s\"',]+" % _NAME, re.IGNORECASE)

_STRINGS = (str, type(b"".decode("ascii")))


def redact(text):
    """Return text with the user information of URLs, and the values of what is named like a secret, as ``***``."""
    text = _CREDENTIALS.sub(r"\1***@", text)
    text = _JSON_MEMBER.sub(r'\1"***"', text)
    return _ASSIGNMENT.sub(r"\1***", text)


def redacted(value):
    """Return a JSON value with every string in it redacted, and without those that are named like a secret."""
    if isinstance(value, dict):
        return {key: "***" if _is_secret(key, inner) else redacted(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [redacted(inner) for inner in value]
    return redact(value) if isinstance(value, _STRINGS) else value


def _is_secret(key, value):
    return isinstance(value, _STRINGS) and isinstance(key, _STRINGS) and _SECRET.match(key)
