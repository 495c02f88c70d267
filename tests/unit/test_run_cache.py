"""Results that are computed once for all hosts are the same for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.plugin_utils import run_cache

BOOKWORM = {"distribution_release": "bookworm", "gpu_host_probe": {"login_user": "me", "clock": 1}}


def key(**variables: Any) -> str | None:
    return run_cache.key(["wanted"], {"ansible_facts": BOOKWORM, **variables})


def test_hosts_with_the_same_variables_share() -> None:
    one = {"wanted": {"version": "{{ version }}"}, "version": "1", "inventory_hostname": "a"}
    assert key(**one) == key(**one | {"inventory_hostname": "b"})
    assert key(**one) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"wanted": "1"}, {"wanted": "2"}),
        ({"wanted": "{{ a }}", "a": "{{ b }}", "b": 1}, {"wanted": "{{ a }}", "a": "{{ b }}", "b": 2}),
        ({"wanted": ["{{ a.b }}"], "a": {"b": 1}}, {"wanted": ["{{ a.b }}"], "a": {"b": 2}}),
        ({"wanted": "{% if a %}x{% endif %}", "a": 1}, {"wanted": "{% if a %}x{% endif %}", "a": 0}),
    ],
)
def test_any_variable_that_matters_keeps_hosts_apart(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert key(**one) != key(**other)


@pytest.mark.parametrize(
    ("template", "same"),
    [
        ("{{ ansible_facts['gpu_host_probe']['login_user'] }}", True),
        ("{{ ansible_facts['distribution_release'] }}", False),
        ("{{ ansible_facts['gpu_host_probe'] }}", False),
        ("{{ ansible_facts.distribution_release }}", False),
    ],
)
def test_only_the_facts_that_are_named_matter(template: str, same: bool) -> None:
    other = {"distribution_release": "trixie", "gpu_host_probe": {"login_user": "me", "clock": 2}}
    one_key, other_key = key(wanted=template), key(wanted=template, ansible_facts=other)
    assert one_key is not None
    assert (one_key == other_key) is same


@pytest.mark.parametrize("template", ["{{ lookup('env', 'X') }}", "{{ inventory_hostname }}", "{{ hostvars['a'].b }}"])
def test_what_differs_by_host_or_time_is_not_shared(template: str) -> None:
    assert key(wanted=template) is None


def test_a_result_is_computed_once_for_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ansible.constants.DEFAULT_LOCAL_TMP", str(tmp_path))
    calls: list[int] = []

    def compute() -> list[int]:
        calls.append(1)
        return [len(calls)]

    results = [run_cache.cached(one, compute) for one in ("a", "a", "b", None, None)]
    assert results == [[1], [1], [2], [3], [4]]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
