"""Runs on a host: stands between apt and the lab's repositories, and does one thing wrong.

proxy.py PORT UPSTREAM WRONG; WRONG is one of the names in WRONGS, or "to_http": HTTPS, with the
certificate in /tmp/proxy.pem, that sends everybody to the upstream's HTTP.
"""

from __future__ import annotations

import http.server
import re
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

HTML = b"<html><body>Please log in to the network</body></html>"


def flipped(body: bytes) -> bytes:
    """The same with its first bit wrong."""
    return bytes([body[0] ^ 1]) + body[1:]


# What becomes of a file with this path and this content; None is a 404.
WRONGS: dict[str, Callable[[str, bytes], bytes | None]] = {
    "missing": lambda path, body: None,
    "html": lambda path, body: HTML if re.search("InRelease|Packages|by-hash", path) else body,
    "corrupted": lambda path, body: flipped(body) if path.endswith(".deb") else body,
    "mismatch": lambda path, body: flipped(body) if re.search("Packages|by-hash", path) else body,
    "unsigned": lambda path, body: None if re.search("InRelease|Release.gpg", path) else body,
    "other_release": lambda path, body: Path("/tmp/InRelease").read_bytes() if path.endswith("InRelease") else body,
    "cut_off": lambda path, body: body[: len(body) // 2] if path.endswith(".deb") else body,
}


class Handler(http.server.BaseHTTPRequestHandler):
    """Forward the answers of the lab's server, with a fault added."""

    upstream = ""
    wrong = ""

    def do_GET(self) -> None:
        """Answer to GET."""
        if self.wrong == "to_http":
            self.send_response(302)
            self.send_header("Location", self.upstream + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        try:
            with urllib.request.urlopen(self.upstream + self.path) as answer:
                whole = answer.read()
        except urllib.error.HTTPError as error:
            self.send_error(error.code)
            return
        body = WRONGS[self.wrong](self.path, whole)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        # What is cut off is announced in full: the connection ends before its time.
        self.send_header("Content-Length", str(len(whole if self.wrong == "cut_off" else body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    Handler.upstream, Handler.wrong = sys.argv[2:4]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    if Handler.wrong == "to_http":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain("/tmp/proxy.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()
