"""What a lab is made of: host images, vendor-shaped repositories, and the registry's content.

All of it is slow to make, so it lies in a cache, keyed by the source of this package.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
FILES = HERE / "files"
CACHE = Path(os.environ.get("GPUPROV_LAB_CACHE", "/var/cache/gpuprov-lab"))

# The lab's name of a kind of host, and the Debian suite under it.
SUITES = {"debian11": "bullseye", "debian12": "bookworm", "debian13": "trixie"}
DISTROS = (*SUITES, "xenial")

PACKAGES = (
    "systemd systemd-sysv dbus openssh-server python3 sudo iproute2 iptables procps gpg ca-certificates curl "
    "adduser libdevmapper1.02.1 libseccomp2 libltdl7 tini init-system-helpers e2fsprogs xz-utils kmod"
).split()
# Fetched beside the image: what the vendor-shaped packages are made of, and legacy packages.
ENGINE_PACKAGES = {
    "bullseye": ["docker.io", "containerd", "runc", "busybox-static"],
    "bookworm": ["docker.io", "containerd", "runc", "docker-registry"],
    "trixie": ["docker.io", "docker-cli", "containerd", "runc"],
}


def run(*words: str | Path, quiet: bool = True, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command; its output is kept, and raised with where it fails."""
    done = subprocess.run([str(word) for word in words], text=True, capture_output=quiet, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words))}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done  # type: ignore[no-any-return]


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock of this machine: two processes do not build or name the same thing."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Say on stderr what is being done and how long it took."""
    begun = time.monotonic()
    yield
    print(f"lab: {text}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


def key(*parts: str) -> str:
    """A short digest of the inputs of a cached thing."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _source(*names: str) -> str:
    return "\0".join((HERE / name).read_text(encoding="utf-8") for name in names)


def _files() -> list[str]:
    return sorted(f"files/{path.name}" for path in FILES.iterdir())


def image_key() -> str:
    """The version of the host images."""
    return key(repr(PACKAGES), repr(ENGINE_PACKAGES), _source("images.py", *_files()))


def image(distro: str) -> str:
    """The name of a host image."""
    return f"localhost/gpuprov-lab/{distro}:{image_key()}"


def debs(suite: str) -> Path:
    """Where Debian's own packages of a suite lie."""
    return CACHE / f"debs-{key(repr(ENGINE_PACKAGES), repr(PACKAGES))}" / suite


def mirror() -> str:
    """The base of the Debian mirror that this machine's apt is set up with."""
    answer = run("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)", "Created-By: Packages").stdout
    for line in answer.splitlines():
        address, release = line.split()
        if release in (*SUITES.values(), "stable", "testing") and address.rstrip("/").endswith("debian"):
            return address
    raise RuntimeError("apt on this machine is set up with no Debian mirror (try apt-get update)")


def ssh_key() -> Path:
    """The key that logs in to every lab host; its public half is in the images."""
    path = CACHE / "id_ed25519"
    if not path.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "gpuprov-lab", "-f", path)
    return path


def host_key() -> Path:
    """The key by which every lab host is known."""
    path = CACHE / "ssh_host_ed25519_key"
    if not path.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "gpuprov-lab-host", "-f", path)
    return path


def _exists(name: str) -> bool:
    return subprocess.run(["podman", "image", "exists", name], check=False).returncode == 0


def _root(suite: str) -> Path:
    """Make the root file system of a suite, as a tar file, and fetch its engine packages."""
    tar = CACHE / f"root-{suite}-{key(repr(PACKAGES), repr(ENGINE_PACKAGES))}.tar"
    if tar.exists() and debs(suite).exists():
        return tar
    with step(f"root file system of {suite}"):
        fetched = debs(suite).with_suffix(".new")
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir(parents=True)
        lsb = [] if suite == "trixie" else ["lsb-base"]
        new = tar.with_suffix(".new")
        run(
            "mmdebstrap", "--variant=minbase", "--format=tar", "--skip=check/empty",
            f"--include={','.join([*PACKAGES, *lsb])}",
            "--customize-hook=mkdir -p $1/fetched && chmod 777 $1/fetched && chroot $1 sh -c 'cd /fetched && "
            f"apt-get download {' '.join(ENGINE_PACKAGES[suite])}'",
            f"--customize-hook=copy-out /fetched {fetched}",
            "--customize-hook=rm -rf $1/fetched",
            suite, new, f"deb {mirror()} {suite} main",
        )  # fmt: skip
        for deb in (fetched / "fetched").iterdir():
            deb.rename(fetched / deb.name)
        (fetched / "fetched").rmdir()
        shutil.rmtree(debs(suite), ignore_errors=True)
        fetched.rename(debs(suite))
        new.rename(tar)
    return tar


def _containerfile(base: str, distro: str) -> str:
    lines = [
        f"FROM {base}",
        "COPY root/ /",
        "RUN systemctl mask systemd-modules-load.service systemd-networkd-wait-online.service e2scrub_reap.service"
        " && systemctl enable gpuprov-lab-gpu.service ssh.service"
        " && rm -f /etc/apt/sources.list /etc/apt/sources.list.d/* && rm -rf /var/lib/apt/lists/*"
        " && chmod 0600 /etc/ssh/ssh_host_ed25519_key && rm -f /etc/ssh/ssh_host_rsa* /etc/ssh/ssh_host_ecdsa*"
        " && useradd -m -s /bin/bash admin && useradd -m -s /bin/bash alice && useradd -m -s /bin/bash bob"
        " && useradd -m -s /bin/bash bobby"
        " && echo 'admin ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin && chmod 0440 /etc/sudoers.d/admin"
        " && for home in /root /home/admin /home/alice; do install -d -m 0700 -o $(stat -c %U $home) $home/.ssh"
        " && install -m 0600 -o $(stat -c %U $home) /etc/gpuprov-lab/authorized_keys $home/.ssh/authorized_keys; done"
        " && chmod 0755 /usr/bin/nvidia-smi",
    ]  # fmt: skip
    if distro == "xenial":
        lines.append("COPY xenial/ /etc/")
    lines.append('CMD ["/sbin/init"]')
    return "\n".join(lines) + "\n"


def _image(distro: str, tar: Path) -> None:
    if _exists(image(distro)):
        return
    with step(f"image {distro}"):
        base = f"localhost/gpuprov-lab/base-{tar.stem}:1"
        with locked(f"base-{tar.stem}"):
            if not _exists(base):
                run("podman", "import", "--quiet", tar, base)
        context = CACHE / f"context-{distro}"
        shutil.rmtree(context, ignore_errors=True)
        root = context / "root"
        for directory in ("etc/ssh/sshd_config.d", "etc/gpuprov-lab", "etc/systemd/system", "usr/bin"):
            (root / directory).mkdir(parents=True)
        shutil.copy(host_key(), root / "etc/ssh/ssh_host_ed25519_key")
        shutil.copy(f"{host_key()}.pub", root / "etc/ssh/ssh_host_ed25519_key.pub")
        shutil.copy(f"{ssh_key()}.pub", root / "etc/gpuprov-lab/authorized_keys")
        (root / "etc/gpuprov-lab/gpu").write_text("This host has a stand-in for a GPU.\n")
        (root / "etc/ssh/sshd_config.d/lab.conf").write_text("UseDNS no\nMaxStartups 100\n")
        shutil.copy(FILES / "nvidia-smi", root / "usr/bin/nvidia-smi")
        shutil.copy(FILES / "gpuprov-lab-gpu.service", root / "etc/systemd/system")
        (context / "xenial").mkdir()
        for name in ("os-release", "lsb-release"):
            shutil.copy(FILES / f"xenial-{name}", context / "xenial" / name)
        (context / "Containerfile").write_text(_containerfile(base, distro))
        run(
            "podman", "--runtime", "runc", "build", "--quiet", "--network", "none", "--layers=false",
            "-t", image(distro), context,
        )  # fmt: skip
        shutil.rmtree(context)


def build() -> None:
    """Build what is not in the cache yet."""
    from tests.lab import repositories  # the repositories are made of what is built here

    with locked("build"):
        ssh_key()
        host_key()
        with ThreadPoolExecutor(2) as pool:
            tars = dict(zip(SUITES, pool.map(_root, SUITES.values()), strict=True))
        tars["xenial"] = tars["debian11"]
        with ThreadPoolExecutor(2) as pool:
            work = [pool.submit(_image, distro, tars[distro]) for distro in DISTROS]
            work.append(pool.submit(repositories.build))
            for one in work:
                one.result()
        _prune()


def _prune() -> None:
    """Drop images of earlier versions of this source."""
    answer = run("podman", "images", "--format", "{{.Repository}}:{{.Tag}}").stdout
    current = {image(distro) for distro in DISTROS}
    for name in answer.split():
        if name.startswith("localhost/gpuprov-lab/") and "/base-" not in name and name not in current:
            # One that a lab still uses stays.
            subprocess.run(["podman", "rmi", name], check=False, capture_output=True)


def quoted(words: Sequence[str]) -> str:
    """Words as one line of shell."""
    import shlex

    return shlex.join(words)
