# SPDX-License-Identifier: MIT
"""Read, convert and check the options of a role by its argument_specs.yml, before anything uses them.

An inventory in INI form, ``-e name=value`` and templates give text: "false", "5", '["a"]', '{"a": true}'.
Ansible's own validation of roles checks such text, and leaves it text for the tasks.
"""

from __future__ import annotations

import ast
import functools
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import BOOLEANS_FALSE, BOOLEANS_TRUE
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_proxy
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat, mirrors
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.lock import held, lock_file

ROLES_DIRECTORY = Path(__file__).parents[2] / "roles"

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_SHOWN = 60  # characters of a wrong value
_SPECS: dict[str, dict[str, Any]] = {}

# What a specification has no word for: {option: (regular expression, what the value must be)}.
_PATTERNS = {
    # YAML reads 0644 without quotes as the number 420.
    "docker_daemon_config_mode": (r"|0[0-7]{3}", 'four octal digits in quotes such as "0644", or empty'),
    "registry_cache_max_size": (r"|[1-9][0-9]{0,8}[KMGT]?", 'a size such as "50G", or empty'),
    "registry_cache_upstream": (
        r"https?://[^\s/?#@]+",
        "the URL of a registry without a path, such as https://registry-1.docker.io",
    ),
    "registry_cache_directory": (r"/[^\s\"\\%$]+", "an absolute path without spaces, quotes and %"),
    "registry_cache_address": (r"[0-9A-Za-z.:-]*", "an address of the host, or empty"),
    **dict.fromkeys(
        ("docker_ce_channel", "nvidia_docker_channel"),
        (r"|[0-9]+(\.[0-9]+){0,2}", 'the beginning of a version in quotes such as "29" or "29.7", or empty'),
    ),
}

# Variables of the playbooks, which no role has: see docs/ansible.md.
PLAYBOOK_OPTIONS: dict[str, dict[str, Any]] = {
    "gpuprov_bundle": {"type": "str"},
    "gpuprov_full": {"type": "bool"},
    "gpuprov_lock": {"type": "str"},
    "gpuprov_lock_upgrade": {"type": "bool"},
    "gpuprov_quiet": {"type": "bool"},
    "gpuprov_registry_cache_hosts": {"type": "str"},
    "gpuprov_max_fail_percentage": {"type": "int"},
    "gpuprov_mirror": {"type": "str", "choices": ["", *mirrors.MIRRORS]},
    "gpuprov_serial": {"type": "list", "elements": "str"},
    "gpuprov_wait": {"type": "int"},
}


class OptionError(ValueError):
    """A value does not fit its option; the message names the option and what it needs, for people."""


# ---- One value -----------------------------------------------------------------------------------


def convert(name: str, spec: Mapping[str, Any], value: Any) -> Any:
    """Return the value of an option as its specification has it, of plain Python types.

    spec: type (bool, int, str, list or dict), elements, choices, required, as in argument_specs.yml. Empty is
    what null means for text, a list and a dictionary. Raises OptionError.
    """
    result = _CONVERSIONS[spec.get("type", "str")](name, spec, value)
    choices = spec.get("choices")
    if choices and result not in choices:
        raise _wrong(name, value, "one of " + ", ".join(str(choice) or "an empty text" for choice in choices))
    pattern, needed = _PATTERNS.get(name, ("", ""))
    if pattern and not re.fullmatch(pattern, result):
        raise _wrong(name, value, needed)
    if name.endswith("_proxy"):
        try:
            result = daemon_proxy.normalized(result)
        except ValueError as error:
            raise OptionError(f"{name}: {error}") from None
    if spec.get("required") and result in ("", [], {}):
        raise OptionError(f"{name} is empty, and it is required")
    return result


def _bool(name: str, _spec: Mapping[str, Any], value: Any) -> bool:
    word = value.strip().lower() if isinstance(value, str) else value
    if isinstance(word, str | int | float):
        if word in BOOLEANS_TRUE:
            return True
        if word in BOOLEANS_FALSE:
            return False
    raise _wrong(name, value, "true or false")


def _int(name: str, _spec: Mapping[str, Any], value: Any) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[0-9]{1,9}\s*", value, re.ASCII):
        return int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 10**9 and value == int(value):
        return int(value)
    raise _wrong(name, value, "a whole number that is not negative")


def _str(name: str, _spec: Mapping[str, Any], value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool | list | tuple | set | Mapping):
        raise _wrong(name, value, "text, in quotes where YAML would read it as something else")
    return _plain_str(value)


def _list(name: str, spec: Mapping[str, Any], value: Any) -> list[Any]:
    if value is None and spec.get("default"):
        raise _wrong(name, value, "a list")
    items = _items(name, value)
    element: dict[str, Any] = {"type": spec.get("elements", "str")}
    for number, item in enumerate(items, 1):
        if item is None:
            raise OptionError(f"{name}: element {number} has no value")
    return [convert(f"{name}: element {number}", element, item) for number, item in enumerate(items, 1)]


def _items(name: str, value: Any) -> list[Any]:
    if value is None:
        return []
    if isinstance(value, list | tuple | set):
        return list(value)
    if isinstance(value, bool | Mapping):
        raise _wrong(name, value, "a list")
    text = _plain_str(value).strip()
    if text.startswith("["):
        return list(_structure(name, text, list))
    # As Ansible does for options of modules.
    return [part.strip() for part in text.split(",") if part.strip()]


def _dict(name: str, _spec: Mapping[str, Any], value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(_plain(name, value))
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return {}
        if text.startswith("{"):
            return dict(_plain(name, _structure(name, text, dict)))
    # Such a value may hold a password: it is not shown.
    raise OptionError(f'{name} needs a dictionary, in an INI file or on a command line JSON such as {{"key": "value"}}')


# Ansible's own validation of a role finds no dictionaries in a list that is JSON text: specifications call them raw.
_CONVERSIONS: dict[str, Callable[[str, Mapping[str, Any], Any], Any]] = {
    "bool": _bool, "int": _int, "str": _str, "list": _list, "dict": _dict, "raw": _dict,
}  # fmt: skip


def _structure(name: str, text: str, kind: type) -> Any:
    """Return the list or dictionary that a text holds, as JSON or as Python writes it. Raises OptionError."""
    try:
        found = json.loads(text, object_pairs_hook=lambda pairs: _without_duplicates(name, pairs))
    except ValueError as error:
        if isinstance(error, OptionError):
            raise
        try:
            # A template that joins texts has it in this form.
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            where = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else error
            raise OptionError(f"{name} is not JSON: {where}") from None
    if not isinstance(found, kind):
        raise OptionError(f"{name} is JSON, but not of a {'list' if kind is list else 'dictionary'}")
    return found


def _without_duplicates(name: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise OptionError(f"{name} has the key {key!r} twice")
        found[key] = value
    return found


def _plain(name: str, value: Any) -> Any:
    """Return a value with containers and texts of Ansible's own types made plain ones. Raises OptionError."""
    if isinstance(value, Mapping):
        found: dict[str, Any] = {}
        for key, item in value.items():
            if key is None or isinstance(key, bool):
                raise OptionError(f"{name}: the key {key!r} is not text: put it in quotes")
            found[_plain_str(key)] = _plain(name, item)
        return found
    if isinstance(value, list | tuple | set):
        return [_plain(name, item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return _plain_str(value)


def _plain_str(value: Any) -> str:
    return "".join(str(value))


def _wrong(name: str, value: Any, needed: str) -> OptionError:
    if value is None or value == "":
        shown = "empty"
    elif isinstance(value, Mapping):
        shown = "a dictionary"
    elif isinstance(value, list | tuple | set):
        shown = "a list"
    else:
        text = repr(_plain_str(value)) if isinstance(value, str) else str(value)
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return OptionError(f"{name} is {shown}, and must be {needed}")


def wave_sizes(value: Any) -> list[int | str]:
    """Return the sizes of waves, for Ansible's serial: ``"1,10%"``, ``[1, "10%"]`` and that as JSON are [1, "10%"].

    Raises OptionError.
    """
    sizes: list[int | str] = []
    for item in _list("gpuprov_serial", {"elements": "str"}, value):
        match = re.fullmatch(r"\s*([1-9][0-9]{0,5})(%?)\s*", item)
        if not match or (match[2] and int(match[1]) > 100):
            raise OptionError(
                f"gpuprov_serial takes numbers of hosts and percentages, such as 1,10%,25%: not {item.strip()!r}"
            )
        sizes.append(match[1] + "%" if match[2] else int(match[1]))
    return sizes


def playbook_problems(values: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what is wrong with the variables of the playbooks, [{name, message}]."""
    problems = []
    for name, spec in PLAYBOOK_OPTIONS.items():
        if name in values:
            try:
                convert(name, spec, values[name])
                if name == "gpuprov_serial":
                    wave_sizes(values[name])
            except OptionError as error:
                problems.append({"name": name, "message": str(error)})
    return problems


# ---- A role's options ----------------------------------------------------------------------------


def specification(role: str, entry_point: str = "main", directory: Path = ROLES_DIRECTORY) -> dict[str, Any]:
    """Return {name: specification} of the options of one entry point of a role. Raises KeyError for an unknown one."""
    key = str(directory / role)
    if key not in _SPECS:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        text = (directory / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8")
        _SPECS[key] = yaml.load(text, Loader=loader)["argument_specs"]
    return dict(_SPECS[key][entry_point].get("options") or {})


def owner(name: str, directory: Path = ROLES_DIRECTORY) -> str | None:
    """Return the role whose public variable a name is."""
    for underscores in range(name.count("_"), 0, -1):
        role = name.rsplit("_", underscores)[0]
        if (directory / role / "meta" / "argument_specs.yml").is_file() and name in specification(role):
            return role
    return None


class Resolver:
    """Reads options of roles for one host.

    template: renders a template with self.variables. variables are those of the task, and are not changed.
    load: reads a file of variables as Ansible does.
    """

    def __init__(
        self,
        variables: Mapping[str, Any],
        template: Callable[[Any, dict[str, Any]], Any],
        load: Callable[[Path], Mapping[str, Any] | None],
    ) -> None:
        self.variables = dict(variables)
        self._wrong: list[dict[str, str]] = []
        self._unreadable: list[dict[str, str]] = []
        self._template = template
        self._load = load
        self._converted: set[str] = set()
        self._failed: set[str] = set()
        self._lock: tuple[Path | None, str | None] | None = None
        self._reveal_siblings()

    def _reveal_siblings(self) -> None:
        """Add what private_role_vars, or a dynamic include, hides of the other roles of this play.

        A default of one role may depend on what another one installs.
        """
        names = [str(name).rpartition(".")[2] for name in self.variables.get("ansible_play_role_names") or []]
        for role in dict.fromkeys(names):
            if (ROLES_DIRECTORY / role / "meta" / "argument_specs.yml").is_file():
                self.reveal(role)
        for path in ROLES_DIRECTORY.iterdir():
            registered = self.variables.get(f"__{path.name}")
            options = registered.get("options") if isinstance(registered, Mapping) else None
            for name, value in (options or {}).items():
                self.variables.setdefault(f"{path.name}_{name}", value)

    @property
    def problems(self) -> list[dict[str, str]]:
        """Return what is wrong with the options that were resolved, [{name, message}]."""
        # What cannot be read is mostly the consequence of a value that is wrong.
        return self._wrong or self._unreadable

    def reveal(self, role: str) -> None:
        """Make a role's defaults and internal variables visible where they are not."""
        if all(name in self.variables for name in (f"{role}_desired", *specification(role))):
            return
        for kind in ("vars", "defaults"):
            path = ROLES_DIRECTORY / role / kind / "main.yml"
            if path.is_file():
                self.variables = {**(self._load(path) or {}), **self.variables}

    def resolve(self, role: str, entry_point: str = "main") -> dict[str, Any]:
        """Return the options of a role's entry point as {name without the role's prefix: value}.

        Also puts them into variables, as ``__<role>.options`` too. What is wrong is added to problems.
        """
        self.reveal(role)
        options = {}
        for name, spec in specification(role, entry_point).items():
            self._resolve(name, spec)
            if name in self._converted:
                options[name.removeprefix(f"{role}_")] = self.variables[name]
            elif spec.get("required") and name not in self._failed:
                self._wrong.append({"name": name, "message": f"{name} is required, and is not set"})
        self.variables[f"__{role}"] = {"options": options}
        if role in held.ROLES:
            self.variables[f"__{role}"]["locked"] = {}
            if entry_point in ("main", "check"):
                self._hold(role, options)
        return options

    def lock(self) -> tuple[Path | None, str | None]:
        """Return where the lock of the inventory is, and its text; None without one. Raises LockFileError.

        Without one, a bundle's lock takes its place.
        """
        if self._lock is None:
            named = self.playbook_option("gpuprov_lock")
            path = held.path_of(self.variables, named)
            text, bundle = held.text_of(path, named), self.bundle()
            if text is None and bundle:
                path = bundle / lock_file.NAME
                text = lock_file.read(path)
            self._lock = path, text
        return self._lock

    def bundle(self) -> Path | None:
        """Return the bundle from which hosts are provisioned, None without one. Raises LockFileError."""
        named = self.playbook_option("gpuprov_bundle")
        if not named:
            return None
        path = Path(self.variables.get("inventory_dir") or os.getcwd()) / Path(named).expanduser()
        if not (path / "bundle.yml").is_file():
            raise lock_file.LockFileError(f"{path} is not a bundle: it has no bundle.yml")
        return path

    def lock_path(self) -> Path:
        """Return where the lock of the inventory is, or must be written. Raises LockFileError."""
        path = held.path_of(self.variables, self.playbook_option("gpuprov_lock"))
        if path is None:
            raise lock_file.LockFileError(
                "the lock has no place: the inventory is not a file, or gpuprov_lock is empty. Set gpuprov_lock"
            )
        return path

    def playbook_option(self, name: str) -> Any:
        """Return a variable of the playbooks, None where it is not set or wrong."""
        self._resolve(name, PLAYBOOK_OPTIONS[name])
        return self.variables[name] if name in self._converted else None

    def _hold(self, role: str, options: dict[str, Any]) -> None:
        """Hold the versions of a role's packages to the lock of the inventory."""
        codename = (self.variables.get("ansible_facts") or {}).get("distribution_release")
        if not codename:
            return
        try:
            path, text = self.lock()
            if path is None or text is None:
                return
            architecture = self.architecture()
            system = held.system_of(lock_file.parse(text, str(path)), codename, architecture, path)
        except lock_file.LockFileError as error:
            self._wrong.append({"name": "lock", "message": str(error)})
            return
        versions, problems = held.held(role, options, system, path)
        self._wrong += [{"name": "lock", "message": problem} for problem in problems]
        for option, version in versions.items():
            options[option] = version
            self.variables[f"{role}_{option}"] = ansible_compat.literal(version)
        self.variables[f"__{role}"]["locked"] = held.packages_of(system)

    def locked(self, role: str) -> dict[str, list[str]]:
        """Return what the lock has for the host, {package: [version, SHA-256]}, once a role is resolved."""
        return dict(self.variables[f"__{role}"].get("locked", {}))

    def architecture(self) -> str:
        """Return dpkg's word for the architecture of the host, whose facts are known."""
        self.reveal("docker_ce")
        machine = str(self.variables["ansible_facts"]["architecture"])
        return str(self.variables["docker_ce_architectures"].get(machine, machine))

    def option(self, role: str, name: str) -> Any:
        """Return one option of a role, or None where it is wrong or cannot be read yet."""
        self.reveal(role)
        variable = f"{role}_{name}"
        self._resolve(variable, specification(role)[variable])
        return self.variables[variable] if variable in self._converted else None

    def render(self, value: Any) -> Any:
        """Return what a template gives with the variables as they are now."""
        return self._template(value, self.variables)

    def desired(self, role: str) -> Any:
        """Return a role's ``<role>_desired``, once its options are resolved. Raises OptionError."""
        name = f"{role}_desired"
        try:
            return _plain(name, self._template(self.variables[name], self.variables))
        except AnsibleError as error:
            raise OptionError(f"the variables of {role} cannot be read: {ansible_compat.cause(error)}") from None

    def _resolve(self, name: str, spec: Mapping[str, Any]) -> None:
        if name in self._converted or name in self._failed or name not in self.variables:
            return
        raw = self.variables[name]
        self._failed.add(name)  # so that options that name each other end
        if isinstance(raw, str) and ("{{" in raw or "{%" in raw):
            for other in _NAME.findall(raw):
                of = owner(other) if other != name and "_" in other else None
                if of or other in PLAYBOOK_OPTIONS:
                    self._resolve(other, specification(of)[other] if of else PLAYBOOK_OPTIONS[other])
                    if other in self._failed:
                        return  # it is said of the other one what is wrong
        try:
            value = convert(name, spec, self._template(raw, self.variables))
        except AnsibleError as error:
            self._unreadable.append({"name": name, "message": f"{name} cannot be read: {ansible_compat.cause(error)}"})
        except OptionError as error:
            self._wrong.append({"name": name, "message": str(error)})
        else:
            # Text with braces in it, such as a log tag, is not a template any more.
            self.variables[name] = ansible_compat.literal(value)
            self._failed.discard(name)
            self._converted.add(name)


def resolver(action: ActionBase, variables: Mapping[str, Any]) -> Resolver:
    """Return a Resolver that renders templates and reads files as the task of an action plugin does."""

    return Resolver(variables, functools.partial(ansible_compat.render, action), ansible_compat.load_variables)
