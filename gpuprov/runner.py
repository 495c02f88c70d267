"""Run a playbook through ansible-runner and pass its events on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configparser import ConfigParser

KEPT_RUNS = 20
Event = dict[str, Any]


class UsageError(Exception):
    """The command cannot be run as given. The message is one line for the user."""


@dataclass
class Options:
    """The options of a command, in ansible-playbook's terms."""

    inventory: str
    limit: str | None = None
    extra_vars: list[str] = field(default_factory=list)
    forks: int | None = None
    user: str | None = None
    private_key: Path | None = None
    ask_pass: bool = False
    ask_become_pass: bool = False
    ask_vault_pass: bool = False
    vault_password_files: list[Path] = field(default_factory=list)
    check: bool = False
    diff: bool = False
    verbosity: int = 0
    tags: list[str] = field(default_factory=list)
    skip_tags: list[str] = field(default_factory=list)
    variables: dict[str, Any] = field(default_factory=dict)


@dataclass
class Outcome:
    """The result of a run. stats is None if no play ran; lines is Ansible's output."""

    status: str
    stats: dict[str, dict[str, int]] | None
    lines: list[str]


def ansible_root() -> Path:
    """Return the directory with playbooks/ and ansible.cfg: in the installed package, or the checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "ansible"
    return installed if installed.is_dir() else package.parent


def checked_inventory(text: str) -> str:
    """Return an inventory as an absolute path, or as a list of hosts.

    Raises UsageError if it is neither a list nor a readable file or directory with content.
    """
    if "," in text and not os.path.exists(text):
        return text
    path = Path(text).absolute()
    if not path.exists():
        raise UsageError(f"the inventory {text} does not exist")
    if not os.access(path, os.R_OK):
        raise UsageError(f"the inventory {text} cannot be read")
    if path.is_dir() and not any(entry.is_file() for entry in path.rglob("*")):
        raise UsageError(f"the inventory {text} is a directory without a file in it")
    if path.is_file() and path.stat().st_size == 0:
        raise UsageError(f"the inventory {text} is empty")
    return str(path)


def extra_vars(texts: list[str], variables: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """Split -e arguments into the user's files (as ``@path``) and values, in the order given.

    Returns (words, values): a word is ``@path``, or the number of a value as text. Raises UsageError.
    """
    words: list[str] = []
    values: list[dict[str, Any]] = []
    for text in texts:
        if text.startswith("@"):
            path = Path(text[1:]).expanduser().absolute()
            if not path.is_file():
                raise UsageError(f"the file of -e {text} does not exist")
            words.append(f"@{path}")
            continue
        words.append(str(len(values)))
        values.append(_inline(text))
    if variables:
        words.append(str(len(values)))
        values.append(dict(variables))
    return words, values


def _inline(text: str) -> dict[str, Any]:
    # Imported here because the import is slow and only this needs it.
    if text.lstrip().startswith(("{", "[")):
        import yaml

        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" at character {mark.index + 1}" if mark else ""
            raise UsageError(f"-e is neither JSON nor YAML: {getattr(error, 'problem', error)}{where}") from None
        if not isinstance(value, dict):
            raise UsageError("-e must be a JSON or YAML object, or name=value")
        return value
    from ansible.errors import AnsibleError
    from ansible.parsing.splitter import parse_kv

    try:
        value = dict(parse_kv(text))
    except AnsibleError as error:
        raise UsageError(f"-e cannot be read: {error}") from None
    if "_raw_params" in value or not value:
        raise UsageError("-e takes name=value, a JSON object, or @FILE")
    return value


def arguments(options: Options, extra: list[str]) -> list[str]:
    """Return the arguments for ansible-playbook, without the playbook. They contain no secrets.

    extra: the arguments for -e, each ``@path``.
    """
    words = ["-i", options.inventory]
    for word in extra:
        words += ["-e", word]
    for name, value in (
        ("--limit", options.limit),
        ("--forks", options.forks),
        ("--user", options.user),
        ("--tags", ",".join(options.tags) or None),
        ("--skip-tags", ",".join(options.skip_tags) or None),
    ):
        if value is not None:
            words += [name, str(value)]
    if options.private_key:
        words += ["--private-key", str(options.private_key.expanduser().absolute())]
    for path in options.vault_password_files:
        words += ["--vault-password-file", str(path.expanduser().absolute())]
    for name, wanted in (
        ("--ask-pass", options.ask_pass),
        ("--ask-become-pass", options.ask_become_pass),
        ("--ask-vault-pass", options.ask_vault_pass),
        ("--check", options.check),
        ("--diff", options.diff),
    ):
        if wanted:
            words.append(name)
    if options.verbosity:
        words.append("-" + "v" * options.verbosity)
    return words


# They take the place of ansible-core's sudo and su, and are found as doas.
_BECOME = "playbooks/collections/ansible_collections/gpuprov/gpuprov/plugins/become"
_CALLBACKS = ("gpuprov.gpuprov.stop_between_tasks", "gpuprov.gpuprov.preload")


@dataclass(frozen=True)
class _Setting:
    """An Ansible setting of gpuprov. The user's own setting, in the environment or an ansible.cfg, wins."""

    variable: str
    value: str
    ini: tuple[tuple[str, str], ...]  # (section, key)
    aliases: tuple[str, ...] = ()


# Where each can be set: https://docs.ansible.com/ansible/latest/reference_appendices/config.html
_SETTINGS = (
    _Setting(
        "ANSIBLE_HOST_KEY_CHECKING", "True",
        (("defaults", "host_key_checking"), ("ssh_connection", "host_key_checking")),
        ("ANSIBLE_SSH_HOST_KEY_CHECKING",),
    ),
    _Setting("ANSIBLE_INVENTORY_UNPARSED_FAILED", "True", (("inventory", "unparsed_is_failed"),)),
    _Setting("ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED", "True", (("inventory", "any_unparsed_is_failed"),)),
    _Setting("ANSIBLE_INVENTORY_UNPARSED_WARNING", "True", (("inventory", "inventory_unparsed_warning"),)),
    _Setting("ANSIBLE_LOCALHOST_WARNING", "False", (("defaults", "localhost_warning"),)),
    _Setting("ANSIBLE_NOCOLOR", "True", (), ("NO_COLOR",)),
)  # fmt: skip
# Settings from our ansible.cfg that apply when the user's own file does not set them.
_OUR_FILE = (
    _Setting("ANSIBLE_FORKS", "forks", (("defaults", "forks"),)),
    _Setting(
        "ANSIBLE_TIMEOUT", "timeout", (("defaults", "timeout"), ("ssh_connection", "timeout")), ("ANSIBLE_SSH_TIMEOUT",)
    ),
    _Setting(
        "ANSIBLE_PIPELINING", "pipelining",
        (("connection", "pipelining"), ("ssh_connection", "pipelining"), ("defaults", "pipelining")),
        ("ANSIBLE_SSH_PIPELINING",),
    ),
    _Setting("ANSIBLE_SSH_ARGS", "ssh_args", (("ssh_connection", "ssh_args"),)),
)  # fmt: skip


def environment(base: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return environment variables for ansible-playbook. The user's environment and ansible.cfg win."""
    own_file = _own_config(base)
    own = _read_config(own_file)
    ours = {} if "ANSIBLE_CONFIG" in base else {"ANSIBLE_CONFIG": str(own_file or root / "ansible.cfg")}
    for setting in _SETTINGS:
        given = _given(setting, base, own)
        # ansible-runner would set the first setting to False.
        ours[setting.variable] = setting.value if given is None else given
    if own_file or "ANSIBLE_CONFIG" in base:
        file = _read_config(root / "ansible.cfg")
        for setting in _OUR_FILE:
            value = next((file.get(*place, fallback=None) for place in setting.ini if file.has_option(*place)), None)
            if value is not None and _given(setting, base, own) is None:
                ours[setting.variable] = value
    enabled = base.get("ANSIBLE_CALLBACKS_ENABLED", own.get("defaults", "callbacks_enabled", fallback="")).split(",")
    ours["ANSIBLE_CALLBACKS_ENABLED"] = ",".join([*(name.strip() for name in enabled if name.strip()), *_CALLBACKS])
    searched = [*_become_plugins(base, own, own_file), str(root / _BECOME)]
    ours["ANSIBLE_BECOME_PLUGINS"] = os.pathsep.join(dict.fromkeys(searched))
    # Under pipx, the directory of the interpreter and of ansible-playbook is not on PATH.
    ours["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", os.defpath)])
    return ours


def _given(setting: _Setting, base: Mapping[str, str], own: ConfigParser) -> str | None:
    """Return the user's own value of a setting, or None."""
    for name in (setting.variable, *setting.aliases):
        if name in base:
            return base[name]
    return next((own.get(*place) for place in setting.ini if own.has_option(*place)), None)


def _own_config(base: Mapping[str, str]) -> Path | None:
    """Return the user's ansible.cfg, as Ansible finds it: not in a world-writable directory."""
    places = [Path.home() / ".ansible.cfg", Path("/etc/ansible/ansible.cfg")]
    with contextlib.suppress(OSError):
        if not Path.cwd().stat().st_mode & stat.S_IWOTH:
            places.insert(0, Path.cwd() / "ansible.cfg")
    if base.get("ANSIBLE_CONFIG"):
        named = Path(base["ANSIBLE_CONFIG"]).expanduser().absolute()
        places.insert(0, named / "ansible.cfg" if named.is_dir() else named)
    return next((path for path in places if os.access(path, os.R_OK)), None)


def _read_config(path: Path | None) -> ConfigParser:
    """Read an ansible.cfg as Ansible does. The result is empty if there is no file or it is broken."""
    import configparser

    parser = configparser.ConfigParser(interpolation=None, strict=False, inline_comment_prefixes=(";",))
    with contextlib.suppress(configparser.Error, UnicodeDecodeError):
        parser.read(path or [], encoding="utf-8")
    return parser


def _become_plugins(base: Mapping[str, str], own: ConfigParser, own_file: Path | None) -> list[str]:
    """Return the person's directories of become plugins, searched before ours. The default is Ansible's."""
    text, start = base.get("ANSIBLE_BECOME_PLUGINS"), Path.cwd()
    if text is None and own_file and own.has_option("defaults", "become_plugins"):
        text, start = own.get("defaults", "become_plugins"), own_file.parent
    if text is None:
        text = f"{base.get('ANSIBLE_HOME', '~/.ansible')}/plugins/become:/usr/share/ansible/plugins/become"
    paths = (os.path.expanduser(os.path.expandvars(path)) for path in text.split(os.pathsep) if path)
    return [str(start / path) for path in paths]


def run_directory() -> Path:
    """Create the directory (0700) for a run's log and result, and delete the oldest ones."""
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    runs = state / "gpuprov" / "runs"
    try:
        runs.mkdir(parents=True, exist_ok=True, mode=0o700)
        for old in sorted(runs.iterdir())[: -(KEPT_RUNS - 1)]:
            if not _runs(old.name.rpartition("-")[2]):
                shutil.rmtree(old, ignore_errors=True)
        now = time.time_ns() // 1000
        directory = runs / f"{time.strftime('%Y%m%dT%H%M%S')}.{now % 10**6:06}-{os.getpid()}"
        directory.mkdir(mode=0o700)
    except OSError as error:
        raise UsageError(f"the directory for runs cannot be made: {error}") from None
    return directory


def _runs(pid: str) -> bool:
    """Return whether a process with this PID exists."""
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def passing_directory() -> Iterator[Path]:
    """Yield a directory (0700) that is deleted after the run, for ansible-runner's files and values of -e.

    It is in memory if /dev/shm is writable. Directories of runs that were killed are deleted first.
    """
    memory = Path("/dev/shm")
    parent = (
        memory if tempfile.tempdir is None and os.access(memory, os.W_OK | os.X_OK) else Path(tempfile.gettempdir())
    )
    for left in parent.glob("gpuprov-run-*"):
        owner = left.name.split("-")[2]
        if owner.isdecimal() and not _runs(owner) and left.lstat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"gpuprov-run-{os.getpid()}-", dir=parent) as directory:
        yield Path(directory)


def _value_files(directory: Path, words: list[str], values: list[dict[str, Any]]) -> list[str]:
    """Write values of -e to files with mode 0600: they may be secret and must not be in an argument list."""
    result = []
    for word in words:
        if word.startswith("@"):
            result.append(word)
            continue
        path = directory / f"{word}.json"
        path.touch(mode=0o600)
        path.write_text(json.dumps(values[int(word)]), encoding="utf-8")
        result.append(f"@{path}")
    return result


# ssh asks these questions on the terminal, which is ansible-runner's, and would wait forever. An unknown host
# key is refused; a key's passphrase must come from an agent.
_REFUSALS = {
    r"continue connecting \(yes/no(?:/\[fingerprint\])?\)\?\s*?$": "no",
    r"Enter passphrase for .*:\s*?$": "",
}


def _hurry_pexpect() -> None:
    """Remove the 0.1 s that pexpect waits after a process has ended: it is only needed to deliver a hangup."""
    import ptyprocess

    ptyprocess.PtyProcess.delayafterclose = property(lambda _: 0.0, lambda _, _value: None)


@contextlib.contextmanager
def _interruptible(stop: Path, say: Callable[[str], None]) -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM. The first one creates the file stop, which ends the run before the next task."""
    asked: list[int] = []

    def ask(number: int, _frame: object) -> None:
        asked.append(number)
        if len(asked) == 1:
            stop.touch()
            say("finishing the tasks in flight; once more stops at once")
        elif len(asked) == 2:
            say("stopping at once")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _kill(processes: Iterable[int]) -> None:
    for pid in processes:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def _descendants() -> list[int]:
    """Return all descendants of this process. Ansible's workers have process groups of their own."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def run(
    playbook: str,
    options: Options,
    on_event: Callable[[Event], None],
    say: Callable[[str], None],
    passwords: Mapping[str, str],
) -> Outcome:
    """Run one of our playbooks and call on_event with each of ansible-runner's events.

    passwords: {prompt pattern: password}. Raises UsageError for errors found before the start.
    """
    root = ansible_root()
    words, values = extra_vars(options.extra_vars, options.variables)
    kept: dict[str, Any] = {"stats": None, "lines": []}

    def handle(event: Event) -> bool:
        if event.get("event") == "playbook_on_stats":
            kept["stats"] = event["event_data"]
        if event.get("stdout"):
            kept["lines"] += event["stdout"].splitlines()
        on_event(event)
        return False  # Keep no event files: events may hold secrets of the hosts.

    import ansible_runner
    import pexpect

    _hurry_pexpect()
    outcome = "failed"
    with passing_directory() as directory, _interruptible(directory / "stop", say) as asked:
        files = _value_files(directory, words, values)
        begun: list[int] = []

        def stop_at_once() -> bool:
            if len(asked) > 1:
                begun[:] = _descendants()
            return len(asked) > 1

        try:
            result = ansible_runner.run(
                private_data_dir=str(directory),
                project_dir=os.getcwd(),
                playbook=str(root / "playbooks" / playbook),
                cmdline=_quoted(arguments(options, files)),
                envvars={**environment(os.environ, root), "GPUPROV_STOP": str(directory / "stop")},
                passwords={**passwords, **_REFUSALS},
                settings={"pexpect_timeout": 1, "suppress_output_file": True},
                suppress_env_files=True,
                fact_cache_type="memory",
                quiet=True,
                event_handler=handle,
                cancel_callback=stop_at_once,
            )
            outcome = result.status
        except pexpect.TIMEOUT:
            # This can be raised after the run is complete, so the stats decide.
            outcome = "successful" if kept["stats"] else "failed"
        if asked:
            outcome = "canceled"
            _kill(begun)
    return Outcome(outcome, _per_host(kept["stats"]), kept["lines"])


def _quoted(words: list[str]) -> str:
    import shlex

    return shlex.join(words)


def _per_host(stats: Event | None) -> dict[str, dict[str, int]] | None:
    """Return {host: {ok, changed, failures, dark, …}} from a playbook_on_stats event."""
    if stats is None:
        return None
    result: dict[str, dict[str, int]] = {}
    for name, hosts in stats.items():
        if isinstance(hosts, dict) and name in (
            "ok",
            "changed",
            "failures",
            "dark",
            "skipped",
            "processed",
        ):
            for host, number in hosts.items():
                result.setdefault(host, {})[name] = number
    return result
