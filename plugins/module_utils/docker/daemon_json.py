# SPDX-License-Identifier: MIT
"""Decide what /etc/docker/daemon.json must say, and what dockerd needs to take it over.

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
import socket

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_keys, daemon_proxy, dockerd_flags
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact

ROLE = "docker_daemon"
CONFIG_DIRECTORY = "/etc/docker"

# daemon-reload is of systemd, the others of dockerd.
_DISRUPTIONS = ("none", "daemon-reload", "reload", "restart")
# Written before the file, and gone once dockerd has taken it over: what a run that was ended left undone.
PENDING = "/run/gpuprov/daemon.json.pending"


def worst(disruptions):
    """Return the most disruptive word of an iterable of none, daemon-reload, reload and restart."""
    return max(list(disruptions) or ["none"], key=_DISRUPTIONS.index)


def shown(value):
    """Return a JSON value as one short line for people, without secrets."""
    return redact(json.dumps(value, sort_keys=True))


def parse(data, path):
    """Return the object that a daemon.json holds.

    data is the file's content in bytes; empty means ``{}``, as it does to dockerd. Raises
    HostError with file, line and column where it is not a JSON object. Keys that stand twice: see
    daemon_keys.load.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise HostError("%s is not UTF-8 text: byte %d, in line %d; it was left alone" % (path, error.start, line))
    if not text.strip():
        return {}
    try:
        value = daemon_keys.load(text)
    except daemon_keys.DuplicateKey as error:
        raise HostError("%s: %s; write it once. It was left alone" % (path, error))
    except ValueError as error:
        # Python 2.7 and 3 both name line and column in the message.
        raise HostError("%s is not JSON: %s; it was left alone" % (path, error))
    if not isinstance(value, dict):
        raise HostError("%s does not hold a JSON object (line 1 column 1); it was left alone" % path)
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


def _same_value(key, one, other):
    return _canonical(key, one) == _canonical(key, other)


def _canonical(key, value):
    """Return a value in canonical form: values that mean the same are equal."""
    if key == "registry-mirrors" and isinstance(value, list):
        mirrors = [item.rstrip("/") if hasattr(item, "rstrip") else item for item in value]
        return [item for number, item in enumerate(mirrors) if item not in mirrors[:number]]
    if key == "insecure-registries" and isinstance(value, list):
        return sorted({_registry(item) if hasattr(item, "lower") else shown(item) for item in value})
    if key == "labels" and isinstance(value, list):
        return sorted({json.dumps(item, sort_keys=True) for item in value})
    if key in ("data-root", "exec-root") and hasattr(value, "rstrip"):
        return posixpath.normpath(value)
    if key == "path" and hasattr(value, "startswith") and value.startswith("/usr/bin/"):
        # dockerd looks a bare name up in its PATH, and the packages install into /usr/bin.
        return posixpath.basename(value)
    if isinstance(value, bool):
        return ("bool", value)  # to Python, though not to dockerd, true is 1
    return value


def _registry(text):
    """Return an entry of insecure-registries as dockerd keeps it: without scheme, networks without host bits.

    Source: moby, loadInsecureRegistries in registry/config.go.
    """
    text = re.sub(r"^https?://", "", text, flags=re.IGNORECASE)
    address, slash, bits = text.partition("/")
    if slash and bits.isdigit():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            packed = bytearray(socket.inet_pton(family, address))
        except (socket.error, ValueError):
            return text
        for number in range(len(packed)):
            kept = min(max(int(bits) - 8 * number, 0), 8)
            packed[number] &= (0xFF << (8 - kept)) & 0xFF
        text = "%s/%d" % (socket.inet_ntop(family, bytes(packed)), int(bits))
    return text


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
    result.pop("args", None)  # nvidia-ctk writes it; dockerd reads runtimeArgs alone
    if not result.get("runtimeArgs"):
        result.pop("runtimeArgs", None)
    return result


def changed_keys(before, after):
    """Return the sorted top-level keys in which two configurations differ in meaning."""
    one, other = canonical(before), canonical(after)
    return sorted(key for key in set(one) | set(other) if one.get(key, _ABSENT) != other.get(key, _ABSENT))


_ABSENT = object()


def disruption_of(keys, before=None, after=None, version=()):
    """Return what taking over changed keys does to a running dockerd: none, reload or restart.

    before and after are the configurations that the keys belong to, version is the engine's. To take a key away
    needs a restart more often than to set it.
    """
    if not keys:
        return "none"
    if "features" in keys and image_store(before) != image_store(after):
        return "restart"
    # A text that is empty is none to dockerd.
    goes = {key for key in keys if after is not None and after.get(key) in (None, "")}
    return "reload" if all(daemon_keys.is_reloadable(key, version, key in goes) for key in keys) else "restart"


def image_store(config):
    """The image store is chosen under features, yet only at start."""
    return _feature(config, "containerd-snapshotter")


def _feature(config, name):
    features = (config or {}).get("features")
    return features.get(name) if isinstance(features, dict) else None


def cdi_refusal(options, info, toolkit=""):
    """Return why dockerd cannot be given CDI devices, or None where it can.

    info is its docker info, or None where it does not run; toolkit is the version of NVIDIA's toolkit that writes
    the specification, where that is known. Sources: docs.docker.com, "Container Device Interface" (since Docker
    Engine 25.0); release notes of the toolkit 1.19.1 (it writes CDI 0.7.0, which 26.1 and newer read).
    """
    version = daemon_keys.version_of((info or {}).get("ServerVersion"))
    if not _feature(options, "cdi") or not version:
        return None
    newer = daemon_keys.version_of(toolkit) >= (1, 19)
    floor = (26, 1) if newer else (25, 0)
    if version >= floor:
        return None
    return (
        "dockerd %s does not read the CDI specification of %s: %d.%d and newer do. Set nvidia_docker_cdi: false here, "
        "or install a newer docker-ce"
        % ((info["ServerVersion"], "NVIDIA's toolkit %s" % toolkit if newer else "NVIDIA's toolkit") + floor)
    )


def errors(current, after, found):
    """Return {top-level key: sentence} of what dockerd would not start with.

    What is in current and stays as it is counts only where the running dockerd cannot have read it: a dockerd that
    runs with a key takes it.
    """
    version = engine_version(found)
    by_flag = "runtimes" in dockerd_flags.flags(found["exec_start"])
    result = daemon_keys.unknown_keys(after, version)
    result.update(daemon_keys.value_errors(after, version, by_flag))
    if _has_read_the_file(found):
        changed = changed_keys(current, after)
        result = {key: sentence for key, sentence in result.items() if key in changed}
    return result


def engine_version(found):
    """Return the version of the engine that will read daemon.json, as a tuple; () where it is unknown."""
    return daemon_keys.version_of(found.get("version") or (found.get("info") or {}).get("ServerVersion"))


def runs(found):
    """Return whether dockerd runs."""
    return found["service"]["active"] in ("active", "reloading")


def _has_read_the_file(found):
    return runs(found) and not is_newer_than_daemon(found)


def judged(options, current, info):
    """Return (keys that dockerd shows in effect, keys that it shows not to be), of the options that gpuprov sets.

    info is the object of ``docker info --format '{{json .}}'``. dockerd shows many values in a form of its own:
    a key that it does not show, or whose forms are not all known, is in neither set unless it is shown as it is.
    """
    registry = info.get("RegistryConfig") or {}
    yes, no = set(), set()
    for key, option in options.items():
        wanted = current.get(key)
        if option is None or wanted is None:
            continue
        good = None
        if key == "registry-mirrors":
            good = _same_value(key, registry.get("Mirrors") or [], wanted)
        elif key == "insecure-registries":
            insecure = [name for name, index in (registry.get("IndexConfigs") or {}).items() if not index.get("Secure")]
            insecure += registry.get("InsecureRegistryCIDRs") or []
            good = set(_canonical(key, wanted)) <= set(_canonical(key, insecure))
        elif key == "runtimes" and isinstance(option, dict) and "Runtimes" in info:
            running = info["Runtimes"] or {}
            good = all(
                name in running and _same_value("path", _runtime_path(running[name]), _runtime_path(wanted.get(name)))
                for name, entry in option.items()
                if entry is not None
            )
        elif key == "proxies" and isinstance(wanted, dict):
            good = daemon_proxy.in_effect(wanted, info)
        elif key == "labels":
            good = _same_value(key, info.get("Labels") or [], wanted)
        elif key == "features":
            good = False if _feature({key: option}, "cdi") and info.get("CDISpecDirs", True) == [] else None
        elif key in _SHOWN_BY_INFO and _SHOWN_BY_INFO[key] in info:
            good = info[_SHOWN_BY_INFO[key]] == (wanted or _DEFAULTS.get(key, wanted))
        elif key in _SHOWN_IN_OTHER_FORMS and _SHOWN_IN_OTHER_FORMS[key] in info:
            good = _same_value(key, info[_SHOWN_IN_OTHER_FORMS[key]], wanted) or None
        if good is not None:
            (yes if good else no).add(key)
    return yes, no


# Source: types.Info of moby's API, the same in 18.09 and 29.
_SHOWN_BY_INFO = {
    "debug": "Debug",
    "default-runtime": "DefaultRuntime",
    "experimental": "ExperimentalBuild",
    "live-restore": "LiveRestoreEnabled",
    "log-driver": "LoggingDriver",
}
_DEFAULTS = {"default-runtime": "runc", "log-driver": "json-file"}
# data-root is shown with links resolved and with a directory below it under userns-remap; the storage driver by
# another name under the containerd image store.
_SHOWN_IN_OTHER_FORMS = {"data-root": "DockerRootDir", "storage-driver": "Driver"}


def _runtime_path(runtime):
    return runtime.get("path") if isinstance(runtime, dict) else None


def config_data(found_config):
    """Return the bytes of the probed or read daemon.json, empty where there is none.

    Raises HostError where it is neither a file nor a symbolic link that stays in
    /etc/docker.
    """
    kind, path = found_config["kind"], found_config["path"]
    if kind == "other":
        raise HostError("%s is neither a file nor a symbolic link; it was left alone" % path)
    if kind == "symlink":
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), found_config["target"] or ""))
        if not target.startswith(CONFIG_DIRECTORY + "/"):
            raise HostError(
                "%s is a symbolic link to %s, outside %s; it was left alone. Set "
                "docker_daemon_follow_symlink: true to let gpuprov write there" % (path, target, CONFIG_DIRECTORY)
            )
    return config_bytes(found_config)


def config_bytes(found_config):
    """Return the bytes of the probed or read daemon.json, empty where there is none, wherever it lies."""
    return base64.b64decode(found_config["data"] or "")


def current_config(wanted, found):
    """Return the configuration in the file. Raises HostError for a file that must not be changed."""
    config = found["config"]
    followed = config["kind"] == "symlink" and wanted.get("follow_symlink")
    return parse(config_bytes(config) if followed else config_data(config), config["path"])


def decide(wanted, found):
    """Return (changes, text): what differs from what is wanted, and the text that daemon.json must have.

    wanted: {options, mode, follow_symlink, proxy}; found: the probe's ``docker`` object. text is None
    where the file stays as it is. Raises HostError for what must not be touched. Keys that
    gpuprov does not set are never a reason for a change.
    """
    config, proxy = found["config"], wanted.get("proxy") or {}
    current = current_config(wanted, found)
    running, version = runs(found), engine_version(found)
    options = daemon_proxy.with_proxy(daemon_keys.converted(wanted["options"]), proxy, version)
    after = merge(current, options)
    wrong = errors(current, after, found)
    sentences = [wrong[key] for key in sorted(wrong)] + dockerd_flags.conflicts(after, found["exec_start"])
    if sentences:
        raise HostError("; ".join(sentences))

    info = found.get("info") or {}
    keys = changed_keys(current, after)
    changes = []
    for key in keys:
        disruption = disruption_of([key], current, after, version) if running else "none"
        # Specifications are looked for from the start on; newer dockerds do so unasked.
        if running and key == "features" and _feature(current, "cdi") != _feature(after, "cdi"):
            disruption = worst([disruption, "reload" if info.get("CDISpecDirs") else "restart"])
        if running and key == "runtimes" and brings_hook(current, after, found) and may_restart(wanted, found):
            disruption = "restart"
        changes += _key_changes(key, current, after, disruption)
    text = render(after) if keys else None
    mode = mode_of(wanted.get("mode"), config_bytes(config) if text is None else text)
    if mode and config["kind"] != "absent" and int(config["mode"], 8) != int(mode, 8):
        changes.append(_change("daemon.json mode", config["mode"], mode, "none"))
    in_unit = daemon_proxy.changes(proxy, version, found.get("proxy_files") or {}, "restart" if running else "none")
    changes += [_change(*row) for row in in_unit]
    if running:
        options, current = in_effect_with(proxy, version, options), in_effect_with(proxy, version, current)
        changes += _not_taken_over(options, current, found, keys + ["proxies"] * len(in_unit), version)
    return changes, text


def mode_of(mode, data):
    """Return the mode that daemon.json must have with this content: one with a secret is root's alone."""
    text = data.decode("utf-8", "replace")
    return "0600" if redact(text) != text else mode


def in_effect_with(proxy, version, config):
    """Return a configuration with the proxy that dockerd gets from its environment."""
    if not proxy or daemon_proxy.is_in_daemon_json(version):
        return config
    return dict(config, proxies=daemon_proxy.members(proxy))


def brings_hook(current, after, found):
    """Return whether a running dockerd gets NVIDIA's runtime together with the hook that --gpus takes.

    It looks for the hook when it starts, and never again: moby, daemon/nvidia_linux.go, and devices_nvidia_linux.go
    since 29.
    """
    before, now = (config.get("runtimes") or {} for config in (current, after))
    return bool(found.get("hook_unseen") and "nvidia" in now and "nvidia" not in before and _has_gpus_flag(found))


def _has_gpus_flag(found):
    return engine_version(found) >= (19, 3)


def may_restart(wanted, found):
    """Return whether the policy allows a restart that only some containers need, with those that run."""
    idle = not found.get("running") or (found.get("info") or {}).get("LiveRestoreEnabled")
    policy = wanted.get("restart")
    return policy == "always" or (bool(idle) and policy != "never")


def _not_taken_over(options, current, found, changed, version):
    """Return the change of a dockerd that has not taken over what the file held before this run."""
    info = found.get("info") or {}
    seen, missing = judged(options, current, info) if info else (set(), set())
    # Only what gpuprov wrote itself, and was kept from having taken over, is told from what dockerd does not show.
    pending = found.get("pending") or {}
    left = pending.get("keys", []) if pending.get("pid") and pending["pid"] == found["service"].get("main_pid") else []
    stale = sorted((missing | (set(left) - seen)) - set(changed))
    if not stale:
        return []
    disruption = "restart" if "features" in stale else disruption_of(stale, after=current, version=version)
    gone = [key for key in stale if key not in current]
    said = [
        words % ", ".join(keys)
        for words, keys in (
            ("without %s", [key for key in stale if key in current]),
            ("with %s, which is not in daemon.json any more", gone),
        )
        if keys
    ]
    return [_change("docker daemon", "runs " + " and ".join(said), "daemon.json in effect", disruption)]


def is_newer_than_daemon(found):
    """Return whether daemon.json was changed after dockerd started or reloaded it."""
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


def survives_restart(changes, found):
    """Return whether containers survive a restart: live-restore is in effect, and in what dockerd starts with."""
    if not (found.get("info") or {}).get("LiveRestoreEnabled"):
        return False
    turned = [change["to"] for change in changes if "live-restore true" in (change.get("from"), change["to"])]
    if turned or "config" not in found:
        return turned in ([], ["live-restore true"])
    config = parse(config_bytes(found["config"]), found["config"]["path"])
    return config.get("live-restore") is True or "live-restore" in dockerd_flags.flags(found["exec_start"])


def restart_refusal(policy, changes, found):
    """Return why a restart must not happen now, or None where it may.

    policy is docker_daemon_restart: when-idle, always or never. With live-restore in effect
    containers survive a restart, so they do not block it.
    """
    if worst(change["disruption"] for change in changes) != "restart" or policy == "always":
        return None
    what = ", ".join(sorted({_label(change) for change in changes if change["disruption"] == "restart"}))
    if policy == "never":
        return "a restart of dockerd is needed (%s), and docker_daemon_restart is never" % what
    if survives_restart(changes, found):
        return None
    names = sorted(container["name"] for container in found.get("running") or [])
    if not names:
        return None
    return (
        "a restart of dockerd is needed (%s), and %d containers run: %s. Stop them, set "
        "live-restore, or set docker_daemon_restart: always" % (what, len(names), ", ".join(names))
    )
