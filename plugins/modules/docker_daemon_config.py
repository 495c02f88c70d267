#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_daemon_config
short_description: Change dockerd's configuration without breaking dockerd
description:
  - Lays O(options) over what C(/etc/docker/daemon.json) says. Keys that nobody named stay. A file
    that is equal in meaning already is left as it is, to the byte.
  - Refuses, before anything is written, a file that is not JSON, a symbolic link that leads out
    of C(/etc/docker), a key that is a flag of dockerd too, a value dockerd could not read, and a
    restart that O(restart) does not allow.
  - Validates with C(dockerd --validate) where the installed dockerd has it, keeps a backup, writes
    atomically, reloads where a reload is enough and restarts where not, and confirms with
    C(docker info). If that fails, the old file comes back and the daemon with it. A reload that dockerd
    did not take over becomes a restart only where O(restart=always).
  - Where dockerd is not installed or not running, only the file is written. The module
    M(gpuprov.gpuprov.docker_service) then starts dockerd with it.
author: gpuprov contributors (!UNKNOWN)
extends_documentation_fragment: [gpuprov.gpuprov.lock]
options:
  options:
    description: Keys of daemon.json; objects are merged, V(null) takes a key away.
    type: dict
    required: true
  proxy:
    description:
      - The proxy of dockerd, C(http), C(https) and C(no_proxy); goes into C(daemon.json) for an engine from 23.0 on,
        into a file that a drop-in for C(docker.service) names for an older one. Where it is empty, that drop-in is
        removed.
    type: dict
    default: {}
  engine:
    description:
      - Version of the engine that is about to be installed and will read the file; empty for the one that is there.
    type: str
    default: ""
  path:
    description: The file.
    type: path
    default: /etc/docker/daemon.json
  mode:
    description: The file's mode, as four octal digits; empty keeps what it has.
    type: str
    default: "0644"
  follow_symlink:
    description: Write through a symbolic link that leads out of C(/etc/docker).
    type: bool
    default: false
  restart:
    description:
      - When dockerd may be restarted. V(when-idle) means without running containers, or with
        live-restore in effect.
    type: str
    choices: [when-idle, always, never]
    default: when-idle
  backups:
    description: How many backups of the file to keep.
    type: int
    default: 5
  remove_empty:
    description: Remove the file where the last of its keys was taken away.
    type: bool
    default: false
  disruption:
    description:
      - The most that may happen to a running dockerd, as a plan has promised it. Where more is needed now,
        nothing is touched, unless O(restart=always).
    type: str
    choices: [none, reload, restart]
    default: restart
  validate:
    description:
      - Have the installed dockerd validate the new text. V(false) where another engine is about to be installed.
    type: bool
    default: true
  timeout:
    description: Seconds to wait for dockerd to answer after a reload or a restart.
    type: int
    default: 60
attributes:
  check_mode:
    description: Predicts without touching the host.
    support: full
  diff_mode:
    description: Shows the file before and after, without credentials in URLs.
    support: full
"""

EXAMPLES = r"""
- name: Pull through the mirror of this site
  gpuprov.gpuprov.docker_daemon_config:
    options:
      registry-mirrors: [https://mirror.example.com]
"""

RETURN = r"""
changes:
  description: What was changed, or in check mode would be.
  returned: success
  type: list
  elements: dict
backup:
  description: The backup of the file as it was.
  returned: when a file was replaced
  type: str
"""

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import concern_module
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_config


def main():
    concern_module.run(daemon_config)


if __name__ == "__main__":
    main()
