# SPDX-License-Identifier: MIT
"""Use Ansible beyond its documented API, one function for each use.

Where an ansible-core lacks what a function uses, the function falls back on documented API.
tests/integration/test_ansible_compat.py runs each one under every supported ansible-core, also without what it uses.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib.util
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import yaml
from ansible import release

# Slow parts of Ansible are imported where they are used: gpuprov loads this file, too, and must start fast.
if TYPE_CHECKING:
    from ansible.plugins.action import ActionBase

CORE_VERSION: str = release.__version__
# From 2.19 on Ansible renders only text that is marked as a template.
_MARKS_TEMPLATES = tuple(int(part) for part in CORE_VERSION.split(".")[:2]) >= (2, 19)


# ---- Become --------------------------------------------------------------------------------------


@functools.cache
def builtin_become(name: str) -> ModuleType:
    """Return the module of ansible-core's own become plugin of this name.

    A plain import returns our plugin where Ansible loads that one in place of its own: both have one name there.
    """
    import ansible.plugins.become

    path = Path(ansible.plugins.become.__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"gpuprov_builtin_become_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"ansible-core has no become plugin {name}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def becomes(action: ActionBase) -> bool:
    """Return whether the action's commands become another account. Fallback: the connection's option remote_user."""
    if not action._connection.become:
        return False
    find = getattr(action, "_get_remote_user", None)
    own = find() if find else action.get_connection_option("remote_user")
    return not own or own != action.get_become_option("become_user")


def become_command(action: ActionBase, command: str) -> str:
    """Return a command that runs another one as what the task becomes. Fallback: the shell plugin sh."""
    shell = getattr(action._connection, "_shell", None)
    if shell is None:
        from ansible.plugins.loader import shell_loader

        shell = shell_loader.get("sh")
        shell.executable = "/bin/sh"
    return str(action._connection.become.build_become_command(command, shell))


def success_command(become: Any, command: str, shell: Any) -> str:
    """Return a command that prints the become plugin's mark of success first. Fallback: one for /bin/sh."""
    build = getattr(become, "_build_success_command", None)
    return str(build(command, shell)) if build else f"/bin/sh -c {shlex.quote(f'echo {become.success} ; {command}')}"


# ---- Commands and files on a host ----------------------------------------------------------------


def run_command(action: ActionBase, command: str, stdin: bytes | None = None, *, become: bool = True) -> dict[str, Any]:
    """Run a shell command on the action's host, and return {rc, stdout, stderr}.

    Fallback: the connection's exec_command. Raises what the connection raises.
    """
    run = getattr(action, "_low_level_execute_command", None)
    if run:
        return dict(run(command, sudoable=become, in_data=stdin))
    words, success = f"/bin/sh -c {shlex.quote(command)}", ""
    if become and becomes(action):
        words = become_command(action, words)
        success = str(action._connection.become.success)
    status, stdout, stderr = action._connection.exec_command(words, in_data=stdin, sudoable=become)
    printed = stdout.decode(errors="replace").removeprefix(f"{success}\n")
    return {"rc": status, "stdout": printed, "stderr": stderr.decode(errors="replace")}


def uses_pipelining(action: ActionBase) -> bool:
    """Return whether modules are pipelined to the action's host. Fallback: the connection's option pipelining."""
    ask = getattr(action, "_is_pipelining_enabled", None)
    return bool(ask("new") if ask else action.get_connection_option("pipelining"))


@contextlib.contextmanager
def temporary_directory(action: ActionBase) -> Iterator[str]:
    """Make a directory on the action's host, and remove it at the end. Fallback: mktemp."""
    make = getattr(action, "_make_tmp_path", None)
    path = str(make() if make else run_command(action, "mktemp -d", become=False)["stdout"].strip())
    try:
        yield path
    finally:
        if make:
            action._remove_tmp_path(path, force=True)
        else:
            run_command(action, f"rm -rf {shlex.quote(path)}")


def send_file(action: ActionBase, path: Path, directory: str, name: str = "") -> str:
    """Copy a file to a directory of the action's host, for what the task becomes, and return its path there.

    name is its name there. Fallback: the connection's put_file, and a mode that lets the other account read.
    """
    remote = f"{directory.rstrip('/')}/{name or path.name}"
    send = getattr(action, "_transfer_file", None)
    if send:
        send(str(path), remote)
        action._fixup_perms2((directory, remote), execute=False)
    else:
        action._connection.put_file(str(path), remote)
        run_command(action, f"chmod a+rX {shlex.quote(directory)} {shlex.quote(remote)}", become=False)
    return remote


def has_login_password(action: ActionBase) -> bool:
    """Return whether the action's connection logs in with a password. Fallback: the option, without --ask-pass."""
    asked = getattr(getattr(action, "_play_context", None), "password", None)
    return bool(action._connection.get_option("password") or asked)


def ssh_words(action: ActionBase, command: str) -> list[bytes]:
    """Return the words of ssh that run a shell command on the action's host, without a terminal.

    Fallback: the connection's options, which share no ControlPath.
    """
    connection = action._connection
    if not connection.get_option("host"):
        connection.set_option("host", action._play_context.remote_addr)
    host, program = connection.get_option("host"), connection.get_option("ssh_executable")
    build = getattr(connection, "_build_command", None)
    if build:
        connection.host = host
        return list(build(program, "ssh", host, command))
    words = [program]
    for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
        words += shlex.split(connection.get_option(name) or "")
    for flag, name in (("-p", "port"), ("-i", "private_key_file"), ("-l", "remote_user")):
        value = connection.get_option(name)
        words += [flag, str(value)] if value else []
    return [word.encode() for word in (*words, host, command)]


# ---- Templates and settings ----------------------------------------------------------------------


def render(action: ActionBase, value: Any, variables: Mapping[str, Any] | None = None) -> Any:
    """Render templates as the action's task does, with its variables or others. Fallback: a Templar of its own."""
    templar = getattr(action, "_templar", None)
    if templar is None:
        from ansible.parsing.dataloader import DataLoader
        from ansible.template import Templar

        templar = Templar(loader=DataLoader(), variables={})
    if variables is not None:
        templar.available_variables = variables
    return templar.template(value)


@functools.cache
def load_variables(path: Path) -> dict[str, Any]:
    """Read a file of variables of our own, whose text may be templates. The result must not be changed."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    variables = yaml.load(path.read_text(encoding="utf-8"), Loader=loader) or {}
    return dict(_with_templates(variables)) if _MARKS_TEMPLATES else dict(variables)


def _with_templates(value: Any) -> Any:
    from ansible.template import trust_as_template

    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, Mapping):
        return {key: _with_templates(item) for key, item in value.items()}
    return [_with_templates(item) for item in value] if isinstance(value, list) else value


def literal(value: Any) -> Any:
    """Return a value whose text no later template renders again. Fallback: none, as newer versions need none."""
    if _MARKS_TEMPLATES:
        return value
    from ansible.utils.unsafe_proxy import wrap_var

    return wrap_var(value)


def key_values(text: str) -> dict[str, str]:
    """Parse ``name=value`` words as ansible-playbook's -e does; other words are in ``_raw_params``. Raises ValueError.

    Fallback: the words of a POSIX shell.
    """
    try:
        from ansible.errors import AnsibleError
        from ansible.parsing.splitter import parse_kv
    except ImportError:
        words = shlex.split(text)
        other = " ".join(word for word in words if "=" not in word)
        found = dict(word.split("=", 1) for word in words if "=" in word)
        return {**found, "_raw_params": other} if other else found
    try:
        return dict(parse_kv(text))
    except AnsibleError as error:
        raise ValueError(str(error)) from None


def interpreter_setting() -> str | None:
    """Return the configuration's INTERPRETER_PYTHON. Fallback: its environment variable."""
    from ansible import constants

    read = getattr(getattr(constants, "config", None), "get_config_value", None)
    value = read("INTERPRETER_PYTHON") if callable(read) else os.environ.get("ANSIBLE_PYTHON_INTERPRETER")
    return None if value is None else str(value)


def run_directory() -> Path | None:
    """Return Ansible's directory of this run, which only its account can read; Ansible removes it. Fallback: None."""
    from ansible import constants

    path = getattr(constants, "DEFAULT_LOCAL_TMP", None)
    return Path(path) if path else None


def cause(error: BaseException) -> str:
    """Return the innermost reason of a failed template, in one line."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None:
        chain.append(one)
        one = getattr(one, "orig_exc", None) or one.__cause__
    messages = [str(getattr(one, "_message", None) or getattr(one, "message", None) or one) for one in chain]
    text = next((message for message in reversed(messages) if message.strip()), str(error))
    # ansible-core up to 2.18 joins all reasons: the last sentence has the first one.
    return re.sub(r"\s+", " ", text.split("The error was: ")[-1].partition(". 'ansible.errors")[0]).strip()


# ---- The run -------------------------------------------------------------------------------------


def without_display(result: dict[str, Any]) -> dict[str, Any]:
    """Return a result that callbacks do not show, as with no_log; tasks can still register it."""
    return {**result, "_ansible_no_log": True}


def add_to_group(action: ActionBase, result: dict[str, Any], group: str) -> None:
    """Put the action's host into a group, as ansible.builtin.group_by does in a task of its own."""
    if hasattr(action, "add_group"):  # ansible-core 2.21 and newer
        action.add_group(group, parent_group_names=["all"])
    else:
        result["add_group"], result["parent_groups"] = group, ["all"]


def preload_plugins() -> None:
    """Load the plugins that nearly every task needs, before Ansible forks."""
    from ansible.plugins.loader import become_loader, connection_loader, filter_loader, shell_loader, test_loader

    # Asking for one filter or test loads all of them.
    filter_loader.get("ansible.builtin.bool")
    test_loader.get("ansible.builtin.match")
    # Roles' defaults need this one, and plans another: these are loaded together too.
    filter_loader.get("gpuprov.gpuprov.mirror_url")
    for loader, name in ((connection_loader, "ssh"), (become_loader, "sudo"), (shell_loader, "sh")):
        loader.get(name, class_only=True)
    # https://docs.python.org/3/library/gc.html#gc.freeze
    gc.freeze()


def play_hosts(play: Any) -> list[str]:
    """Return the names of the hosts of a play that starts, given to a callback. Fallback: an empty list."""
    manager = getattr(play, "get_variable_manager", lambda: None)()
    return [str(name) for name in manager.get_vars(play=play).get("ansible_play_hosts_all", [])] if manager else []


def end_run() -> None:
    """End the run from a callback, as Ctrl-C does. Callbacks have no documented way to do this."""
    raise KeyboardInterrupt
