"""A JSON Schema of our OpenAPI document in, a Hypothesis strategy of values that satisfy it out."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

FEW = 3
"""Items of a generated list or map; the limits of lists have tests of their own."""

words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | words,
    lambda inner: st.lists(inner, max_size=FEW) | st.dictionaries(words, inner, max_size=FEW),
    max_leaves=6,
)


def values(schema: dict[str, Any], schemas: dict[str, Any]) -> SearchStrategy[Any]:
    """Return values of `schema`, whose references are names in `schemas`."""
    if "$ref" in schema:
        named = schemas[schema["$ref"].rpartition("/")[2]]
        return st.deferred(lambda: values(named, schemas))
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return st.one_of([values(member, schemas) for member in schema[union]])
    kind = schema.get("type")
    if kind is None:
        return anything
    return _KINDS[kind](schema, schemas)


def _string(schema: dict[str, Any], schemas: dict[str, Any]) -> SearchStrategy[str]:
    if "pattern" in schema:
        return st.from_regex(schema["pattern"].replace("$", r"\Z"), fullmatch=True)
    most = min(schema.get("maxLength", 12), 12)
    return st.text(
        st.characters(codec="utf-8", exclude_categories=["Cs"]),
        min_size=schema.get("minLength", 0),
        max_size=most,
    )


def _integer(schema: dict[str, Any], schemas: dict[str, Any]) -> SearchStrategy[int]:
    most = schema.get("maximum", schema.get("exclusiveMaximum", 2**63) - 1)
    return st.integers(schema.get("minimum"), most)


def _number(schema: dict[str, Any], schemas: dict[str, Any]) -> SearchStrategy[float]:
    least = schema.get("minimum", schema.get("exclusiveMinimum"))
    return st.floats(
        least,
        schema.get("maximum"),
        exclude_min="exclusiveMinimum" in schema,
        allow_nan=False,
        allow_infinity=False,
    )


def _array(schema: dict[str, Any], schemas: dict[str, Any]) -> SearchStrategy[list[Any]]:
    least = schema.get("minItems", 0)
    return st.lists(values(schema.get("items", {}), schemas), min_size=least, max_size=least + FEW)


def _object(schema: dict[str, Any], schemas: dict[str, Any]) -> SearchStrategy[dict[str, Any]]:
    fields = {name: values(each, schemas) for name, each in schema.get("properties", {}).items()}
    if not fields:
        for pattern, inner in schema.get("patternProperties", {}).items():
            keys = _string({"pattern": pattern}, schemas)
            return st.dictionaries(keys, values(inner, schemas), max_size=FEW)
        inner = schema.get("additionalProperties")
        named = values(inner, schemas) if isinstance(inner, dict) else anything
        keys = _string(schema.get("propertyNames", {}), schemas)
        return st.dictionaries(keys, named, max_size=FEW)
    required = set(schema.get("required", ()))
    return st.fixed_dictionaries(
        {name: each for name, each in fields.items() if name in required},
        optional={name: each for name, each in fields.items() if name not in required},
    )


_KINDS = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "array": _array,
    "object": _object,
    "boolean": lambda schema, schemas: st.booleans(),
    "null": lambda schema, schemas: st.none(),
}
