#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: gpu_host_apply
short_description: Do what the plan of a host names, in one process, and prove the result
description:
  - Takes the steps of C(gpu_host_plan) in their order, in one process on the host, which holds the host's lock.
    Where one fails, the others are not begun.
  - Reads the host again then, demands an empty plan, and runs the containers that the plan asks for.
  - What the steps need comes from the variables of the roles, as in the plan.
author: gpuprov contributors (!UNKNOWN)
attributes:
  check_mode:
    description: Predicts without touching the host, and proves nothing.
    support: full
  diff_mode:
    description: Shows apt sources, C(daemon.json) and members of the group before and after.
    support: full
"""

EXAMPLES = r"""
- name: Apply and prove
  gpuprov.gpuprov.gpu_host_apply:
"""

RETURN = r"""
changes:
  description: What was changed, or in check mode would be; of steps before one that failed, too.
  returned: always
  type: list
  elements: dict
steps:
  description: C(name), C(changed) and C(seconds) of each step that was completed.
  returned: always
  type: list
  elements: dict
step:
  description: The name of the step that failed.
  returned: failure
  type: str
gpu_host_verify:
  description: C(ok), and C(checks) with name, ok and detail of each.
  returned: when all steps were completed, not in check mode
  type: dict
"""

import base64
import os
import time
import zlib

from ansible_collections.gpuprov.gpuprov.plugins.module_utils import concern_module, host_lock
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError

PROOF = "Prove what was promised"


def concern_of(name):
    """Return the code of a concern. Python compiles it on the host, so only what a step needs is imported."""
    if name == "daemon":
        from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import daemon_config as concern
    elif name == "group":
        from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import group_members as concern
    elif name == "launcher":
        from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import dockerrun_files as concern
    elif name == "packages":
        from ansible_collections.gpuprov.gpuprov.plugins.module_utils.apt import packages as concern
    elif name == "service":
        from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import docker_service as concern
    elif name == "toolkit":
        from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import nvidia_toolkit as concern
    else:
        from ansible_collections.gpuprov.gpuprov.plugins.module_utils.gpu import nvidia_docker_v1 as concern
    return concern


def complete(host, step, done):
    """Do one step, and add what it did to done."""
    concern = concern_of(step["concern"])
    begun = time.time()
    params = {name: spec.get("default") for name, spec in concern.ARGUMENTS.items()}
    result = concern.apply(host, dict(params, **step["params"]))
    done["steps"].append({"name": step["name"], "changed": result["changed"], "seconds": round(time.time() - begun, 2)})
    done["changes"] += result["changes"]
    diff = result.get("diff") or []
    done["diff"] += diff if isinstance(diff, list) else [diff]
    done["added"] += result.get("added", [])


def predicted(step, steps, done):
    """Return whether check mode leaves a step out: another step predicts the same, or installs what it would need."""
    engine_comes = any(change["subject"] == "docker-ce" for change in done["changes"])
    installs = any(one["params"].get("sources_only") is False for one in steps)
    return (step["params"].get("sources_only") and installs) or (step["concern"] == "service" and engine_comes)


def answer(host, words):
    """Return {rc, stdout} of a command, the output packed: it may be in any encoding."""
    if not words:
        return None
    code, out, _err = host.run_command(words, encoding=None)
    return {"rc": code, "stdout": base64.b64encode(zlib.compress(out)).decode("ascii")}


def work_through(host, params, done):
    """Do all steps, then read the host and run its containers."""
    for step in params["steps"]:
        done["step"] = step["name"]
        if host_lock.abandoned():
            raise HostError("the run on the controller ended: not begun")
        if not (host.check_mode and predicted(step, params["steps"], done)):
            complete(host, step, done)
    done["step"] = PROOF
    if host.check_mode:
        return
    begun = time.time()
    done["probe"] = answer(host, params["probe"])
    for archive in params["images"]:
        code, out, err = host.run_command(["docker", "load", "--quiet", "--input", archive])
        if code:
            raise HostError("the image %s of the bundle cannot be loaded: %s" % (os.path.basename(archive), err or out))
    done["containers"] = answer(host, params["containers"])
    done["steps"].append({"name": PROOF, "changed": False, "seconds": round(time.time() - begun, 2)})


def main():
    host, params = concern_module.start({"work": {"type": "dict", "required": True, "no_log": True}})
    done = {"steps": [], "changes": [], "diff": [], "added": [], "step": ""}
    try:
        with host_lock.held(host, params["lock"]):
            work_through(host, params["work"], done)
    except HostError as error:
        host.fail_json(msg=str(error), changed=bool(done["changes"]), **done)
    host.exit_json(changed=bool(done["changes"]), **done)


if __name__ == "__main__":
    main()
