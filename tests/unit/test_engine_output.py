"""Engine output: only levels and places of known files leave."""

from hypothesis import given
from hypothesis import strategies as st

from server.engine.output import LONGEST_LINE, Lines, Site

FILES = frozenset({"core.py", "loader.py"})
LOG = b"(EngineCore pid=42) ERROR 11-25 02:41:37 [v1/engine/core.py:129] CANARY\n"
PLAIN = b"WARNING 11-25 02:41:37 [loader.py:7] CANARY\n"
FRAME = (
    b"(EngineCore pid=42) ERROR 11-25 02:41:37 [core.py:9] "
    b'  File "/opt/x/loader.py", line 5, in f\n'
)


def sites(data, size=None):
    lines = Lines(FILES)
    step = size or len(data) or 1
    found = [s for n in range(0, len(data), step) for s in lines.feed(data[n : n + step])]
    return found, lines.unread


def test_log_lines_become_level_and_place():
    assert sites(LOG + PLAIN)[0] == [Site("ERROR", "core.py:129"), Site("WARNING", "loader.py:7")]


def test_a_frame_of_a_traceback_becomes_its_place():
    assert sites(FRAME)[0] == [Site("ERROR", "loader.py:5")]
    assert sites(b'  File "/opt/x/loader.py", line 5, in f\n')[0] == [Site("ERROR", "loader.py:5")]


def test_a_file_that_is_not_the_engines_is_withheld():
    assert sites(b"ERROR 11-25 02:41:37 [my_secret.py:1] x\n") == ([], 1)


def test_prose_is_counted_and_withheld():
    assert sites(b"CANARY\nValueError: CANARY\nINFO: core.py:1\n") == ([], 3)


def test_a_line_may_arrive_in_pieces():
    for size in (1, 7, 50):
        assert sites(LOG + PLAIN + FRAME, size)[0] == sites(LOG + PLAIN + FRAME)[0]


def test_a_line_without_end_holds_little_memory():
    lines = Lines(FILES)
    for _ in range(100):
        assert list(lines.feed(b"x" * 60_000)) == []
    assert len(lines._rest) <= LONGEST_LINE


@given(st.binary(max_size=300))
def test_no_bytes_get_past_the_vocabulary(data):
    for site in sites(LOG + data + b"\n" + PLAIN)[0]:
        name, _, number = site.place.partition(":")
        assert name in FILES
        assert number.isdigit()
