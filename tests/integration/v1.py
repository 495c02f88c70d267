"""nvidia-docker v1 on a lab host."""

from __future__ import annotations

from tests.lab.images import FILES
from tests.lab.lab import Host

SOCKET = "/run/docker/plugins/nvidia-docker.sock"


def start_v1_plugin(host: Host) -> None:
    """Start what stands in for nvidia-docker v1's volume plugin; returns when it answers."""
    text = (FILES / "v1_plugin.py").read_text(encoding="utf-8")
    host.run("cat > /tmp/plugin.py; systemd-run -q --unit=v1 python3 /tmp/plugin.py", input=text)
    host.run(f"for i in $(seq 6000); do [ -S {SOCKET} ] && exit 0; sleep 0.1; done; exit 1")


def stop_v1_plugin(host: Host) -> None:
    """Take it away again, with what it keeps."""
    host.run(f"systemctl stop v1; rm -rf {SOCKET} /var/lib/nvidia-docker")
