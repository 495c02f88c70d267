#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_service
short_description: Have dockerd run now and at boot
description:
  - Unmasks, enables and starts C(docker.service) and its socket, whatever systemd has counted against them.
  - Where dockerd does not start, says why in its own words. Where C(daemon.json) was written for this start by
    M(gpuprov.gpuprov.docker_daemon_config), the file as it was comes back, so that no host is left with a dockerd
    that cannot start because of it.
author: gpuprov contributors
options:
  timeout:
    description: Seconds that dockerd may take to start.
    type: int
    default: 120
attributes:
  check_mode:
    description: Predicts without touching the host.
    support: full
  diff_mode:
    description: Shows no differences.
    support: none
"""

EXAMPLES = r"""
- name: Have dockerd run
  gpuprov.gpuprov.docker_service:
"""

RETURN = r"""
changes:
  description: What was changed, or in check mode would be.
  returned: success
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import docker_service, host_plan


def start(module, service, before):
    """Bring dockerd up; fail with its own words, and with the old daemon.json back."""
    service.unmask(docker_service.SERVICE)
    if before["enabled"] != "enabled":
        try:
            service.enable()
        except docker_service.ServiceError as error:
            module.fail_json(msg=str(error))
    pending = service.unread()
    if before["active"] not in ("active", "reloading"):
        try:
            service.restart("start")
        except docker_service.ServiceError as error:
            if not pending:
                module.fail_json(msg=str(error))
            said = "The file %s is as it was before this run" % pending["path"]
            said += ", there was none" if pending["old"]["kind"] == "absent" else ""
            try:
                service.go_back()
            except docker_service.ServiceError as second:
                said += ", yet dockerd does not start with it either: %s" % second
            module.fail_json(msg="%s. %s" % (error, said))
    if not service.unread():
        docker_service.settle()


def main():
    module = AnsibleModule(argument_spec={"timeout": {"type": "int", "default": 120}}, supports_check_mode=True)
    service = docker_service.Service(module, module.params["timeout"])
    before = service.state()[0]
    changes = host_plan.service_changes(before)
    if not module.check_mode:
        start(module, service, before)
        left = host_plan.service_changes(service.state()[0])
        if left:
            module.fail_json(msg="docker.service is %s and should be %s" % (left[0]["from"], left[0]["to"]))
    module.exit_json(changed=bool(changes), changes=changes)


if __name__ == "__main__":
    main()
