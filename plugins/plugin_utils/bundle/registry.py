# SPDX-License-Identifier: MIT
"""Read images from registries. Imports nothing of the collection but its neighbours and image names.

The protocol is https://github.com/opencontainers/distribution-spec/blob/main/spec.md, with the tokens of
https://distribution.github.io/distribution/spec/auth/token/.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...module_utils.images import image_name
from . import download

OCI = "application/vnd.oci.image"
_DOCKER = "application/vnd.docker.distribution.manifest"
_KINDS = f"{OCI}.index.v1+json, {OCI}.manifest.v1+json, {_DOCKER}.list.v2+json, {_DOCKER}.v2+json"
# Names of Docker Hub's registry: for requests, and in docker's list of accounts.
_HUB, _HUB_ACCOUNT = "registry-1.docker.io", "index.docker.io"
_LONGEST = 4 << 20  # bytes of a manifest or configuration
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_PART = re.compile(r'(\w+)="([^"]*)"')


class RegistryError(ValueError):
    """A registry does not give an image; the message is one line for people."""


@dataclass
class Repository:
    """The repository of an image in a registry: plain HTTP on this machine's own addresses, as for Docker."""

    image: image_name.ImageName
    _login: str = field(default="", init=False, repr=False)

    def url(self, kind: str, reference: str) -> str:
        """Return the URL of a blob or a manifest."""
        registry = _HUB if self.image.registry == image_name.DEFAULT_REGISTRY else self.image.registry
        plain = download.is_loopback(urllib.parse.urlsplit(f"//{registry}").hostname or "")
        return f"{'http' if plain else 'https'}://{registry}/v2/{self.image.path}/{kind}/{reference}"

    def open(self, url: str, begin: int = 0, **how: str) -> http.client.HTTPResponse:
        """Open a URL of the registry, logged in where it asks for that. Raises OSError, HTTPException, RegistryError.

        how: as for download.opened.
        """
        try:
            return download.opened(url, begin, login=self._login, **how)
        except urllib.error.HTTPError as error:
            # A token that has expired, too.
            if error.code != http.client.UNAUTHORIZED:
                raise
            challenges = error.headers.get_all("WWW-Authenticate") or []
        self._login = self._logged_in(challenges)
        return download.opened(url, begin, login=self._login, **how)

    def digest(self) -> str:
        """Return the digest of the manifest that the image's tag names now. Raises RegistryError."""
        answer, data = self._asked(self.url("manifests", self.image.tag), "HEAD")
        digest = answer.headers.get("Docker-Content-Digest") or ""
        if not digest:
            _answer, data = self._asked(self.url("manifests", self.image.tag))
            digest = digest_of(data)
        sha256_of(digest)
        return digest

    def get(self, kind: str, digest: str) -> tuple[bytes, dict[str, Any]]:
        """Return a manifest or a configuration, as it is and read. Raises RegistryError."""
        sha256_of(digest)
        _answer, data = self._asked(self.url(kind, digest))
        if digest_of(data) != digest:
            raise RegistryError(f"{self.image}: {self.image.registry} sends other content than {digest}")
        with contextlib.suppress(ValueError):
            document = json.loads(data)
            if isinstance(document, dict):
                return data, document
        raise RegistryError(f"{self.image}: {digest} is not an image, or of a kind that is not supported")

    def _asked(self, url: str, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
        said = ""
        try:
            with self.open(url, accept=f"{_KINDS}, */*", method=method) as answer:
                return answer, answer.read(_LONGEST)
        except urllib.error.HTTPError as error:
            said = download.reason_of(error)
            if error.code in (401, 403):
                said = f"it has no such image, or only for an account: docker login {self.image.registry}"
            elif error.code == http.client.NOT_FOUND:
                said = "it has no such image"
        except (OSError, http.client.HTTPException) as error:
            said = download.reason_of(error)
        raise RegistryError(f"{self.image} from {self.image.registry}: {said}")

    def _logged_in(self, challenges: list[str]) -> str:
        """Return the header Authorization that a registry asks for. Raises OSError, HTTPException, RegistryError."""
        schemes = {scheme.lower(): rest for scheme, _space, rest in (one.partition(" ") for one in challenges)}
        account = account_of(self.image.registry)
        if "bearer" in schemes:
            parts = dict(_PART.findall(schemes["bearer"]))
            realm = parts.get("realm", "")
            plain = self.url("", "").startswith("http:")
            if not realm.startswith(("https://", "http://") if plain else "https://"):
                raise RegistryError(f"{self.image.registry} sends logins to {realm!r}, which is not encrypted")
            scope = {"scope": parts.get("scope") or f"repository:{self.image.path}:pull"}
            service = {"service": parts["service"]} if "service" in parts else {}
            query = urllib.parse.urlencode({**service, **scope})
            with download.opened(f"{realm}{'&' if '?' in realm else '?'}{query}", login=account) as answer:
                text = answer.read(_LONGEST)
            token = ""
            with contextlib.suppress(ValueError, AttributeError):
                found = json.loads(text)
                token = found.get("token") or found.get("access_token") or ""
            if token:
                return f"Bearer {token}"
        elif "basic" in schemes and account:
            return account
        raise RegistryError(f"{self.image} is only for an account: docker login {self.image.registry}")


def digest_of(data: bytes) -> str:
    """Return the digest of data, as registries write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def sha256_of(digest: str) -> str:
    """Return the hexadecimal digits of a digest. Raises RegistryError where it is of another kind."""
    if not _DIGEST.fullmatch(digest):
        raise RegistryError(f"only digests with SHA-256 are supported, not {digest!r}")
    return digest.removeprefix("sha256:")


def account_of(registry: str) -> str:
    """Return the header of the account that docker login stored in plain text for a registry, "" without one."""
    path = Path(os.environ.get("DOCKER_CONFIG") or "~/.docker").expanduser() / "config.json"
    wanted = _HUB_ACCOUNT if registry == image_name.DEFAULT_REGISTRY else registry
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        for name, one in json.loads(path.read_text(encoding="utf-8"))["auths"].items():
            if name.rpartition("://")[2].partition("/")[0] == wanted and one.get("auth"):
                return "Basic " + base64.b64encode(base64.b64decode(one["auth"], validate=True)).decode()
    return ""
