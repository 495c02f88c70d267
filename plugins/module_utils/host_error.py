# SPDX-License-Identifier: MIT
"""Define the error of all code that works on a host. Python 2.7 syntax."""

from __future__ import absolute_import, division, print_function

__metaclass__ = type


class HostError(ValueError):
    """A host cannot be brought to what is wanted; the message says why, for people."""
