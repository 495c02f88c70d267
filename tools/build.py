"""Build the wheel, the source archive and the collection: ``./dev build [DIRECTORY]``.

The same commit gives the same bytes: the time of everything is that of the commit (or SOURCE_DATE_EPOCH).
GPUPROV_REPOSITORY is the address of the repository, which Galaxy requires of a collection.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tools import man

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: list[str]) -> int:
    """Write the three files into a directory (dist), and name them."""
    target = Path(arguments[0] if arguments else "dist").absolute()
    target.mkdir(parents=True, exist_ok=True)
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or _printed("git", "log", "-1", "--format=%ct"))
    man.write()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    words = [sys.executable, "-m", "build", "--outdir", str(target), str(ROOT)]
    subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=True)
    collection(target, epoch, os.environ.get("GPUPROV_REPOSITORY", ""))
    print(*sorted(target.glob("gpuprov*")), sep="\n")
    return 0


def collection(target: Path, epoch: int, repository: str) -> None:
    """Write the collection's archive into a directory. repository is an address, or empty."""
    with tempfile.TemporaryDirectory() as directory:
        galaxy = Path(sys.executable).with_name("ansible-galaxy")
        words = [str(galaxy), "collection", "build", "--output-path", directory, str(ROOT)]
        subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
        for archive in Path(directory).glob("*.tar.gz"):
            (target / archive.name).write_bytes(repacked(archive.read_bytes(), epoch, repository))


def repacked(archive: bytes, epoch: int, repository: str) -> bytes:
    """Return a tar.gz with its members sorted, all of one time and without owners, and with the repository's address.

    ansible-galaxy writes the time of the build into it.
    """
    packed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=packed, mode="w") as new:
        # Galaxy reads these two first.
        first = ("MANIFEST.json", "FILES.json")
        for member in sorted(old, key=lambda one: (one.name not in first, one.name)):
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            source = old.extractfile(member)
            content = source.read() if source else b""
            if member.name == "MANIFEST.json":
                manifest = json.loads(content)
                manifest["collection_info"]["repository"] = repository or None
                content = json.dumps(manifest, indent=1).encode()
                member.size = len(content)
            new.addfile(member, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=epoch)


def _printed(*words: str) -> str:
    return subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
