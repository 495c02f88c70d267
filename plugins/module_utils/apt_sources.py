# SPDX-License-Identifier: MIT
"""apt's sources, both kinds of file: find the entries of a URI, take them out, write our own.

Pure functions over texts. Python 2.7 syntax. Formats: sources.list(5).
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import posixpath
import re

MAIN = "/etc/apt/sources.list"
DIRECTORY = "/etc/apt/sources.list.d"
_ONE_LINE = re.compile(r"^[ \t]*(deb|deb-src)[ \t]+(?:\[([^\]]*)\][ \t]*)?(\S+)[ \t]+(\S+)([^#\r]*)")
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(.*)$")
_LISTS = ("types", "suites", "components")
_NO = ("no", "false", "0", "off", "without", "disable")


def path_of(source):
    """Return where our entry of a wanted source lies."""
    ending = "sources" if source["format"] == "deb822" else "list"
    return posixpath.join(DIRECTORY, "%s.%s" % (source["name"], ending))


def normal_uri(uri, architecture):
    """Return a URI in the form in which URIs of one repository are equal.

    apt compares them to the letter; people write http for https, capitals and slashes at the end.
    """
    uri = uri.replace("$(ARCH)", architecture)
    match = _URL.match(uri)
    if not match:
        return uri.rstrip("/")
    scheme, host, path = match.groups()
    scheme, host = scheme.lower(), host.rpartition("@")[2].lower()
    if scheme in ("http", "https"):
        scheme, host = "http", re.sub(r":(80|443)?$", "", host)
    return "%s://%s%s" % (scheme, host, re.sub(r"/+", "/", path).rstrip("/"))


def render(source):
    """Return the text of a wanted source."""
    architectures, components = source["architectures"], list(source["components"])
    if source["format"] == "deb822":
        lines = [
            "Types: deb",
            "URIs: %s" % " ".join(source["uris"]),
            "Suites: %s" % " ".join(source["suites"]),
        ]
        if components:
            lines.append("Components: %s" % " ".join(components))
        if architectures:
            lines.append("Architectures: %s" % " ".join(architectures))
        lines.append("Signed-By: %s" % source["keyring"])
        return "\n".join(lines) + "\n"
    options = ["arch=%s" % ",".join(architectures)] if architectures else []
    options = "[%s]" % " ".join(options + ["signed-by=%s" % source["keyring"]])
    rows = [" ".join(["deb", options, uri, suite] + components) for uri in source["uris"] for suite in source["suites"]]
    return "\n".join(rows) + "\n"


def entries(path, text):
    """Return the entries of a file that apt uses, as [{uris, meaning, span}].

    meaning is comparable: entries of equal meaning are the same to apt. span is (first line, line
    behind the last), counted from 0 over the lines that line feeds part.
    """
    lines = text.split("\n")
    return _stanzas(lines) if path.endswith(".sources") else _lines(lines)


def _lines(lines):
    result = []
    for number, line in enumerate(lines):
        match = _ONE_LINE.match(line)
        if match:
            kind, options, uri, suite, components = match.groups()
            fields = dict(option.partition("=")[::2] for option in (options or "").split())
            fields = {name.lower(): value for name, value in fields.items()}
            meaning = _meaning(
                [[kind], [suite], components.split()],
                fields.pop("arch", "").split(","),
                fields.pop("signed-by", ""),
                fields,
            )
            result.append({"uris": [uri], "meaning": meaning, "span": (number, number + 1)})
    return result


def _stanzas(lines):
    result, first = [], 0
    for number in range(len(lines) + 1):
        if number < len(lines) and lines[number].strip():
            continue
        fields = _fields(lines[first:number])
        if fields.get("uris") and fields.pop("enabled", "yes").lower() not in _NO:
            uris = fields.pop("uris").split()
            meaning = _meaning(
                [fields.pop(name, "").split() for name in _LISTS],
                fields.pop("architectures", "").split(),
                fields.pop("signed-by", ""),
                fields,
            )
            result.append({"uris": uris, "meaning": meaning, "span": (first, number)})
        first = number + 1
    return result


def _fields(lines):
    fields, name = {}, None
    for line in lines:
        if line.startswith("#"):
            continue
        if line[:1] in (" ", "\t") and name:
            fields[name] += "\n" + line.strip()
        elif ":" in line:
            name, _colon, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return {name: value.strip() for name, value in fields.items()}


def _meaning(lists, architectures, signed_by, others):
    # What apt does not look at, or only shows, is no difference.
    others = sorted(item for item in others.items() if not item[0].startswith("x-"))
    architectures = tuple(sorted(name for name in architectures if name))
    return tuple(tuple(items) for items in lists), architectures, signed_by, tuple(others)


def judge(source, files, architecture):
    """Return (right, foreign) of a wanted source among files {path: text}.

    right: our file says what is wanted. foreign: {path: text without them} of the files that have
    entries of the same URIs beside ours.
    """
    ours = path_of(source)
    uris = {normal_uri(uri, architecture) for uri in source["uris"]}
    right = ours in files and (
        files[ours] == render(source)
        or _compared(ours, files[ours], architecture) == _compared(ours, render(source), architecture)
    )
    foreign = {}
    for path, text in files.items():
        if path != ours:
            cleaned = _without(path, text, uris, architecture)
            if cleaned != text:
                foreign[path] = cleaned
    return right, foreign


def _compared(path, text, architecture):
    return sorted(
        (uri.replace("$(ARCH)", architecture).rstrip("/"), entry["meaning"])
        for entry in entries(path, text)
        for uri in entry["uris"]
    )


def rewritten(sources, files, architecture):
    """Return {path: new text, or None for a file to delete} that brings wanted sources about.

    Only files that differ are in it. A file of ours is ours as a whole; of others only the entries
    of our URIs go.
    """
    result = dict(files)
    for source in sources:
        right, foreign = judge(source, result, architecture)
        for path, text in foreign.items():
            result[path] = text
        if not right:
            result[path_of(source)] = render(source)
    changed = {}
    for path, text in result.items():
        if text != files.get(path):
            changed[path] = None if path != MAIN and not text.strip() else text
    return changed


def _without(path, text, uris, architecture):
    """The text without the URIs; of an entry that has others too, only the URIs go."""
    lines = text.split("\n")
    for entry in reversed(entries(path, text)):
        kept = [uri for uri in entry["uris"] if normal_uri(uri, architecture) not in uris]
        if len(kept) == len(entry["uris"]):
            continue
        first, behind = entry["span"]
        if kept:
            lines[first:behind] = _with_uris(lines[first:behind], kept)
            continue
        if path.endswith(".sources"):
            # One of the empty lines around a stanza goes with it; not the end of the last line.
            if behind < len(lines) - 1:
                behind += 1
            elif first > 0 and behind == len(lines) - 1:
                first -= 1
        del lines[first:behind]
    return "\n".join(lines)


def _with_uris(lines, uris):
    result, inside = [], False
    for line in lines:
        if line.startswith("#"):
            result.append(line)
        elif line.partition(":")[0].strip().lower() == "uris":
            inside = True
            result.append("URIs: %s%s" % (" ".join(uris), "\r" if line.endswith("\r") else ""))
        elif not (inside and line[:1] in (" ", "\t")):
            inside = False
            result.append(line)
    return result
