"""Strict JSON, YAML, hex and base64 in; canonical JSON out. Refusals never quote the input."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, TypeVar

import jiter
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from attestation.errors import ConfigError, Malformed

M = TypeVar("M", bound="Document")

MAX_JSON = 4 * 1024 * 1024
"""Largest JSON document read, in bytes; a report with 8 GPUs and collateral stays under 1 MiB."""


class Document(BaseModel):
    """A wire or file document: immutable, no unknown field, no type coercion."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        cache_strings="none",  # the default keeps short texts of every document it has parsed
    )


_PLAIN = (str, bool, int, type(None))
_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
)
_BASE64 = TypeAdapter(
    bytes, config=ConfigDict(strict=True, val_json_bytes="base64", hide_input_in_errors=True)
)


def parse_json(data: bytes, *, limit: int = MAX_JSON) -> Any:
    """Parse one JSON document; refuse duplicates, NaN, deep nesting and more than `limit` bytes."""
    if len(data) > limit:
        raise Malformed("too-large", f"document of {len(data)} bytes, limit {limit}")
    try:
        return jiter.from_json(
            data, allow_inf_nan=False, catch_duplicate_keys=True, cache_mode="none"
        )
    except ValueError:
        raise Malformed("json-malformed", f"document of {len(data)} bytes is not JSON") from None


def parse_document(kind: type[M], data: bytes, *, limit: int = MAX_JSON) -> M:
    """Parse JSON `data` as `kind`; a refusal names the field and the rule, never the value."""
    parse_json(data, limit=limit)  # duplicates and depth, which pydantic's own parser lets pass
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise Malformed("field-invalid", describe(kind, error)) from None


def parse_yaml(kind: type[M], data: bytes, *, name: str) -> M:
    """Parse the YAML file `data` as `kind` or raise `ConfigError` naming file, field and rule."""
    if len(data) > MAX_JSON:
        raise ConfigError("yaml-malformed", f"{name} has {len(data)} bytes, limit {MAX_JSON}")
    try:
        value = yaml.load(data, Loader=_StrictLoader)  # noqa: S506 - subclass of SafeLoader
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where is not None else ""
        problem = getattr(error, "problem", None) or "not YAML"
        raise ConfigError("yaml-malformed", f"{name}{line}: {problem}") from None
    try:
        return kind.model_validate_json(json.dumps(value))
    except ValidationError as error:
        raise ConfigError("config-invalid", f"{name}: {describe(kind, error)}") from None
    except (TypeError, ValueError):
        raise ConfigError("yaml-malformed", f"{name} holds values JSON cannot express") from None


def canonical_json(value: Any) -> bytes:
    """Return the RFC 8785 form of `value` (objects with ASCII names, no floats)."""
    _only_canonical(value)
    return _CANONICAL.encode(value).encode()


def length_prefixed(*parts: bytes) -> bytes:
    """Return u64 big-endian length and bytes of each part, so no two lists of parts collide."""
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def unhex(text: str, *, size: int, what: str) -> bytes:
    """Decode exactly `size` bytes of lower- or upper-case hex."""
    if len(text) != 2 * size:
        raise Malformed("field-invalid", f"{what} has {len(text)} characters, not {2 * size}")
    try:
        return binascii.unhexlify(text)
    except (binascii.Error, ValueError):
        raise Malformed("field-invalid", f"{what} is not hex") from None


def b64(data: bytes) -> str:
    """Encode standard base64 with padding (RFC 4648 section 4)."""
    return base64.b64encode(data).decode()


def unb64(text: str, *, what: str) -> bytes:
    """Decode canonical standard base64 with padding."""
    if len(text) % 4 or "-" in text or "_" in text:
        raise Malformed("field-invalid", f"{what} is not base64 with padding")
    return _unb64(text, what=what)


def b64url(data: bytes) -> str:
    """Encode base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64url(text: str, *, what: str) -> bytes:
    """Decode canonical base64url without padding."""
    if "+" in text or "/" in text or "=" in text:
        raise Malformed("field-invalid", f"{what} is not base64url without padding")
    return _unb64(text, what=what)


def _unb64(text: str, *, what: str) -> bytes:
    """Decode either alphabet, padded or not, by pydantic's decoder: `binascii` takes eight times.

    It refuses unused bits that are set, which would give two texts for one value.
    """
    if not text:
        return b""
    if "\\" in text:  # would be another character of the JSON string
        raise Malformed("field-invalid", f"{what} is not base64")
    try:
        return _BASE64.validate_json(f'"{text}"')
    except (ValidationError, UnicodeEncodeError):
        raise Malformed("field-invalid", f"{what} is not canonical base64") from None


def describe(kind: type[BaseModel], error: ValidationError) -> str:
    """Say which fields of `kind` break which rule; an undeclared field name is not repeated."""
    lines = []
    for item in error.errors(include_input=False, include_url=False)[:5]:
        rule = item["type"].replace("_", " ")
        if item["type"] in ("literal_error", "enum"):  # the schema's words, not the input's
            rule = f"expected {item['ctx']['expected']}"
        # pydantic names the branches of a union by their types; the reader knows only fields
        place = ".".join(str(part) for part in item["loc"] if "[" not in str(part))
        if item["type"] == "extra_forbidden":
            parent = ".".join(str(part) for part in item["loc"][:-1]) or kind.__name__
            lines.append(f"{parent}: unknown field")
        elif item["type"] == "value_error":
            lines.append(f"{place or kind.__name__}: {item['msg'].removeprefix('Value error, ')}")
        else:
            lines.append(f"{place or kind.__name__}: {rule}")
    return "; ".join(lines)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys (PyYAML keeps the last one silently) and aliases."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):  # a few lines of aliases expand to gigabytes
            mark = self.get_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, "keys must be strings", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, "duplicate key", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 would turn dates into datetime objects and merge keys into silent overrides.
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if not tag.endswith((":timestamp", ":merge"))]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _only_canonical(value: Any) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if not isinstance(name, str) or not name.isascii():
                raise TypeError("canonical JSON names are ASCII strings")
            if not isinstance(item, _PLAIN):
                _only_canonical(item)
    elif isinstance(value, list | tuple):
        for item in value:
            if not isinstance(item, _PLAIN):
                _only_canonical(item)
    elif not isinstance(value, _PLAIN):
        raise TypeError(f"canonical JSON has no {type(value).__name__}")
