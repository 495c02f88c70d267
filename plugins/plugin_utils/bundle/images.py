# SPDX-License-Identifier: MIT
"""Images of a bundle: an archive for each image and architecture. Imports nothing of the collection but neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Image:
    """An image of a bundle for one architecture (as dpkg names it), in an archive for ``docker load``.

    reference: what the person wrote; name: the same in full, such as docker.io/library/hello-world:latest; digest: of
    what the registry has under the name, an index of all architectures or one manifest.
    """

    reference: str
    name: str
    architecture: str
    digest: str
    path: Path
