# SPDX-License-Identifier: MIT
"""docker build on a host: the context is brought up to date, the output is shown while it comes."""

from __future__ import annotations

import base64
import codecs
import gzip
import json
import os
import re
import shlex
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_lock, image_name
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import (
    build_context,
    build_output,
    host_command,
    run_owner,
)

# A build goes on while the host cannot be asked; see build.sh for how long.
_RETRIES = 8
_PAUSE = 3.0  # seconds
_BUSY = 75  # the exit status of build.sh where another run is at work
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TARGET = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")


class ActionModule(ActionBase):
    """Build one image."""

    TRANSFERS_FILES = False
    _VALID_ARGS = frozenset(
        (
            "name", "context", "file", "args", "target", "no_cache", "directory", "start_script", "output_script",
            "end_script",
        )
    )  # fmt: skip

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return docker_image; fail with the last line of a build that failed."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        self._interpreter = host_command.interpreter(self, task_vars)
        arguments = self._arguments()
        values = _values(arguments["args"])
        context = Path(arguments["context"]).expanduser().absolute()
        is_local = self._connection.transport == "local"
        try:
            name = image_name.parse(arguments["name"])
            found = build_context.entries(context, arguments["file"])
        except (image_name.ImageNameError, build_context.ContextError) as error:
            raise AnsibleActionFail(str(error)) from None
        if name.tag is None or name.digest is not None:
            raise AnsibleActionFail(f"docker_image_name is to be a name with a tag, such as train:1.9.1: not {name}")
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
            words = [
                owner,
                str(lock["wait"]),
                place,
                os.path.normpath(arguments["file"]),
                str(name),
                arguments["target"],
            ]
            words += ["yes" if arguments["no_cache"] else "no", *values]
            image["id"], image["size"] = self._build(
                task_vars["inventory_hostname"], words, values, _secrets(arguments["args"], values)
            )
        return {**result, "changed": True, "docker_image": image}

    def _arguments(self) -> dict[str, Any]:
        _validation, arguments = self.validate_argument_spec(
            argument_spec={
                "name": {"type": "str", "required": True},
                "context": {"type": "str", "required": True},
                "file": {"type": "str", "default": "Dockerfile"},
                "args": {"type": "dict", "default": {}},
                "target": {"type": "str", "default": ""},
                "no_cache": {"type": "bool", "default": False},
                "directory": {"type": "str", "default": "/var/cache/gpuprov/build"},
                "start_script": {"type": "str", "required": True},
                "output_script": {"type": "str", "required": True},
                "end_script": {"type": "str", "required": True},
            }
        )
        if arguments["target"] and not _TARGET.match(arguments["target"]):
            raise AnsibleActionFail(f"{arguments['target']!r} is not the name of a stage")
        if not arguments["context"]:
            raise AnsibleActionFail("docker_image_build_context is to be the directory to build from")
        return dict(arguments)

    def _send(
        self, context: Path, found: list[build_context.Entry], directory: str, task_vars: dict[str, Any]
    ) -> tuple[dict[str, int], dict[str, Any] | None]:
        """Make the host's copy equal to the context; return ({files, bytes} that travelled, a failure's result)."""
        with tempfile.TemporaryDirectory(prefix="gpuprov-context-") as here:
            there = self._make_tmp_path()
            try:
                manifest = Path(here) / "manifest.json.gz"
                manifest.write_bytes(gzip.compress(json.dumps(found).encode(), compresslevel=1))
                options: dict[str, Any] = {"directory": directory, "manifest": self._put(manifest, there)}
                compared = self._execute_module(
                    "gpuprov.gpuprov.docker_build_context", options, task_vars=task_vars, tmp=there
                )
                lacking = compared.get("lacking") or []
                sent = {"files": len(lacking), "bytes": sum(found[number].size for number in lacking)}
                if compared.get("failed") or not compared["differs"] or self._task.check_mode:
                    return sent, compared if compared.get("failed") else None
                archive = Path(here) / "context.tar.gz"
                try:
                    build_context.pack(context, found, lacking, archive)
                except build_context.ContextError as error:
                    raise AnsibleActionFail(str(error)) from None
                options |= {"archive": self._put(archive, there), "lock": run_owner.lock(self, task_vars)}
                applied = self._execute_module(
                    "gpuprov.gpuprov.docker_build_context", options, task_vars=task_vars, tmp=there
                )
                return sent, applied if applied.get("failed") else None
            finally:
                self._remove_tmp_path(there, force=True)

    def _put(self, path: Path, directory: str) -> str:
        remote = self._connection._shell.join_path(directory, path.name)
        self._transfer_file(str(path), remote)
        self._fixup_perms2((directory, remote), execute=False)
        return str(remote)

    def _build(self, host: str, words: list[str], values: dict[str, str], secrets: list[str]) -> tuple[str, int]:
        """Start the build, show its output until it ends, and return (ID, bytes) of the image."""
        # By standard input: an argument list, on this machine or the host, is everybody's to read. It must not be
        # empty: Ansible would leave it open, and the script wait for its end.
        exports = "\n" + "".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
        run = self._script("start_script", words, exports.encode())[0]
        shown = build_output.Lines(secrets)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        offset, status, retries = "0", "-", 0
        while status == "-":
            try:
                head, *encoded = self._script("output_script", [run, offset])
            except AnsibleConnectionFailure:
                retries += 1
                if retries > _RETRIES:
                    raise
                time.sleep(_PAUSE)
                continue
            retries = 0
            offset, status = head.split()
            text = decoder.decode(base64.b64decode("".join(encoded)))
            for line in shown.take(text, ended=status != "-"):
                self._display.display(f"{host} | {line}")
        answer = self._script("end_script", [run, words[4], status])
        if status != "0":
            raise AnsibleActionFail(f"docker build ended with status {status}: {shown.last or 'it said nothing'}")
        for line in shown.held:
            self._display.display(f"{host} | {line}")
        image_id, _space, size = answer[0].partition(" ") if answer else ("", "", "")
        if not size.isdecimal():
            raise AnsibleActionFail(f"docker build ended well, yet there is no {words[4]} on the host")
        return image_id, int(size)

    def _script(self, which: str, words: list[str], stdin: bytes | None = None) -> list[str]:
        """Run one of the role's scripts on the host; return the lines that it prints."""
        script = Path(self._find_needle("files", self._task.args[which])).read_text(encoding="utf-8")
        answer = host_command.execute(self, ["sh", "-c", script, "gpuprov-build", *words], stdin, self._interpreter)
        if answer["rc"] == _BUSY:
            raise AnsibleActionFail(
                host_lock.sentence(json.loads(re.findall(r"\{.*\}|$", str(answer["stdout"]))[0] or "{}"), time.time())
            )
        if answer["rc"] != 0:
            raise AnsibleActionFail(str(answer["stderr"] or answer["stdout"]).strip() or "it failed without a word")
        return str(answer["stdout"]).splitlines()


def _values(arguments: dict[str, Any]) -> dict[str, str]:
    """{name: value} of build arguments, with those of the environment."""
    result = {}
    for name, value in arguments.items():
        if not _ARGUMENT.match(str(name)):
            raise AnsibleActionFail(f"docker_image_build_args: {str(name)!r} is not the name of a build argument")
        if value is None and name not in os.environ:
            raise AnsibleActionFail(f"docker_image_build_args: {name} is not in the environment, and has no value")
        result[name] = os.environ[name] if value is None else str(value)
    return result


def _secrets(arguments: dict[str, Any], values: dict[str, str]) -> list[str]:
    """The values that were not given in the open."""
    return [values[name] for name, value in arguments.items() if value is None]
