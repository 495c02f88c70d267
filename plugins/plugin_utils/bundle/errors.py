# SPDX-License-Identifier: MIT
"""The error of bundles, in a file of its own: what catches it need not load what raises it."""


class BundleError(ValueError):
    """The bundle cannot be made, read, or used for a host; the message is one line for people."""
