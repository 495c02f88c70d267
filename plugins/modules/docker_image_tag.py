#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_image_tag
short_description: Keep the tags of an image at its newest versions
description:
  - For the version 1.9.1 of an image the tags 1.9, 1 and latest are put at the newest version that each
    covers, among those on the host. For 1.9.1-alpine these are 1.9-alpine, 1-alpine and latest-alpine.
    A pre-release and a build (1.9.1-3) move none.
  - Versions are compared on the controller by the Python package semver. What is decided there is done
    on the host only where the tags still are as they were.
author: gpuprov contributors (!UNKNOWN)
options:
  name:
    description: The image with its version, such as V(registry.example.com:5000/train:1.9.1).
    type: str
    required: true
  moves:
    description: Set by the action plugin; the tags to move, with the images' IDs before and after.
    type: list
    elements: dict
attributes:
  check_mode:
    description: Predicts without touching the host.
    support: full
"""

EXAMPLES = r"""
- name: Keep 1.9, 1 and latest at the newest versions
  gpuprov.gpuprov.docker_image_tag:
    name: train:1.9.1
"""

RETURN = r"""
changes:
  description: The tags that were moved, or in check mode would be.
  returned: success
  type: list
  elements: dict
docker_image:
  description: The image's name, its ID on the host, and the tags that it has there now.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.docker import dockerd
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.images import host_images, image_name


def id_of(api, name):
    """Return the ID of the image that has a name, or None."""
    status, details = dockerd.request("GET", "%s/images/%s/json" % (api, name))
    if status == 404:
        return None
    if status != 200:
        raise dockerd.DockerdError("%s: %s" % (name, host_images.said(details)))
    return details["Id"]


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "moves": {"type": "list", "elements": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        image = image_name.parse(module.params["name"])
        api = dockerd.api()
        for move in module.params["moves"]:
            target, source = str(image.with_tag(move["tag"])), str(image.with_tag(move["version"]))
            if (id_of(api, target), id_of(api, source)) != (move["before"], move["after"]):
                module.fail_json(msg="%s or %s was moved by somebody else meanwhile" % (target, source))
            if module.check_mode:
                continue
            path = "%s/images/%s/tag?repo=%s&tag=%s" % (api, source, image.repository, move["tag"])
            status, answer = dockerd.request("POST", path)
            if status != 201:
                raise dockerd.DockerdError("%s cannot be tagged: %s" % (source, host_images.said(answer)))
    except (dockerd.DockerdError, image_name.ImageNameError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(module.params["moves"]))


if __name__ == "__main__":
    main()
