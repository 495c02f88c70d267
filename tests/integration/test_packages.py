"""Packages change on hosts as people have them: GPUs in use, apt files of others, a proxy, and hooks that ask."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable

import pytest

from tests.integration.conftest import Answer, Hosts, document
from tests.lab.lab import HTTP_PORT, Host, Lab
from tests.lab.repositories import RELEASES, TOOLKIT_VERSIONS

Gpuprov = Callable[..., Answer]
# Opens the device as a program would: there is no driver behind it, so the best answer is ENXIO.
OPEN = "docker exec job sh -c 'head -c 1 /dev/nvidia0'"
START = "docker run -d --name job --runtime nvidia -e NVIDIA_VISIBLE_DEVICES=all busybox sleep 6000"
ALLOWED, DENIED = "No such device or address", "Operation not permitted"
# systemd cannot be told of a device.
DEAF = '#!/bin/sh\n[ "$1" != set-property ] || exit 1\nexec /bin/systemctl "$@"\n'
DIRECTORY = "/etc/apt/sources.list.d"


def settings(number: int, engine: tuple[str, ...]) -> tuple[str, str]:
    """What is wanted, with the older (0), the pinned (1) or the newer (2) versions of engine and toolkit."""
    options = {"exec-opts": ["native.cgroupdriver=systemd"], "live-restore": True}
    values = {
        "nvidia_docker_stack": "toolkit",
        "nvidia_docker_mode": "legacy",
        "nvidia_docker_version": TOOLKIT_VERSIONS[number],
        "docker_ce_version": engine[number],
        "docker_daemon_options": options,
        "gpu_host_verify_gpu": False,
    }
    return "-e", json.dumps(values)


@pytest.mark.parametrize(
    ("name", "codename", "version"), [("debian12", "bookworm", "cgroup2fs"), ("xenial", "xenial", "tmpfs")]
)
def test_a_running_container_keeps_its_gpu_when_engine_and_toolkit_are_changed(
    name: str, codename: str, version: str, pristine: Hosts, gpuprov: Gpuprov, lab: Lab
) -> None:
    (host,) = pristine(name)
    assert host.run("stat -fc %T /sys/fs/cgroup").stdout.strip() == version
    (engine,) = [release.engine for release in RELEASES if release.codename == codename]
    first = gpuprov("provision", "-l", name, *settings(0, engine))
    assert first.status == 0, first.text
    # The control: without a cure the device goes.
    host.run(f"{START} && systemctl daemon-reload")
    assert DENIED in host.run(OPEN, check=False).stderr
    host.run(f"docker rm -f job && {START}")

    wanted = settings(2, engine)
    planned = document(gpuprov("plan", "-l", name, "--json", *wanted))["hosts"][name]["plan"]
    disruptions = {change["subject"]: change["disruption"] for change in planned["changes"]}
    assert disruptions["nvidia-container-toolkit-base"] == "daemon-reload"
    assert (disruptions["nvidia-container-toolkit"], disruptions["docker-ce"]) == ("none", "restart")
    host.run("cat > /usr/local/sbin/systemctl && chmod 0755 /usr/local/sbin/systemctl", input=DEAF)
    refused = gpuprov("provision", "-l", name, *wanted)
    assert refused.status == 2
    assert "at which running containers lose their GPU: job. Stop them, or set docker_ce_restart" in refused.stdout
    assert ALLOWED in host.run(OPEN, check=False).stderr
    host.run("rm /usr/local/sbin/systemctl")

    container = host.run("docker inspect -f '{{.State.Pid}}' job").stdout
    done = gpuprov("provision", "-l", name, *wanted)
    assert done.status == 0, done.text
    assert host.run("docker inspect -f '{{.State.Pid}}' job").stdout == container
    assert ALLOWED in host.run(OPEN, check=False).stderr
    host.run("systemctl daemon-reload; systemd-run --wait --quiet true")
    assert ALLOWED in host.run(OPEN, check=False).stderr
    lab.reset(name)


PROXY = """
import http.server, sys, urllib.request
class Proxy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = self.path.replace("packages.corp.invalid", sys.argv[1])
        try:
            answer = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url)
            data, status = answer.read(), 200
        except urllib.error.HTTPError as error:
            data, status = b"", error.code
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", 3128), Proxy).serve_forever()
"""
# As apt-listbugs and needrestart do it: the one asks and fails without an answer, the other restarts services.
ASK = """#!/bin/sh
[ ! -c /dev/tty ] || ! (: </dev/tty) 2>/dev/null || touch /run/asked-the-terminal
[ "$(readlink /proc/self/fd/0)" = /dev/null ] || touch /run/asked-standard-input
[ "$APT_LISTBUGS_FRONTEND" = none ] && [ "$APT_LISTCHANGES_FRONTEND" = none ] && [ "$DEBIAN_FRONTEND" = noninteractive ]
"""
RESTART = '#!/bin/sh\n[ -n "$NEEDRESTART_SUSPEND" ] || touch /run/restarted\n'
HOOKS = (
    'Acquire::http::Proxy "http://127.0.0.1:3128";\n'
    'DPkg::Pre-Invoke { "/usr/local/sbin/ask"; };\nDPkg::Post-Invoke { "/usr/local/sbin/restart"; };\n'
)
INLINE = """\
# Somebody's own.
Types: deb
URIs: http://apt.corp.invalid/inline
Suites: ./
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEXXXX
 -----END PGP PUBLIC KEY BLOCK-----
"""
COMPANY = "deb [arch=amd64] http://me:hunter2@apt.corp.invalid/x stable main  # caf\xe9\n"
OWN = "deb [arch=amd64 signed-by=/usr/share/keyrings/docker.gpg] URL bookworm stable\n"
STANZA = (
    "Types: deb deb-src\nURIs: URL\nSuites: bookworm\nComponents: stable\nSigned-By: /etc/apt/keyrings/docker.asc\n"
)
# {path: (content, owner, mode)}
FILES = {
    f"{DIRECTORY}/company.list": (COMPANY + OWN, "root:adm", "0640"),
    f"{DIRECTORY}/old.list": (OWN, "root:root", "0644"),
    f"{DIRECTORY}/off.list": ("# " + OWN, "root:root", "0644"),
    f"{DIRECTORY}/docker.sources": (f"{STANZA}\n{INLINE}", "root:adm", "0640"),
    "/srv/etc/site.sources": (
        (
            f"Enabled: no\n{STANZA}\nTypes: deb\nURIs: http://a.invalid URL http://b.invalid\nSuites: one two\n"
            "Components: main\n"
        ),
        "root:root",
        "0600",
    ),
}


def put(host: Host, path: str, content: str, owner: str = "root:root", mode: str = "0755") -> None:
    # Not all files are UTF-8.
    data = base64.b64encode(content.encode("latin-1")).decode("ascii")
    host.run(f"mkdir -p $(dirname {path}); echo {data} | base64 -d > {path}; chown {owner} {path}; chmod {mode} {path}")


def seen(host: Host, path: str) -> tuple[str, str, str]:
    content = base64.b64decode(host.run(f"base64 {path}").stdout).decode("latin-1")
    owner, mode = host.run(f"stat -Lc '%U:%G %a' {path}").stdout.split()
    return content, owner, mode.zfill(4)


def untouched(host: Host) -> bool:
    found = host.run(f"ls /etc/docker/daemon.json /etc/apt/keyrings/* {DIRECTORY}/docker.list", check=False)
    return found.stdout == ""


def test_a_host_behind_a_proxy_with_foreign_sources_and_hooks_that_ask(
    pristine: Hosts, gpuprov: Gpuprov, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host,) = pristine("debian12")
    # Without pipelining ansible gives a terminal.
    monkeypatch.setenv("ANSIBLE_PIPELINING", "false")
    web = f"http://packages.corp.invalid:{HTTP_PORT}"
    url = f"{web}/docker/linux/debian"
    put(host, "/srv/proxy.py", PROXY)
    put(host, "/usr/local/sbin/ask", ASK)
    put(host, "/usr/local/sbin/restart", RESTART)
    put(host, "/etc/apt/apt.conf.d/99site", HOOKS, mode="0644")
    host.run(f"systemd-run --unit proxy python3 /srv/proxy.py {lab.server}")
    # The distribution's source is reached by address, and that through the proxy, too.
    for path, (content, owner, mode) in FILES.items():
        put(host, path, content.replace("URL", url), owner, mode)
    before = {path: seen(host, path) for path in FILES}
    host.run(f"ln -s /srv/etc/site.sources {DIRECTORY}/site.sources")
    words = ["-l", host.name, "-e", "gpu_host_verify_gpu=false"]
    words += ["-e", f"docker_ce_repo_url={web}/docker/linux", "-e", f"nvidia_docker_repo_url={web}/nvidia"]

    # A key that cannot be fetched: one of two, so the other must not have been written.
    missing = gpuprov("provision", *words, "-e", f"nvidia_docker_repo_key_url={web}/none")
    assert missing.status == 2
    assert f"the key at {web}/none cannot be fetched" in missing.stdout
    assert "404" in missing.stdout
    assert untouched(host)
    # A repository without the version.
    missing = gpuprov("provision", *words, "-e", "docker_ce_version=5:1.2.3")
    assert "docker-ce 5:1.2.3 is not in" in missing.stdout
    assert untouched(host)
    # A link to where somebody else can write.
    put(host, "/home/alice/a.sources", STANZA.replace("URL", url), "alice:alice", "0644")
    host.run(f"ln -s /home/alice/a.sources {DIRECTORY}/alice.sources")
    refused = gpuprov("provision", *words)
    assert "which others than root can change" in refused.stdout
    assert untouched(host)
    host.run(f"rm {DIRECTORY}/alice.sources")
    assert {path: seen(host, path) for path in FILES} == before

    planned = document(gpuprov("plan", "--json", *words))["hosts"][host.name]["plan"]["changes"]
    (source,) = [change for change in planned if change["subject"] == "apt source docker"]
    assert source["from"] == (
        f"other content, also in {DIRECTORY}/company.list, {DIRECTORY}/old.list (goes), "
        f"{DIRECTORY}/site.sources (a link to /srv/etc/site.sources)"
    )
    done = gpuprov("provision", *words, "--diff")
    assert done.status == 0, done.text
    assert "hunter2" not in done.text
    assert seen(host, f"{DIRECTORY}/company.list") == (COMPANY, "root:adm", "0640")
    assert host.run(f"ls {DIRECTORY}/old.list", check=False).stdout == ""
    assert seen(host, f"{DIRECTORY}/off.list") == before[f"{DIRECTORY}/off.list"]
    assert host.run(f"readlink {DIRECTORY}/site.sources").stdout == "/srv/etc/site.sources\n"
    content, owner, mode = seen(host, "/srv/etc/site.sources")
    assert content == before["/srv/etc/site.sources"][0].replace(f" {url} http://b", " http://b")
    assert (owner, mode) == ("root:root", "0600")
    content, owner, mode = seen(host, f"{DIRECTORY}/docker.sources")
    assert content.startswith(INLINE)
    assert content.count(url) == 1
    assert (owner, mode) == ("root:adm", "0640")
    kept = host.run("cd /var/backups/gpuprov && stat -c '%n %U:%G %a' . *").stdout.splitlines()
    assert sorted(line.split(".2")[0] + line.split("Z")[-1] for line in kept[1:]) == [
        "company.list root:adm 640",
        "docker.sources root:adm 640",
        "old.list root:root 644",
        "site.sources root:root 600",
    ]
    assert kept[0] == ". root:root 700"
    assert host.run("ls /run/asked* /run/restarted", check=False).stdout == ""
    assert gpuprov("plan", *words).status == 0
    full = document(gpuprov("provision", "--full", "--json", *words))
    assert full["hosts"][host.name]["changes"] == []
    lab.reset("debian12")
