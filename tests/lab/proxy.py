"""A stand-in for a site's proxy: forwards plain HTTP, asks for a login, and keeps what it was asked for."""

from __future__ import annotations

import base64
import contextlib
import http.server
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

# No redirections, and never by way of another proxy.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Proxy:
    """url has the login in it; asked are (client's address, URL) of what was fetched with it, newest last."""

    def __init__(self, address: str, login: str) -> None:
        proxy = self
        self.asked: list[tuple[str, str]] = []
        self.refused = 0
        wanted = "Basic " + base64.b64encode(urllib.parse.unquote(login).encode()).decode()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                if self.headers.get("Proxy-Authorization") != wanted:
                    proxy.refused += 1
                    self._answer(407, {"Proxy-Authenticate": 'Basic realm="lab"'}, b"")
                    return
                proxy.asked.append((self.client_address[0], self.path))
                headers = {name: ", ".join(self.headers.get_all(name, [])) for name in ("Accept", "Range")}
                headers = {name: value for name, value in headers.items() if value}
                request = urllib.request.Request(self.path, headers=headers, method=self.command)
                try:
                    with _OPENER.open(request, timeout=60) as response:
                        self._answer(response.status, dict(response.headers), response.read())
                except urllib.error.HTTPError as error:
                    self._answer(error.code, dict(error.headers), error.read())

            do_HEAD = do_GET

            def _answer(self, status: int, headers: dict[str, str], data: bytes) -> None:
                self.send_response(status)
                hop = ("connection", "transfer-encoding", "content-length", "date", "server")
                for name, value in headers.items():
                    if name.lower() not in hop:
                        self.send_header(name, value)
                self.send_header("Content-Length", headers.get("Content-Length", str(len(data))))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            def log_message(self, *_words: object) -> None:
                """Say nothing."""

        self._server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.url = f"http://{login}@{address}:{self._server.server_port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[Proxy]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()
