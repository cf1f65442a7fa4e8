"""`Confidential`: a value that cannot be printed, formatted, compared or pickled by accident."""

from __future__ import annotations

from typing import Generic, NewType, NoReturn, TypeVar

T = TypeVar("T")


class Confidential(Generic[T]):
    """Hold a prompt, completion or key; only `.reveal()` gives it back."""

    __slots__ = ("_value",)

    def __init__(self, value: T) -> None:
        self._value = value

    def reveal(self) -> T:
        """Return the value; call it in engine, filter and crypto code only."""
        return self._value

    def __repr__(self) -> str:
        return "Confidential(***)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("confidential values are not compared; reveal and use hmac.compare_digest")

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> NoReturn:
        raise TypeError("confidential values are not pickled")


DataKey = NewType("DataKey", Confidential[bytes])
"""The 32-byte key of one model's sealed weights; a KEK wraps it, a broker releases it."""


def data_key(secret: bytes) -> DataKey:
    """Return `secret` as a data key; 32 bytes and nothing else."""
    if len(secret) != 32:
        raise ValueError(f"a data key of {len(secret)} bytes, not 32")
    return DataKey(Confidential(secret))
