"""Package files of the controller are installed on hosts, as people do with a download."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Answer, document
from tests.lab.lab import Lab
from tests.lab.repositories import RELEASES, directory

Gpuprov = Callable[..., Answer]
ENGINE = "docker-ce"


@pytest.fixture(scope="module")
def lab(session_lab: Lab) -> Lab:
    """A host with a new apt, and the one that is treated as Ubuntu 16.04."""
    session_lab.up("debian13,xenial", pristine=True)
    return session_lab


def rebuilt(codename: str, revision: str, to: Path) -> Path:
    """Return the pinned engine as a package that no repository has, under a name of its own."""
    (version,) = [release.engine[1] for release in RELEASES if release.codename == codename]
    name = f"{ENGINE}_{version.partition(':')[2]}_*.deb"
    original = next(path for path in directory().rglob(name) if codename in str(path))
    tree = to / f"tree-{codename}{revision}"
    subprocess.run(["dpkg-deb", "-R", str(original), str(tree)], check=True)
    control = tree / "DEBIAN" / "control"
    text = control.read_text()
    assert f"Version: {version}\n" in text
    control.write_text(text.replace(f"Version: {version}\n", f"Version: {version}{revision}\n"))
    path = to / f"engine of {codename}{revision}.deb"
    subprocess.run(["dpkg-deb", "-Zgzip", "-z1", "-b", str(tree), str(path)], check=True, capture_output=True)
    return path


@pytest.mark.parametrize(("name", "codename"), [("debian13", "trixie"), ("xenial", "xenial")])
def test_a_local_file_is_installed_with_the_rest_of_the_set(
    name: str, codename: str, lab: Lab, gpuprov: Gpuprov, tmp_path: Path
) -> None:
    host = lab.host(name)

    def call(command: str, path: Path, *words: str) -> dict[str, Any]:
        # The stack of 16.04 depends on exactly the pinned engine.
        stack = {"nvidia_docker_stack": "none"} if name == "xenial" else {}
        values = {"docker_ce_package_files": [str(path)], **stack}
        return dict(document(gpuprov(command, "-l", name, "--json", "-e", json.dumps(values), *words))["hosts"][name])

    first, second = rebuilt(codename, "+local1", tmp_path), rebuilt(codename, "+local2", tmp_path)
    truncated = tmp_path / "truncated.deb"
    truncated.write_bytes(first.read_bytes()[:-100])
    refused = call("provision", truncated)
    assert (refused["status"], refused["changes"]) == ("failed", [])
    assert f"the package file {truncated} cannot be used: it is truncated" in json.dumps(refused)

    planned = call("plan", first)["plan"]
    assert [note["message"].split("): ")[1] for note in planned["notes"] if note["name"] == "package-files"] == [
        first.name
    ]
    log = "cat /var/log/apt/history.log | grep -c '^Commandline.*install'"
    done = call("provision", first)
    assert done["status"] == "changed", done
    version = f"dpkg-query -W -f '${{Version}}' {ENGINE}"
    assert host.run(version).stdout.endswith("+local1")
    # One transaction, and nothing is left of the file.
    assert host.run(log).stdout.strip() == "1"
    assert host.run("find /root /home /tmp /var/lib/gpuprov /var/tmp -name '*.deb'").stdout == ""
    assert call("provision", first)["status"] == "up-to-date"

    # The roles one by one do the same.
    full = call("provision", second, "--full")
    assert full["status"] == "changed", full
    assert host.run(version).stdout.endswith("+local2")
    assert call("provision", second, "--full")["changes"] == []
    first.unlink()
    assert "No such file" in json.dumps(call("plan", first))
