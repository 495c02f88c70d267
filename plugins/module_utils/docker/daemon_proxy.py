# SPDX-License-Identifier: MIT
"""Tell dockerd of a proxy: in daemon.json since 23.0, before that in the environment of docker.service.

A proxy is {http, https, no_proxy}, each a text. The variables are in a file of root's that a drop-in names: what a unit
says under Environment= every account of the host may read. Sources: docs.docker.com/engine/daemon/proxy and
systemd.exec(5). Pure functions. Runs on hosts: Python 2.7 syntax.
"""

from __future__ import absolute_import, division, print_function

__metaclass__ = type

import base64
import re

from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact

ENVIRONMENT = "/etc/docker/gpuprov-proxy.env"
DROP_IN = "/etc/systemd/system/docker.service.d/gpuprov-proxy.conf"
MODES = {ENVIRONMENT: 0o600, DROP_IN: 0o644}
SUBJECT = "proxy of docker.service"
# (member of a proxy, member of daemon.json's proxies, variable, key of docker info)
_NAMES = (
    ("http", "http-proxy", "HTTP_PROXY", "HttpProxy"),
    ("https", "https-proxy", "HTTPS_PROXY", "HttpsProxy"),
    ("no_proxy", "no-proxy", "NO_PROXY", "NoProxy"),
)
_DROP_IN_TEXT = "# Written by gpuprov's role docker_daemon\n[Service]\nEnvironmentFile=-%s\n" % ENVIRONMENT
_TEXT = (str, type(b"".decode("ascii")))
# Characters that need no quotes in a URL, in JSON, in systemd's files and in a shell's.
_URL = re.compile(r"(?:https?|socks5h?)://(?:[^\s/@?#\"'\\<>`]+@)?[A-Za-z0-9._-]+(?::[0-9]+)?/?\Z|"
                  r"(?:https?|socks5h?)://(?:[^\s/@?#\"'\\<>`]+@)?\[[0-9A-Fa-f:.]+\](?::[0-9]+)?/?\Z")  # fmt: skip
_HOSTS = re.compile(r"[A-Za-z0-9._:,/*\[\]-]+\Z")


def normalized(value):
    """Return {http, https, no_proxy} without what is empty. Raises ValueError, whose text never holds a value."""
    result = {}
    for name, given in value.items():
        if name not in ("http", "https", "no_proxy"):
            raise ValueError("unknown key %s; the keys are http, https and no_proxy" % name)
        if name == "no_proxy" and isinstance(given, (list, tuple)):
            given = ",".join("%s" % one for one in given)
        if given in (None, ""):
            continue
        if name == "no_proxy":
            given = re.sub(r"\s*,\s*", ",", given.strip()) if isinstance(given, _TEXT) else given
            if not isinstance(given, _TEXT) or not _HOSTS.match(given):
                raise ValueError("no_proxy must be names, domains and networks, joined by commas")
        elif not isinstance(given, _TEXT) or not _URL.match(given) or re.search("[^!-~]", given):
            raise ValueError(
                "%s must be the URL of a proxy, such as http://proxy.example.com:3128, with other characters than "
                "letters and digits in a user name or a password percent-encoded (@ is %%40)" % name
            )
        result[name] = given
    return result


def variables(proxy, lower=False):
    """Return {name of an environment variable: value} of a proxy."""
    return {
        variable.lower() if lower else variable: proxy[name]
        for name, _member, variable, _key in _NAMES
        if proxy.get(name)
    }


def is_in_daemon_json(version):
    """Return whether an engine reads a proxy from daemon.json; of an unknown one, what newer ones do."""
    return not version or tuple(version) >= (23, 0)


def members(proxy):
    """Return the value of ``proxies`` in daemon.json; None takes a member away that the proxy does not have."""
    return {member: proxy.get(name) or None for name, member, _variable, _key in _NAMES}


def with_proxy(options, proxy, version):
    """Return options of daemon.json that bring a proxy about; an engine that has no ``proxies`` must not get any."""
    if not proxy:
        return options
    return dict(options, proxies=members(proxy) if is_in_daemon_json(version) else None)


def texts(proxy, version):
    """Return {path: text that our file must have, or None where it must not be there}."""
    if not proxy or is_in_daemon_json(version):
        return dict.fromkeys(MODES)
    lines = ['%s="%s"\n' % pair for pair in sorted(variables(proxy).items())]
    return {ENVIRONMENT: "".join(lines), DROP_IN: _DROP_IN_TEXT}


def differing(proxy, version, found):
    """Return {path: text or None} of our files that must be written or removed.

    found: {path: {mode, uid, gid, data}} of those that are there; mode in octal digits, data in base64.
    """
    return {
        path: text
        for path, text in texts(proxy, version).items()
        if text != content(found, path) or (text is not None and _permissions(found[path]) != _wanted(path))
    }


def content(found, path):
    """Return the text of one of our files, or None where it is not there."""
    return base64.b64decode(found[path]["data"]).decode("utf-8", "replace") if path in found else None


def _permissions(entry):
    return "%d:%d %04o" % (entry["uid"], entry["gid"], int(entry["mode"], 8))


def _wanted(path):
    return "0:0 %04o" % MODES[path]


def changes(proxy, version, found, disruption):
    """Return the changes of our files, as (subject, from, to, disruption)."""
    files, wanted = differing(proxy, version, found), texts(proxy, version)
    if any(text != content(found, path) for path, text in files.items()):
        before = _shown(content(found, ENVIRONMENT)) if ENVIRONMENT in found else None
        after = _shown(wanted[ENVIRONMENT])
        if before is not None and before == after:
            before += ", other credentials" if DROP_IN not in files else ", not in use"
        return [(SUBJECT, before or (after is None and DROP_IN) or None, after, disruption)]
    return [
        ("%s, %s" % (SUBJECT, path.rpartition("/")[2]), _permissions(found[path]), _wanted(path), "none")
        for path in sorted(files)
    ]


def _shown(text):
    """Return the variables of a file on one line, for people, without secrets."""
    return None if text is None else ", ".join(redact(line.replace('"', "")) for line in text.splitlines())


def in_effect(wanted, info):
    """Return whether `docker info` shows ``proxies`` in effect; None where it does not tell.

    dockerd masks credentials, so of a proxy with credentials it only shows that another one is in effect.
    """
    verdicts = []
    for _name, member, _variable, key in _NAMES:
        value = wanted.get(member)
        if not value or key not in info:
            continue
        shown = info[key] or ""
        if shown == value:
            verdicts.append(True)
        else:
            verdicts.append(None if key != "NoProxy" and shown and _host(shown) == _host(value) else False)
    if False in verdicts:
        return False
    return None if None in verdicts or not verdicts else True


def _host(url):
    return re.sub(r"^(\w+://)?([^/@]*@)?", "", url).rstrip("/").lower()
