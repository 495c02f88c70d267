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
# systemd cannot be told of a device, or says nothing of containers.
DEAF = '#!/bin/sh\n[ "$1" != set-property ] || exit 1\nexec /bin/systemctl "$@"\n'
MUTE = '#!/bin/sh\n[ "$2" != "*.scope" ] || exit 1\nexec /bin/systemctl "$@"\n'
SYSTEMCTL = "/usr/local/sbin/systemctl"
BEGIN = f"#!/bin/sh\ndocker inspect late >/dev/null 2>&1 || {START.replace('job', 'late')}\n"
DIRECTORY = "/etc/apt/sources.list.d"


def settings(number: int, engine: tuple[str, ...]) -> tuple[str, str]:
    """Return the variables, with the older (0), the pinned (1) or the newer (2) versions of engine and toolkit."""
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
    ("name", "codename", "version"), [("resolute", "resolute", "cgroup2fs"), ("xenial", "xenial", "tmpfs")]
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
    host.run(f"{START} && systemctl daemon-reload && systemd-run --wait --quiet true")
    assert DENIED in host.run(OPEN, check=False).stderr
    host.run(f"docker rm -f job && {START}")

    wanted = settings(2, engine)
    planned = document(gpuprov("plan", "-l", name, "--json", *wanted))["hosts"][name]["plan"]
    disruptions = {change["subject"]: change["disruption"] for change in planned["changes"]}
    assert disruptions["nvidia-container-toolkit-base"] == "daemon-reload"
    assert (disruptions["nvidia-container-toolkit"], disruptions["docker-ce"]) == ("none", "restart")
    (note,) = [note for note in planned["notes"] if "containers" in note]
    assert (note["name"], note["containers"]) == ("gpu-containers-keep", ["job"])
    assert note["message"].startswith("job: systemd is told of the GPU before apt runs")
    assert note["message"] in gpuprov("plan", "-l", name, *wanted).stdout
    sentence = "at which running containers lose their GPU: job. Stop them, or set docker_ce_restart"
    put(host, SYSTEMCTL, MUTE)
    foretold = document(gpuprov("plan", "-l", name, "--json", *wanted))["hosts"][name]["plan"]["notes"]
    assert [(note["name"], note["containers"]) for note in foretold if "containers" in note] == [("refused", ["job"])]
    assert sentence in foretold[-1]["message"]
    for stand_in in (MUTE, DEAF):
        put(host, SYSTEMCTL, stand_in)
        refused = gpuprov("provision", "-l", name, *wanted)
        assert refused.status == 2
        assert sentence in refused.stdout
        assert ALLOWED in host.run(OPEN, check=False).stderr
    host.run(f"rm {SYSTEMCTL}")

    # Another container starts while apt runs, before systemd reads its units again.
    put(host, "/usr/local/sbin/begin", BEGIN)
    put(host, "/etc/apt/apt.conf.d/99begin", 'DPkg::Pre-Install-Pkgs { "/usr/local/sbin/begin"; };\n', mode="0644")
    container = host.run("docker inspect -f '{{.State.Pid}}' job").stdout
    done = gpuprov("provision", "-l", name, *wanted)
    assert done.status == 0, done.text
    assert host.run("docker inspect -f '{{.State.Pid}}' job").stdout == container
    assert ALLOWED in host.run(OPEN, check=False).stderr
    host.run("systemctl daemon-reload; systemd-run --wait --quiet true")
    for one in ("job", "late"):
        assert ALLOWED in host.run(OPEN.replace("job", one), check=False).stderr
    lab.reset(name)


# A proxy that asks for a password, and a mirror that asks for another one, with TLS: neither name is in any DNS.
PROXY = """
import base64, http.server, select, socket, ssl, sys, threading, urllib.error, urllib.request
SERVER, PORT = sys.argv[1:]
def basic(login):
    return "Basic " + base64.b64encode(login.encode()).decode()
class Web(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    login = ("Authorization", "me:hunter3", 401)
    def admitted(self):
        header, login, status = self.login
        if self.headers.get(header) == basic(login):
            return True
        self.answer(status, b"")
        return False
    def answer(self, status, data):
        self.send_response(status)
        self.send_header({401: "WWW-Authenticate", 407: "Proxy-Authenticate"}.get(status, "X-None"), 'Basic realm="x"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
    def do_GET(self):
        if not self.admitted():
            return
        url = "http://%s:%s%s" % (SERVER, PORT, self.path[self.path.index("/", 8) if self.path[0] != "/" else 0:])
        try:
            status, data = 200, urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url).read()
        except urllib.error.HTTPError as error:
            status, data = error.code, b""
        self.answer(status, data)
    def log_message(self, *words):
        pass
class Proxy(Web):
    login = ("Proxy-Authorization", "me:hunter2", 407)
    def do_CONNECT(self):
        if not self.admitted():
            return
        far = socket.create_connection(("127.0.0.1", 8443))
        self.answer(200, b"")
        self.close_connection = True
        pair = {self.connection: far, far: self.connection}
        while True:
            for one in select.select(list(pair), [], [])[0]:
                data = one.recv(65536)
                if not data:
                    return
                pair[one].sendall(data)
mirror = http.server.ThreadingHTTPServer(("127.0.0.1", 8443), Web)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/srv/certificate.pem", "/srv/key.pem")
mirror.socket = context.wrap_socket(mirror.socket, server_side=True)
threading.Thread(target=mirror.serve_forever).start()
http.server.ThreadingHTTPServer(("127.0.0.1", 3128), Proxy).serve_forever()
"""
CERTIFICATE = (
    "openssl req -x509 -newkey rsa:2048 -nodes -days 3000 -keyout /srv/key.pem -out /srv/certificate.pem "
    "-subj /CN=private.corp.invalid -addext subjectAltName=DNS:private.corp.invalid 2>/dev/null"
)
DETECT = (
    "#!/bin/sh\ncase $1 in *packages.corp.invalid*) echo http://me:hunter2@127.0.0.1:3128 ;; *) echo DIRECT ;; esac\n"
)
LOGIN = "machine private.corp.invalid login me password hunter3\n"
# As apt-listbugs and needrestart do it (0.1.40 and 0.1.47, 3.6 and 3.11 were tried): the one fails without an answer
# or a network, the other asks what to restart.
ASK = """#!/bin/sh
[ ! -c /dev/tty ] || ! (: </dev/tty) 2>/dev/null || touch /run/asked-the-terminal
[ "$(readlink /proc/self/fd/0)" = /dev/null ] || touch /run/asked-standard-input
[ "$APT_LISTBUGS_FRONTEND" = none ] && [ "$APT_LISTCHANGES_FRONTEND" = none ] && [ "$DEBIAN_FRONTEND" = noninteractive ]
"""
RESTART = '#!/bin/sh\n[ -n "$NEEDRESTART_SUSPEND" ] || touch /run/restarted\n'
HOOKS = (
    'Acquire::http::Proxy "http://127.0.0.1:1";\nAcquire::http::Proxy::SERVER "DIRECT";\n'
    'Acquire::http::Proxy-Auto-Detect "/usr/local/sbin/detect";\n'
    'Acquire::https::Proxy "http://me:hunter2@127.0.0.1:3128";\nAcquire::https::CAInfo "/srv/certificate.pem";\n'
    'DPkg::Pre-Install-Pkgs { "/usr/local/sbin/ask"; };\nDPkg::Tools::Options::/usr/local/sbin/ask::InfoFD "20";\n'
    'DPkg::Tools::Options::/usr/local/sbin/ask::Version "3";\nDPkg::Post-Invoke { "/usr/local/sbin/restart"; };\n'
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
THEIRS = "# mine\r\ndeb [ arch=amd64  signed-by=/x ] http://b.invalid/x s main # c\r\n"
# {path: (content, owner, mode)}
FILES = {
    f"{DIRECTORY}/company.list": (COMPANY + OWN, "root:adm", "0640"),
    f"{DIRECTORY}/old.list": (OWN, "root:root", "0644"),
    f"{DIRECTORY}/theirs.list": (THEIRS + OWN.replace("\n", "\r\n"), "alice:alice", "0600"),
    # A name that apt does not read.
    f"{DIRECTORY}/docker~1.list": (OWN, "root:root", "0644"),
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
    web, private = f"http://packages.corp.invalid:{HTTP_PORT}", "https://private.corp.invalid"
    url = f"{web}/docker/linux/debian"
    put(host, "/srv/proxy.py", PROXY)
    put(host, "/usr/local/sbin/ask", ASK)
    put(host, "/usr/local/sbin/restart", RESTART)
    put(host, "/usr/local/sbin/detect", DETECT)
    put(host, "/etc/apt/auth.conf.d/corp.conf", LOGIN, mode="0600")
    put(host, "/etc/apt/apt.conf.d/99site", HOOKS.replace("SERVER", lab.server), mode="0644")
    host.run(f"{CERTIFICATE}; systemd-run --unit proxy python3 /srv/proxy.py {lab.server} {HTTP_PORT}")
    for path, (content, owner, mode) in FILES.items():
        put(host, path, content.replace("URL", url), owner, mode)
    before = {path: seen(host, path) for path in FILES}
    host.run(f"ln -s /srv/etc/site.sources {DIRECTORY}/site.sources")
    words = ["-l", host.name, "-e", "gpu_host_verify_gpu=false"]
    words += ["-e", f"docker_ce_repo_url={web}/docker/linux", "-e", f"nvidia_docker_repo_url={private}/nvidia"]

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
    # The mirror does not let everybody in.
    host.run("mv /etc/apt/auth.conf.d/corp.conf /srv")
    missing = gpuprov("provision", *words)
    assert "https://private.corp.invalid/nvidia" in missing.stdout
    assert "401" in missing.stdout
    assert untouched(host)
    host.run("mv /srv/corp.conf /etc/apt/auth.conf.d")
    # Links to where somebody else can write, or to nothing.
    put(host, "/home/alice/a.sources", STANZA.replace("URL", url), "alice:alice", "0644")
    for link, target, why in (
        (f"{DIRECTORY}/alice.sources", "/home/alice/a.sources", "which others than root can change"),
        (f"{DIRECTORY}/nvidia-container-toolkit.sources", "/srv/none.sources", "which is not a regular file"),
        ("/etc/apt/keyrings/docker.gpg", "/home/alice/docker.gpg", "which is not a regular file"),
    ):
        host.run(f"ln -s {target} {link}")
        refused = gpuprov("provision", *words)
        assert f"{link} is a link to {target}, {why}" in refused.stdout
        host.run(f"rm {link}")
        assert untouched(host)
    assert {path: seen(host, path) for path in FILES} == before

    planned = document(gpuprov("plan", "--json", *words))["hosts"][host.name]["plan"]["changes"]
    (source,) = [change for change in planned if change["subject"] == "apt source docker"]
    assert source["from"] == (
        f"other content, also in {DIRECTORY}/company.list, {DIRECTORY}/old.list (goes), "
        f"{DIRECTORY}/site.sources (a link to /srv/etc/site.sources), {DIRECTORY}/theirs.list"
    )
    done = gpuprov("provision", *words, "--diff")
    assert done.status == 0, done.text
    assert "hunter" not in done.text
    assert host.run("journalctl --quiet | grep hunter", check=False).stdout == ""
    assert seen(host, f"{DIRECTORY}/company.list") == (COMPANY, "root:adm", "0640")
    assert host.run(f"ls {DIRECTORY}/old.list", check=False).stdout == ""
    assert seen(host, f"{DIRECTORY}/theirs.list") == (THEIRS, "alice:alice", "0600")
    for name in ("off", "docker~1"):
        assert seen(host, f"{DIRECTORY}/{name}.list") == before[f"{DIRECTORY}/{name}.list"]
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
        "theirs.list alice:alice 600",
    ]
    assert kept[0] == ". root:root 700"
    assert host.run("ls /run/asked* /run/restarted", check=False).stdout == ""
    assert gpuprov("plan", *words).status == 0
    full = document(gpuprov("provision", "--full", "--json", *words))
    assert full["hosts"][host.name]["changes"] == []
    lab.reset("debian12")
