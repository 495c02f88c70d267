"""The JSON schema of gpuprov's documents, for tests."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource

_SCHEMAS = Path(__file__).resolve().parents[1] / "gpuprov/schemas"


def closed(schema: Any) -> Any:
    """Return a schema that accepts no other keys than those it describes: people may add keys, tests must know them."""
    if isinstance(schema, dict):
        strict = {name: closed(one) for name, one in schema.items()}
        if {"properties", "required"} <= set(strict):
            strict.setdefault("additionalProperties", False)
        return strict
    return [closed(one) for one in schema] if isinstance(schema, list) else schema


def read(name: str) -> Any:
    """Return a schema, by the name of its file, without other keys."""
    schema = json.loads((_SCHEMAS / name).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return closed(schema)


@functools.cache
def validator(name: str = "result.json") -> Any:
    """Return the validator of documents of a kind, without other keys."""
    names = [path.name for path in _SCHEMAS.glob("*.json")]
    registry: Any = Registry().with_resources((name, Resource.from_contents(read(name))) for name in names)
    return jsonschema.Draft202012Validator(read(name), registry=registry)


def check(document: Any, name: str = "result.json") -> None:
    """Fail where a document does not conform to the schema, or has a key that the schema does not describe."""
    error = jsonschema.exceptions.best_match(validator(name).iter_errors(document))
    assert not error, f"{'.'.join(map(str, error.absolute_path))}: {error.message[:500]}"
