"""Where the lab finds the cgroup v2 hierarchy of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import cgroups

V1 = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n"


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        ("", None),
        (V1, None),
        (V1 + "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid,relatime 0 0\n", Path("/sys/fs/cgroup/unified")),
        ("cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n", cgroups.NATIVE),
        (V1 + "cgroup2 /sys/fs/cgroup/unified cgroup2 ro,relatime 0 0\n", None),
        (V1 + "none /run/gpuprov-lab/cgroup2 cgroup2 rw,relatime 0 0\n", cgroups.OWN),
    ],
)
def test_the_first_writable_v2_hierarchy_is_used(mounts: str, found: Path | None) -> None:
    assert cgroups.hierarchy(mounts) == found
