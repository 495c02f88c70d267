"""Pack a slice for a worker: the stream of ansible-runner's transmit, with the files that options name."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gpuprov import runner, settings
from gpuprov.options import Options
from gpuprov.shared import ansible_root, plugin
from gpuprov.workers.fleet import Fleet, quiet

# Hosts that this machine knows are known to the workers, beside those that the worker and the inventory know.
_KNOWN_HOSTS = (Path.home() / ".ssh/known_hosts", Path("/etc/ssh/ssh_known_hosts"))
_SSH_ARGS = " -o 'GlobalKnownHostsFile=../site/known_hosts /etc/ssh/ssh_known_hosts'"
_KEYS = ("ansible_ssh_private_key_file", "ansible_private_key_file")


class _Parcel:
    """ansible-runner's private data directory of a slice. ansible-playbook runs in its directory project."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._names: dict[Path, str] = {}
        for name in ("project", "files", "site"):
            (directory / name).mkdir(mode=0o700, parents=True)

    def carried(self, text: Any, place: Path = Path(), script: bool = False) -> Any:
        """Copy a file; return its name as ansible-playbook sees it there. What names no file is returned as it is.

        place: where a relative name is; script: an executable file is run here, and its output is the copy.
        """
        path = place / os.path.expanduser(str(text))
        if not path.is_absolute() or not path.is_file() or not os.access(path, os.R_OK):
            return text
        if path not in self._names:
            self._names[path] = f"{len(self._names)}-{path.name}"
            content = quiet([str(path)]).stdout if script and os.access(path, os.X_OK) else path.read_bytes()
            self.write(f"files/{self._names[path]}", content)
        return f"../files/{self._names[path]}"

    def ssh_words(self, text: str) -> str:
        """Return arguments of ssh with the names of copies, also in ``-o UserKnownHostsFile=FILE``."""
        return re.sub(r"""(?:(?<=[\s='"])|^)[/~][^\s'"]*""", lambda match: self.carried(match[0]), text)

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file that only this account can read."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content)


def pack(directory: Path, options: Options, fleet: Fleet, hosts: Sequence[str], playbook: str, root: str) -> Path:
    """Return the file of a slice's stream, in a directory of its own. root: ansible_root() of the worker."""
    from ansible_runner import interface

    parcel = _Parcel(directory / "data")
    beside = Path(options.inventory) if os.path.isdir(options.inventory) else Path(options.inventory).parent
    variables = {name: _variables(parcel, own, beside) for name, own in fleet.variables.items()}
    parcel.write("site/hosts.json", json.dumps(fleet.inventory(variables)))
    parcel.write("site/limit", "\n".join(hosts))
    parcel.write("site/known_hosts", b"".join(path.read_bytes() for path in _KNOWN_HOSTS if os.access(path, os.R_OK)))
    lock = plugin("plugin_utils/lock/lock_file").beside(Path(options.inventory))
    if lock.is_file():
        parcel.write(f"site/{lock.name}", lock.read_bytes())
    stream = directory / "stream"
    stream.touch(mode=0o600)
    with stream.open("wb") as output:
        interface.run(
            streamer="transmit", _output=output, private_data_dir=str(parcel.directory), cancel_callback=lambda: False,
            playbook=f"{root}/playbooks/{playbook}", cmdline=shlex.join(_arguments(parcel, options)),
            envvars=_environment(parcel, root), fact_cache_type="memory", suppress_output_file=True,
        )  # fmt: skip
    return stream


def _variables(parcel: _Parcel, own: Mapping[str, Any], beside: Path) -> dict[str, Any]:
    """Return the variables of a host; the files that ssh needs, and a lock, are copied. beside: inventory_dir."""
    found = dict(own)
    for name in {*_KEYS, "gpuprov_lock"}.intersection(own):
        text = re.sub(r"\{\{\s*inventory_dir\s*\}\}", lambda _: str(beside), str(own[name]))
        found[name] = parcel.carried(text, beside if name == "gpuprov_lock" and text else Path())
    for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_args"):
        if "{{" not in str(own.get(name, "{{")):
            found[name] = parcel.ssh_words(str(own[name]))
    return found


def _arguments(parcel: _Parcel, options: Options) -> list[str]:
    """Return the arguments for ansible-playbook on the worker."""
    given = [runner.extra_vars(text) for text in options.extra_vars or []]
    there = dataclasses.replace(
        options, limit=None, only=None, private_key=None, vault_password_files=None,
        extra_vars=[f"@{one}" if isinstance(one, Path) else json.dumps(one) for one in given],
    )  # fmt: skip
    words = runner.arguments(there, parcel.directory / "files")
    words[words.index("-i") + 1] = "../site/hosts.json"
    words += ["--limit", "@../site/limit"]
    words = ["@" + parcel.carried(word[1:]) if word.startswith("@/") else parcel.carried(word) for word in words]
    for path in options.vault_password_files or []:
        words += ["--vault-password-file", parcel.carried(path.expanduser().absolute(), script=True)]
    if options.private_key:
        words += ["--private-key", parcel.carried(options.private_key.expanduser().absolute())]
    return words


def _environment(parcel: _Parcel, root: str) -> dict[str, str]:
    """Return the environment of ansible-playbook there: the person's settings, and ansible.cfg as it is here.

    What Ansible writes is in the private data directory.
    """
    here = ansible_root()
    shipped = here / "ansible.cfg"
    file = settings.own_file(os.environ) or shipped
    config = settings.read(file)
    for section in config.sections():
        for name, value in config.items(section):
            config.set(section, name, parcel.carried(value, file.parent, "vault" in name))
    config.remove_option("defaults", "log_path")
    ssh = "ssh_connection"
    if not config.has_option(ssh, "ssh_args"):
        config.read_dict({ssh: {"ssh_args": settings.read(shipped).get(ssh, "ssh_args")}})
    config.set(ssh, "ssh_args", config.get(ssh, "ssh_args") + _SSH_ARGS)
    with io.StringIO() as text:
        config.write(text)
        parcel.write("site/ansible.cfg", text.getvalue())
    own = {name: value for name, value in os.environ.items() if name.startswith("ANSIBLE_")}
    env = {
        name: parcel.carried(value.replace(str(here), root), Path.cwd(), "VAULT" in name)
        for name, value in {**own, **settings.environment(os.environ, here)}.items()
        if name not in ("PATH", "ANSIBLE_LOG_PATH")
    }
    if "ANSIBLE_SSH_ARGS" in env:
        env["ANSIBLE_SSH_ARGS"] += _SSH_ARGS
    env |= {"ANSIBLE_CONFIG": "../site/ansible.cfg", "ANSIBLE_SSH_CONTROL_PATH_DIR": "../cp"}
    return env | {"ANSIBLE_HOME": "../home", "ANSIBLE_LOCAL_TEMP": "../home/tmp"}
