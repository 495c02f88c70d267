# SPDX-License-Identifier: MIT
"""Find, remove and write entries of apt's sources, in both kinds of file.

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
# Of other names apt reads nothing. Source: sources.list(5).
_READ = re.compile(r"^[A-Za-z0-9_.-]+\Z")
# To apt an empty line parts stanzas, and a line of spaces continues one.
_SPACES = re.compile(r"(?m)^[ \t]+(\r?)$")
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
    uri = uri.strip('"').replace("$(ARCH)", architecture)
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
    # Fields that apt ignores, or only shows, do not make a difference.
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
    right = ours in files and _same_entries(source, files[ours], architecture)
    foreign = {}
    for path, text in files.items():
        if path != ours and _READ.match(posixpath.basename(path)):
            cleaned = _without(path, text, uris, architecture)
            if cleaned != text:
                foreign[path] = cleaned
    return right, foreign


def _same_entries(source, text, architecture):
    """Return whether the entries of a source in the text of our file are those that are wanted."""
    path, wanted = path_of(source), render(source)
    if source["format"] == "deb822" and _SPACES.search(text):
        return False
    found = [entry for entry in entries(path, text) if _is_ours(source, entry, architecture)]
    return _compared(found, architecture) == _compared(entries(path, wanted), architecture)


def _is_ours(source, entry, architecture):
    """Return whether an entry of our file was written for a source, or is of the same repository on another mirror.

    All others in the file are somebody's own.
    """
    (_types, suites, _components), _architectures, signed_by, _others = entry["meaning"]
    if signed_by == source["keyring"]:
        return True
    wanted = [normal_uri(uri, architecture) for uri in source["uris"]]
    found = [normal_uri(uri, architecture) for uri in entry["uris"]]
    if set(wanted) & set(found):
        return True
    return set(suites) <= set(source["suites"]) and any(_mirrors(one, other) for one in wanted for other in found)


def _mirrors(one, other):
    """Return whether the path of one URI ends with the path of the other, as those of a repository's mirrors do."""
    shorter, longer = sorted(("/" + uri.partition("://")[2].partition("/")[2] for uri in (one, other)), key=len)
    return shorter.count("/") > 1 and longer.endswith(shorter)


def _compared(found, architecture):
    return sorted(
        (uri.replace("$(ARCH)", architecture).rstrip("/"), entry["meaning"]) for entry in found for uri in entry["uris"]
    )


def own_text(source, text, architecture):
    """Return the text of our file with a source as it is wanted, and everything in it that is not ours."""
    path = path_of(source)
    kept = _cut(path, text, lambda entry: [] if _is_ours(source, entry, architecture) else entry["uris"])
    if source["format"] == "deb822":
        kept = _SPACES.sub(r"\1", kept)
    if not kept.strip():
        return render(source)
    return kept.rstrip() + ("\n\n" if source["format"] == "deb822" else "\n") + render(source)


def stays(path, text):
    """Return whether a file whose text becomes this one stays; an empty one goes, unless it is apt's main one."""
    return path == MAIN or bool(text.strip())


def rewritten(sources, files, architecture):
    """Return {path: new text, or None for a file to delete} that brings wanted sources about.

    Only files that differ are in it. Of a file of ours the entries go that were written for the source, of others
    those of its URIs; everything else stays.
    """
    result = dict(files)
    for source in sources:
        right, foreign = judge(source, result, architecture)
        for path, text in foreign.items():
            result[path] = text
        if not right:
            result[path_of(source)] = own_text(source, result.get(path_of(source), ""), architecture)
    changed = {}
    for path, text in result.items():
        if text != files.get(path):
            changed[path] = text if stays(path, text) else None
    return changed


def forgotten(source, files):
    """Return ({path: new text, or None for a file to delete}, whether the keyring can go) where our entries go.

    source: {name, keyring}. What else is in our files stays, and so does a keyring that another entry needs.
    """
    changed, needed = {}, False
    for path, text in files.items():
        kept = text
        if path in [posixpath.join(DIRECTORY, "%s.%s" % (source["name"], end)) for end in ("sources", "list")]:
            kept = _cut(path, text, lambda entry: [] if entry["meaning"][2] == source["keyring"] else entry["uris"])
        if kept != text:
            changed[path] = kept if stays(path, kept) else None
        needed = needed or any(entry["meaning"][2] == source["keyring"] for entry in entries(path, kept))
    return changed, not needed


def _without(path, text, uris, architecture):
    """Return the text without the URIs; of an entry that has others too, only the URIs go."""
    return _cut(path, text, lambda entry: [uri for uri in entry["uris"] if normal_uri(uri, architecture) not in uris])


def _cut(path, text, kept_of):
    """Return the text with those URIs of each entry that kept_of(entry) returns; entries without any go."""
    lines = text.split("\n")
    for entry in reversed(entries(path, text)):
        kept = kept_of(entry)
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
