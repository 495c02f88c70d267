# SPDX-License-Identifier: MIT
"""Names of images: registry, path, tag and digest, in Docker's grammar. Python 2.7 syntax.

The grammar is that of https://github.com/distribution/reference (regexp.go, normalize.go).
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import collections
import re

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"

# What people type is compared by code points: \w would let letters of other scripts through.
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(r"^(?:%s(?:\.%s)*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?\Z" % (_LABEL, _LABEL))
_COMPONENT = re.compile(r"^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*\Z")
_TAG = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}\Z")
_DIGEST = re.compile(r"^[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}\Z")
_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_ID = re.compile(r"^[0-9a-f]{64}\Z")
_LONGEST = 255

_STRINGS = (str, type(b"".decode("ascii")))


class ImageNameError(ValueError):
    """The text is not the name of an image; the message says why in one line."""


class ImageName(collections.namedtuple("ImageName", "registry path tag digest")):
    """A name in full: registry and path are always there, tag and digest are None where not given.

    ``busybox`` has the registry docker.io and the path library/busybox, as for Docker.
    """

    __slots__ = ()

    @property
    def repository(self):
        """The name without tag and digest, as Docker shows it: ``busybox``, ``registry:5000/team/train``."""
        if self.registry != DEFAULT_REGISTRY:
            return self.registry + "/" + self.path
        first, slash, rest = self.path.partition("/")
        return rest if slash and first == "library" and "/" not in rest else self.path

    def with_tag(self, tag):
        """Return the same name with another tag and without a digest. Raises ImageNameError."""
        return self._replace(tag=checked_tag(tag), digest=None)

    def __str__(self):
        return (
            self.repository
            + (":" + self.tag if self.tag is not None else "")
            + ("@" + self.digest if self.digest is not None else "")
        )


def parse(text):
    """Return the ImageName that text is, e.g. ``registry.example.com:5000/team/train:1.9.1``.

    Raises ImageNameError for whatever Docker would not take as a name, an image's ID among it.
    """
    if not isinstance(text, _STRINGS) or not text:
        raise ImageNameError("the name of the image is empty" if text == "" else "%r is not an image name" % (text,))
    name, at, digest = text.partition("@")
    if at:
        _check_digest(text, digest)
    # A colon before the last slash is the registry's port.
    slash = name.rfind("/")
    colon = name.find(":", slash + 1)
    tag = None
    if colon >= 0:
        name, tag = name[:colon], name[colon + 1 :]
        if not _TAG.match(tag):
            raise _refused(text, "%s is not a tag: letters, digits, _ . -, at most 128" % _shown(tag))
    if _ID.match(name):
        raise _refused(text, "that is the ID of an image, not its name")
    registry, path = _parts(name)
    if not _REGISTRY.match(registry):
        raise _refused(text, "%s is not a registry" % _shown(registry))
    for component in path.split("/"):
        if not _COMPONENT.match(component):
            raise _refused(text, _wrong(component, text))
    # Newer engines count the path alone, older ones the registry too.
    if len(registry) + 1 + len(path) > _LONGEST:
        raise _refused(text, "longer than %d characters" % _LONGEST)
    return ImageName(registry, path, tag, digest if at else None)


def parse_tagged(text):
    """Return the ImageName that text is, with the tag latest where text names neither a tag nor a digest."""
    name = parse(text)
    return name._replace(tag=DEFAULT_TAG) if name.tag is None and name.digest is None else name


def tagged(text):
    """Return NAME:TAG in full, with the tag latest where text has none. Raises ImageNameError, for a digest too."""
    name = parse_tagged(text)
    if name.digest is not None:
        raise ImageNameError("%s names a digest: say NAME:TAG" % text)
    return str(name)


def checked_tag(tag):
    """Return tag. Raises ImageNameError where it is none."""
    if not isinstance(tag, _STRINGS) or not _TAG.match(tag):
        raise ImageNameError("%s is not a tag: letters, digits, _ . -, at most 128" % _shown(tag))
    return tag


def _parts(name):
    """Part a name into registry and path, as Docker does: without a dot, a port or ``localhost`` it is a path."""
    first, slash, rest = name.partition("/")
    if slash and (re.search(r"[.:\[]", first) or first == "localhost" or first != first.lower()):
        registry, path = first, rest
    else:
        registry, path = DEFAULT_REGISTRY, name
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in path:
        path = "library/" + path
    return registry, path


def _check_digest(text, digest):
    if not _DIGEST.match(digest):
        raise _refused(text, "%s is not a digest: expected sha256: and 64 hexadecimal digits" % _shown(digest))
    algorithm, _colon, value = digest.partition(":")
    if algorithm in _LENGTHS and (len(value) != _LENGTHS[algorithm] or value != value.lower()):
        raise _refused(text, "a %s digest has %d hexadecimal digits" % (algorithm, _LENGTHS[algorithm]))


def _wrong(component, text):
    if not component:
        return "a part of it is empty"
    if component != component.lower() and _COMPONENT.match(component.lower()):
        return "%s must be in lower case" % _shown(component)
    where = "" if component == text else " in %s" % _shown(component)
    return "lower-case letters and digits, with . _ __ or - between them, are allowed%s" % where


def _refused(text, why):
    return ImageNameError("%s is not an image name: %s" % (_shown(text), why))


def _shown(text):
    """Return the text on one line, without control characters, cut to 80 characters."""
    text = "%s" % (text,)
    shown = "".join(char if 32 <= ord(char) < 127 or ord(char) >= 160 else "?" for char in text)
    return "'%s'" % (shown if len(shown) <= 80 else shown[:77] + "...")
