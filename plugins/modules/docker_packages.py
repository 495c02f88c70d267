#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_packages
short_description: Install sets of exactly pinned packages in one transaction
description:
  - Writes the sets' apt sources and keyrings, removes what must be absent, installs every package
    of the sets at its exact version (downgrades included), all in one transaction, and holds them.
  - Keys are fetched by apt itself, so with its proxies and certificates, before anything is written. A key is
    trusted only if its fingerprint is the wanted one.
  - Other entries with the same URI are replaced, whatever their file is called; files keep their mode, their owner
    and everything else that is in them, and are kept as they were in C(/var/backups/gpuprov). The target of a
    symbolic link is rewritten where root alone can write to it.
  - Where apt would remove anything else, the module names it and stops. Nothing is ever purged.
  - Before packages that have systemd read its units again, systemd is told of the GPUs of running containers, which
    would lose them otherwise. Where it does not learn of them, that is refused as a restart of dockerd is. A
    container that starts with a GPU while apt runs may be without it until apt has ended.
  - Where dockerd ran before a transaction that fails, it is started again.
  - A host on which nothing differs is left alone, without asking the network.
author: gpuprov contributors (!UNKNOWN)
extends_documentation_fragment: [gpuprov.gpuprov.lock]
options:
  sets:
    description:
      - The package sets, each with C(role), C(packages) (name and version), C(hold),
        C(install_recommends), C(remove) and C(source), which may be empty; and with C(source_gone), C(name) and
        C(keyring) of a source to remove.
    type: list
    elements: dict
    required: true
  lock_timeout:
    description: Seconds to wait for another apt or dpkg to finish.
    type: int
    default: 300
  sources_only:
    description:
      - Write keyrings and sources, see that the repositories have the wanted versions, and leave packages alone.
        Where that fails, everything is as it was.
    type: bool
    default: false
  proxy:
    description:
      - The proxy for apt, C(http), C(https) and C(no_proxy), where apt's own configuration names none.
    type: dict
    default: {}
  locked:
    description:
      - All packages that may be installed, by name, each a list of version and SHA-256. Anything else that apt would
        install is refused before it begins, and sources are as they were. Empty allows everything.
    type: dict
    default: {}
  bundle:
    description:
      - The repositories of a bundle that was sent to the host, each with C(path), C(suite) and C(components), from
        which packages and keys are taken, and from nowhere else. Empty takes them from the sources of the sets.
    type: list
    elements: dict
    default: []
  restart:
    description:
      - Whether packages may be changed that restart dockerd. With C(when-idle) not while containers
        run, unless live-restore keeps them; with C(when-empty) not while any container runs; with C(never) not at
        all. Decided before apt starts.
    type: str
    choices: [when-idle, always, never, when-empty]
    default: when-idle
attributes:
  check_mode:
    description: Predicts without touching the host or the network.
    support: full
  diff_mode:
    description: Shows the apt sources before and after.
    support: full
"""

EXAMPLES = r"""
- name: Install one pinned package
  gpuprov.gpuprov.docker_packages:
    sets:
      - role: docker_ce
        packages: [{name: docker-ce-cli, version: "5:29.7.2-1~debian.12~bookworm"}]
        hold: true
        install_recommends: false
        remove: [docker.io]
        source: null
"""

RETURN = r"""
changes:
  description: What was changed, or in check mode would be.
  returned: success
  type: list
  elements: dict
"""

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import concern_module
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import packages


def main():
    concern_module.run(packages)


if __name__ == "__main__":
    main()
