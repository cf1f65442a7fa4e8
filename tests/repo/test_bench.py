"""What the bench says of a promise: kept, broken, or out of this machine's reach."""

from __future__ import annotations

import pytest

from scripts.bench_suites.__main__ import document, line
from scripts.bench_suites._row import Row, interleaved


@pytest.mark.parametrize(
    ("ours", "floor", "said"),
    [
        (1.4, None, "promised 1.5"),
        (1.6, None, "promised 1.5  BROKEN"),
        (1.6, 1.49, "(its steps alone 1.49)  promised 1.5  BROKEN"),
        (1.6, 1.51, "(its steps alone 1.51)  promised 1.5  OUT OF REACH HERE"),
        (1.4, 1.51, "(its steps alone 1.51)  promised 1.5"),
    ],
)
def test_a_promise_is_broken_only_where_it_could_be_kept(ours, floor, said):
    row = Row("ours", ours, "peer", 1.0, at_most=1.5, floor=floor)
    assert line(row).endswith(said)
    assert row.broken is said.endswith("BROKEN")
    assert document("suite", row)["kept"] is (ours <= 1.5)
    assert document("suite", row)["reachable"] is (floor is None or floor <= 1.5)


def test_both_are_timed_by_turns():
    calls: list[str] = []
    interleaved(lambda: calls.append("ours"), lambda: calls.append("peer"), rounds=3)
    assert calls == ["ours", "peer"] * 3
