"""Families in, Prometheus' text format 0.0.4 out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from server.telemetry.instruments import Distribution, Family, Instrument, Point
from server.telemetry.vocabulary import Attributes, Scalar

MEDIA = b"text/plain; version=0.0.4; charset=utf-8"


def text(families: Iterable[Family]) -> bytes:
    """Return the exposition; families of one instrument are merged, names are in order."""
    merged: dict[str, tuple[Instrument, list[Point]]] = {}
    for family in families:
        _, points = merged.setdefault(family.instrument.family, (family.instrument, []))
        points.extend(family.points)
    lines: list[str] = []
    for name in sorted(merged):
        instrument, points = merged[name]
        full = f"{name}_total" if instrument.kind == "counter" else name
        lines += (f"# HELP {full} {_help(instrument.text)}", f"# TYPE {full} {instrument.kind}")
        for point in points:
            lines += _samples(instrument, point, full)
    return ("\n".join(lines) + "\n").encode() if lines else b""


def _samples(instrument: Instrument, point: Point, name: str) -> Iterator[str]:
    if not isinstance(point.value, Distribution):
        yield f"{name}{_labels(instrument, point.attributes)} {_number(point.value)}"
        return
    bounds = (*(_number(bound) for bound in instrument.bounds), "+Inf")
    for bound, count in zip(bounds, accumulate(point.value.counts), strict=True):
        yield f"{name}_bucket{_labels(instrument, (*point.attributes, ('le', bound)))} {count}"
    yield f"{name}_sum{_labels(instrument, point.attributes)} {_number(point.value.total)}"
    yield f"{name}_count{_labels(instrument, point.attributes)} {sum(point.value.counts)}"


def _labels(instrument: Instrument, attributes: Attributes) -> str:
    if not attributes:
        return ""
    pairs = ",".join(f'{instrument.label(name)}="{_escaped(value)}"' for name, value in attributes)
    return f"{{{pairs}}}"


def _escaped(value: Scalar) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _help(words: str) -> str:
    return words.replace("\\", r"\\").replace("\n", r"\n")


def _number(value: float) -> str:
    return repr(int(value)) if value == int(value) and abs(value) < 2**53 else repr(float(value))
