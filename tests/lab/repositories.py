"""Vendor-shaped apt repositories, made of Debian's own packages.

The programs inside are Debian's; names, versions, dependencies and conffiles are the vendors'.
"""

from __future__ import annotations

import shutil
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.lab import relationships
from tests.lab.images import (
    CACHE,
    FILES,
    SUITES,
    compiled,
    debs,
    find_deb,
    key,
    public_key,
    run,
    signing_home,
    source,
    step,
)

# What shlibs:Depends of the vendors' engine stands for.
ENGINE_LIBRARIES = "libc6, libsystemd0"


@dataclass(frozen=True)
class Package:
    """A package to be packed: files are {path in the package: (source, mode)}."""

    name: str
    version: str
    depends: str = ""
    relations: dict[str, str] = field(default_factory=dict)
    tree: Path | None = None
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    conffiles: tuple[str, ...] = ()
    scripts: dict[str, str] = field(default_factory=dict)


def _vendors(name: str, version: str, libraries: str = "", **more: Any) -> Package:
    """A package with the vendor's relationships; libraries are what it depends on beside them."""
    relations = relationships.fields(name, version)
    depends = ", ".join(filter(None, (relations.pop("Depends", ""), libraries)))
    return Package(name, version, depends, relations, **more)


@dataclass(frozen=True)
class Release:
    """One release of Docker's repository: versions are (older, pinned, newer)."""

    codename: str
    os: str
    suite: str
    engine: tuple[str, ...]
    containerd: tuple[str, ...]
    buildx: tuple[str, ...] = ()
    compose: tuple[str, ...] = ()


def _release(os: str, number: str, codename: str, *rows: tuple[str, ...], suite: str = "") -> Release:
    """A release with rows of engine, containerd, buildx and compose, each without a suffix.

    suite is the Debian suite that its programs come from, where that is not the codename.
    """
    suffix = f"~{os}.{number}~{codename}"
    engine, containerd, buildx, compose = (
        # containerd.io had no suffix before 2.0.
        tuple(one if one.startswith("1.7.") else one + suffix for one in (_revised(two) for two in row))
        for row in rows
    )
    return Release(codename, os, suite or codename, engine, containerd, buildx, compose)


def _revised(version: str) -> str:
    return version if "-" in version else f"{version}-1"


# The middle ones are the pins of roles/docker_ce/vars/.
RELEASES = (
    _release(
        "debian", "11", "bullseye",
        ("5:28.5.2", "5:29.8.0", "5:29.9.1"), ("1.7.29", "2.3.4-2", "2.3.9"),
        ("0.30.1", "0.37.0", "0.37.1"), ("2.40.3", "5.5.1", "5.6.0"),
    ),
    _release(
        "debian", "12", "bookworm",
        ("5:28.5.2", "5:29.7.2", "5:29.9.1"), ("1.7.29", "2.3.3", "2.3.9"),
        ("0.30.1", "0.36.1", "0.37.0"), ("2.40.3", "5.5.0", "5.6.0"),
    ),
    _release(
        "debian", "13", "trixie",
        ("5:28.5.2", "5:29.7.2", "5:29.9.1"), ("1.7.29", "2.3.4", "2.3.9"),
        ("0.30.1", "0.36.1", "0.37.0"), ("2.40.3", "5.5.0", "5.6.0"),
    ),
    _release(
        "ubuntu", "26.04", "resolute",
        ("5:29.5.3", "5:29.7.2", "5:29.9.1"), ("2.2.4", "2.3.3", "2.3.9"),
        ("0.33.0", "0.36.1", "0.37.0"), ("5.1.4", "5.4.0", "5.6.0"),
        suite="forky",
    ),
    Release(
        "xenial", "ubuntu", "bullseye",
        tuple(f"5:18.09.{number}~3-0~ubuntu-xenial" for number in (3, 4, 9)),
        ("1.2.4-1", "1.2.5-1", "1.2.6-3"),
    ),
)  # fmt: skip
# Their docker.io has the CLI in it, and looks for docker-init on PATH.
OLD_SUITES = ("bullseye", "bookworm")
TOOLKIT_VERSIONS = ("1.18.2-1", "1.19.1-1", "1.20.0-1")
# Before its package refreshed CDI specifications by itself.
OLD_TOOLKIT_VERSION = "1.17.8-1"


def directory() -> Path:
    """Where the document root of the lab's web server lies."""
    made_by = source(
        "repositories.py", "relationships.py", "files/nvidia-container-runtime.c", "files/gpu.h", "files/nvidia-ctk.sh"
    )
    return CACHE / f"www-{key(debs('bookworm').parent.name, made_by)}"


def build() -> None:
    """Build the repositories, if they are not in the cache."""
    if not directory().exists():
        with step("vendor repositories"):
            _build()


def fingerprint() -> str:
    """The fingerprint of the key that signs the lab's repositories."""
    answer = run("gpg", "--homedir", signing_home(), "--with-colons", "--fingerprint").stdout
    return next(line.split(":")[9] for line in answer.splitlines() if line.startswith("fpr:"))


def _unpacked(suite: str, name: str, workspace: Path) -> Path:
    target = workspace / f"{suite}-{name}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        run("dpkg-deb", "-x", find_deb(debs(suite) / "distro", name), target)
    return target


def _link(tree: Path, target: Path, *patterns: str) -> None:
    """Hard-link files of an unpacked package into another tree."""
    for pattern in patterns:
        for path in tree.glob(pattern):
            # The vendors' units start programs in /usr/bin.
            place = target / str(path.relative_to(tree)).replace("usr/sbin/", "usr/bin/")
            place.parent.mkdir(parents=True, exist_ok=True)
            # Debian's links between bin and sbin are not needed.
            if path.is_file() and not path.is_symlink():
                place.hardlink_to(path)


def _engine_trees(suite: str, workspace: Path) -> dict[str, Path]:
    """Trees of the engine, its CLI and containerd, of Debian's programs."""
    names = ("docker-ce", "docker-ce-cli", "containerd.io")
    trees = {name: workspace / f"tree-{suite}-{name}" for name in names}
    if trees["docker-ce"].exists():
        return trees
    engine = _unpacked(suite, "docker.io", workspace)
    client = engine if suite in OLD_SUITES else _unpacked(suite, "docker-cli", workspace)
    containerd = _unpacked(suite, "containerd", workspace)
    runc = _unpacked(suite, "runc", workspace)
    tini = _unpacked(suite, "tini-static" if suite == "forky" else "tini", workspace)
    _link(engine, trees["docker-ce"], "usr/*bin/dockerd", "usr/*bin/docker-proxy")
    _link(engine, trees["docker-ce"], "usr/libexec/docker/*")
    _link(client, trees["docker-ce-cli"], "usr/bin/docker")
    _link(containerd, trees["containerd.io"], "usr/bin/*")
    _link(runc, trees["containerd.io"], "usr/*bin/runc")
    # The vendor's docker-init is tini; Debian's is a link to it.
    # It moved with 24.0 (docker-ce-packaging commit 5a998af).
    init = trees["docker-ce"] / ("usr/bin" if suite in OLD_SUITES else "usr/libexec/docker") / "docker-init"
    init.parent.mkdir(parents=True, exist_ok=True)
    init.hardlink_to(tini / "usr/bin/tini-static")
    if suite == "forky":
        trees["docker-buildx-plugin"] = workspace / f"tree-{suite}-buildx"
        buildx = _unpacked(suite, "docker-buildx", workspace)
        _link(buildx, trees["docker-buildx-plugin"], "usr/libexec/docker/cli-plugins/*")
    return trees


# The engine asks each plugin for its metadata (docker/cli, cli-plugins/manager/metadata.go).
PLUGIN = """\
#!/bin/sh
# Stands in for the vendor's plugin.
if [ "${{1-}}" = docker-cli-plugin-metadata ]; then
    echo '{{"SchemaVersion":"0.1.0","Vendor":"lab","Version":"v{version}",'
    echo '"ShortDescription":"STAND-IN"}}'
else
    echo '{name} v{version} (STAND-IN of gpuprov lab)'
fi
"""

UNITS = {
    "containerd.service": """\
        [Unit]
        Description=containerd container runtime
        After=network.target dbus.service

        [Service]
        ExecStart=/usr/bin/containerd
        Type=notify
        Delegate=yes
        KillMode=process
        Restart=always
        RestartSec=5

        [Install]
        WantedBy=multi-user.target
        """,
    "docker.service": """\
        [Unit]
        Description=Docker Application Container Engine
        After=network-online.target docker.socket firewalld.service containerd.service
        Wants=network-online.target containerd.service
        Requires=docker.socket

        [Service]
        Type=notify
        ExecStart=/usr/bin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock
        ExecReload=/bin/kill -s HUP $MAINPID
        TimeoutStartSec=0
        RestartSec=2
        Restart=always
        StartLimitBurst=3
        StartLimitInterval=60s
        Delegate=yes
        KillMode=process
        OOMScoreAdjust=-500

        [Install]
        WantedBy=multi-user.target
        """,
    "docker.socket": """\
        [Unit]
        Description=Docker Socket for the API

        [Socket]
        ListenStream=/run/docker.sock
        SocketMode=0660
        SocketUser=root
        SocketGroup=docker

        [Install]
        WantedBy=sockets.target
        """,
}


# The vendor's file has more comments; the unit does not read it.
ENGINE_DEFAULTS = """\
# Docker Upstart and SysVinit configuration file
#DOCKER_OPTS="--dns 8.8.8.8 --dns 8.8.4.4"
"""
POSTINST = """\
#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
{before}
for unit in {units}; do
    deb-systemd-helper unmask $unit >/dev/null || true
    if deb-systemd-helper --quiet was-enabled $unit; then
        deb-systemd-helper enable $unit >/dev/null || true
    else
        deb-systemd-helper update-state $unit >/dev/null || true
    fi
done
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
    deb-systemd-invoke $([ -n "$2" ] && echo restart || echo start) {units} >/dev/null || true
fi
"""
PRERM = """\
#!/bin/sh
set -e
[ "$1" = remove ] || exit 0
[ ! -d /run/systemd/system ] || deb-systemd-invoke stop {units} >/dev/null || true
"""
POSTRM = """\
#!/bin/sh
set -e
case $1 in
remove)
    [ ! -d /run/systemd/system ] || systemctl --system daemon-reload >/dev/null || true
    deb-systemd-helper mask {units} >/dev/null || true
    ;;
purge)
    deb-systemd-helper purge {units} >/dev/null || true
    deb-systemd-helper unmask {units} >/dev/null || true
    ;;
esac
"""


def _service_scripts(*units: str, before: str = ":") -> dict[str, str]:
    """Maintainer scripts that do what debhelper's do for units: enable, (re)start, stop."""
    texts = {"postinst": POSTINST, "prerm": PRERM, "postrm": POSTRM}
    words = " ".join(units)
    return {name: text.format(units=words, before=before) for name, text in texts.items()}


def _unit_files(*units: str) -> dict[str, tuple[str, int]]:
    return {f"lib/systemd/system/{name}": (textwrap.dedent(UNITS[name]), 0o644) for name in units}


def _docker_packages(release: Release, workspace: Path) -> list[Package]:
    trees = _engine_trees(release.suite, workspace)
    packages = []
    units = ("docker.service", "docker.socket")
    group = "getent group docker >/dev/null || groupadd --system docker"
    for version in release.engine:
        packages += [
            _vendors(
                "docker-ce", version, ENGINE_LIBRARIES, tree=trees["docker-ce"],
                files={**_unit_files(*units), "etc/default/docker": (ENGINE_DEFAULTS, 0o644)},
                conffiles=("/etc/default/docker",),
                scripts=_service_scripts(*units, before=group),
            ),
            _vendors("docker-ce-cli", version, "libc6", tree=trees["docker-ce-cli"]),
        ]  # fmt: skip
    for version in release.containerd:
        packages.append(
            _vendors(
                "containerd.io", version, "libc6, libseccomp2", tree=trees["containerd.io"],
                files={
                    **_unit_files("containerd.service"),
                    "etc/containerd/config.toml": ('disabled_plugins = ["cri"]\n', 0o644),
                },
                conffiles=("/etc/containerd/config.toml",),
                scripts=_service_scripts("containerd.service"),
            )
        )  # fmt: skip
    buildx = trees.get("docker-buildx-plugin")
    packages += [_plugin("docker-buildx-plugin", version, buildx) for version in release.buildx]
    packages += [_plugin("docker-compose-plugin", version) for version in release.compose]
    return packages


def _plugin(name: str, version: str, tree: Path | None = None) -> Package:
    """A plugin of the CLI: a genuine one where there is a tree, else a stand-in."""
    plugin = name.removesuffix("-plugin")
    script = PLUGIN.format(version=version.split("-")[0], name=plugin)
    stand_in = {f"usr/libexec/docker/cli-plugins/{plugin}": (script, 0o755)}
    return _vendors(name, version, tree=tree, files={} if tree else stand_in)


RUNTIME = "usr/bin/nvidia-container-runtime"
HOOK = "usr/bin/nvidia-container-runtime-hook"
CLI = {
    "usr/bin/nvidia-container-cli": (
        textwrap.dedent("""\
            #!/bin/sh
            # Stands in for NVIDIA's program.
            if [ ! -e /etc/gpuprov-lab/gpu ] || [ ! -e /dev/nvidia0 ]; then
                echo 'nvidia-container-cli: initialization error: nvml error: driver not loaded' >&2
                exit 1
            fi
            echo 'STAND-IN of the gpuprov lab: one GPU, /dev/nvidia0'
            """),
        0o755,
    )
}
LIBRARY = {"usr/share/doc/libnvidia-container1/README.lab": ("Stands in for a library.\n", 0o644)}
NVIDIA_DOCKER2_CONFIG = """\
{
    "runtimes": {
        "nvidia": {
            "path": "nvidia-container-runtime",
            "runtimeArgs": []
        }
    }
}
"""
# TOOLKIT commits 063e1aa and 430fe4d of tests/lab/relationships.py: from 1.18 on the package has units in /etc as
# conffiles and enables and starts them by hand; from 1.20 on debhelper does, and the units are in /lib.
TOOLKIT_CONFIG = "/usr/bin/nvidia-ctk --quiet config --config-file=/etc/nvidia-container-runtime/config.toml --in-place"
TOOLKIT_POSTINST = f"""\
#!/bin/sh
set -e
[ "$1" = configure ] || exit 0
{TOOLKIT_CONFIG}
"""
TOOLKIT_POSTINST_1_18 = f"""\
{TOOLKIT_POSTINST}case $(systemctl is-system-running 2>/dev/null || true) in
running | degraded) ;;
*) exit 0 ;;
esac
systemctl daemon-reload || true
systemctl enable --now nvidia-cdi-refresh.path || true
systemctl enable --now nvidia-cdi-refresh.service || true
systemctl start nvidia-cdi-refresh.service || true
"""
TOOLKIT_ENVIRONMENT = "etc/nvidia-container-toolkit/nvidia-cdi-refresh.env"
# NVIDIA's service looks for the kernel module, too; there is none in the lab.
REFRESH_UNITS = {
    "nvidia-cdi-refresh.path": (
        textwrap.dedent("""\
            [Unit]
            Description=Watch for another driver or toolkit (stand-in)

            [Path]
            PathChanged=/lib/modules/%v/modules.dep
            PathChanged=/usr/bin/nvidia-ctk

            [Install]
            WantedBy=multi-user.target
            """),
        0o644,
    ),
    "nvidia-cdi-refresh.service": (
        textwrap.dedent("""\
            [Unit]
            Description=Refresh the CDI specification (stand-in)
            ConditionPathExists=/usr/bin/nvidia-smi
            ConditionPathExists=/dev/nvidia0

            [Service]
            Type=oneshot
            Environment=NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=/var/run/cdi/nvidia.yaml
            EnvironmentFile=-/etc/nvidia-container-toolkit/nvidia-cdi-refresh.env
            ExecStart=/usr/bin/nvidia-ctk cdi generate

            [Install]
            WantedBy=multi-user.target
            """),
        0o644,
    ),
}


def _toolkit_packages(runtime: Path, hook: Path) -> list[Package]:
    """The four packages of the toolkit; the trees have the stand-in runtime and the stand-in hook."""
    packages = []
    for version in (OLD_TOOLKIT_VERSION, *TOOLKIT_VERSIONS):
        packages += [
            _vendors("nvidia-container-toolkit", version, tree=hook),
            _toolkit_base(version, runtime),
            _vendors("libnvidia-container-tools", version, files=CLI),
            _vendors("libnvidia-container1", version, "libc6", files=LIBRARY),
        ]
    return packages


def _toolkit_base(version: str, runtime: Path) -> Package:
    files = {"usr/bin/nvidia-ctk": ((FILES / "nvidia-ctk.sh").read_text(encoding="utf-8"), 0o755)}
    scripts = {"postinst": TOOLKIT_POSTINST}
    conffiles: tuple[str, ...] = ()
    if relationships.satisfies(version, ">=", "1.18.0"):
        by_hand = relationships.satisfies(version, "<<", "1.20.0")
        place = "etc/systemd/system" if by_hand else "lib/systemd/system"
        units = {f"{place}/{name}": unit for name, unit in REFRESH_UNITS.items()}
        files |= {**units, TOOLKIT_ENVIRONMENT: ("# Overrides of nvidia-cdi-refresh.service.\n", 0o644)}
        conffiles = (f"/{TOOLKIT_ENVIRONMENT}", *(f"/{path}" for path in units if by_hand))
        scripts = {"postinst": TOOLKIT_POSTINST_1_18} if by_hand else _toolkit_scripts()
    return _vendors(
        "nvidia-container-toolkit-base", version, "libc6", tree=runtime, files=files, conffiles=conffiles,
        scripts=scripts,
    )  # fmt: skip


def _toolkit_scripts() -> dict[str, str]:
    """Debhelper's scripts for the toolkit's units, which it had as conffiles in /etc before."""
    scripts = {"preinst": "#!/bin/sh\nset -e\n", **_service_scripts(*REFRESH_UNITS, before=TOOLKIT_CONFIG)}
    removed = "".join(
        f"dpkg-maintscript-helper rm_conffile /etc/systemd/system/{name} 1.20.0-1~ nvidia-container-toolkit-base"
        ' -- "$@"\n'
        for name in REFRESH_UNITS
    )
    return {name: text.replace("set -e\n", f"set -e\n{removed}", 1) for name, text in scripts.items()}


def _legacy_packages(runtime: Path, hook: Path) -> dict[str, list[Package]]:
    """The legacy repository's three directories: nvidia-docker2 goes with its exact engine."""
    library, runtimes, docker = [], [], []
    for version in ("1.0.0-1", "1.4.0-1"):
        depends = f"libnvidia-container1 (>= {version})"
        library += [
            Package("libnvidia-container-tools", version, depends, files=CLI),
            Package("libnvidia-container1", version, "libc6", files=LIBRARY),
        ]
    tools = "libnvidia-container-tools (>= 0.1.0), libnvidia-container-tools (<< 2.0.0)"
    for version in ("1.3.0-1", "1.4.0-1"):
        runtimes.append(Package("nvidia-container-runtime-hook", version, tools, tree=hook))
    for engine in ("18.09.3", "18.09.4", "18.09.9"):
        version = f"2.0.0+docker{engine}-1"
        depends = "nvidia-container-runtime-hook (<< 2.0.0), libseccomp2"
        runtimes.append(Package("nvidia-container-runtime", version, depends, tree=runtime))
        exact = f"5:{engine}~3-0~ubuntu-xenial"
        docker.append(
            Package(
                "nvidia-docker2", f"2.0.3+docker{engine}-1",
                f"nvidia-container-runtime (= {version}), "
                f"docker-ce (= {exact}) | docker-ee (= {exact})",
                {"Breaks": "nvidia-docker (<< 2.0.0)", "Replaces": "nvidia-docker (<< 2.0.0)"},
                files={
                    "etc/docker/daemon.json": (NVIDIA_DOCKER2_CONFIG, 0o644),
                    "usr/bin/nvidia-docker": ('#!/bin/sh\nexec docker "$@"\n', 0o755),
                },
                conffiles=("/etc/docker/daemon.json",),
            )
        )  # fmt: skip
    docker.append(Package("nvidia-docker", "1.0.1-1", "libc6"))
    return {
        "libnvidia-container": library,
        "nvidia-container-runtime": runtimes,
        "nvidia-docker": docker,
    }


# Old packages of the distributions that Debian's own are too large to serve for.
OLD_PACKAGES = tuple(
    Package(name, version, "docker.io" if name == "docker-compose" else "")
    for name, version in (
        ("docker-compose", "1.29.2-3"),
        ("docker-doc", "20.10.24+dfsg1-1"),
        ("podman-docker", "4.3.1+ds1-8"),
    )
)


def _pack(package: Package, directory: Path, workspace: Path) -> None:
    tree = workspace / "pack" / f"{package.name}_{package.version.replace(':', '%3a')}"
    shutil.rmtree(tree, ignore_errors=True)
    control = tree / "DEBIAN"
    control.mkdir(parents=True)
    if package.tree:
        run("cp", "-al", f"{package.tree}/.", tree)
    for path, (text, mode) in package.files.items():
        place = tree / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)
    fields = {
        "Package": package.name,
        "Version": package.version,
        "Architecture": "amd64",
        "Maintainer": "gpuprov lab <lab@gpuprov.invalid>",
        "Depends": package.depends,
        **package.relations,
        "Description": "vendor-shaped package of gpuprov's lab",
    }
    (control / "control").write_text("".join(f"{name}: {value}\n" for name, value in fields.items() if value))
    if package.conffiles:
        (control / "conffiles").write_text("".join(f"{path}\n" for path in package.conffiles))
    for name, script in package.scripts.items():
        (control / name).write_text(script)
        (control / name).chmod(0o755)
    directory.mkdir(parents=True, exist_ok=True)
    deb = directory / f"{package.name}_{package.version.split(':')[-1]}_amd64.deb"
    run("dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, deb)
    shutil.rmtree(tree)


# One hash is enough for apt, and takes half the time that all of them take.
HASHES = tuple(word for name in ("MD5", "SHA1", "SHA512") for word in ("-o", f"APT::FTPArchive::{name}=false"))


def _index(root: Path, packages: Path, release: Path, fields: dict[str, str], pool: str = ".") -> None:
    """Write Packages and the signed InRelease of a repository.

    root is what the files' names are relative to, pool where they lie; fields are Release's.
    """
    packages.mkdir(parents=True, exist_ok=True)
    answer = run("apt-ftparchive", *HASHES, "packages", pool, directory=root)
    (packages / "Packages").write_text(answer.stdout)
    options = []
    for name, value in {"Origin": "gpuprov lab", **fields}.items():
        options += ["-o", f"APT::FTPArchive::Release::{name}={value}"]
    answer = run("apt-ftparchive", *HASHES, *options, "release", ".", directory=release)
    plain = release / "Release"
    plain.write_text(answer.stdout)
    run(
        "gpg", "--homedir", signing_home(), "--batch", "--yes", "--clearsign",
        "--output", release / "InRelease", plain,
    )  # fmt: skip


def _flat(directory: Path) -> None:
    _index(directory, directory, directory, {})


def _docker(release: Release, new: Path, workspace: Path) -> None:
    root = new / "docker" / "linux" / release.os
    dist = root / "dists" / release.codename
    pool = dist / "pool" / "stable" / "amd64"
    for package in _docker_packages(release, workspace):
        _pack(package, pool, workspace)
    fields = {
        "Suite": release.codename,
        "Codename": release.codename,
        "Components": "stable",
        "Architectures": "amd64",
    }
    _index(root, dist / "stable" / "binary-amd64", dist, fields, str(pool.relative_to(root)))
    public_key(root / "gpg", armored=True)


def _nvidia(nvidia: Path, workspace: Path) -> None:
    runtime, hook = workspace / "tree-runtime", workspace / "tree-hook"
    for place in (runtime / RUNTIME, hook / HOOK):
        place.parent.mkdir(parents=True)
        compiled("nvidia-container-runtime", place)
    toolkit = nvidia / "libnvidia-container" / "stable" / "deb" / "amd64"
    for package in _toolkit_packages(runtime, hook):
        _pack(package, toolkit, workspace)
    _flat(toolkit)
    for name, packages in _legacy_packages(runtime, hook).items():
        legacy = nvidia / name / "ubuntu16.04" / "amd64"
        for package in packages:
            _pack(package, legacy, workspace)
        _flat(legacy)
        public_key(nvidia / name / "gpgkey", armored=True)


def _distro(suite: str, distro: Path, workspace: Path) -> None:
    """Debian's own packages under their own names: what a host may have had before."""
    distro.mkdir(parents=True)
    for deb in (debs(suite) / "distro").glob("*.deb"):
        (distro / deb.name).hardlink_to(deb)
    for package in OLD_PACKAGES:
        _pack(package, distro, workspace)
    _index(distro, distro, distro, {"Origin": "Debian", "Label": "Debian", "Codename": suite})


def _suite(suite: str, new: Path, workspace: Path) -> None:
    for release in RELEASES:
        if release.suite == suite:
            _docker(release, new, workspace)
    _distro(suite, new / "distro" / suite, workspace)


def _build() -> None:
    new = directory().with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    workspace = new / ".work"
    workspace.mkdir(parents=True)
    # One thread a suite: the releases of a suite share what is unpacked.
    with ThreadPoolExecutor(2) as pool:
        work = [pool.submit(_suite, suite, new, workspace / suite) for suite in SUITES.values()]
        work.append(pool.submit(_nvidia, new / "nvidia", workspace / "nvidia"))
        for one in work:
            one.result()
    shutil.rmtree(workspace)
    new.rename(directory())
