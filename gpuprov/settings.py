"""Build the environment of ansible-playbook. A person's own Ansible settings win over ours, one by one."""

from __future__ import annotations

import configparser
import contextlib
import os
import stat
import sys
from collections.abc import Mapping
from configparser import ConfigParser
from pathlib import Path

# They replace ansible-core's sudo and su, and are found as doas.
BECOME = "playbooks/collections/ansible_collections/gpuprov/gpuprov/plugins/become"
_CALLBACKS = ("gpuprov.gpuprov.stop_between_tasks", "gpuprov.gpuprov.play_hosts", "gpuprov.gpuprov.preload")
# Where each can be set: https://docs.ansible.com/ansible/latest/reference_appendices/config.html
# (variable and its other names, without ANSIBLE_; section:key in an ansible.cfg; our value; None: that of our
# ansible.cfg, which Ansible does not read where the person has one). NO_COLOR wins by itself.
_SETTINGS = (
    ("HOST_KEY_CHECKING SSH_HOST_KEY_CHECKING", "defaults:host_key_checking ssh_connection:host_key_checking", "True"),
    ("INVENTORY_UNPARSED_FAILED", "inventory:unparsed_is_failed", "True"),
    ("INVENTORY_ANY_UNPARSED_IS_FAILED", "inventory:any_unparsed_is_failed", "True"),
    ("INVENTORY_UNPARSED_WARNING", "inventory:inventory_unparsed_warning", "True"),
    ("LOCALHOST_WARNING", "defaults:localhost_warning", "False"),
    ("NOCOLOR", "", "True"),
    ("FORKS", "defaults:forks", None),
    ("TIMEOUT SSH_TIMEOUT", "defaults:timeout ssh_connection:timeout", None),
    ("PIPELINING SSH_PIPELINING", "connection:pipelining ssh_connection:pipelining defaults:pipelining", None),
    ("SSH_ARGS", "ssh_connection:ssh_args", None),
)


def forks(cores: int, memory: int) -> int:
    """Return a number of forks for a machine with so many cores and bytes of memory.

    A host takes 0.1 s of a core, of about 1.2 s in all: 12 forks keep a core busy (docs/performance.md). Ansible's main
    process serves 100. A fork takes up to 20 MiB; all of them may have a quarter of the memory.
    """
    return max(5, min(12 * cores, 100, memory // 4 // (20 << 20)))


def auto_forks() -> tuple[str, str]:
    """Return the number of forks for this machine, and a line that says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    number = forks(cores, memory)
    return str(number), f"forks: {number} ({cores} core{'s' * (cores > 1)}, {memory / 2**30:.0f} GiB)"


def environment(base: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return environment variables for ansible-playbook. base: the person's environment; root: ansible_root()."""
    file = own_file(base)
    own, shipped = read(file), read(root / "ansible.cfg")
    ours = {} if "ANSIBLE_CONFIG" in base else {"ANSIBLE_CONFIG": str(file or root / "ansible.cfg")}
    for names, places, value in _SETTINGS:
        variable, *others = (f"ANSIBLE_{name}" for name in names.split())
        given = next((base[name] for name in (variable, *others) if name in base), _setting(own, places))
        if value is not None:
            # Also where it is given: ansible-runner sets ANSIBLE_HOST_KEY_CHECKING to False where it is not set.
            ours[variable] = value if given is None else given
        elif given is None and (file or "ANSIBLE_CONFIG" in base):
            default = _setting(shipped, places)
            ours |= {variable: default} if default is not None else {}
    enabled = base.get("ANSIBLE_CALLBACKS_ENABLED", own.get("defaults", "callbacks_enabled", fallback="")).split(",")
    ours["ANSIBLE_CALLBACKS_ENABLED"] = ",".join([*(name.strip() for name in enabled if name.strip()), *_CALLBACKS])
    searched = [*_become_plugins(base, own, file), str(root / BECOME)]
    ours["ANSIBLE_BECOME_PLUGINS"] = os.pathsep.join(dict.fromkeys(searched))
    # Under pipx, the directory of the interpreter and of ansible-playbook is not on PATH.
    ours["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)])
    # Without a terminal ssh would ask in a window.
    ours["SSH_ASKPASS_REQUIRE"] = base.get("SSH_ASKPASS_REQUIRE", "never")
    return ours


def own_file(base: Mapping[str, str]) -> Path | None:
    """Return the person's ansible.cfg, as Ansible finds it: not in a world-writable directory."""
    places = [Path.home() / ".ansible.cfg", Path("/etc/ansible/ansible.cfg")]
    with contextlib.suppress(OSError):
        if not Path.cwd().stat().st_mode & stat.S_IWOTH:
            places.insert(0, Path.cwd() / "ansible.cfg")
    if base.get("ANSIBLE_CONFIG"):
        named = Path(base["ANSIBLE_CONFIG"]).expanduser().absolute()
        places.insert(0, named / "ansible.cfg" if named.is_dir() else named)
    return next((path for path in places if os.access(path, os.R_OK)), None)


def read(path: Path | None) -> ConfigParser:
    """Read an ansible.cfg as Ansible does. Return an empty parser for a missing or broken file."""
    parser = ConfigParser(interpolation=None, strict=False, inline_comment_prefixes=(";",))
    with contextlib.suppress(configparser.Error, UnicodeDecodeError):
        parser.read(path or [], encoding="utf-8")
    return parser


def _setting(file: ConfigParser, places: str) -> str | None:
    found = (file.get(*place.split(":"), fallback=None) for place in places.split())
    return next((value for value in found if value is not None), None)


def _become_plugins(base: Mapping[str, str], own: ConfigParser, own_file: Path | None) -> list[str]:
    """Return the person's directories of become plugins, searched before ours. The default is Ansible's."""
    text, start = base.get("ANSIBLE_BECOME_PLUGINS"), Path.cwd()
    if text is None and own_file and own.has_option("defaults", "become_plugins"):
        text, start = own.get("defaults", "become_plugins"), own_file.parent
    if text is None:
        text = f"{base.get('ANSIBLE_HOME', '~/.ansible')}/plugins/become:/usr/share/ansible/plugins/become"
    paths = (os.path.expanduser(os.path.expandvars(path)) for path in text.split(os.pathsep) if path)
    return [str(start / path) for path in paths]
