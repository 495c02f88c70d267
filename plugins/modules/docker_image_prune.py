#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_image_prune
short_description: Remove containers and images that nobody needs
description:
  - Removes stopped containers, images without a tag, and versions of images that newer ones replaced.
  - What runs, its image, what the tags latest, 1 and 1.9 point at, the newest versions of each variant
    and what has the label C(org.gpuprov.keep=true) stay, whatever is asked.
  - Decided on the controller, where versions are compared by the Python package semver, and again on the
    host right before anything is removed; what came up in between stays. Nothing is forced, so dockerd
    has the last word.
author: gpuprov contributors (!UNKNOWN)
options:
  containers:
    description: Stopped containers. Without O(containers) and O(images) both are meant.
    type: bool
    default: false
  images:
    description: Images that no container uses, and that have no tag, or an old version for one.
    type: bool
    default: false
  all:
    description: Every image that no container uses, whatever its tag is.
    type: bool
    default: false
  older_than:
    description: Only what ended, or was built and tagged, longer ago, such as V(7d) or V(12h).
    type: str
    default: ""
  keep:
    description: How many of the newest versions of each image, and of each of its variants, stay; 1 at least.
    type: int
    default: 3
  only:
    description: IDs of what was agreed to; nothing else goes.
    type: list
    elements: str
  decided:
    description: The result of an earlier task with O(look); what that decided is removed.
    type: dict
  look:
    description: Decide only, and return what would go.
    type: bool
    default: false
attributes:
  check_mode:
    description: Predicts without touching the host.
    support: full
"""

EXAMPLES = r"""
- name: Decide what goes
  gpuprov.gpuprov.docker_image_prune:
    older_than: 7d
    look: true
  register: decided

- name: Remove it
  gpuprov.gpuprov.docker_image_prune:
    older_than: 7d
    decided: "{{ decided }}"
"""

RETURN = r"""
docker_image:
  description:
    - With O(look) what would go and what stays, in C(containers), C(images) and C(stay), and the C(bytes) it frees.
    - Without, what was C(removed), what stayed against the decision (C(stayed)), and the bytes C(freed).
  returned: success
  type: dict
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils import host_lock
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import dockerd
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.host_error import HostError
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import host_images, image_prune

# Seconds that dockerd may take to remove one thing: many gigabytes on a slow disk.
TIMEOUT = 1800


def remove_container(api, container):
    """Return why a container could not be removed, or None."""
    # Without force: one that runs meanwhile is refused. Its anonymous volumes stay: they may hold data.
    status, answer = dockerd.request("DELETE", "%s/containers/%s" % (api, container["id"]), timeout=TIMEOUT)
    return None if status in (204, 404) else host_images.said(answer)


def remove_image(api, image):
    """Return why an image could not be removed, or None."""
    for name in image["names"] or [image["id"]]:
        status, details = dockerd.request("GET", "%s/images/%s/json" % (api, name))
        if status == 404:
            continue
        # A name may have been given to a new image this moment.
        if status != 200 or details["Id"] != image["id"]:
            return "the name is another image's meanwhile"
        status, answer = dockerd.request("DELETE", "%s/images/%s" % (api, name), timeout=TIMEOUT)
        if status not in (200, 404):
            return host_images.said(answer)
    return None


def agreed(decision, only):
    """Return a decision without what is not among the IDs that were agreed to."""
    return {kind: [one for one in decision[kind] if one["id"] in only] for kind in ("containers", "images")}


def prune(params):
    """Remove what was decided, and return the module's result. Raises DockerdError."""
    removed, stayed = {"containers": [], "images": []}, []
    api = dockerd.api()
    before = host_images.read(containers=True, layers=True)
    decision = image_prune.decide(before, params["rules"], params["versions"], time.time(), params["seen"])
    going = agreed(decision, params["only"])
    for kind, remove in (("containers", remove_container), ("images", remove_image)):
        for one in going[kind]:
            why = remove(api, one)
            if why is None:
                removed[kind].append(one)
            else:
                stayed.append({"name": one.get("name") or ", ".join(one["names"]) or one["id"], "why": why})
    known = {image["id"]: image for image in before["images"]}
    after = host_images.read(layers=True, known=known)
    gone = {one["id"] for kind in removed for one in removed[kind]}
    named = {one["id"]: one for one in decision["stay"] if one["id"] in params["only"]}
    stayed += [{"name": one["name"], "why": one["why"]} for one in named.values() if one["id"] not in gone]
    freed = image_prune.layer_bytes(before["images"]) - image_prune.layer_bytes(after["images"])
    return {
        "changed": bool(gone),
        "docker_image": {
            "removed": removed,
            "stayed": stayed,
            "freed": max(freed, 0) + sum(one["bytes"] for one in removed["containers"]),
        },
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "rules": {"type": "dict", "required": True},
            "versions": {"type": "dict", "required": True},
            "seen": {"type": "dict", "required": True},
            "only": {"type": "list", "elements": "str", "required": True},
            "lock": host_lock.ARGUMENT,
        },
    )
    try:
        with host_lock.held(module, module.params["lock"]):
            result = prune(module.params)
    except (HostError, dockerd.DockerdError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
