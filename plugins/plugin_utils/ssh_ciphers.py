# SPDX-License-Identifier: MIT
"""Has ssh encrypt images with what the processor does by itself, of what the person's ssh may take.

OpenSSH's first choice is ChaCha20-Poly1305, which serves processors that know no AES. Where they do, AES-GCM costs
both ends less: a first ship of real files took about a tenth less processor time of all that took part
(docs/performance.md).
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import shared_result

_PATIENCE = 5  # seconds


def preferring_aes(words: Sequence[bytes]) -> list[bytes]:
    """Return words of ssh, [ssh, options…, host, command], by which it offers AES-GCM first.

    The ciphers are those that it may take for this host anyway, by its configuration and its options.
    """
    if not _has_aes():
        return list(words)
    ssh, *rest = words[:-1]
    asked = [ssh, b"-G", *rest]
    ciphers = shared_result.shared(repr(asked), lambda: _ciphers(asked))
    ordered = sorted(ciphers, key=lambda one: "-gcm@" not in one)
    if ordered == ciphers:
        return list(words)
    return [ssh, b"-o", f"Ciphers={','.join(ordered)}".encode(), *words[1:]]


def _ciphers(asked: list[bytes]) -> list[str]:
    """The ciphers that ssh may take, in its order; none where it does not say (before OpenSSH 6.8)."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run(
            asked, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_PATIENCE,
            check=True,
        ).stdout  # fmt: skip
        for line in said.splitlines():
            name, _, value = line.partition(" ")
            if name == "ciphers":
                return value.split(",")
    return []


def _has_aes() -> bool:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return "aes" in value.split()
    return False
