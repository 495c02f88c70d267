"""The same state as a pyinfra deploy, written as its documentation teaches: run by tests/bench."""

import json
from io import StringIO
from pathlib import Path

from pyinfra import host
from pyinfra.facts.server import Command
from pyinfra.operations import apt, files, server, systemd

state = Path(host.data.state)
wanted = json.loads((state / "wanted.json").read_text(encoding="utf-8"))
names = [package.partition("=")[0] for package in wanted["packages"]]

sources = [files.put(src=str(state / path.lstrip("/")), dest=path, mode="644") for path in wanted["files"]]
files.put(src=str(state / "usr/local/bin/dockerrun"), dest="/usr/local/bin/dockerrun", mode="755")
config = files.put(src=StringIO(host.data.daemon_json), dest="/etc/docker/daemon.json", mode="644")
if any(source.will_change for source in sources):
    apt.update()
packages = apt.packages(packages=wanted["packages"], no_recommends=True)
held = (host.get_fact(Command, "apt-mark showhold") or "").split()
if set(names) - set(held):
    server.shell(commands=[f"apt-mark hold {' '.join(names)}"])
systemd.service(service="docker", running=True, enabled=True, reloaded=config.will_change and not packages.will_change)
server.user(user="alice", groups=["docker"], append=True)
if packages.will_change or config.will_change:
    server.shell(commands=["docker run --rm hello-world"])
