"""Group the wanted tensors of a file into spans that are unsealed at once, and skip the rest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attestation.safetensors import TensorPlace


@dataclass(frozen=True, slots=True)
class Window:
    """Neighbouring tensors and the span of the file that holds them, in bytes."""

    places: tuple[TensorPlace, ...]

    @property
    def start(self) -> int:
        """First byte of the span."""
        return self.places[0].start

    @property
    def size(self) -> int:
        """Length of the span."""
        return self.places[-1].end - self.start


def windows(wanted: Sequence[TensorPlace], *, limit: int, gap: int) -> Iterator[Window]:
    """Yield windows over `wanted` in file order.

    A window ends before it exceeds `limit` bytes (a larger tensor is a window of its own), and
    where more than `gap` unwanted bytes follow.
    """
    group: list[TensorPlace] = []
    for place in wanted:
        if group and (place.end - group[0].start > limit or place.start - group[-1].end > gap):
            yield Window(tuple(group))
            group = []
        group.append(place)
    if group:
        yield Window(tuple(group))
