"""Output for people and logs contains no secrets."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.gpuprov.gpuprov.plugins.module_utils.redaction import redact, redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("proxy http://me:pw@proxy:3128/ and https://h/a@b", "proxy http://***@proxy:3128/ and https://h/a@b"),
        ('{"splunk-token": "ab\\"c", "tag": "x"}', '{"splunk-token": "***", "tag": "x"}'),
        ("--log-opt splunk-token=abc --log-opt tag=x", "--log-opt splunk-token=*** --log-opt tag=x"),
        ('{"API_KEY" : "k", "n": 1}', '{"API_KEY" : "***", "n": 1}'),
        ("the token is not valid", "the token is not valid"),
    ],
)
def test_secrets_in_text_are_not_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({"a": ["http://u:p@h"], "n": 1}, {"a": ["http://***@h"], "n": 1}),
        ({"log-opts": {"splunk-token": "t", "tag": "x"}}, {"log-opts": {"splunk-token": "***", "tag": "x"}}),
        ({"secret": None, 1: True}, {"secret": None, 1: True}),
    ],
)
def test_secrets_in_values_are_not_shown(value: Any, shown: Any) -> None:
    assert redacted(value) == shown
