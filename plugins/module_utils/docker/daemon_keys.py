# SPDX-License-Identifier: MIT
"""Check keys of daemon.json: which engine has them, what values they take, which of them a reload takes over.

Pure functions. Sources: daemon/config/*.go, daemon/reload*.go, registry/config.go and the validators of options in
github.com/moby/moby at v18.09.9, v19.03.15, v20.10.24, v23.0.6, v24.0.7 to v28.5.2 and docker-v29.7.2.
Python 2.7 syntax: it runs on hosts too.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import json
import re

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact

TEXT = (str, type(b"".decode("ascii")))
# The newest engine whose keys are all listed here.
NEWEST = (29, 7)

_TEXTS, _TEXT_MAP, _SWITCHES = "a list of strings", "an object of strings", "an object of booleans"
_OBJECT, _OBJECTS = "an object", "an object of objects"
_STRING, _BOOLEAN, _INTEGER = "a string", "true or false", "an integer"
_COUNT = "an integer that is not negative"

_TYPES = {
    _STRING: (
        "bip bip6 bridge bridge-accept-fwmark cgroup-parent cluster-advertise cluster-store containerd "
        "containerd-namespace containerd-plugin-namespace data-root default-cgroupns-mode default-gateway "
        "default-gateway-v6 default-init default-ipc-mode default-runtime default-shm-size exec-root firewall-backend "
        "fixed-cidr fixed-cidr-v6 graph group host-gateway-ip http-proxy https-proxy init-path ip log-driver "
        "log-format log-level metrics-addr min-api-version no-proxy pidfile resolv-conf seccomp-profile "
        "storage-driver swarm-default-advertise-addr tlscacert tlscert tlskey userland-proxy-path userns-remap "
        "api-cors-header deprecated-key-path"
    ),
    _BOOLEAN: (
        "allow-direct-routing cri-containerd debug experimental icc init ip-forward ip-forward-no-drop ip-masq "
        "ip6tables iptables ipv6 live-restore no-new-privileges raw-logs rootless selinux-enabled tls tlsverify "
        "userland-proxy"
    ),
    _INTEGER: "cpu-rt-period cpu-rt-runtime default-stop-timeout oom-score-adjust shutdown-timeout",
    _COUNT: (
        "max-concurrent-downloads max-concurrent-uploads max-download-attempts mtu network-control-plane-mtu "
        "network-diagnostic-port swarm-raft-election-tick swarm-raft-heartbeat-tick"
    ),
    _TEXTS: (
        "allow-nondistributable-artifacts authorization-plugins cdi-spec-dirs dns dns-opts dns-search exec-opts "
        "host-gateway-ips hosts insecure-registries labels node-generic-resources registry-mirrors storage-opts"
    ),
    _TEXT_MAP: "cluster-store-opts log-opts proxies",
    _SWITCHES: "features",
    _OBJECT: "builder nri-opts",
    _OBJECTS: "default-network-opts default-ulimits runtimes",
    "a list of objects": "default-address-pools",
}
_TYPE_OF = {key: kind for kind, keys in _TYPES.items() for key in keys.split()}

# {key: the first engine that has it}; the others are in 18.09.
_SINCE = {
    "containerd-namespace": (19, 3),
    "containerd-plugin-namespace": (19, 3),
    "rootless": (19, 3),
    "default-cgroupns-mode": (20, 10),
    "host-gateway-ip": (20, 10),
    "ip6tables": (20, 10),
    "max-download-attempts": (20, 10),
    "http-proxy": (23, 0),
    "https-proxy": (23, 0),
    "no-proxy": (23, 0),
    "proxies": (23, 0),
    "default-network-opts": (24, 0),
    "cdi-spec-dirs": (25, 0),
    "log-format": (25, 0),
    "bip6": (28, 0),
    "host-gateway-ips": (28, 0),
    "ip-forward-no-drop": (28, 0),
    "allow-direct-routing": (28, 2),
    "bridge-accept-fwmark": (29, 0),
    "firewall-backend": (29, 0),
    "min-api-version": (29, 0),
    "nri-opts": (29, 2),
    "default-stop-timeout": (29, 7),
}
# {key: the first engine that does not have it any more}.
_UNTIL = {
    "cluster-advertise": (24, 0),
    "cluster-store": (24, 0),
    "cluster-store-opts": (24, 0),
    "graph": (24, 0),
    "oom-score-adjust": (26, 0),
}

# {key: (the first engine that takes it over at a reload (SIGHUP), the first whose reload removes it)}. Where
# the file has it no more, dockerd keeps most of them until it starts anew (None). Sources: reload.go, reload_unix.go
# ("IsValueSet", or not empty; the others get their default) and cmd/dockerd/daemon.go (authorization-plugins, debug).
_RELOADABLE = {
    "authorization-plugins": ((0,), (0,)),
    "debug": ((0,), None),
    "default-cgroupns-mode": ((20, 10), None),
    "default-ipc-mode": ((0,), None),
    "default-runtime": ((0,), None),
    "default-shm-size": ((0,), None),
    "default-stop-timeout": ((29, 7), None),
    "features": ((0,), (0,)),
    "insecure-registries": ((0,), None),
    "labels": ((0,), None),
    "live-restore": ((0,), None),
    "max-concurrent-downloads": ((0,), (19, 3)),
    "max-concurrent-uploads": ((0,), (19, 3)),
    "network-diagnostic-port": ((0,), (0,)),
    "nri-opts": ((29, 2), (29, 2)),
    "registry-mirrors": ((0,), None),
    "runtimes": ((0,), None),
    "shutdown-timeout": ((0,), None),
}

# dockerd merges the entries of these when a key stands twice (Go decodes into the same map) ...
_MERGED = ("cluster-store-opts", "default-network-opts", "default-ulimits", "features", "log-opts", "runtimes")
# ... and the members of these, at each level (Go decodes into the same struct).
_MERGED_DEEP = ("builder", "nri-opts", "proxies")
# Objects whose members are not keys of their own to dockerd.
_FLAT = _MERGED + ("builder", "nri-opts")

_RUNTIME_MEMBERS = {
    "path": _STRING,
    "runtimeArgs": _TEXTS,
    "runtimeType": _STRING,
    "options": _OBJECT,
}
_MEMBERS = {
    "runtimes": _RUNTIME_MEMBERS,
    "default-ulimits": {"Name": _STRING, "Hard": _INTEGER, "Soft": _INTEGER},
    "default-address-pools": {"base": _STRING, "size": _INTEGER},
}
_JSON_FILE_OPTIONS = [
    "max-file",
    "max-size",
    "compress",
    "labels",
    "labels-regex",
    "env",
    "env-regex",
    "tag",
    "mode",
    "max-buffer-size",
]
_LOG_LEVELS = ["panic", "fatal", "error", "warn", "info", "debug", "trace"]


def version_of(text):
    """Return an engine's version as a tuple, () where the text names none: ``5:29.7.2-1~debian`` is (29, 7, 2)."""
    match = re.match(r"^(?:\d+:)?(\d+)\.(\d+)(?:\.(\d+))?", text or "")
    return tuple(int(part) for part in match.groups() if part) if match else ()


def is_reloadable(key, version, goes=False):
    """Return whether an engine takes a key over at a reload, or with goes removes it.

    Of an unknown version, what every engine does.
    """
    since = _RELOADABLE.get(key, (None, None))[1 if goes else 0]
    return since is not None and (since == (0,) or (version or (18, 9)) >= since)


def is_known(key, version):
    """Return whether an engine has a key; where that is not known, True."""
    if key not in _TYPE_OF:
        return bool(version) and version[:2] > NEWEST
    if not version:
        return True
    return version >= _SINCE.get(key, (0,)) and version < _UNTIL.get(key, (999,))


def flattened(config):
    """Return {key: value} as dockerd compares keys with its flags: members of some objects are keys of their own."""
    result = {}
    for key, value in config.items():
        if isinstance(value, dict) and key not in _FLAT:
            result.update(value)
        else:
            result[key] = value
    return result


def unknown_keys(config, version):
    """Return {top-level key: sentence} of the keys that an engine does not have and does not start with."""
    result = {}
    for key, value in config.items():
        names = [] if is_known(key, version) else [key]
        if names and isinstance(value, dict) and value and all(is_known(name, version) for name in value):
            names = []  # dockerd takes the members of an object that it does not know for keys of their own
        if names:
            known = [name for name in _TYPE_OF if name in (names[0].lower(), names[0].lower() + "s")]
            hint = " (is %s meant?)" % known[0] if known and is_known(known[0], version) else ""
            engine = "dockerd %s" % ".".join(str(part) for part in version) if version else "dockerd"
            result[key] = "daemon.json: %s has no key %s%s and does not start with it" % (
                engine,
                ", ".join(names),
                hint,
            )
    return result


def converted(options):
    """Return options as dockerd reads them: numbers in log-opts as strings, args of a runtime as runtimeArgs."""
    result = dict(options)
    if isinstance(result.get("runtimes"), dict):
        result["runtimes"] = {
            name: dict({key: item for key, item in entry.items() if key != "args"}, runtimeArgs=entry["args"])
            if isinstance(entry, dict) and entry.get("args") and "runtimeArgs" not in entry
            else entry
            for name, entry in result["runtimes"].items()
        }
    for key in ("log-opts", "cluster-store-opts"):
        if isinstance(result.get(key), dict):
            result[key] = {name: _as_text(value) for name, value in result[key].items()}
    if isinstance(result.get("default-network-opts"), dict):
        result["default-network-opts"] = {
            name: {inner: _as_text(value) for inner, value in values.items()} if isinstance(values, dict) else values
            for name, values in result["default-network-opts"].items()
        }
    return result


def _as_text(value):
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, (int, float)) else value


def value_errors(config, version, runtimes_from_flags=False):
    """Return {top-level key: sentence} of the values that dockerd does not start with."""
    errors = {}
    for key, value in config.items():
        wrong = _wrong(key, value, version) if value is not None else None
        if wrong:
            errors[key] = "daemon.json: %s" % wrong
    runtime, runtimes = config.get("default-runtime"), config.get("runtimes") or {}
    if (
        runtime
        and "default-runtime" not in errors
        and not runtimes_from_flags
        and isinstance(runtimes, dict)
        and runtime not in runtimes
        and not re.match(r"runc\Z|io\.containerd\.|/", runtime)
    ):
        errors["default-runtime"] = "daemon.json: default-runtime is %s, which is not among runtimes" % _shown(runtime)
    if config.get("log-driver", "json-file") in ("", "json-file") and "log-opts" not in errors:
        for name in sorted(config.get("log-opts") or {}):
            if name not in _JSON_FILE_OPTIONS and not name.startswith("cache-"):
                errors["log-opts"] = "daemon.json: log-opts: the log driver json-file has no option %s" % name
    return errors


def _shown(value):
    return redact(json.dumps(value, sort_keys=True))


def _wrong(key, value, version):
    kind = _TYPE_OF.get(key)
    if kind is None:
        return None
    if not _is(value, kind):
        return "%s must be %s, not %s" % (key, kind, _shown(value))
    if key in _MEMBERS:
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for name, entry in sorted(entries):
            wrong = _wrong_member("%s.%s" % (key, name), entry, _MEMBERS[key])
            if wrong:
                return wrong
    if key == "default-network-opts":
        for name, entry in sorted(value.items()):
            if not _is(entry, _TEXT_MAP):
                return "%s.%s must be %s, not %s" % (key, name, _TEXT_MAP, _shown(entry))
    if key == "registry-mirrors":
        return next((wrong for wrong in (_wrong_mirror(mirror, version) for mirror in value) if wrong), None)
    if key in ("labels", "exec-opts"):
        return next(
            ("%s must be KEY=VALUE, not %s" % (key, _shown(item)) for item in value if "=" not in item[1:]), None
        )
    if key == "log-level" and value and value.lower() not in _LOG_LEVELS:
        return "log-level must be one of %s, not %s" % (", ".join(_LOG_LEVELS), _shown(value))
    return None


def _is(value, kind):
    if value is None:
        return True
    if kind == _STRING:
        return isinstance(value, TEXT)
    if kind == _BOOLEAN:
        return isinstance(value, bool)
    if kind in (_INTEGER, _COUNT):
        return isinstance(value, int) and not isinstance(value, bool) and (kind == _INTEGER or value >= 0)
    if kind in (_TEXTS, "a list of objects"):
        inner = TEXT if kind == _TEXTS else dict
        return isinstance(value, list) and all(isinstance(item, inner) for item in value)
    inner = {_TEXT_MAP: TEXT, _SWITCHES: bool, _OBJECTS: dict}.get(kind)
    return isinstance(value, dict) and (
        inner is None or all(isinstance(item, inner) or item is None for item in value.values())
    )


def _wrong_member(label, entry, members):
    folded = {name.lower(): name for name in members}
    for name, value in sorted((entry or {}).items()):
        kind = members.get(name) or members.get(folded.get(name.lower()))
        if kind and not _is(value, kind):
            return "%s.%s must be %s, not %s" % (label, name, kind, _shown(value))
    return None


_MIRROR = re.compile(
    r"^https?://(?P<user>[^/@?#]*@)?(\[[0-9a-f:.]+(%25[^\]]+)?\]|[^/\s\[\]\"'?#@:]+)(:\d+)?(?P<path>/[^\s\"'?#]*)?"
    r"(?P<rest>[?#].*)?\Z",
    re.IGNORECASE,
)


def _wrong_mirror(mirror, version):
    """Return why an engine does not take a registry mirror, or None."""
    match = _MIRROR.match(mirror)
    if not match:
        return "registry-mirrors: %s is not the URL of a registry" % _shown(mirror)
    if match.group("user"):
        return "registry-mirrors: %s: dockerd takes no user name or password in a mirror's URL" % _shown(mirror)
    if match.group("rest"):
        return "registry-mirrors: %s: dockerd takes no query or fragment in a mirror's URL" % _shown(mirror)
    if (match.group("path") or "/") != "/" and version and version < (24, 0, 8):
        return "registry-mirrors: %s has a path, which dockerd %s refuses: 24.0.8, 25.0 and newer take it" % (
            _shown(mirror),
            ".".join(str(part) for part in version),
        )
    return None


class DuplicateKey(ValueError):
    """A key stands twice, and what dockerd makes of it is not known."""


class _Pairs(list):  # type: ignore[type-arg]  # Python 2.7 has no list[...]
    """The members of a JSON object as they stand, duplicates included."""


def load(text):
    """Return a JSON text of daemon.json as dockerd reads it.

    A key that stands twice is merged where dockerd merges it, and else the last one counts. The case of the
    members of a runtime does not matter, as it does not to dockerd. Raises ValueError for what is not JSON, and
    DuplicateKey for an object that stands twice under a key that is not known.
    """
    return _read(json.loads(text, object_pairs_hook=_Pairs), ())


def _read(value, path):
    if isinstance(value, list) and not isinstance(value, _Pairs):
        return [_read(item, path + (None,)) for item in value]
    if not isinstance(value, _Pairs):
        return value
    result = {}
    for name, member in value:
        inner = path + (name,)
        if len(path) == 2 and path[0] == "runtimes":
            name = next((known for known in _RUNTIME_MEMBERS if known.lower() == name.lower()), name)
        new = _read(member, inner)
        old = result.get(name)
        if new is None and name in result and not isinstance(old, dict):
            continue  # Go leaves a value as it is at null, and empties a map.
        if isinstance(old, dict) and isinstance(new, dict):
            if not path and name not in _TYPE_OF:
                raise DuplicateKey("the key %s stands twice" % name)
            if not path and name in _MERGED:
                new = dict(old, **new)
            elif inner[0] in _MERGED_DEEP:
                new = _deep(old, new)
        result[name] = new
    return result


def _deep(old, new):
    result = dict(old)
    for name, value in new.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = _deep(result[name], value) if both else value
    return result
