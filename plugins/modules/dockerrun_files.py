#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: dockerrun_files
short_description: Write the launcher dockerrun and its defaults
description:
  - Compares the two files on a host with what is wanted and writes those that differ, each whole or not
    at all.
  - A file of somebody else's that is replaced is kept in C(/var/backups/gpuprov).
author: gpuprov contributors (!UNKNOWN)
extends_documentation_fragment: [gpuprov.gpuprov.lock]
options:
  wanted:
    description: >-
      C(install), whether to install the launcher; C(sha256), the digest of its file; C(defaults), the lines
      of its file of defaults.
    type: dict
    required: true
  launcher:
    description: The text of the launcher.
    type: str
    required: true
  state:
    description: C(absent) takes both files away, as far as gpuprov wrote them.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Predicts without touching the host.
    support: full
"""

EXAMPLES = r"""
- name: Write the launcher
  gpuprov.gpuprov.dockerrun_files:
    wanted: "{{ dockerrun_desired }}"
    launcher: "{{ lookup('ansible.builtin.file', 'dockerrun', rstrip=false) }}"
"""

RETURN = r"""
changes:
  description: What was changed, or in check mode would be.
  returned: success
  type: list
  elements: dict
"""

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import concern_module
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import dockerrun_files


def main():
    concern_module.run(dockerrun_files)


if __name__ == "__main__":
    main()
