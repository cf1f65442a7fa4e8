"""Windows over a file's tensors: everything wanted once, in order, and little else."""

from hypothesis import given
from hypothesis import strategies as st
from tacit_vllm.windows import windows

from attestation.safetensors import TensorPlace


def places(sizes: list[int]) -> list[TensorPlace]:
    found, at = [], 100
    for number, size in enumerate(sizes):
        found.append(TensorPlace(f"t{number}", "U8", (size,), at, at + size))
        at += size
    return found


@given(
    sizes=st.lists(st.integers(0, 50), max_size=30),
    keep=st.lists(st.booleans(), min_size=30, max_size=30),
    limit=st.integers(1, 100),
    gap=st.integers(0, 40),
)
def test_windows_cover_what_is_wanted_and_no_wide_gap(
    sizes: list[int], keep: list[bool], limit: int, gap: int
) -> None:
    wanted = [place for place, kept in zip(places(sizes), keep, strict=False) if kept]
    found = list(windows(wanted, limit=limit, gap=gap))
    assert [place for window in found for place in window.places] == wanted
    for window in found:
        first, last = window.places[0], window.places[-1]
        assert (window.start, window.size) == (first.start, last.end - first.start)
        assert window.size <= limit or len(window.places) == 1
        pairs = zip(window.places, window.places[1:], strict=False)
        assert all(after.start - before.end <= gap for before, after in pairs)


def test_neighbours_share_a_window_until_it_is_full() -> None:
    found = list(windows(places([10, 10, 10, 10]), limit=25, gap=0))
    assert [len(window.places) for window in found] == [2, 2]
