"""The JSON schema of gpuprov's documents, for tests."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema

_SCHEMA = Path(__file__).resolve().parents[1] / "gpuprov/schemas/result.json"


def closed(schema: Any) -> Any:
    """Return a schema that accepts no other keys than those it describes: people may add keys, tests must know them."""
    if isinstance(schema, dict):
        strict = {name: closed(one) for name, one in schema.items()}
        if {"properties", "required"} <= set(strict):
            strict.setdefault("additionalProperties", False)
        return strict
    return [closed(one) for one in schema] if isinstance(schema, list) else schema


@functools.cache
def validator() -> Any:
    """Return the validator of documents, without other keys."""
    schema = json.loads(_SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(closed(schema))


def check(document: Any) -> None:
    """Fail where a document does not conform to the schema, or has a key that the schema does not describe."""
    error = jsonschema.exceptions.best_match(validator().iter_errors(document))
    assert not error, f"{'.'.join(map(str, error.absolute_path))}: {error.message[:500]}"
