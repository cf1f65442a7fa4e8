"""The key agent's wire: what one side writes the other reads, and nothing else."""

import pytest

from attestation.confidential import data_key
from attestation.errors import Malformed
from attestation.keywire import (
    MAX_LINE,
    Ask,
    Grant,
    Noted,
    Refused,
    decode_answer,
    decode_question,
    encode,
)
from attestation.types import Digest

KEY = bytes(range(32))
MANIFEST = Digest.sha256(b"manifest")


def test_a_question_survives_the_wire() -> None:
    assert encode(Ask("qwen3")) == b'{"model":"qwen3","v":1,"want":"data-key"}\n'
    assert decode_question(encode(Ask("qwen3"))) == Ask("qwen3")


def test_a_grant_survives_the_wire_and_does_not_print_its_key() -> None:
    answer = decode_answer(encode(Grant(data_key(KEY), MANIFEST, 3)))
    assert isinstance(answer, Grant)
    assert answer.key.reveal() == KEY
    assert (answer.manifest, answer.minimum_version) == (MANIFEST, 3)
    assert "***" in repr(answer)
    assert KEY.hex() not in repr(answer)


def test_a_refusal_is_the_same_line_in_both_directions() -> None:
    line = encode(Refused("weights-chunk"))
    assert decode_question(line) == decode_answer(line) == Refused("weights-chunk")


def test_a_report_is_answered() -> None:
    assert encode(Noted()) == b'{"v":1}\n'
    assert decode_answer(b'{"v":1}\n') == Noted()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"[]\n",
        b'{"v":1}',  # cut off before the line feed
        b'{"v":2,"want":"data-key","model":"qwen3"}\n',
        b'{"v":1,"want":"kek","model":"qwen3"}\n',
        b'{"v":1,"want":"data-key","model":"../etc"}\n',
        b'{"v":1,"want":"data-key","model":"a","model":"b"}\n',
        b'{"v":1,"want":"data-key","model":"qwen3","also":1}\n',
        b'{"v":1,"refused":"no-such-code"}\n',
        b'{"v":1,"want":"data-key","model":"' + b"a" * MAX_LINE + b'"}\n',
    ],
)
def test_a_stray_question_is_refused(line: bytes) -> None:
    with pytest.raises(Malformed):
        decode_question(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"v":1,"dek":"AAAA","manifest":"sha256:' + b"0" * 64 + b'","minimum_version":1}\n',
        b'{"v":1,"dek":"","manifest":"sha256:' + b"0" * 64 + b'","minimum_version":1}\n',
        encode(Grant(data_key(KEY), MANIFEST, 3)).replace(b":3,", b":0,"),
        encode(Grant(data_key(KEY), MANIFEST, 3)).replace(b"sha256:", b"sha384:"),
        encode(Grant(data_key(KEY), MANIFEST, 3))[:-1],
    ],
)
def test_a_stray_answer_is_refused(line: bytes) -> None:
    with pytest.raises(Malformed):
        decode_answer(line)
