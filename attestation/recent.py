"""Exact input of a pure function in, what it made of the same before out; a few are kept."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """The last few values that were made, found by comparing the whole of what they were made of.

    Holds what bytes say, never whether they are to be believed: signatures and dates are checked
    at each use. Nothing is looked up by a hash, so nobody can make two inputs look alike. Threads
    may share one; two that keep the same value at once cost a place, no more.
    """

    __slots__ = ("_kept",)

    def __init__(self, size: int) -> None:
        """Keep `size` values; the oldest makes room."""
        self._kept: deque[tuple[K, V]] = deque(maxlen=size)

    def find(self, key: K) -> V | None:
        """Return the value made of `key`, if it is kept."""
        for known, value in tuple(self._kept):
            if known == key:
                return value
        return None

    def keep(self, key: K, value: V) -> V:
        """Keep and return `value`."""
        self._kept.append((key, value))
        return value
