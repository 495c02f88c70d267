#!/usr/bin/python
# SPDX-License-Identifier: MIT
from __future__ import absolute_import, division, print_function

__metaclass__ = type

DOCUMENTATION = r"""
module: docker_image_build
short_description: Build an image on a host from a directory of the controller's
description:
  - Keeps a copy of the context on the host, and sends only files that changed and that C(.dockerignore) does not
    exclude; then runs C(docker build), with BuildKit where the engine has it. Over the connection local it builds
    from the directory itself. Other connections than local and ssh are refused.
  - The output is shown while it comes. The build ends with the connection.
  - Part of the role docker_image, which has the script that builds.
author: gpuprov contributors (!UNKNOWN)
options:
  name:
    description: The image with its tag.
    type: str
    required: true
  context:
    description: The directory on the controller.
    type: path
    required: true
  file:
    description: The Dockerfile, relative to the context.
    type: str
    default: Dockerfile
  args:
    description:
      - Build arguments. A value of null is taken from the controller's environment, and replaced by C(***) in the
        output. Values reach docker by its environment, never in an argument list.
    type: dict
    default: {}
  proxy:
    description:
      - The proxy of the build's steps, C(http), C(https) and C(no_proxy). Goes the same way as O(args), as the build
        arguments that docker predefines and leaves out of the image's history; a password in it is replaced in the
        output.
    type: dict
    default: {}
  target:
    description: The stage to build.
    type: str
    default: ""
  no_cache:
    description: Build every step again.
    type: bool
    default: false
  directory:
    description: Where the host keeps copies of contexts.
    type: path
    default: /var/cache/gpuprov/build
attributes:
  check_mode:
    description: Tells what would travel.
    support: full
"""

EXAMPLES = r"""
- name: Build the image
  gpuprov.gpuprov.docker_image_build:
    name: train:1.9.1
    context: ./train
    args:
      CUDA: "12.4"
      TOKEN: null
"""

RETURN = r"""
docker_image:
  description: The image's name, ID and size, and the files and bytes that travelled.
  returned: success
  type: dict
"""
