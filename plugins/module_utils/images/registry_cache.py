# SPDX-License-Identifier: MIT
"""Fetch images into a pull-through cache, each layer once. Runs on hosts: Python 2.7 syntax.

docker-registry 2.7 and 2.8 fetch a layer twice for one client, and once more for every client that asks before it is
stored. So the layers are written where the registry stores them (registry/storage/paths.go of
https://github.com/distribution/distribution), and only the manifests are asked for through the cache.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import contextlib
import errno
import hashlib
import json
import os
import re

from ansible.module_utils.urls import open_url
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import image_name

_LISTS = ("application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json")
_MANIFESTS = ("application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json")
_PART = re.compile(r'(\w+)="([^"]*)"')
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}\Z")
_TIMEOUT = 60  # seconds without a byte
_CHUNK = 1 << 20  # bytes


class Registry:
    """A registry at a URL, with an account or without."""

    def __init__(self, url, username="", password="", loopback=False):
        self._url = url
        self._username = username
        self._password = password
        # The cache's certificate has the name under which the fleet knows the host.
        self._how = {"validate_certs": not loopback, "use_proxy": not loopback, "timeout": _TIMEOUT}
        self._token = ""

    def challenge(self):
        """Return how the registry asks for an account, "" where it does not. Raises HostError."""
        try:
            open_url(self._url + "/v2/", **self._how).close()
        except Exception as error:  # Python, ssl and Ansible raise many kinds
            if getattr(error, "code", None) != 401:
                raise HostError("the upstream registry %s does not answer this host: %s" % (self._url, error))
            return error.headers.get("WWW-Authenticate") or ""
        return ""

    def manifest(self, path, reference):
        """Return a manifest, or a list of manifests. Raises HostError."""
        with self.open(path, "manifests", reference) as answer:
            try:
                return json.loads(answer.read().decode("utf-8"))
            except ValueError:
                raise HostError("%s/v2/%s/manifests/%s is not a manifest" % (self._url, path, reference))

    def open(self, path, kind, reference):
        """Return the open answer for a blob or a manifest. Raises HostError."""
        url = "%s/v2/%s/%s/%s" % (self._url, path, kind, reference)
        for attempt in (1, 2):
            headers = {"Accept": ", ".join(_LISTS + _MANIFESTS) if kind == "manifests" else "*/*"}
            if self._token:
                headers["Authorization"] = "Bearer " + self._token
            try:
                # Without compression: a blob's digest is that of its bytes. A redirect does not get the token.
                return contextlib.closing(
                    open_url(
                        url, headers=headers, unredirected_headers=["Authorization"], decompress=False, **self._how
                    )
                )
            except Exception as error:  # Python, ssl and Ansible raise many kinds
                if not hasattr(error, "code"):
                    raise HostError("%s does not answer: %s" % (url, error))
                if error.code != 401 or attempt == 2:
                    raise HostError("%s answers %d %s" % (url, error.code, error.reason))
                challenge = error.headers.get("WWW-Authenticate") or ""
            self._log_in(challenge, path)

    def _log_in(self, challenge, path):
        scheme, _space, rest = challenge.partition(" ")
        parts = dict(_PART.findall(rest))
        realm = parts.get("realm", "")
        if scheme.lower() != "bearer" or not realm:
            raise HostError("%s asks for a password, and gives out no tokens" % self._url)
        if self._url.startswith("https:") and not realm.startswith("https:"):
            raise HostError("%s sends passwords to %s, which is not encrypted" % (self._url, realm))
        query = "service=%s&scope=repository:%s:pull" % (_quoted(parts.get("service", "")), path)
        url = realm + ("&" if "?" in realm else "?") + query
        account = {"url_username": self._username, "url_password": self._password, "force_basic_auth": True}
        try:
            with contextlib.closing(open_url(url, **dict(account if self._username else {}, **self._how))) as answer:
                found = json.loads(answer.read().decode("utf-8"))
        except Exception as error:
            raise HostError("%s gives no token for %s: %s" % (realm, path, error))
        self._token = found.get("token") or found.get("access_token") or ""


def _quoted(text):
    return re.sub("[^A-Za-z0-9._-]", lambda found: "%%%02X" % ord(found.group()), text)


class Store:
    """The layers of a cache, as docker-registry keeps them in a directory."""

    def __init__(self, directory):
        self._root = os.path.join(directory, "docker", "registry", "v2")

    def _data(self, digest):
        kind, _colon, value = digest.partition(":")
        return os.path.join(self._root, "blobs", kind, value[:2], value, "data")

    def _link(self, path, digest):
        return os.path.join(self._root, "repositories", path, "_layers", *(digest.split(":") + ["link"]))

    def has(self, path, digest):
        """Return whether the cache has a blob of a repository."""
        return os.path.exists(self._data(digest)) and os.path.exists(self._link(path, digest))

    def put(self, path, digest, registry):
        """Store a blob of a repository. Raises HostError."""
        data = self._data(digest)
        # Another repository may have it.
        if not os.path.exists(data):
            with registry.open(path, "blobs", digest) as answer, _replacing(data) as target:
                found = hashlib.sha256()
                for chunk in iter(lambda: answer.read(_CHUNK), b""):
                    found.update(chunk)
                    target.write(chunk)
                if "sha256:" + found.hexdigest() != digest:
                    raise HostError("the upstream registry sent other bytes than %s, or not all of them" % digest)
        with _replacing(self._link(path, digest)) as target:
            target.write(digest.encode("ascii"))


@contextlib.contextmanager
def _replacing(path):
    """Open a file that takes its place when it is complete."""
    try:
        os.makedirs(os.path.dirname(path))
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
    new = "%s.%d" % (path, os.getpid())
    try:
        with open(new, "wb") as target:
            yield target
        os.rename(new, path)
    except BaseException:
        if os.path.exists(new):
            os.unlink(new)
        raise


def check(params):
    """Check that docker-registry can use the upstream registry. Raises HostError.

    It does not start without an answer, and has no other way to log in than for a token.
    """
    challenge = Registry(params["upstream"]).challenge()
    if params["username"] and not challenge.lower().startswith("bearer "):
        raise HostError(
            "%s gives out no tokens, and docker-registry can log in only for a token: use it without an account"
            % params["upstream"]
        )


def fetch(params, check_mode):
    """Fetch what the cache lacks of images. Return a line for each image that was fetched, or would be.

    params: names, architectures, cache (URL), directory, upstream (URL), username, password. Raises HostError.
    """
    upstream = Registry(params["upstream"], params["username"], params["password"])
    # Asking the cache stores the manifest there.
    asked = upstream if check_mode else Registry(params["cache"], loopback=True)
    store = Store(params["directory"])
    lines = []
    for text in params["names"]:
        image = _named(text)
        missing = {}
        for manifest in _manifests(asked, image, params["architectures"]):
            for blob in [manifest["config"]] + manifest["layers"]:
                if not _DIGEST.match(blob["digest"]):
                    raise HostError("%s has a layer with another digest than sha256: %s" % (text, blob["digest"]))
                # Layers with URLs are not in the registry.
                if not blob.get("urls") and not store.has(image.path, blob["digest"]):
                    missing[blob["digest"]] = blob["size"]
        if not check_mode:
            with _owner_of(params["directory"]):
                for digest in sorted(missing):
                    store.put(image.path, digest, upstream)
        if missing:
            lines.append("%s: %d layers, %.1f MB" % (image, len(missing), sum(missing.values()) / 1e6))
    return lines


def _named(text):
    try:
        image = image_name.parse_tagged(text)
    except image_name.ImageNameError as error:
        raise HostError(str(error))
    if image.registry != image_name.DEFAULT_REGISTRY:
        raise HostError("%s is not an image of Docker Hub: dockerd asks its mirrors only for those" % text)
    return image


def _manifests(registry, image, architectures):
    """Return the manifests of an image for these architectures. Raises HostError."""
    found = registry.manifest(image.path, image.digest or image.tag)
    if "manifests" not in found:
        found = [found]
    else:
        platforms = [(one, one.get("platform") or {}) for one in found["manifests"]]
        offered = [(one["digest"], p.get("architecture")) for one, p in platforms if p.get("os") == "linux"]
        lacking = sorted(set(architectures) - {architecture for _digest, architecture in offered})
        if lacking:
            there = ", ".join(sorted({str(architecture) for _digest, architecture in offered}))
            raise HostError(
                "%s is not there for %s, only for %s" % (str(image), ", ".join(lacking), there or "no Linux")
            )
        found = [registry.manifest(image.path, digest) for digest, name in offered if name in architectures]
    for manifest in found:
        if "config" not in manifest or "layers" not in manifest:
            raise HostError("%s has a manifest of a kind that is not supported" % (image,))
    return found


@contextlib.contextmanager
def _owner_of(directory):
    """Work as the owner of a directory, so that files are the owner's."""
    owner = os.stat(directory)
    before = os.geteuid(), os.getegid()
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(before[0])
        os.setegid(before[1])
