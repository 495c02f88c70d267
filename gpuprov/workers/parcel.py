"""Pack a slice for a worker: the stream of ansible-runner's transmit, with the files that options name."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from gpuprov import runner, settings
from gpuprov.options import Options
from gpuprov.shared import ansible_root, plugin
from gpuprov.workers.fleet import Fleet, quiet

# Hosts that this machine knows are known to the workers, beside those that the worker and the inventory know.
_KNOWN_HOSTS = (Path.home() / ".ssh/known_hosts", Path("/etc/ssh/ssh_known_hosts"))
_SSH_ARGS = " -o 'GlobalKnownHostsFile=../site/known_hosts /etc/ssh/ssh_known_hosts'"
# Variables of hosts and of the environment that name files of this machine. Other names may be those of files on hosts.
_NAMES_FILES = re.compile(r"(?i)ansible_\w*(key_file|password_file|identity_list|_args)|gpuprov_lock")


class _Parcel:
    """ansible-runner's private data directory of a slice. ansible-playbook runs in its directory project."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._names: dict[Path, str] = {}
        for name in ("project", "files", "site"):
            (directory / name).mkdir(parents=True)

    def carried(self, name: str, text: str, place: Path) -> str:
        """Return the value of an option or a variable with the names of copies, as ansible-playbook sees them there.

        place: where a relative name is. An executable file of passwords is run here, and its output is the copy.
        """
        script = "pass" in name.lower() or "vault" in name.lower()

        def copied(match: re.Match[str]) -> str:
            path = Path(match[0]).expanduser()
            # An executable among ssh's arguments is a program of the worker.
            return match[0] if os.access(path, os.X_OK) and not script else self._copy(path, script) or match[0]

        whole = self._copy(place / os.path.expanduser(text), script)
        return whole or re.sub(r"""(?:(?<=[\s='"@,])|^)[/~][^\s'",]*""", copied, text)

    def _copy(self, path: Path, script: bool) -> str:
        if path.is_relative_to(self.directory):
            return f"../{path.relative_to(self.directory)}"
        if not path.is_file() or not os.access(path, os.R_OK):
            return ""
        if path not in self._names:
            self._names[path] = f"files/{len(self._names)}-{path.name}"
            run = script and os.access(path, os.X_OK)
            self.write(self._names[path], quiet([str(path)]).stdout if run else path.read_bytes())
        return f"../{self._names[path]}"

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file that only this account can read."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)


def pack(
    directory: Path, options: Options, fleet: Fleet, hosts: Sequence[str], playbook: str, there: str, stream: IO[bytes]
) -> None:
    """Write the stream of a slice. directory: an empty one, for its files; there: the worker's installation."""
    from ansible_runner import interface

    parcel, inventory, root = _Parcel(directory), Path(options.inventory), f"{there}/gpuprov/ansible"
    beside = inventory if inventory.is_dir() else inventory.parent
    variables = {name: _variables(parcel, own, beside) for name, own in fleet.variables.items()}
    parcel.write("site/hosts.json", json.dumps(fleet.inventory(variables)))
    parcel.write("site/limit", "\n".join(hosts))
    parcel.write("site/known_hosts", b"".join(path.read_bytes() for path in _KNOWN_HOSTS if os.access(path, os.R_OK)))
    lock = plugin("plugin_utils/lock/lock_file").beside(inventory)
    if lock.is_file():
        parcel.write(f"site/{lock.name}", lock.read_bytes())
    interface.run(
        streamer="transmit", _output=stream, private_data_dir=str(directory), cancel_callback=lambda: False,
        playbook=f"{root}/playbooks/{playbook}", cmdline=shlex.join(_arguments(parcel, options)),
        envvars=_environment(parcel, root), fact_cache_type="memory", suppress_output_file=True,
    )  # fmt: skip


def _variables(parcel: _Parcel, own: Mapping[str, Any], beside: Path) -> dict[str, Any]:
    """Return the variables of a host; the files that ssh needs, and a lock, are copied. beside: inventory_dir."""
    found = dict(own)
    for name, value in own.items():
        if _NAMES_FILES.fullmatch(name) and isinstance(value, str):
            text = re.sub(r"\{\{\s*inventory_dir\s*\}\}", lambda _: str(beside), value)
            place = beside if name == "gpuprov_lock" else Path.cwd()
            found[name] = value if "{{" in text else parcel.carried(name, text, place)
    return found


def _arguments(parcel: _Parcel, options: Options) -> list[str]:
    """Return the arguments for ansible-playbook on the worker."""
    site = parcel.directory / "site"
    there = dataclasses.replace(options, inventory=str(site / "hosts.json"), limit=f"@{site}/limit", only=None)
    words = runner.arguments(there, parcel.directory / "files")
    # Names of files are absolute; other words are not names of files.
    return [
        "@" * word.startswith("@") + parcel.carried(before, word.removeprefix("@"), Path("/"))
        if word.startswith(("/", "@/")) else word
        for before, word in itertools.pairwise(["", *words])
    ]  # fmt: skip


def _environment(parcel: _Parcel, root: str) -> dict[str, str]:
    """Return the environment of ansible-playbook there: the person's settings, with ansible.cfg as it is here.

    What Ansible writes is in the private data directory.
    """
    here = ansible_root()
    file = settings.own_file(os.environ) or here / "ansible.cfg"
    parcel.write("site/ansible.cfg", re.sub(rb"(?m)^log_path\b.*", b"", file.read_bytes()))
    # Variables of the environment have precedence over a file.
    sections = settings.read(file).values()
    of_file = {f"ANSIBLE_{name.upper()}": value for section in sections for name, value in section.items()}
    own = {name: value for name, value in os.environ.items() if name.startswith("ANSIBLE_")}
    given = {**own, **settings.environment(os.environ, here)}
    env = {name: value.replace(str(here), root) for name, value in given.items()}
    for values, place in ((of_file, file.parent), (given, Path.cwd())):
        named = {name: value for name, value in values.items() if _NAMES_FILES.fullmatch(name)}
        env |= {name: parcel.carried(name, value, place) for name, value in named.items()}
    env["ANSIBLE_SSH_ARGS"] += _SSH_ARGS
    for name in ("PATH", "ANSIBLE_LOG_PATH"):
        env.pop(name, None)
    env |= {"ANSIBLE_CONFIG": "../site/ansible.cfg", "ANSIBLE_SSH_CONTROL_PATH_DIR": "../cp"}
    return env | {"ANSIBLE_HOME": "../home", "ANSIBLE_LOCAL_TEMP": "../home/tmp"}
