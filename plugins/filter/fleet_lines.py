# SPDX-License-Identifier: MIT
"""Describe many hosts in lines for people; hosts with the same lines are grouped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils.text import fleet, images

Hosts = dict[str, dict[str, Any]]


def _in_order(hosts: Hosts) -> Hosts:
    return {name: hosts[name] for name in sorted(hosts, key=fleet.natural)}


def _plans(hosts: Hosts) -> list[str]:
    return fleet.grouped_lines(
        (fleet.plan_lines(facts["gpu_host_plan"], facts["gpu_host_probe"]), name)
        for name, facts in _in_order(hosts).items()
    )


def _findings(hosts: Hosts) -> list[str]:
    return fleet.grouped_lines(
        (fleet.finding_lines(facts["gpu_host_findings"]), name) for name, facts in _in_order(hosts).items()
    )


def _transfers(hosts: Hosts, check_mode: bool, count: int) -> list[str]:
    return images.transfer_lines(_in_order(hosts), check_mode, count)


class FilterModule:
    """Filters that describe hosts; each has its own documentation file."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Return {name: filter}."""
        return {
            "plan_lines": _plans,
            "finding_lines": _findings,
            "image_lines": lambda hosts: images.table(_in_order(hosts)),
            "prune_lines": lambda hosts: images.prune_lines(_in_order(hosts)),
            "freed_lines": lambda hosts: images.freed_lines(_in_order(hosts)),
            "transfer_lines": _transfers,
        }
