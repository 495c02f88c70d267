# SPDX-License-Identifier: MIT
"""Compute once per run what is the same for several hosts.

Ansible renders templates in a process of its own for each host and task; that is most of what a plan costs. The first
host computes a result, and hosts with equal inputs read it from a file.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import ansible_compat

_NAME = re.compile(r"[A-Za-z_]\w*")
# Words in a template whose value differs by host or time while the variables are equal.
_UNCACHEABLE = re.compile(
    r"\b(?:lookup|query|q|now|random|shuffle|hostvars|vars|groups|inventory_hostname\w*|inventory_dir)\b"
)
# Facts that a template names; any other mention of facts counts as all of them.
_FACT = re.compile(r"""ansible_facts\[(['"])(\w+)\1\](?:\[(['"])(\w+)\3\])?""")


def key(names: Iterable[str], variables: Mapping[str, Any]) -> str | None:
    """Return the inputs of some variables' values as text, or None where the templates do not tell them."""
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found or name not in variables:
            continue
        text = found[name] = repr(variables[name])
        if "{{" not in text and "{%" not in text:
            continue
        if _UNCACHEABLE.search(text):
            return None
        for match in _FACT.finditer(text):
            value = variables["ansible_facts"].get(match[2])
            if match[4] and isinstance(value, Mapping):
                value = value.get(match[4])
            found[match[0]] = repr(value)
        waiting += _NAME.findall(_FACT.sub("", text))
    return json.dumps(found, sort_keys=True)


def cached(key: str | None, compute: Callable[[], Any]) -> Any:
    """Return the result of compute, computed once for each key of a run. It must fit into JSON."""
    directory = ansible_compat.run_directory()
    if key is None or directory is None:
        return compute()
    path = directory / f"gpuprov-{hashlib.sha256(key.encode()).hexdigest()}.json"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        if text:
            return json.loads(text)
        result = compute()
        file.write(json.dumps(result))
        return result
