# SPDX-License-Identifier: MIT
"""Parse TOML as far as the files of containerd and NVIDIA need it. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import json
import re

_TABLE = re.compile(r"""\s*\[\s*([^\[\]]+?)\s*\]\s*(#.*)?$""")
_VALUE = re.compile(r"""\s*([\w."' -]+?)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)'|([^\s#"'\[{]+))\s*(#.*)?$""")


def values(data):
    """Return {dotted key: string} of the tables, strings and bare values of a TOML text; of other values, nothing.

    Hosts have no TOML parser before Python 3.11. The form: https://toml.io/en/v1.0.0.
    """
    result, table, quotes = {}, "", ""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    for line in text.splitlines():
        marks = [mark for mark in ('"""', "'''") if line.count(mark) % 2]
        if quotes:
            quotes = "" if quotes in marks else quotes
            continue
        if marks and not line.lstrip().startswith("#"):
            quotes = marks[0]
            continue
        match = _TABLE.match(line)
        if match:
            table = _key(match.group(1)) + "."
            continue
        match = re.match(r"""\s*([\w."' -]+?)\s*=\s*\{(.*)\}\s*(#.*)?$""", line)
        if match:
            # An inline table: its members are lines of a table of their own.
            inner = "\n".join(re.findall(r"""(?:[^,"']|"(?:[^"\\]|\\.)*"|'[^']*')+""", match.group(2)))
            result.update((table + _key(match.group(1)) + "." + key, value) for key, value in values(inner).items())
        match = _VALUE.match(line)
        if match:
            basic, literal, bare = match.group(2, 3, 4)
            value = literal if literal is not None else bare
            if basic is not None:
                value = re.sub(r"\\(u[0-9a-fA-F]{4}|.)", _escape, basic)
            result[table + _key(match.group(1))] = value
    return result


def _key(text):
    return ".".join(part.strip().strip("\"'") for part in text.split("."))


def _escape(match):
    code = match.group(1)
    if len(code) > 1:
        return json.loads('"\\%s"' % code)
    return {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}.get(code, code)
