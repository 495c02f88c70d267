# SPDX-License-Identifier: MIT
"""apt's sources, both kinds of file: find the entries of a URI, take them out, write our own.

Python 2.7 syntax. Formats: sources.list(5).
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import posixpath
import re

DIRECTORY = "/etc/apt/sources.list.d"
_ONE_LINE = re.compile(r"^\s*(deb|deb-src)\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)\s*([^#]*)")


def path_of(source):
    """Return where our entry of a wanted source lies."""
    ending = "sources" if source["format"] == "deb822" else "list"
    return posixpath.join(DIRECTORY, "%s.%s" % (source["name"], ending))


def normal_uri(uri, architecture):
    """Return a URI in the form in which URIs of one repository are equal.

    apt compares them to the letter; people write http for https, capitals and slashes at the end.
    """
    uri = uri.replace("$(ARCH)", architecture)
    match = re.match(r"^([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(.*)$", uri)
    if not match:
        return uri.rstrip("/")
    scheme, host, path = match.groups()
    scheme = "http" if scheme.lower() == "https" else scheme.lower()
    return "%s://%s%s" % (scheme, host.rpartition("@")[2].lower(), re.sub(r"/+", "/", path).rstrip("/"))


def render(source):
    """Return the text of a wanted source."""
    if source["format"] == "deb822":
        lines = ["Types: deb", "URIs: %s" % " ".join(source["uris"]), "Suites: %s" % " ".join(source["suites"])]
        if source["components"]:
            lines.append("Components: %s" % " ".join(source["components"]))
        lines.append("Architectures: %s" % " ".join(source["architectures"]))
        lines.append("Signed-By: %s" % source["keyring"])
        return "\n".join(lines) + "\n"
    options = "[arch=%s signed-by=%s]" % (",".join(source["architectures"]), source["keyring"])
    rows = [
        " ".join(["deb", options, uri, suite] + list(source["components"]))
        for uri in source["uris"]
        for suite in source["suites"]
    ]
    return "\n".join(rows) + "\n"


def entries(path, text):
    """Return the entries of a file as [{uris, meaning, span}].

    meaning is comparable: two entries of equal meaning are the same to apt. span is (first line,
    line behind the last), counted from 0.
    """
    return _stanzas(text) if path.endswith(".sources") else _lines(text)


def _lines(text):
    result = []
    for number, line in enumerate(text.splitlines()):
        match = _ONE_LINE.match(line)
        if match:
            kind, options, uri, suite, components = match.groups()
            fields = dict(option.partition("=")[::2] for option in (options or "").split())
            result.append(
                {
                    "uris": [uri],
                    "meaning": _meaning(
                        [kind], [suite], components.split(), fields.pop("arch", "").split(","), fields.pop("signed-by", ""),
                        fields,
                    ),
                    "span": (number, number + 1),
                }
            )
    return result


def _stanzas(text):
    result = []
    lines = text.splitlines()
    first = 0
    for number in range(len(lines) + 1):
        if number == len(lines) or not lines[number].strip():
            stanza = _stanza(lines[first:number])
            if stanza.get("uris"):
                uris = stanza.pop("uris").split()
                lists = [stanza.pop(name, "").split() for name in ("types", "suites", "components", "architectures")]
                signed_by = stanza.pop("signed-by", "").strip()
                result.append({"uris": uris, "meaning": _meaning(*(lists + [signed_by, stanza])), "span": (first, number)})
            first = number + 1
    return result


def _stanza(lines):
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
    return fields


def _meaning(types, suites, components, architectures, signed_by, other):
    return (
        tuple(types), tuple(suites), tuple(components), tuple(sorted(item for item in architectures if item)), signed_by,
        tuple(sorted((key, value) for key, value in other.items() if (key, value.lower()) != ("enabled", "yes"))),
    )  # fmt: skip


def judge(source, files, architecture):
    """Return (right, foreign) of a wanted source among files {path: text}.

    right: our file says what is wanted. foreign: {path: text without them} of the files that have
    entries of the same URIs beside ours.
    """
    ours = path_of(source)
    uris = set(normal_uri(uri, architecture) for uri in source["uris"])
    wanted = _compared(entries(ours, render(source)))
    right = ours in files and _compared(entries(ours, files[ours])) == wanted
    foreign = {}
    for path, text in files.items():
        if path != ours:
            cleaned = _without(path, text, uris, architecture)
            if cleaned != text:
                foreign[path] = cleaned
    return right, foreign


def _compared(found):
    return sorted((uri, entry["meaning"]) for entry in found for uri in entry["uris"])


def _without(path, text, uris, architecture):
    """The text without the URIs; of an entry that has others too, only the URIs go."""
    lines = text.splitlines(True)
    for entry in reversed(entries(path, text)):
        kept = [uri for uri in entry["uris"] if normal_uri(uri, architecture) not in uris]
        if len(kept) == len(entry["uris"]):
            continue
        first, behind = entry["span"]
        if not kept:
            # The empty line that parted a stanza from the next goes with it.
            if path.endswith(".sources") and behind < len(lines) and not lines[behind].strip():
                behind += 1
            del lines[first:behind]
        else:
            lines[first:behind] = _with_uris(lines[first:behind], kept)
    return "".join(lines)


def _with_uris(lines, uris):
    result, inside = [], False
    for line in lines:
        if line.lower().startswith("uris:"):
            inside = True
            result.append("URIs: %s\n" % " ".join(uris))
        elif inside and line[:1] in (" ", "\t"):
            continue
        else:
            inside = False
            result.append(line)
    return result
