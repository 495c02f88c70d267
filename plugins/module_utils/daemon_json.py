# SPDX-License-Identifier: MIT
"""What /etc/docker/daemon.json is to say, and what it takes for dockerd to obey it.

Pure functions, shared by the module docker_daemon_config (on the host) and by the plan
(on the controller, from what the probe reported). Shapes of ``found``: see
roles/gpu_host_probe/README.md. Python 2.7 syntax: 16.04 runs this under ansible-core 2.16.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import base64
import json
import posixpath
import re

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact

ROLE = "docker_daemon"
CONFIG_DIRECTORY = "/etc/docker"

# Keys that dockerd takes over on SIGHUP, in 18.09 as in 29. Source: moby, daemon/reload.go,
# and docs.docker.com/reference/cli/dockerd, "Configuration reload behavior".
LIVE_RELOADABLE_KEYS = frozenset(
    (
        "authorization-plugins",
        "debug",
        "default-runtime",
        "features",
        "insecure-registries",
        "labels",
        "live-restore",
        "max-concurrent-downloads",
        "max-concurrent-uploads",
        "max-download-attempts",
        "registry-mirrors",
        "runtimes",
        "shutdown-timeout",
    )
)

# dockerd flags whose name differs from their key in daemon.json (the list-valued ones).
# Source: docs.docker.com/reference/cli/dockerd, options beside the example daemon.json.
KEY_OF_FLAG = {
    "H": "hosts",
    "D": "debug",
    "G": "group",
    "s": "storage-driver",
    "l": "log-level",
    "g": "data-root",
    "add-runtime": "runtimes",
    "authorization-plugin": "authorization-plugins",
    "cdi-spec-dir": "cdi-spec-dirs",
    "dns-opt": "dns-opts",
    "exec-opt": "exec-opts",
    "graph": "data-root",
    "host": "hosts",
    "insecure-registry": "insecure-registries",
    "label": "labels",
    "log-opt": "log-opts",
    "registry-mirror": "registry-mirrors",
    "storage-opt": "storage-opts",
    "default-ulimit": "default-ulimits",
    "default-address-pool": "default-address-pools",
}

# What `type` a key's value must have, for dockerds older than 23, which cannot validate.
# Source: the example daemon.json of docs.docker.com/reference/cli/dockerd.
_TYPES = {
    "authorization-plugins": list,
    "bip": str,
    "bridge": str,
    "data-root": str,
    "debug": bool,
    "default-address-pools": list,
    "default-runtime": str,
    "default-ulimits": dict,
    "dns": list,
    "dns-opts": list,
    "dns-search": list,
    "exec-opts": list,
    "experimental": bool,
    "features": dict,
    "group": str,
    "hosts": list,
    "icc": bool,
    "insecure-registries": list,
    "ip-forward": bool,
    "ip-masq": bool,
    "iptables": bool,
    "ipv6": bool,
    "labels": list,
    "live-restore": bool,
    "log-driver": str,
    "log-level": str,
    "log-opts": dict,
    "max-concurrent-downloads": int,
    "max-concurrent-uploads": int,
    "mtu": int,
    "pidfile": str,
    "registry-mirrors": list,
    "runtimes": dict,
    "shutdown-timeout": int,
    "storage-driver": str,
    "storage-opts": list,
    "tls": bool,
    "tlsverify": bool,
    "userland-proxy": bool,
}

# The other keys that a dockerd without --validate takes: 18.09 to 20.10.
# Source: the json names in daemon/config/*.go of github.com/moby/moby at v18.09.9, v19.03.15 and v20.10.24.
_OTHER_KEYS = frozenset(
    [
        "allow-nondistributable-artifacts",
        "api-cors-header",
        "builder",
        "cgroup-parent",
        "cluster-advertise",
        "cluster-store",
        "cluster-store-opts",
        "containerd",
        "containerd-namespace",
        "containerd-plugin-namespace",
        "cpu-rt-period",
        "cpu-rt-runtime",
        "default-cgroupns-mode",
        "default-gateway",
        "default-gateway-v6",
        "default-ipc-mode",
        "default-shm-size",
        "deprecated-key-path",
        "disable-legacy-registry",
        "exec-root",
        "fixed-cidr",
        "fixed-cidr-v6",
        "graph",
        "host-gateway-ip",
        "init",
        "init-path",
        "ip",
        "ip6tables",
        "max-download-attempts",
        "metrics-addr",
        "network-control-plane-mtu",
        "network-diagnostic-port",
        "no-new-privileges",
        "node-generic-resources",
        "oom-score-adjust",
        "raw-logs",
        "rootless",
        "seccomp-profile",
        "selinux-enabled",
        "swarm-default-advertise-addr",
        "swarm-raft-election-tick",
        "swarm-raft-heartbeat-tick",
        "tlscacert",
        "tlscert",
        "tlskey",
        "userland-proxy-path",
        "userns-remap",
    ]
)

_DISRUPTIONS = ("none", "reload", "restart")
# dockerd takes a scheme, a host and nothing else, and does not start with anything else.
_MIRROR = re.compile(r"^https?://[^/\s\[\]\"'?#]+/?\Z")


class DaemonJsonError(ValueError):
    """The daemon's configuration cannot be used; the message says why, for people."""


def worst(disruptions):
    """Return the most disruptive word of an iterable of none, reload and restart."""
    return max(list(disruptions) or ["none"], key=_DISRUPTIONS.index)


def shown(value):
    """Return a JSON value as one short line for people, without secrets."""
    return redact(json.dumps(value, sort_keys=True))


def parse(data, path):
    """Return the object that a daemon.json holds.

    data is the file's content in bytes; empty means ``{}``, as it does to dockerd. Raises
    DaemonJsonError with file, line and column where it is no JSON object.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DaemonJsonError(
            "%s is not UTF-8 text: byte %d, in line %d; it was left alone" % (path, error.start, line)
        )
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        # Python 2.7 and 3 both name line and column in the message.
        raise DaemonJsonError("%s is not JSON: %s; it was left alone" % (path, error))
    if not isinstance(value, dict):
        raise DaemonJsonError("%s does not hold a JSON object (line 1 column 1); it was left alone" % path)
    return value


def render(value):
    """Return an object as the text that is written to daemon.json (bytes, sorted, one newline)."""
    text = json.dumps(value, indent=4, sort_keys=True, separators=(",", ": "), ensure_ascii=False)
    if not isinstance(text, bytes):
        text = text.encode("utf-8")
    return text + b"\n"


def merge(current, options):
    """Return current with options laid over it; neither is changed.

    Objects are merged key by key, everything else is replaced, and ``None`` takes a key away.
    What is equal in meaning already keeps the spelling that current has.
    """
    merged = dict(current)
    for key, value in options.items():
        key = _spelling_of(key, current)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            old = current.get(key)
            merged[key] = merge(old if isinstance(old, dict) else {}, value)
            if value and not merged[key] and all(inner is None for inner in value.values()):
                del merged[key]  # its last entry was taken away
        elif key not in current or not _same_value(key, current[key], value):
            merged[key] = value
    return merged


def _spelling_of(key, current):
    """A runtime's arguments are called args by nvidia-ctk and runtimeArgs by nvidia-docker2."""
    for spelling, other in (("args", "runtimeArgs"), ("runtimeArgs", "args")):
        if key == spelling and spelling not in current and other in current:
            return other
    return key


def _same_value(key, one, other):
    return _canonical(key, one) == _canonical(key, other)


def _canonical(key, value):
    """A value in the one spelling in which values equal in meaning are equal."""
    if key == "registry-mirrors" and isinstance(value, list):
        return [item.rstrip("/") if hasattr(item, "rstrip") else item for item in value]
    if key == "path" and hasattr(value, "startswith") and value.startswith("/usr/bin/"):
        # dockerd looks a bare name up in its PATH, and the packages install into /usr/bin.
        return posixpath.basename(value)
    if isinstance(value, bool):
        return ("bool", value)  # to Python, though not to dockerd, true is 1
    return value


def canonical(config):
    """Return a configuration in the one spelling in which configurations equal in meaning are equal."""
    result = {key: _canonical(key, value) for key, value in config.items()}
    runtimes = config.get("runtimes")
    if isinstance(runtimes, dict):
        result["runtimes"] = {name: _canonical_runtime(runtime) for name, runtime in runtimes.items()}
    return result


def _canonical_runtime(runtime):
    if not isinstance(runtime, dict):
        return runtime
    result = {key: _canonical(key, value) for key, value in runtime.items()}
    arguments = (result.pop("runtimeArgs", None) or []) + (result.pop("args", None) or [])
    if arguments:
        result["runtimeArgs"] = arguments
    return result


def changed_keys(before, after):
    """Return the sorted top-level keys in which two configurations differ in meaning."""
    one, other = canonical(before), canonical(after)
    return sorted(key for key in set(one) | set(other) if one.get(key, _ABSENT) != other.get(key, _ABSENT))


_ABSENT = object()


def disruption_of(keys, before=None, after=None):
    """Return what taking over changed keys does to a running dockerd: none, reload or restart.

    before and after are the configurations that the keys belong to.
    """
    if not keys:
        return "none"
    if "features" in keys and _image_store(before) != _image_store(after):
        return "restart"
    return "reload" if all(key in LIVE_RELOADABLE_KEYS for key in keys) else "restart"


def _image_store(config):
    """The image store is chosen under features, yet only at start."""
    return _feature(config, "containerd-snapshotter")


def _feature(config, name):
    features = (config or {}).get("features")
    return features.get(name) if isinstance(features, dict) else None


def cdi_refusal(options, info):
    """Return why dockerd cannot be given CDI, or None where it can.

    info is its docker info, or None where it does not run. Source: docs.docker.com, "Container Device
    Interface": since Docker Engine 25.0.
    """
    version = (info or {}).get("ServerVersion") or ""
    if not _feature(options, "cdi") or not re.match(r"^[0-9]+\.", version) or int(version.partition(".")[0]) >= 25:
        return None
    return (
        "dockerd %s knows no CDI devices: 25.0 and newer do. Set nvidia_docker_cdi: false here, or install a newer "
        "docker-ce" % version
    )


def flags(exec_start):
    """Return {daemon.json key: file} of the flags that systemd starts dockerd with.

    exec_start is a list of {file, line}, in systemd's order; an empty line takes all earlier
    ones away, as it does in a unit.
    """
    result = {}
    for entry in exec_start:
        words = entry["line"].split()
        if not words:
            result = {}
        for word in words[1:]:
            match = re.match(r"^-{1,2}([A-Za-z][A-Za-z-]*)", word)
            if match:
                name = match.group(1)
                result[KEY_OF_FLAG.get(name, name)] = entry["file"]
    return result


def flag_conflicts(config, exec_start):
    """Return one sentence for each key that is both in config and a flag of dockerd.

    dockerd refuses to start with "specified both as a flag and in the configuration file".
    """
    on_command_line = flags(exec_start)
    return [
        "%s is in daemon.json and also a flag of dockerd in %s: dockerd would not start; "
        "take it out of one of them" % (key, on_command_line[key])
        for key in sorted(config)
        if key in on_command_line
    ]


def type_errors(config):
    """Return one sentence for each key of config whose value dockerd could not read."""
    errors = []
    for key, value in sorted(config.items()):
        wanted = _TYPES.get(key)
        if wanted is None:
            continue
        if wanted is str:
            good = isinstance(value, (str, type("")))
        elif wanted is int:
            good = isinstance(value, int) and not isinstance(value, bool)
        else:
            good = isinstance(value, wanted)
        if not good:
            errors.append("daemon.json: %s is to be of type %s, not %s" % (key, wanted.__name__, shown(value)))
    mirrors = config.get("registry-mirrors")
    for mirror in mirrors if isinstance(mirrors, list) else []:
        if not _MIRROR.match(str(mirror)):
            errors.append("daemon.json: registry-mirrors: %s is not the URL of a registry" % shown(mirror))
    for name, runtime in sorted(
        (config.get("runtimes") or {}).items() if isinstance(config.get("runtimes"), dict) else []
    ):
        if not isinstance(runtime, dict):
            errors.append("daemon.json: runtimes.%s is to be an object, not %s" % (name, shown(runtime)))
    return errors


def unknown_keys(before, after):
    """Return the sorted keys that after has, before has not, and no dockerd without --validate knows."""
    return sorted(key for key in after if key not in before and key not in _TYPES and key not in _OTHER_KEYS)


def not_in_effect(config, info):
    """Return the sorted keys of config that `docker info` shows dockerd not to have taken over.

    info is the object of ``docker info --format '{{json .}}'``. A key that docker info does not
    show is not judged.
    """
    registry = info.get("RegistryConfig") or {}
    insecure = [name for name, index in (registry.get("IndexConfigs") or {}).items() if not index.get("Secure", True)]
    insecure += registry.get("InsecureRegistryCIDRs") or []
    keys = set()
    for key, wanted in config.items():
        if key == "registry-mirrors":
            good = _canonical(key, registry.get("Mirrors") or []) == _canonical(key, wanted)
        elif key == "insecure-registries":
            good = set(wanted) <= set(insecure)
        elif key == "runtimes":
            running = info.get("Runtimes") or {}
            good = all(
                name in running and _same_value("path", _runtime_path(running[name]), _runtime_path(runtime))
                for name, runtime in wanted.items()
            )
        elif key == "labels":
            good = sorted(info.get("Labels") or []) == sorted(wanted)
        elif key == "features":
            good = not (_feature(config, "cdi") and info.get("CDISpecDirs", True) == [])
        elif key in _SHOWN_BY_INFO and _SHOWN_BY_INFO[key] in info:
            good = info[_SHOWN_BY_INFO[key]] == wanted
        else:
            good = True
        if not good:
            keys.add(key)
    return sorted(keys)


# Source: types.Info of moby's API, the same in 18.09 and 29.
_SHOWN_BY_INFO = {
    "data-root": "DockerRootDir",
    "debug": "Debug",
    "default-runtime": "DefaultRuntime",
    "experimental": "ExperimentalBuild",
    "live-restore": "LiveRestoreEnabled",
    "log-driver": "LoggingDriver",
    "storage-driver": "Driver",
}


def _runtime_path(runtime):
    return runtime.get("path") if isinstance(runtime, dict) else None


def config_data(found_config):
    """Return the bytes of the probed or read daemon.json, empty where there is none.

    Raises DaemonJsonError where it is neither a file nor a symbolic link that stays in
    /etc/docker.
    """
    kind, path = found_config["kind"], found_config["path"]
    if kind == "other":
        raise DaemonJsonError("%s is neither a file nor a symbolic link; it was left alone" % path)
    if kind == "symlink":
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), found_config["target"] or ""))
        if not target.startswith(CONFIG_DIRECTORY + "/"):
            raise DaemonJsonError(
                "%s is a symbolic link to %s, outside %s; it was left alone. Set "
                "docker_daemon_follow_symlink: true to let gpuprov write there" % (path, target, CONFIG_DIRECTORY)
            )
    return config_bytes(found_config)


def config_bytes(found_config):
    """Return the bytes of the probed or read daemon.json, empty where there is none, wherever it lies."""
    return base64.b64decode(found_config["data"] or "")


def decide(wanted, found):
    """Return (changes, text): what differs from what is wanted, and daemon.json as it is to be.

    wanted: {options, mode, follow_symlink}; found: the probe's ``docker`` object. text is None
    where the file stays as it is. Raises DaemonJsonError for what must not be touched.
    """
    config = found["config"]
    path = config["path"]
    followed = config["kind"] == "symlink" and wanted.get("follow_symlink")
    data = config_bytes(config) if followed else config_data(config)
    current = parse(data, path)
    after = merge(current, wanted["options"])
    errors = type_errors(after) + flag_conflicts(after, found["exec_start"])
    if errors:
        raise DaemonJsonError("; ".join(errors))

    running = found["service"]["active"] in ("active", "reloading")
    info = found.get("info") or {}
    keys = changed_keys(current, after)
    changes = []
    for key in keys:
        disruption = disruption_of([key], current, after) if running else "none"
        # Specifications are looked for from the start on; newer dockerds do so unasked.
        if running and key == "features" and _feature(current, "cdi") != _feature(after, "cdi"):
            disruption = worst([disruption, "reload" if info.get("CDISpecDirs") else "restart"])
        changes += _key_changes(key, current, after, disruption)
    mode = wanted.get("mode")
    if mode and config["kind"] != "absent" and int(config["mode"], 8) != int(mode, 8):
        changes.append(_change("daemon.json mode", config["mode"], mode, "none"))
    if running and not keys:
        stale = not_in_effect(current, info) if info else []
        if stale:
            changes.append(
                _change(
                    "docker daemon",
                    "runs without %s" % ", ".join(stale),
                    "daemon.json in effect",
                    "restart" if "features" in stale else disruption_of(stale),
                )
            )
        elif _is_newer_than_daemon(found):
            changes.append(
                _change(
                    "docker daemon",
                    "runs since before daemon.json was changed",
                    "daemon.json in effect",
                    "reload",
                )
            )
    return changes, (render(after) if keys else None)


def _is_newer_than_daemon(found):
    mtime, since, now = (
        found["config"].get("mtime"),
        found["service"].get("state_changed"),
        found.get("clock"),
    )
    if not mtime or not since or (now and mtime > now):
        return False
    # Times come in whole seconds and the start of the unit is derived from uptime: leave 2 s.
    return mtime > since + 2


def _key_changes(key, current, after, disruption):
    if key == "runtimes":
        one, other = current.get(key) or {}, after.get(key) or {}
        names = [
            name
            for name in sorted(set(one) | set(other))
            if _canonical_runtime(one.get(name)) != _canonical_runtime(other.get(name))
        ]
        return [
            _change(
                "daemon.json",
                _entry("runtimes.%s" % name, one, name),
                _entry("runtimes.%s" % name, other, name),
                disruption,
            )
            for name in names
        ]
    return [_change("daemon.json", _entry(key, current, key), _entry(key, after, key), disruption)]


def _entry(label, values, key):
    return "%s %s" % (label, shown(values[key])) if key in values else None


def _change(subject, before, after, disruption):
    return {"role": ROLE, "subject": subject, "from": before, "to": after, "disruption": disruption}


def _label(change):
    if change["role"] == ROLE:
        return change["to"] or change["subject"]
    return "%s %s" % (change["subject"], change["to"] or "goes")


def restart_refusal(policy, changes, found):
    """Return why a restart must not happen now, or None where it may.

    policy is docker_daemon_restart: when-idle, always or never. With live-restore in effect
    containers survive a restart, so they do not stand in its way.
    """
    if worst(change["disruption"] for change in changes) != "restart" or policy == "always":
        return None
    what = ", ".join(sorted({_label(change) for change in changes if change["disruption"] == "restart"}))
    if policy == "never":
        return "a restart of dockerd is needed (%s), and docker_daemon_restart is never" % what
    if (found.get("info") or {}).get("LiveRestoreEnabled"):
        return None
    names = sorted(container["name"] for container in found.get("running") or [])
    if not names:
        return None
    return (
        "a restart of dockerd is needed (%s), and %d containers run: %s. Stop them, set "
        "live-restore, or set docker_daemon_restart: always" % (what, len(names), ", ".join(names))
    )
