# SPDX-License-Identifier: MIT
"""Download files whose SHA-256 is known, several at a time; what an interrupted run has is kept.

Imports nothing of the collection but its neighbours.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import functools
import http.client
import ipaddress
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from .. import deb

PART = ".part"
_ATTEMPTS, _SECONDS, _BLOCK = 5, 30, 1 << 18
_PARALLEL = 4


class DownloadError(ValueError):
    """A file cannot be had; the message is one line for people."""


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects; a login goes to the same server again, and to no other."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the next request."""
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        login = req.get_header("Authorization")
        old, new = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        if request and login and (old.scheme, old.netloc) == (new.scheme, new.netloc):
            request.add_unredirected_header("Authorization", login)
        return request


def is_loopback(host: str) -> bool:
    """Return whether a host, as in a URL, is this machine itself."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@functools.cache
def _opener(direct: bool) -> urllib.request.OpenerDirector:
    # A proxy does not reach this machine's own addresses.
    return urllib.request.build_opener(_Redirects, *([urllib.request.ProxyHandler({})] if direct else []))


def opened(
    url: str, begin: int = 0, *, login: str = "", accept: str = "*/*", method: str = "GET"
) -> http.client.HTTPResponse:
    """Open a URL from a byte on. Raises OSError and HTTPException.

    login: the header Authorization; a login in the URL replaces it.
    """
    parts = urllib.parse.urlsplit(url)
    request = urllib.request.Request(shown(url), headers={"User-Agent": "gpuprov", "Accept": accept}, method=method)
    if begin:
        request.add_header("Range", f"bytes={begin}-")
    if parts.username is not None:
        words = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
        login = "Basic " + base64.b64encode(words.encode()).decode()
    if login:
        request.add_unredirected_header("Authorization", login)
    found: http.client.HTTPResponse = _opener(is_loopback(parts.hostname or "")).open(request, timeout=_SECONDS)
    return found


@dataclass(frozen=True)
class Wanted:
    """A file to download, from the first URL that has it. open: opens a URL from a byte on."""

    path: Path
    urls: tuple[str, ...]
    sha256: str
    size: int
    open: Callable[[str, int], http.client.HTTPResponse] = opened

    def is_there(self) -> bool:
        """Return whether the file is there, and right."""
        return self.path.is_file() and self.path.stat().st_size == self.size and deb.sha256(self.path) == self.sha256


def get(url: str) -> bytes:
    """Return what a URL has. Raises DownloadError."""
    try:
        with opened(url) as answer:
            return bytes(answer.read())
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{shown(url)}: {reason_of(error)}") from None


def fetch(files: Iterable[Wanted], advance: Callable[[int], None]) -> None:
    """Download what is not there yet. advance is told of bytes, also of those that are there. Raises DownloadError."""
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL) as pool:
        running = [pool.submit(_fetch, file, advance, stop) for file in files]
        try:
            for one in concurrent.futures.as_completed(running):
                one.result()
        finally:
            # After an error or Ctrl-C: what was received stays in files that the next run continues.
            stop.set()
            pool.shutdown(cancel_futures=True)


def _fetch(file: Wanted, advance: Callable[[int], None], stop: threading.Event) -> None:
    told = 0

    def tell(have: int) -> None:
        nonlocal told
        advance(have - told)
        told = have

    if file.is_there():
        tell(file.size)
        return
    part = file.path.with_name(file.path.name + PART)
    with _written(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    for url in file.urls:
        try:
            _complete(url, file, part, tell, stop)
        except FileNotFoundError:
            continue
        if not stop.is_set():
            part.rename(file.path)
            tell(file.size)
        return
    raise DownloadError(f"{' and '.join(shown(url) for url in file.urls)}: file not found")


def _complete(url: str, file: Wanted, part: Path, tell: Callable[[int], None], stop: threading.Event) -> None:
    """Bring a file to its end. Raises DownloadError, and FileNotFoundError where the URL has nothing."""
    failures = 0
    while (have := part.stat().st_size) < file.size and not stop.is_set():
        tell(have)
        try:
            with file.open(url, have) as answer:
                _append(answer, part, have if answer.status == http.client.PARTIAL_CONTENT else 0, file, tell, stop)
            reason = "the connection was closed too early"
        except urllib.error.HTTPError as error:
            if error.code in (404, 410):
                raise FileNotFoundError from None
            reason = reason_of(error)
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
                break
        except (OSError, http.client.HTTPException) as error:
            reason = reason_of(error)
        failures = 0 if part.stat().st_size > have else failures + 1
        if failures == _ATTEMPTS:
            raise DownloadError(f"{shown(url)}: {reason}")
        stop.wait(failures)
    if not stop.is_set() and (part.stat().st_size != file.size or deb.sha256(part) != file.sha256):
        part.unlink()
        raise DownloadError(f"{shown(url)} has other content than it should, by its SHA-256")


def _append(
    answer: http.client.HTTPResponse, part: Path, begin: int, file: Wanted, tell: Callable[[int], None],
    stop: threading.Event,
) -> None:  # fmt: skip
    """Write an answer to a file from begin on; of one that is too long, a byte more than the size."""
    with _written(part), part.open("r+b") as target:
        target.truncate(begin)
        target.seek(begin)
        while not stop.is_set() and target.tell() <= file.size:
            try:
                block = answer.read1(min(_BLOCK, file.size + 1 - target.tell()))
            except OSError as error:
                raise http.client.HTTPException(reason_of(error)) from None
            if not block:
                return
            target.write(block)
            tell(target.tell())


@contextlib.contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DownloadError(f"{path} cannot be written: {error.strerror}. The next run continues here") from None


def shown(url: str) -> str:
    """Return a URL without a login."""
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def reason_of(error: Exception) -> str:
    """Return why a URL cannot be opened."""
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    text = getattr(reason, "strerror", None) or str(reason)
    code = getattr(error, "code", None)
    return f"{code} {text}" if code else text or type(error).__name__
