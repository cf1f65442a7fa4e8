"""Meters: counts and observations in, families of points out; one dictionary entry a series."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from server.telemetry.instruments import Distribution, Family, Instrument, Point
from server.telemetry.vocabulary import OTHER, Attributes, Vocabulary

MAX_SERIES = 2_000
"""Series of one instrument; further texts are counted together under `_OTHER`."""


@dataclass(slots=True)
class _Cells:
    counts: list[int]
    total: float = 0.0


@dataclass(slots=True)
class Meters:
    """Counts of one process, kept by one thread. What is not in the vocabulary is not kept."""

    vocabulary: Vocabulary
    _sums: dict[Instrument, dict[Attributes, float]] = field(default_factory=dict)
    _cells: dict[Instrument, dict[Attributes, _Cells]] = field(default_factory=dict)

    def add(self, counter: Instrument, values: Mapping[str, object], *, count: int = 1) -> None:
        """Add `count` to the series of `counter` that `values` name."""
        series = self._sums.setdefault(counter, {})
        at = self._series(counter, values, known=series)
        series[at] = series.get(at, 0) + count

    def observe(self, histogram: Instrument, values: Mapping[str, object], *, value: float) -> None:
        """Count `value` in the bucket it belongs to."""
        series = self._cells.setdefault(histogram, {})
        at = self._series(histogram, values, known=series)
        cells = series.get(at)
        if cells is None:
            cells = series[at] = _Cells([0] * (len(histogram.bounds) + 1))
        cells.counts[bisect_left(histogram.bounds, value)] += 1
        cells.total += value

    def families(self) -> tuple[Family, ...]:
        """Return a copy of everything counted so far."""
        sums = (
            Family(instrument, tuple(Point(at, value) for at, value in series.items()))
            for instrument, series in self._sums.items()
        )
        cells = (
            Family(
                instrument,
                tuple(
                    Point(at, Distribution(tuple(cells.counts), cells.total))
                    for at, cells in series.items()
                ),
            )
            for instrument, series in self._cells.items()
        )
        return (*sums, *cells)

    def _series(
        self,
        instrument: Instrument,
        values: Mapping[str, object],
        *,
        known: Mapping[Attributes, object],
    ) -> Attributes:
        at = self.vocabulary.rebuilt(values, instrument.attributes)
        if at in known or len(known) < MAX_SERIES:
            return at
        return tuple((name, OTHER if isinstance(value, str) else value) for name, value in at)


def gauge(
    instrument: Instrument,
    value: float,
    values: Mapping[str, object] | None = None,
    *,
    vocabulary: Vocabulary,
) -> Family:
    """Return a family of one point that was read just now."""
    attributes = vocabulary.rebuilt(values or {}, instrument.attributes)
    return Family(instrument, (Point(attributes, value),))
