# SPDX-License-Identifier: MIT
"""docker build on a host: update the host's copy of the context, and show the output while it comes."""

from __future__ import annotations

import base64
import codecs
import gzip
import json
import os
import re
import shlex
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_lock
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_proxy
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import image_name
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import (
    ansible_compat,
    host_command,
    host_pipe,
    role_options,
    run_owner,
)
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.images import build_context, build_output

# Seconds between two signs of life: a step may print nothing for hours, and firewalls forget idle connections.
_KEEPALIVE = 30.0
_BUSY = 75  # the exit status of build.sh where another run has the lock
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
display = Display()


class ActionModule(ActionBase):
    """Build one image."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(("name", "context", "file", "args", "proxy", "target", "no_cache", "directory"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return docker_image; fail with the last line of the output."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        self._interpreter = host_command.interpreter(self, task_vars)
        arguments = self._arguments()
        proxy = {
            name: value
            for lower in (False, True)
            for name, value in daemon_proxy.variables(arguments["proxy"], lower=lower).items()
        }
        values = {**proxy, **_values(arguments["args"])}
        context = Path(arguments["context"]).expanduser().absolute()
        is_local = self._connection.transport == "local"
        try:
            name = image_name.parse(arguments["name"])
            found = build_context.entries(context, arguments["file"])
        except (image_name.ImageNameError, build_context.ContextError) as error:
            raise AnsibleActionFail(str(error)) from None
        if name.tag is None or name.digest is not None:
            raise AnsibleActionFail(f"docker_image_name must have a tag, such as train:1.9.1: not {name}")
        sent = {"files": 0, "bytes": 0}
        place = str(context)
        if not is_local:
            directory = f"{arguments['directory'].rstrip('/')}/{build_context.directory_name(context)}"
            sent, failure = self._send(context, found, directory, task_vars)
            if failure:
                return {**result, **failure}
            place = f"{directory}/context"
        image: dict[str, Any] = {"name": str(name), "id": None, "size": None, "sent": sent}
        if not self._task.check_mode:
            lock = run_owner.lock(self, task_vars)
            owner = "" if is_local else json.dumps({**lock["owner"], "since": int(time.time())})
            file, no_cache = os.path.normpath(arguments["file"]), "yes" if arguments["no_cache"] else "no"
            words = [owner, str(lock["wait"]), place, file, str(name), arguments["target"], no_cache, *values]
            secrets = [values[key] for key, value in arguments["args"].items() if value is None]
            secrets += _logins(arguments["proxy"])
            image["id"], image["size"] = self._build(task_vars["inventory_hostname"], words, values, secrets)
        return {**result, "changed": True, "docker_image": image}

    def _arguments(self) -> dict[str, Any]:
        _validation, arguments = self.validate_argument_spec(
            argument_spec={
                "name": {"type": "str", "required": True},
                "context": {"type": "str", "required": True},
                "file": {"type": "str", "default": "Dockerfile"},
                "args": {"type": "dict", "default": {}},
                "proxy": {"type": "dict", "default": {}},
                "target": {"type": "str", "default": ""},
                "no_cache": {"type": "bool", "default": False},
                "directory": {"type": "str", "default": "/var/cache/gpuprov/build"},
            }
        )
        if arguments["target"] and not _TARGET.match(arguments["target"]):
            raise AnsibleActionFail(f"{arguments['target']!r} is not the name of a stage")
        if not arguments["context"]:
            raise AnsibleActionFail("docker_image_build_context must be the directory to build from")
        return dict(arguments)

    def _send(
        self, context: Path, found: list[build_context.Entry], directory: str, task_vars: dict[str, Any]
    ) -> tuple[dict[str, int], dict[str, Any] | None]:
        """Update the host's copy of the context; return ({files, bytes} that were sent, the result of a failure)."""
        with tempfile.TemporaryDirectory() as local, ansible_compat.temporary_directory(self) as remote:
            options: dict[str, Any] = {"directory": directory}

            def synchronize(option: str, path: Path) -> dict[str, Any]:
                options[option] = ansible_compat.send_file(self, path, remote)
                name = "gpuprov.gpuprov.docker_build_context"
                return dict(self._execute_module(name, options, task_vars=task_vars, tmp=remote))

            manifest, archive = Path(local, "manifest.json.gz"), Path(local, "context.tar.gz")
            manifest.write_bytes(gzip.compress(json.dumps(found).encode(), compresslevel=1))
            result = synchronize("manifest", manifest)
            lacking = result.get("lacking") or []
            if result.get("differs") and not self._task.check_mode:
                try:
                    build_context.pack(context, found, lacking, archive)
                except build_context.ContextError as error:
                    raise AnsibleActionFail(str(error)) from None
                options["lock"] = run_owner.lock(self, task_vars)
                result = synchronize("archive", archive)
            sent = {"files": len(lacking), "bytes": sum(found[number].size for number in lacking)}
            return sent, result if result.get("failed") else None

    def _build(self, host: str, words: list[str], values: dict[str, str], secrets: list[str]) -> tuple[str, int]:
        """Build, show the output, and return (ID, bytes) of the image."""
        name = words[4]
        script = (role_options.ROLES_DIRECTORY / "docker_image/files/build.sh").read_text(encoding="utf-8")
        ended = threading.Event()

        def standard_input() -> Iterator[bytes]:
            # Not as arguments, which every account may read, on this machine and on the host.
            exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
            yield base64.b64encode(exports.encode()) + b"\n"
            while not ended.wait(_KEEPALIVE):
                yield b"\n"

        shown = build_output.Lines(secrets)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        try:
            words = ["sh", "-c", script, "gpuprov-build", *words]
            with host_pipe.opened(host_pipe.on_host(self, words, self._interpreter)) as pipe:
                pipe.feed(standard_input())
                block = b"-"
                while block:
                    block = pipe.stdout.read1(host_pipe.BLOCK)
                    for line in shown.take(decoder.decode(block), ended=not block):
                        display.display(f"{host} | {line}")
                ended.set()
                completed = pipe.completed()
        except AnsibleConnectionFailure:
            raise
        except AnsibleError as error:
            raise AnsibleActionFail(host_command.why_not_root(str(error)) or str(error)) from error
        finally:
            ended.set()
        last = host_pipe.last_line(completed.stderr)
        if completed.returncode == _BUSY:
            raise AnsibleActionFail(host_lock.sentence(json.loads(last or "{}"), time.time()))
        if completed.returncode:
            reason = shown.last and f"docker build ended with status {completed.returncode}: {shown.last}"
            raise AnsibleActionFail(reason or last or f"it ended with {completed.returncode}, without a message")
        for line in shown.held:
            display.display(f"{host} | {line}")
        image_id, _space, size = last.partition(" ")
        if not size.isdecimal():
            raise AnsibleActionFail(f"docker build succeeded, but there is no {name} on the host: {last}")
        return image_id, int(size)


def _logins(proxy: dict[str, str]) -> list[str]:
    """Return the user information in the URLs of a proxy, and the passwords in it, as they stand and decoded."""
    logins = [urlsplit(url).netloc.rpartition("@")[0] for url in proxy.values()]
    words = [word for login in logins for word in (login, login.partition(":")[2])]
    return [*words, *(unquote(word) for word in words)]


def _values(arguments: dict[str, Any]) -> dict[str, str]:
    """Return {name: value} of build arguments, with values of the environment in place of None."""
    result = {}
    for name, value in arguments.items():
        if not _ARGUMENT.match(str(name)):
            raise AnsibleActionFail(f"docker_image_build_args: {str(name)!r} is not the name of a build argument")
        if value is None and name not in os.environ:
            raise AnsibleActionFail(f"docker_image_build_args: {name} is not in the environment, and has no value")
        result[name] = os.environ[name] if value is None else str(value)
    return result
