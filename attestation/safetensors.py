"""The header of a safetensors file: bytes in, the place of every tensor out."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from types import MappingProxyType
from typing import Any

from attestation.codec import parse_json
from attestation.errors import Malformed

PREFIX = 8
"""A file begins with the header's length, u64 little-endian."""

MAX_HEADER = 100_000_000
"""Longest header the safetensors library reads, in bytes."""

ITEM_BITS = MappingProxyType(
    {
        "BOOL": 8,
        "U8": 8,
        "I8": 8,
        "F8_E5M2": 8,
        "F8_E4M3": 8,
        "F8_E8M0": 8,
        "I16": 16,
        "U16": 16,
        "F16": 16,
        "BF16": 16,
        "I32": 32,
        "U32": 32,
        "F32": 32,
        "I64": 64,
        "U64": 64,
        "F64": 64,
    }
)
"""Bits of an element, by the format's name of its type."""


@dataclass(frozen=True, slots=True)
class TensorPlace:
    """One tensor: its type and shape, and its bytes' offsets from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def header_size(prefix: bytes, *, file_size: int) -> int:
    """Return the length of the header that follows the eight bytes of `prefix`."""
    size = int.from_bytes(prefix, "little")
    if len(prefix) != PREFIX or size > min(MAX_HEADER, file_size - PREFIX):
        raise Malformed("safetensors-header", f"header of {size} bytes in {file_size}")
    return size


def parse_header(header: bytes, *, file_size: int) -> tuple[TensorPlace, ...]:
    """Return the tensors in the order of their bytes, which fill the file without a gap."""
    value = parse_json(header, limit=MAX_HEADER)
    if not isinstance(value, dict):
        raise Malformed("safetensors-header", "a header that is not an object")
    metadata = value.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Malformed("safetensors-header", "metadata that is not text by name")
    data = PREFIX + len(header)
    places = sorted(
        (_place(name, item, data=data) for name, item in value.items()),
        key=lambda place: (place.start, place.end),
    )
    at = data
    for place in places:
        if place.start != at:
            raise Malformed("safetensors-header", f"tensors leave a gap or overlap at {at}")
        at = place.end
    if at != file_size:
        raise Malformed("safetensors-header", f"tensors end at {at} of {file_size} bytes")
    return tuple(places)


def _place(name: str, item: Any, *, data: int) -> TensorPlace:
    if not isinstance(item, dict) or set(item) != {"dtype", "shape", "data_offsets"}:
        raise Malformed("safetensors-header", "a tensor without dtype, shape and data_offsets")
    dtype, shape, offsets = item["dtype"], item["shape"], item["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise Malformed("safetensors-header", "a tensor of unknown dtype")
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2:
        raise Malformed("safetensors-header", "shape and offsets are lists of sizes")
    start, end = offsets
    if 8 * (end - start) != prod(shape) * ITEM_BITS[dtype]:
        raise Malformed("safetensors-header", f"{end - start} bytes do not fit a tensor's shape")
    return TensorPlace(name, dtype, tuple(shape), data + start, data + end)


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)
