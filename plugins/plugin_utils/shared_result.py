# SPDX-License-Identifier: MIT
"""Computes once, for all hosts of a run, what is the same for them.

Ansible computes templates in a process of its own for each host and task; that is most of what a
plan costs. Where two hosts have the same inputs the second one takes the first one's result.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible import constants

_NAME = re.compile(r"[A-Za-z_]\w*")
# What gives another value for another host, or at another time, whatever the variables are.
_UNSHARED = re.compile(
    r"\b(?:lookup|query|q|now|random|shuffle|hostvars|vars|groups|inventory_hostname\w*|inventory_dir)\b"
)
# The facts that are named one by one; any other mention of facts stands for all of them.
_FACT = re.compile(r"""ansible_facts\[(['"])(\w+)\1\](?:\[(['"])(\w+)\3\])?""")


def inputs(names: Iterable[str], variables: Mapping[str, Any]) -> str | None:
    """Return all that the values of some variables are computed from, as text: equal for hosts with equal values.

    None where that cannot be told from the templates.
    """
    found: dict[str, str] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found or name not in variables:
            continue
        text = found[name] = repr(variables[name])
        if "{{" not in text and "{%" not in text:
            continue
        if _UNSHARED.search(text):
            return None
        for match in _FACT.finditer(text):
            value = variables["ansible_facts"].get(match[2])
            if match[4] and isinstance(value, Mapping):
                value = value.get(match[4])
            found[match[0]] = repr(value)
        waiting += _NAME.findall(_FACT.sub("", text))
    return json.dumps(found, sort_keys=True)


def shared(key: str | None, compute: Callable[[], Any]) -> Any:
    """Return what compute returns, or what it returned for the same key earlier in this run.

    JSON must be able to hold it.
    """
    if key is None:
        return compute()
    # Ansible's own directory of this run: for its account alone, and removed at its end.
    path = Path(constants.DEFAULT_LOCAL_TMP) / f"gpuprov-{hashlib.sha256(key.encode()).hexdigest()}.json"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = file.read()
        if text:
            return json.loads(text)
        result = compute()
        file.write(json.dumps(result))
        return result
