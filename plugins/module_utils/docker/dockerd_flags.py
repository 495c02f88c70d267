# SPDX-License-Identifier: MIT
"""Parse the flags that dockerd is started with. Pure functions. Runs on hosts: Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import re
import shlex

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_keys

# dockerd flags whose name differs from their key in daemon.json (the list-valued ones).
# Source: docs.docker.com/reference/cli/dockerd, options beside the example daemon.json.
_KEY_OF_FLAG = {
    "H": "hosts",
    "D": "debug",
    "G": "group",
    "s": "storage-driver",
    "l": "log-level",
    "g": "data-root",
    "p": "pidfile",
    "b": "bridge",
    "add-runtime": "runtimes",
    "authorization-plugin": "authorization-plugins",
    "cdi-spec-dir": "cdi-spec-dirs",
    "default-address-pool": "default-address-pools",
    "default-network-opt": "default-network-opts",
    "default-ulimit": "default-ulimits",
    "dns-opt": "dns-opts",
    "exec-opt": "exec-opts",
    "feature": "features",
    "graph": "data-root",
    "host": "hosts",
    "host-gateway-ip": "host-gateway-ips",
    "insecure-registry": "insecure-registries",
    "label": "labels",
    "log-opt": "log-opts",
    "node-generic-resource": "node-generic-resources",
    "registry-mirror": "registry-mirrors",
    "storage-opt": "storage-opts",
}
_PROCESS = "the running dockerd"


def _lines(text):
    """Return (key, value) of the assignments in the [Service] section of a unit file, continuation lines joined."""
    result, section = [], "Service"
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line.strip("[]")
        elif line and line[0] not in "#;" and section == "Service":
            key, _equals, value = line.partition("=")
            result.append((key.strip(), value.strip()))
    return result


def environment_paths(units):
    """Return the paths of the EnvironmentFile= lines of unit files, given as [(path, text)]."""
    paths = []
    for _path, text in units:
        for key, value in _lines(text):
            if key == "EnvironmentFile":
                paths = paths + [value.lstrip("-").strip("\"'")] if value else []
    return paths


def exec_start(units, texts, command=""):
    """Return [{file, line}] of what starts dockerd, for flags(): the lines of its unit, then of its environment.

    units: [(path, text)] of the unit file and its drop-ins in systemd's order; texts: {path: text} of environment
    files; command: the command line of the running dockerd, or "". An empty line takes all earlier ones away.
    """
    variables, files, lines = {}, [], []
    for path, text in units:
        for key, value in _lines(text):
            if key == "Environment":
                pairs = [word.partition("=") for word in _words(value)]
                variables = dict(variables, **{name: (path, value) for name, _eq, value in pairs}) if value else {}
            elif key == "EnvironmentFile":
                files = files + [value.lstrip("-").strip("\"'")] if value else []
            elif key == "ExecStart":
                lines.append({"file": path, "line": value})
    for path in files:
        for line in texts.get(path, "").replace("\\\n", " ").splitlines():
            name, equals, value = line.strip().partition("=")
            if equals and not name.startswith(("#", ";")):
                variables[name.strip()] = (path, " ".join(_words(value)))
    result = []
    for entry in lines:
        result.append(entry)
        for name in re.findall(r"\$\{?(\w+)", entry["line"]):
            if name in variables:
                path, value = variables[name]
                result.append({"file": path, "line": "dockerd %s" % value})
    if command:
        result.append({"file": _PROCESS, "line": command})
    return result


def _words(text):
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _values(entries):
    """Yield (key of daemon.json, value or None, file) of each flag."""
    rows = []
    for entry in entries:
        words = _words(entry["line"])
        if not words:
            rows = []
        for number, word in enumerate(words[1:], 1):
            match = re.match(r"^-{1,2}([A-Za-z][A-Za-z0-9-]*)(?:=(.*))?", word)
            if match:
                name, value = match.groups()
                if value is None and number + 1 < len(words):
                    value = words[number + 1]
                rows.append((_KEY_OF_FLAG.get(name, name), value, entry["file"]))
    return rows


def flags(entries):
    """Return {daemon.json key: file} of the flags that dockerd is started with; entries are those of exec_start()."""
    result = {}
    for key, _value, path in _values(entries):
        if path != _PROCESS or key not in result:
            result[key] = path
    return result


def value(entries, key):
    """Return the value of the last flag for a key of daemon.json, or None."""
    values = [value for name, value, _path in _values(entries) if name == key]
    return values[-1] if values else None


def conflicts(config, entries):
    """Return one sentence for each key that is both in config and a flag of dockerd.

    dockerd refuses to start with "specified both as a flag and in the configuration file"; it merges runtimes.
    """
    on_command_line = flags(entries)
    sentences = [
        "%s is in daemon.json and also a flag of dockerd in %s: dockerd would not start; take it out of one of them"
        % (key, on_command_line[key])
        for key in sorted(daemon_keys.flattened(config))
        if key in on_command_line and key != "runtimes"
    ]
    other = value(entries, "config-file")
    if other and other != "/etc/docker/daemon.json":
        sentences.append(
            "dockerd reads %s: --config-file is a flag of it in %s. gpuprov keeps /etc/docker/daemon.json; take "
            "the flag out there" % (other, on_command_line["config-file"])
        )
    return sentences
