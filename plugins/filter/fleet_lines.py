# SPDX-License-Identifier: MIT
"""Describe many hosts in lines for people; hosts with the same lines are grouped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import fleet

Hosts = dict[str, dict[str, Any]]


def _grouped(lines_of: Callable[[dict[str, Any]], list[str]]) -> Callable[[Hosts], list[str]]:
    def lines(hosts: Hosts) -> list[str]:
        return fleet.grouped_lines((lines_of(hosts[name]), name) for name in sorted(hosts, key=fleet.natural))

    return lines


def _images(hosts: Hosts) -> list[str]:
    return fleet.images_lines({name: hosts[name]["images"] for name in sorted(hosts, key=fleet.natural)})


class FilterModule:
    """The filters ``plan_lines``, ``finding_lines``, ``image_lines`` and ``prune_lines``."""

    def filters(self) -> dict[str, Callable[[Hosts], list[str]]]:
        """Return {name: filter}."""
        return {
            "plan_lines": _grouped(lambda facts: fleet.plan_lines(facts["gpu_host_plan"], facts["gpu_host_probe"])),
            "finding_lines": _grouped(lambda facts: fleet.finding_lines(facts["gpu_host_findings"])),
            "image_lines": _images,
            "prune_lines": _grouped(fleet.prune_lines),
        }
