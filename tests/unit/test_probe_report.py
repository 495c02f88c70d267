"""Parsing of a host's answer to the probe, on the controller. The answers have the form of probe.sh's."""

from __future__ import annotations

import base64
import gzip
import io
import json
import tarfile
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.probe import report
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.probe.report import ProbeError

from tests.text import replaced

NONCE = "5ca1ab1e"
END = f"gpuprov-probe-end {NONCE}"
LIST, KEY = "/etc/apt/sources.list.d/docker.list", "/etc/apt/keyrings/docker.gpg"
DAEMON_JSON = "/etc/docker/daemon.json"
UNIT, DROP_IN = "/lib/systemd/system/docker.service", "/etc/systemd/system/docker.service.d/a.conf"
API = [{"Id": "c1", "Names": ["/train"], "Image": "cuda"}]
CLI = {"ID": "c1", "Names": "train", "Image": "cuda"}
INFO = {"ServerVersion": "29.7.2", "ContainersRunning": 1}


def archive(files: dict[str, str], mode: int = 0o644) -> str:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for path, text in files.items():
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode, member.mtime = len(text.encode()), mode, 1700000000
            tar.addfile(member, io.BytesIO(text.encode()))
    return base64.b64encode(gzip.compress(data.getvalue())).decode()


def answer(*records: tuple[str, ...], before: str = "", end: str | None = None) -> str:
    """A host's text with these records, framed as probe.sh frames them."""
    lines = [before + f"gpuprov-probe 1 {NONCE}"]
    for key, *fields in (("uid", "0"), ("clock", "1700001000"), *records):
        plain = [f"={field}" if field.isascii() and field.isprintable() else encoded(field) for field in fields]
        lines.append("\t".join([key, *plain]))
    return "\n".join([*lines, f"{END} {len(lines) - 1}" if end is None else end, ""])


def encoded(text: str) -> str:
    return "!" + base64.b64encode(text.encode()).decode()


def found(*records: tuple[str, ...], **more: Any) -> Any:
    return report.parse(answer(*records, **more), NONCE)


BOOKWORM = answer(
    ("machine", "x86_64"),
    ("kernel", "6.1.0-18-amd64"),
    ("uptime", "600.50"),
    ("login_user", "alice"),
    ("init", "systemd"),
    ("system_state", "running"),
    ("python", "/usr/bin/python3", "3.11.2"),
    ("package", "apt", "2.6.1", "ii ", "amd64"),
    ("package", "dpkg", "1.21.22", "ii ", "amd64"),
    ("package", "docker-ce", "5:29.7.2", "hi ", "amd64"),
    ("package", "docker.io", "", "un ", ""),
    ("package", "runc", "1.1", "iHR", "amd64"),
    ("apt_get", "/usr/bin/apt-get"),
    ("lock", "812", "unattended-upgr"),
    ("space", "/", "1000 4096 77 100"),
    ("space", "/boot", "3 512 0 0"),
    ("group", "docker:x:996:alice,bob", "local"),
    ("account", "alice", "alice"),
    ("account", "CORP\\Carol", "carol"),
    ("primary_member", "CORP\\Carol"),
    ("account", "zoë", ""),
    ("pci_bus", "yes"),
    ("pci", "0000:01:00.0", "10de", "2330", "nvidia"),
    ("driver", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build  (x)"),
    ("device", "/dev/nvidia0", "195:0", "linked"),
    ("device", "/dev/nvidiactl", "195:255", "unlinked"),
    ("service", "LoadState=loaded"),
    ("service", "ActiveState=active"),
    ("service", "UnitFileState=enabled"),
    ("service", "MainPID=901"),
    ("service", "StateChangeTimestampMonotonic=20500000"),
    ("service", f"FragmentPath={UNIT}"),
    ("service", f"DropInPaths={DROP_IN}"),
    ("info_from", "api"),
    ("info", f"{json.dumps(INFO)}\n\n{json.dumps(API)}\n"),
    ("config_kind", "symlink"),
    ("config_target", "site.json"),
    (
        "files",
        archive(
            {
                "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n'
                'VERSION_ID="12"\nVERSION_CODENAME=bookworm\n',
                "/etc/debian_version": "12.5\n",
                "/etc/apt/sources.list.d/docker.sources": "Types: deb\n",
                "/etc/apt/keyrings/docker.gpg": "a key",
                DAEMON_JSON: '{"é": 1}',
                UNIT: "[Service]\nExecStart=/usr/bin/dockerd -H fd:// \\\n  --debug\nExecStartPost=/bin/true\n",
                DROP_IN: "[Service]\nExecStart=\n ExecStart = /usr/bin/dockerd\n",
            }
        ),
    ),
    ("smi_path", "/usr/bin/nvidia-smi"),
    ("smi", "GPU 0: NVIDIA H100 (UUID: GPU-1)"),
    ("smi", "a warning"),
)
NO_GPU: dict[str, Any] = {
    **dict.fromkeys(("pci_bus", "persistenced"), False),
    "kept": [],
    **{name: [] for name in ("pci", "gpus", "mig_devices", "libraries", "devices", "nodes", "smi", "cdi")},
    **dict.fromkeys(("driver_version", "module_file", "secure_boot", "smi_path", "toolkit")),
    "modules": {},
    "smi_error": "",
}
XENIAL = answer(
    ("machine", "x86_64"),
    ("init", "other"),
    ("python", "/usr/bin/python3", "3.5.2"),
    ("python", "/usr/bin/python2.7", "2.7.12"),
    ("package", "apt", "1.2.35", "ii ", "amd64"),
    ("apt_get", "/usr/bin/apt-get"),
    ("config_kind", "absent"),
    ("files", archive({"/etc/os-release": 'ID=ubuntu\nVERSION_ID="16.04"\nUBUNTU_CODENAME=xenial\n'})),
)


def test_a_debian_12_with_docker_is_read() -> None:
    host = report.parse(f"Welcome!\r\n{BOOKWORM}bye\n", NONCE)
    file = {"mode": "0644", "uid": 0, "gid": 0, "mtime": 1700000000}
    system = {"id": "debian", "version_id": "12", "codename": "bookworm", "debian_version": "12.5"}
    assert host["os"] == {**system, "pretty": "Debian GNU/Linux 12 (bookworm)"}
    assert (host["format"], host["uid"], host["architecture"], host["clock"]) == (1, 0, "amd64", 1700001000)
    assert (host["login_user"], host["init"], host["system_state"]) == ("alice", "systemd", "running")
    assert host["disk"] == {"/": {"free_kb": 4000, "free_inodes": 77}, "/boot": {"free_kb": 1, "free_inodes": None}}
    assert host["apt"]["packages"] == {
        "apt": {"version": "2.6.1", "status": "ii", "hold": False},
        "dpkg": {"version": "1.21.22", "status": "ii", "hold": False},
        "docker-ce": {"version": "5:29.7.2", "status": "hi", "hold": True},
        "runc": {"version": "1.1", "status": "iHR", "hold": False},
    }
    assert (host["apt"]["version"], host["apt"]["lock_holder"]) == ("2.6.1", "unattended-upgr (process 812)")
    assert host["apt"]["source_files"] == {"/etc/apt/sources.list.d/docker.sources": "Types: deb\n"}
    assert host["apt"]["keyrings"] == {"/etc/apt/keyrings/docker.gpg": {**file, "data": "YSBrZXk="}}
    assert host["groups"] == {
        "docker": {"exists": True, "local": True, "gid": 996, "members": ["alice", "bob", "carol"]}
    }
    assert host["accounts"] == {"alice": "alice", "CORP\\Carol": "carol", "zoë": None}
    assert host["gpu"] == {
        **NO_GPU,
        "pci_bus": True,
        "pci": [{"slot": "0000:01:00.0", "vendor": "10de", "device": "2330", "driver": "nvidia", "name": ""}],
        "gpus": [
            {"slot": "", "minor": 0, "uuid": "GPU-1", "model": "NVIDIA H100", "persistence": None, "mig": None,
             "mig_pending": None}
        ],
        "driver_version": "550.54.14",
        "devices": ["/dev/nvidia0"],
        "nodes": [
            {"path": "/dev/nvidia0", "number": "195:0", "linked": True},
            {"path": "/dev/nvidiactl", "number": "195:255", "linked": False},
        ],
        "smi": ["GPU 0: NVIDIA H100 (UUID: GPU-1)"],
        "smi_path": "/usr/bin/nvidia-smi",
        "smi_error": "a warning",
    }  # fmt: skip
    docker, data = host["docker"], base64.b64encode('{"é": 1}'.encode()).decode()
    assert docker["config"] == {**file, "path": DAEMON_JSON, "kind": "symlink", "target": "site.json", "data": data}
    assert docker["service"] == {
        "load": "loaded",
        "active": "active",
        "sub": "",
        "enabled": "enabled",
        "main_pid": 901,
        "state_changed": 1700000420,
        "needs_daemon_reload": False,
    }
    assert docker["exec_start"] == [
        {"file": UNIT, "line": "/usr/bin/dockerd -H fd://    --debug"},
        {"file": DROP_IN, "line": ""},
        {"file": DROP_IN, "line": "/usr/bin/dockerd"},
    ]
    assert docker["info"] == INFO
    assert docker["running"] == [{"id": "c1", "name": "train", "image": "cuda"}]


def test_people_see_what_was_found_without_the_contents_of_files() -> None:
    shown = report.without_contents(found(("files", archive({LIST: "deb https://me:pw@h/ x y\n", KEY: "k"}))))
    assert shown["apt"]["source_files"] == [LIST]
    assert set(shown["apt"]["keyrings"][KEY]) == {"mode", "uid", "gid", "mtime"}
    assert "data" not in shown["docker"]["config"]
    assert "pw" not in json.dumps(shown)


def test_a_bare_ubuntu_16_04_is_read() -> None:
    host = report.parse(replaced(XENIAL, "\n", "\r\n"), NONCE)
    assert (host["os"]["codename"], host["os"]["version_id"], host["os"]["debian_version"]) == ("xenial", "16.04", "")
    assert (host["architecture"], host["login_user"], host["apt"]["lock_holder"]) == ("amd64", None, None)
    assert host["docker"] == {
        "config": {
            **dict.fromkeys(("mode", "uid", "gid", "mtime", "target")),
            "path": DAEMON_JSON,
            "kind": "absent",
            "data": "",
        },
        "exec_start": [],
        "service": {
            "load": "",
            "active": "",
            "sub": "",
            "enabled": "",
            "main_pid": 0,
            "state_changed": None,
            "needs_daemon_reload": False,
        },
        "version": "",
        "proxy_files": {},
        "pending": None,
        "roots": {},
        "units": {},
        "process": None,
        "info": None,
        "info_error": "",
        "running": [],
        "snap": False,
        "v1_volumes": [],
    }
    assert host["gpu"] == NO_GPU
    assert report.choose_python(host["pythons"], "2.16.14") == "/usr/bin/python2.7"
    assert report.choose_python(host["pythons"], "2.17.0") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", " did not answer to the probe"),
        ("\n sudo: \x1b[1mno\n", " did not answer to the probe: it said sudo: ?[1mno"),
        (replaced(answer(), NONCE, "other"), " did not answer to the probe: it said gpuprov-probe 1 other"),
        (answer(before="$ "), f" did not answer to the probe: it said $ gpuprov-probe 1 {NONCE}"),
        (replaced(answer(), "probe 1", "probe 2"), " answered to the probe in format 2; this gpuprov reads format 1"),
        (answer().rpartition("\ngpuprov")[0], "'s answer to the probe is cut off after 2 records"),
        (answer(end=f"noise\n{END} 2"), "'s answer to the probe is garbled: its count does not fit"),
        (answer(end="gpuprov-probe-end other 2"), "'s answer to the probe is garbled: its count does not fit"),
        (replaced(answer(), "=0", "0"), "'s answer to the probe is garbled: 0"),
        (replaced(answer(), "=0", "!0"), "'s answer to the probe is garbled: !0"),
        (replaced(answer(), "=0", "!é"), "'s answer to the probe is garbled: !?"),
        (replaced(answer(), "=0", "=root"), "'s answer to the probe is garbled: root is not a number"),
        (replaced(answer(), "uid", "gid"), "'s answer to the probe lacks what every host has"),
    ],
)
def test_an_answer_that_cannot_be_used_is_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(ProbeError) as caught:
        report.parse(text, NONCE)
    assert str(caught.value) == f"the host{message}"


def test_an_answer_that_is_cut_off_anywhere_is_refused() -> None:
    whole = BOOKWORM.rstrip("\n")
    assert report.parse(whole, NONCE)["uid"] == 0
    for length in range(len(whole)):
        with pytest.raises(ProbeError):
            report.parse(whole[:length], NONCE)


@pytest.mark.parametrize(
    "record",
    [
        ("space", "/", "1 2 3"),
        ("space", "/", "? ? ? ?"),
        ("package", "a", "1"),
        ("python", "/x"),
        ("python",),
        ("account", "a"),
        ("group", "docker:x:996:alice"),
        ("primary_member", "nobody"),
        ("interpreter", "python3"),
        ("lock", "1"),
        ("volume",),
        ("service", "MainPID=x"),
        ("dockerd", "x", "dockerd"),
        ("library", "/usr/lib/libc.so.6", "loader"),
        ("gpu", "0000:01:00.0"),
        ("broken", "a"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused(record: tuple[str, ...]) -> None:
    with pytest.raises(ProbeError, match="the host's answer to the probe is garbled"):
        found(record)


def test_an_archive_with_any_byte_changed_is_refused_or_read() -> None:
    data = bytearray(base64.b64decode(archive({DAEMON_JSON: "{}" * 50})))
    refused = 0
    for place in range(len(data)):
        data[place] ^= 0x5A
        try:
            found(("files", base64.b64encode(bytes(data)).decode()))
        except ProbeError:
            refused += 1
        data[place] ^= 0x5A
    assert refused > len(data) * 0.8


@pytest.mark.parametrize("kept", [3, 10, 30, 150])
def test_an_archive_that_is_cut_off_is_refused(kept: int) -> None:
    data = base64.b64decode(archive({DAEMON_JSON: "{}", "/etc/os-release": "ID=debian"}))
    with pytest.raises(ProbeError, match="the host's files cannot be read"):
        found(("files", base64.b64encode(data[:kept]).decode()))


@pytest.mark.parametrize(
    ("records", "running", "error"),
    [
        ([("info_from", "api"), ("info", f"{json.dumps(INFO)}\n[]\n")], [], ""),
        ([("info_from", "cli"), ("info", json.dumps(INFO)), ("ps", f"{json.dumps(CLI)}\n")], ["train"], ""),
        ([("info_from", "api"), ("info", f'{json.dumps(INFO)}\n{{"message": "no"}}')], None, '{"message": "no"}'),
        ([("info_from", "api"), ("info", json.dumps(INFO))], None, json.dumps(INFO)),
        ([("info_from", "cli"), ("info", "Cannot connect\x1b")], None, "Cannot connect?"),
        ([("info_from", "cli"), ("info", '{"ServerErrors": ["a", "b"]}')], None, "a; b"),
        ([("info_from", "cli"), ("info", "{}")], None, "dockerd does not answer"),
        ([("info_from", "cli"), ("info", "killed"), ("info_error", "10 s")], None, "10 s"),
        ([("info_error", "no client")], None, "no client"),
    ],
)
def test_what_docker_says_is_taken_whole_or_told(records: list[Any], running: list[str] | None, error: str) -> None:
    docker = found(*records)["docker"]
    assert docker["info"] == (None if running is None else INFO)
    assert [container["name"] for container in docker["running"]] == (running or [])
    assert docker["info_error"] == error


@pytest.mark.parametrize(
    ("machine", "architecture"), [("x86_64", "amd64"), ("aarch64", "arm64"), ("riscv64", "riscv64")]
)
def test_without_dpkg_the_machine_says_the_architecture(machine: str, architecture: str) -> None:
    assert found(("machine", machine))["architecture"] == architecture
    assert found(("machine", machine), ("package", "dpkg", "1", "ii ", "i386"))["architecture"] == "i386"


def test_without_apt_get_there_is_no_apt() -> None:
    assert found(("package", "apt", "2.6.1", "ii ", "amd64"))["apt"]["version"] == ""


@pytest.mark.parametrize(
    ("core", "python", "managed"),
    [
        ("2.16.14", "2.7.12", True),
        ("2.16.14", "3.5.2", False),
        ("2.16.14", "3.6.9", True),
        ("2.17.1", "3.6.9", False),
        ("2.17.1", "2.7.12", False),
        ("2.21.5", "3.8.20", False),
        ("2.21.5", "3.14.0", True),
        ("2.21.5", "3.15.0", False),
        ("2.22.0.dev0", "3.15.0", True),
        ("2.15.0", "2.7.5", True),
        ("2.21.5", "unknown", False),
    ],
)
def test_an_ansible_core_manages_the_pythons_of_its_matrix(core: str, python: str, managed: bool) -> None:
    assert report.manageable(core, python) is managed
