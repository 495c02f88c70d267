"""The host images, and Debian's packages that the lab's repositories are made of.

All of it is slow to make, so it lies in a cache, keyed by the source that it is made by.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
FILES = HERE / "files"
CACHE = Path(os.environ.get("GPUPROV_LAB_CACHE", "/var/cache/gpuprov-lab"))
# What no checkout has used for this long is dropped from the cache (seconds).
KEEP = 7 * 24 * 3600

# The lab's name of a kind of host, and the Debian suite under it.
SUITES = {"debian11": "bullseye", "debian12": "bookworm", "debian13": "trixie", "resolute": "forky"}
DISTROS = (*SUITES, "xenial")
# Debian 12 again, with sshd in the place of systemd.
NO_SYSTEMD = "nosystemd"

# What a small server install has, and what the vendors' packages depend on beside each other.
PACKAGES = """
    systemd systemd-sysv dbus openssh-server python3 python3-apt sudo iproute2 iptables procps gpg
    ca-certificates curl adduser init-system-helpers e2fsprogs xz-utils kmod
    libdevmapper1.02.1 libseccomp2 libltdl7 tini
"""
# What stands in for the driver's libraries, and the version that they are of: gpu-driver's.
DRIVER_LIBRARIES = ("libcuda", "libnvidia-ml")
DRIVER_VERSION = "580.159.04"
# Served to the hosts as their distribution, with all that these depend on.
DISTRO_PACKAGES = {
    "bullseye": "docker.io containerd runc nftables python3 python3-apt python2.7 docker-registry",
    "bookworm": "docker.io containerd runc nftables python3 python3-apt zsh fish tcsh opendoas docker-registry",
    "trixie": "docker.io docker-cli containerd runc nftables python3 python3-apt docker-registry",
    "forky": "docker.io docker-cli docker-buildx containerd runc nftables python3 python3-apt zsh fish tcsh"
    " docker-registry init-system-helpers",
}
# What a suite's root file system has beside PACKAGES.
EXTRA_PACKAGES = {"bullseye": "lsb-base", "bookworm": "lsb-base", "forky": "sudo-rs rust-coreutils"}
# The stored Release of forky is past its Valid-Until.
APT_OPTIONS = {"forky": 'Acquire::Check-Valid-Until "false"'}
# Used by the lab itself, from this suite.
TOOL_SUITE = "bookworm"
TOOLS = ("docker-registry", "busybox-static")

# Run in the chroot: without a status file, apt names all that an empty system would need.
FETCH = """\
mkdir -p /fetched/distro/partial /fetched/tools && chmod -R 777 /fetched && cd /fetched/distro
apt-get download -q $(apt-get -s -o Dir::State::status=/dev/null --no-install-recommends install \
{packages} | sed -n 's/^Inst \\([^ ]*\\).*/\\1/p')
rmdir partial
cd ../tools
test -z "{tools}" || apt-get download -q {tools}
"""
# The mirror's name stays out of the image.
CLEAN = "rm -rf /fetched /etc/apt/sources.list /etc/apt/sources.list.d/* /var/lib/apt/lists/*"

# Passwords are for tests of -k and -K; carol's sudo asks for hers.
USERS = """\
for name in admin alice bob bobby carol; do
    useradd -m -s /bin/bash $name && echo "$name:lab" | chpasswd
done
usermod -a -G sudo carol
echo 'admin ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/admin && chmod 0440 /etc/sudoers.d/admin
for home in /root /home/admin /home/alice /home/carol; do
    owner=$(stat -c %U $home)
    install -d -m 0700 -o $owner $home/.ssh
    install -m 0600 -o $owner /etc/gpuprov-lab/authorized_keys $home/.ssh/authorized_keys
done
"""
# As Ubuntu 25.10 and newer have them: the old sudo as sudo.ws, uutils coreutils first on PATH.
RESOLUTE = """\
dpkg-divert --quiet --divert /usr/bin/sudo.ws --rename /usr/bin/sudo
ln -s /usr/lib/cargo/bin/sudo /usr/bin/sudo
ln -s /usr/lib/cargo/bin/coreutils/* /usr/local/bin/
"""
# The hosts with os-release and lsb-release of another distribution than the suite's.
DISGUISED = ("xenial", "resolute")
SYSTEM = """\
ldconfig
systemctl mask systemd-modules-load.service systemd-networkd-wait-online.service \
    e2scrub_reap.service getty@tty1.service console-getty.service
systemctl enable gpuprov-lab-gpu.service ssh.service
rm -f /etc/ssh/ssh_host_rsa* /etc/ssh/ssh_host_ecdsa*
chmod 0600 /etc/ssh/ssh_host_ed25519_key
"""


def run(*words: str | Path, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command and return it with its output; raise RuntimeError with that where it fails."""
    command = [str(word) for word in words]
    done = subprocess.run(command, text=True, capture_output=True, check=False, cwd=directory)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
    return done


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold a lock of this machine: two processes do not build or name the same thing."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"lab: waiting for another process ({name})", file=sys.stderr, flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Say on stderr what was done and how long it took."""
    begun = time.monotonic()
    yield
    print(f"lab: {text}: {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)


def key(*parts: str) -> str:
    """A short digest of the inputs of a cached thing."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def source(*names: str) -> str:
    """The text of files of this package, as an input of a cached thing."""
    return "\0".join((HERE / name).read_text(encoding="utf-8") for name in names)


@functools.cache
def image_key() -> str:
    """The version of the host images."""
    names = sorted(f"files/{path.name}" for path in FILES.iterdir() if path.suffix not in (".c", ".h"))
    keys = [Path(f"{path}.pub").read_text(encoding="utf-8") for path in (ssh_key(), host_key())]
    programs = [f"files/{name}" for name in ("gpu.h", "nvidia-smi.c", *(f"{name}.c" for name in DRIVER_LIBRARIES))]
    return key(source("images.py", *names, *programs), *keys)


def image(distro: str) -> str:
    """The name of a host image."""
    distro = "debian12" if distro == NO_SYSTEMD else distro
    return f"localhost/gpuprov-lab/{distro}:{image_key()}"


@functools.cache
def _root_key() -> str:
    return key(PACKAGES, repr(DISTRO_PACKAGES), repr(EXTRA_PACKAGES), repr(TOOLS), FETCH, CLEAN)


def debs(suite: str) -> Path:
    """Where Debian's own packages of a suite lie: distro/ and tools/."""
    return CACHE / f"debs-{_root_key()}" / suite


def find_deb(directory: Path, package: str) -> Path:
    """The file of a package; raises RuntimeError where there is none."""
    for path in sorted(directory.glob(f"{package}_*.deb")):
        return path
    raise RuntimeError(f"{package} is not in {directory}")


def mirror() -> str:
    """The base of the Debian mirror that this machine's apt is set up with."""
    answer = run(
        "apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(LABEL)",
        "Created-By: Packages",
    ).stdout  # fmt: skip
    for line in answer.splitlines():
        if line.endswith(" Debian Debian"):
            return line.split()[0]
    raise RuntimeError("apt on this machine knows no Debian mirror (try apt-get update)")


def _key_pair(name: str, comment: str) -> Path:
    path = CACHE / name
    if not path.exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", path)
    return path


def ssh_key() -> Path:
    """The key that logs in to every lab host; its public half is in the images."""
    return _key_pair("id_ed25519", "gpuprov-lab")


def host_key() -> Path:
    """The key by which every lab host is known."""
    return _key_pair("ssh_host_ed25519_key", "gpuprov-lab-host")


def signing_home() -> Path:
    """The gpg home with the key that signs the lab's repositories."""
    home = CACHE / "gnupg"
    if not (home / "made").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(mode=0o700)
        run(
            "gpg", "--homedir", home, "--batch", "--passphrase", "", "--quick-generate-key",
            "gpuprov lab <lab@gpuprov.invalid>", "rsa2048", "sign", "never",
        )  # fmt: skip
        (home / "made").touch()
    return home


def public_key(path: Path, armored: bool) -> None:
    """Write the public half of the signing key to a file."""
    form = ["--armor"] if armored else []
    run(
        "gpg", "--homedir", signing_home(), "--batch", "--yes", *form, "--output", path,
        "--export", "lab@gpuprov.invalid",
    )  # fmt: skip


def compiled(name: str, target: Path) -> None:
    """Compile a program of files/ into a static one, which runs on any host, in any container."""
    run("gcc", "-static", "-Os", "-s", "-Wall", "-Wextra", "-o", target, FILES / f"{name}.c")


def compiled_library(name: str, directory: Path) -> None:
    """Compile a library of files/ into one that any glibc loads, and lay it out as the driver's installer does."""
    target = directory / f"{name}.so.{DRIVER_VERSION}"
    soname = f"{name}.so.1"
    run(
        "gcc", "-shared", "-fPIC", "-Os", "-s", "-Wall", "-Wextra", f"-Wl,-soname,{soname}", "-o", target,
        FILES / f"{name}.c",
    )  # fmt: skip
    (directory / soname).symlink_to(target.name)


def _existing_images() -> set[str]:
    answer = run("podman", "images", "--format", "{{.Repository}}:{{.Tag}}").stdout
    return {name for name in answer.split() if name.startswith("localhost/gpuprov-lab/")}


def _root(suite: str) -> Path:
    """Make the root file system of a suite, as a tar file, and fetch its packages."""
    tar = CACHE / f"root-{suite}-{_root_key()}.tar"
    if tar.exists() and debs(suite).exists():
        return tar
    with step(f"root file system of {suite}"):
        fetched = debs(suite).with_suffix(".new")
        shutil.rmtree(fetched, ignore_errors=True)
        fetched.mkdir(parents=True)
        script = fetched / "fetch.sh"
        tools = " ".join(TOOLS) if suite == TOOL_SUITE else ""
        script.write_text(FETCH.format(packages=DISTRO_PACKAGES[suite], tools=tools))
        options = [f"--aptopt={APT_OPTIONS[suite]}"] if suite in APT_OPTIONS else []
        new = tar.with_suffix(".new")
        run(
            "mmdebstrap", "--variant=minbase", "--format=tar", "--skip=check/empty",
            *options,
            f"--include={','.join([*PACKAGES.split(), *EXTRA_PACKAGES.get(suite, '').split()])}",
            f"--customize-hook=copy-in {script} /",
            "--customize-hook=chroot $1 sh -e /fetch.sh && rm $1/fetch.sh",
            f"--customize-hook=sync-out /fetched {fetched}",
            f"--customize-hook=chroot $1 sh -c '{CLEAN}'",
            suite, new, f"deb {mirror()} {suite} main",
        )  # fmt: skip
        script.unlink(missing_ok=True)
        shutil.rmtree(debs(suite), ignore_errors=True)
        fetched.rename(debs(suite))
        new.rename(tar)
    return tar


def _base(suite: str) -> str:
    """The name of the image of a suite's root file system, made where it is missing."""
    tar = _root(suite)
    name = f"localhost/gpuprov-lab/base-{tar.stem}:1"
    if name not in _existing_images():
        run("podman", "import", "--quiet", tar, name)
    return name


def _containerfile(base: str, distro: str) -> str:
    lines = [f"FROM {base}", "COPY root/ /"]
    scripts = [SYSTEM, USERS, *([RESOLUTE] if distro == "resolute" else [])]
    lines += [f"RUN {json.dumps(['sh', '-e', '-c', script])}" for script in scripts]
    if distro in DISGUISED:
        # usr/lib/os-release is what /etc/os-release links to.
        lines += ["RUN rm -f /etc/os-release", "COPY release/ /etc/"]
    return "\n".join([*lines, 'CMD ["/sbin/init"]', ""])


def _image(distro: str, base: str) -> None:
    with step(f"image {distro}"):
        context = CACHE / f"context-{distro}"
        shutil.rmtree(context, ignore_errors=True)
        root = context / "root"
        for directory in ("ssh/sshd_config.d", "gpuprov-lab", "systemd/system"):
            (root / "etc" / directory).mkdir(parents=True)
        libraries = root / "usr/lib/x86_64-linux-gnu"
        (root / "usr/bin").mkdir(parents=True)
        libraries.mkdir(parents=True)
        shutil.copy(host_key(), root / "etc/ssh/ssh_host_ed25519_key")
        shutil.copy(f"{host_key()}.pub", root / "etc/ssh/ssh_host_ed25519_key.pub")
        (root / "etc/ssh/sshd_config.d/lab.conf").write_text("UseDNS no\nMaxStartups 100\n")
        lab = root / "etc/gpuprov-lab"
        shutil.copy(f"{ssh_key()}.pub", lab / "authorized_keys")
        shutil.copy(FILES / "gpu-driver", lab / "gpu")
        shutil.copy(FILES / "gpu-information", lab / "gpu-information")
        public_key(lab / "distro.gpg", armored=False)
        (lab / "distro.gpg").chmod(0o644)
        shutil.copy(FILES / "gpuprov-lab-gpu.service", root / "etc/systemd/system")
        compiled("nvidia-smi", root / "usr/bin/nvidia-smi")
        for name in DRIVER_LIBRARIES:
            compiled_library(name, libraries)
        if distro in DISGUISED:
            (context / "release").mkdir()
            for name in ("os-release", "lsb-release"):
                shutil.copy(FILES / f"{distro}-{name}", context / "release" / name)
        (context / "Containerfile").write_text(_containerfile(base, distro))
        run(
            "podman", "--runtime", "runc", "build", "--quiet", "--network", "none",
            "--layers=false", "-t", image(distro), context,
        )  # fmt: skip
        shutil.rmtree(context)


def build() -> None:
    """Build what is not in the cache yet: images, repositories, the registry's content."""
    # They are made of what is built here.
    from tests.lab import registry, repositories

    if os.geteuid() != 0:
        raise RuntimeError("the lab needs root: it runs privileged containers")
    with locked("build"):
        missing = [distro for distro in DISTROS if image(distro) not in _existing_images()]
        served = (registry.directory(), repositories.directory())
        if missing or not all(path.exists() for path in served):
            signing_home()
            with ThreadPoolExecutor(2) as pool:
                bases = dict(zip(SUITES, pool.map(_base, SUITES.values()), strict=True))
                bases["xenial"] = bases["debian11"]
                work = [pool.submit(_image, distro, bases[distro]) for distro in missing]
                work += [pool.submit(registry.build), pool.submit(repositories.build)]
                for one in work:
                    one.result()
        _prune(served)


def _prune(served: tuple[Path, ...]) -> None:
    """Drop what other versions of this source made, once nobody has used it for a while."""
    stamps = CACHE / "images"
    stamps.mkdir(exist_ok=True)
    (stamps / image_key()).touch()
    for path in (*served, debs("x").parent, *CACHE.glob(f"root-*-{_root_key()}.tar")):
        os.utime(path)
    old = time.time() - KEEP
    mounted = run("podman", "ps", "-a", "--filter", "label=gpuprov-lab", "--format", "{{.Labels}}").stdout
    for pattern in ("www-*", "registry-*", "debs-*", "root-*.tar"):
        for path in CACHE.glob(pattern):
            if path.stat().st_mtime < old and str(path) not in mounted:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    for stamp in stamps.iterdir():
        if stamp.stat().st_mtime < old:
            # One that a lab still uses stays; podman refuses.
            for distro in DISTROS:
                name = f"localhost/gpuprov-lab/{distro}:{stamp.name}"
                subprocess.run(["podman", "rmi", name], check=False, capture_output=True)
            stamp.unlink()
    for name in _existing_images():
        _prefix, is_base, root = name.partition("/base-")
        if is_base and not (CACHE / f"{root.split(':')[0]}.tar").exists():
            subprocess.run(["podman", "rmi", name], check=False, capture_output=True)
