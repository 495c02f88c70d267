"""Pack what `tests/gpu/host.sh` needs on a GPU machine without a network, in parts of a size that can be carried.

    python3 -m tests.gpu.pack --toolkit 1.19.0=DIR --toolkit 1.19.1=DIR --library DIR --out DIR

Each DIR is a checkout of NVIDIA/nvidia-container-toolkit at that tag with its programs, built by `go build`, in
bin/. --library DIR is a built checkout of NVIDIA/libnvidia-container, which docker run --gpus and the legacy mode need.
The root file system is the lab's debian13 (`tests.lab` builds it), made smaller.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.lab import images, registry

CHECKOUT = Path(__file__).resolve().parents[2]
# Bytes: what one call to the GPU machine may carry is 64 MiB.
PART = 55 << 20
SUITE = "trixie"
ENGINE = ("docker.io", "docker-cli", "containerd", "runc", "tini")
NOT_NEEDED = (
    "./dev/*", "./usr/share/doc/*", "./usr/share/man/*", "./usr/share/info/*", "./usr/share/locale/*",
    "./usr/share/i18n/*", "./var/cache/debconf/*", "./usr/lib/udev/hwdb.bin",
)  # fmt: skip
# They need devices, consoles or a network of their own.
MASKED = (
    "systemd-modules-load.service", "systemd-udevd.service", "systemd-udev-trigger.service",
    "systemd-udevd-control.socket", "systemd-udevd-kernel.socket", "systemd-networkd.service",
    "systemd-networkd.socket", "systemd-networkd-wait-online.service", "systemd-resolved.service",
    "e2scrub_reap.service", "getty@tty1.service", "console-getty.service",
)  # fmt: skip
# What gpuprov imports, of this Python's packages.
LIBRARIES = (
    "ansible", "ansible_runner", "jinja2", "markupsafe", "yaml", "_yaml", "cryptography", "cffi", "pycparser",
    "packaging", "resolvelib", "rich", "pygments", "markdown_it", "mdurl", "semver", "typer", "click", "shellingham",
    "annotated_doc", "annotated_types", "pydantic", "pydantic_core", "typing_inspection", "pexpect", "ptyprocess",
    "daemon", "lockfile",
)  # fmt: skip
# And what Debian's dependencies of these, and of the engine's package, come to beside that file system.
TOOLS = (
    "apt-utils", "gpg-agent", "gpgconf", "libassuan9", "libnpth0t64", "pinentry-curses", "libncursesw6", "nftables",
    "libnftables1", "libnftnl11", "libmnl0", "libjansson4", "libedit2", "libbsd0", "libmd0",
)  # fmt: skip
TOOLKIT = ("bin", "packaging/debian", "deployments/systemd")
CLI = "nvidia-container-cli"


def root_file_system(target: Path, workspace: Path) -> None:
    """The lab's Debian 13, with sshd on port 2222 and a key that root may log in with from the host itself."""
    root = workspace / "root"
    excludes = [f"--exclude={pattern}" for pattern in NOT_NEEDED]
    root.mkdir()
    images.run("tar", "-xf", images._root(SUITE), "-C", root, *excludes)
    for directory in ("root/.ssh", "etc/ssh/sshd_config.d", "etc/systemd/system/multi-user.target.wants"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    images.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / "root/.ssh/id_ed25519")
    shutil.copy(root / "root/.ssh/id_ed25519.pub", root / "root/.ssh/authorized_keys")
    (root / "etc/ssh/sshd_config.d/gpu.conf").write_text("Port 2222\nUseDNS no\n")
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    wanted = root / "etc/systemd/system/multi-user.target.wants/ssh.service"
    if not wanted.is_symlink():
        wanted.symlink_to("/usr/lib/systemd/system/ssh.service")
    (root / "etc/machine-id").write_text("")
    (root / "etc/hostname").write_text("gpuhost\n")
    images.run("tar", "-C", root, "-c", "-I", "xz -T0 -3", "-f", target, ".")


def tools(target: Path, workspace: Path) -> None:
    """Fetch the packages that the host makes its repositories with."""
    lists = workspace / "lists"
    (lists / "partial").mkdir(parents=True)
    sources = workspace / "sources.list"
    sources.write_text(
        f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {images.mirror()} {SUITE} main\n"
    )
    options = []
    for name, value in {
        "Dir::State::Lists": lists, "Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Cache::pkgcache": "", "Dir::Cache::srcpkgcache": "", "Acquire::Languages": "none",
    }.items():  # fmt: skip
        options += ["-o", f"{name}={value}"]
    images.run("apt-get", *options, "update")
    images.run("apt-get", *options, "download", *(f"{name}/{SUITE}" for name in TOOLS), directory=target)


def payload(target: Path, toolkits: dict[str, Path], library: Path) -> None:
    """Lay out what the host uses: packages, registry, toolkits, gpuprov and what it imports."""
    cache = target / "cache"
    distro = images.debs(SUITE) / "distro"
    (cache / "distro").mkdir(parents=True)
    for name in ENGINE:
        shutil.copy(images.find_deb(distro, name), cache / "distro")
    shutil.copytree(registry.directory(), target / "registry")
    for version, source in toolkits.items():
        for name in TOOLKIT:
            shutil.copytree(source / name, target / "toolkit" / version / name)
    (target / "library").mkdir()
    # The newest library is the file, the other names are links to it.
    for path in (
        library / CLI,
        *library.glob("libnvidia-container*.so.*"),
        *library.glob("deps/usr/lib/*/*-go.so.*"),
    ):
        shutil.copy(path, target / "library")
    site = Path(next(path for path in sys.path if path.endswith("site-packages")))
    ignore = shutil.ignore_patterns("__pycache__")
    for path in site.iterdir():
        if path.name in LIBRARIES or path.name.endswith(".dist-info"):
            shutil.copytree(path, target / "site" / path.name, ignore=ignore)
        elif path.name.startswith(("typing_extensions", "_cffi_backend")):
            shutil.copy(path, target / "site")
    (target / "checkout").mkdir()
    archive = subprocess.run(["git", "-C", CHECKOUT, "archive", "HEAD"], check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", target / "checkout"], input=archive, check=True)


def main() -> int:
    """Pack, and write part-00 and so on."""
    parser = argparse.ArgumentParser(prog="python3 -m tests.gpu.pack", description=__doc__.splitlines()[0])
    parser.add_argument("--toolkit", action="append", required=True, metavar="VERSION=DIR", help="older version first")
    parser.add_argument("--library", type=Path, required=True, help="a built checkout of libnvidia-container")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    toolkits = {version: Path(place) for version, place in (one.split("=", 1) for one in arguments.toolkit)}
    out: Path = arguments.out.resolve()
    workspace = out / "work"
    shutil.rmtree(out, ignore_errors=True)
    (workspace / "bring").mkdir(parents=True)
    root_file_system(workspace / "root.tar.xz", workspace)
    payload(workspace / "bring", toolkits, arguments.library)
    tools(workspace / "bring", workspace)
    images.run("tar", "-C", workspace, "-c", "-I", "xz -T0 -1", "-f", workspace / "bring.tar.xz", "bring")
    with tarfile.open(workspace / "all.tar", "w") as archive:
        for name in ("root.tar.xz", "bring.tar.xz"):
            archive.add(workspace / name, name)
    images.run("split", "-d", f"--bytes={PART}", workspace / "all.tar", out / "part-")
    shutil.rmtree(workspace)
    print(*sorted(path.name for path in out.iterdir()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
