"""Runs on a host: what dockerd asks a volume plugin, answered as nvidia-docker-plugin 1.0.1 does."""

from __future__ import annotations

import http.server
import json
import os
import socketserver
from typing import Any, ClassVar

VOLUMES = "/var/lib/nvidia-docker/volumes"


class Answer(http.server.BaseHTTPRequestHandler):
    """Knows the volumes that were asked for."""

    volumes: ClassVar[dict[str, Any]] = {}

    def address_string(self) -> str:
        """Nobody: a socket of this host has no address."""
        return ""

    def do_POST(self) -> None:
        """Answer a call of the volume API."""
        asked = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        name, kind = asked.get("Name"), self.path.rpartition(".")[2].strip("/")
        if kind == "Create":
            self.volumes[name] = {"Name": name, "Mountpoint": VOLUMES}
        if kind == "Remove":
            self.volumes.pop(name, None)
        said: dict[str, Any] = {"Err": "", "Implements": ["VolumeDriver"], "Mountpoint": VOLUMES}
        said["Volumes"], said["Volume"] = list(self.volumes.values()), self.volumes.get(name)
        said["Capabilities"] = {"Scope": "local"}
        text = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


os.makedirs("/run/docker/plugins", exist_ok=True)
os.makedirs(VOLUMES, exist_ok=True)
socketserver.ThreadingUnixStreamServer("/run/docker/plugins/nvidia-docker.sock", Answer).serve_forever()
