"""Known answers of the chunk format, computed with openssl(1), and a second implementation."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation import merkle
from attestation.confidential import data_key
from attestation.errors import NotAuthentic
from attestation.sealing import TAG, FileCipher, FileShape, chunk_count, commitment
from tests import sealed_reference as reference
from tests.sealed_world import DEK, SIGNER, seal_model, write_model

GENERATION = bytes(range(32))
KEY = data_key(bytes(range(32, 64)))
SHAPE = FileShape(GENERATION, file=3, count=2, size=1_500_000)


def test_the_additional_data_is_spelled_as_documented() -> None:
    assert SHAPE.chunk(1) == (
        b"tacit/v1/sealed/chunk"
         b"\0\0\0\0\0\0\0\x20" + GENERATION
        + b"\0\0\0\0\0\0\0\x04" + b"\0\0\0\x03"
        + b"\0\0\0\0\0\0\0\x08" + b"\0\0\0\0\0\0\0\x01"
        + b"\0\0\0\0\0\0\0\x08" + b"\0\0\0\0\0\0\0\x02"
        + b"\0\0\0\0\0\0\0\x08" + b"\0\0\0\0\0\x16\xe3\x60"
    )  # fmt: skip


def test_a_commitment_is_the_known_one() -> None:
    assert (
        commitment(KEY, generation=GENERATION).hex()
        == "2b220f90c83dc43327947472306aef3684f444428829680c16da64a27b7b5ad4"
    )


def test_a_chunk_is_sealed_to_the_known_bytes() -> None:
    out = bytearray(5 + TAG)
    FileCipher(KEY, shape=SHAPE).seal_into(1, b"Qwen3", out=out)
    assert out.hex() == "253ac6b46a14396dd9ea22ae228a16e3e5f6297307"


def test_a_chunk_opens_at_its_own_place_only() -> None:
    sealed, out = bytearray(5 + TAG), bytearray(5)
    FileCipher(KEY, shape=SHAPE).seal_into(1, b"Qwen3", out=sealed)
    body, tag = memoryview(sealed)[:5], bytes(sealed[5:])
    FileCipher(KEY, shape=SHAPE).open_into(1, [body], tag, parts=[memoryview(out)])
    assert out == b"Qwen3"
    first, second = bytearray(2), bytearray(3)
    places = [memoryview(first), memoryview(second)]
    FileCipher(KEY, shape=SHAPE).open_into(1, [body], tag, parts=places)
    assert first + second == b"Qwen3"
    others = [
        (KEY, SHAPE, 0),
        (data_key(bytes(32)), SHAPE, 1),
        (KEY, FileShape(bytes(32), 3, 2, 1_500_000), 1),
        (KEY, FileShape(GENERATION, 4, 2, 1_500_000), 1),
        (KEY, FileShape(GENERATION, 3, 3, 1_500_000), 1),
        (KEY, FileShape(GENERATION, 3, 2, 1_500_001), 1),
    ]
    for key, shape, index in others:
        first, second = bytearray(b"\xff" * 2), bytearray(b"\xff" * 3)
        places = [memoryview(first), memoryview(second)]
        with pytest.raises(NotAuthentic):
            FileCipher(key, shape=shape).open_into(index, [body], tag, parts=places)
        assert first + second == bytes(5)


@given(
    chunk=st.binary(min_size=1, max_size=200),
    pieces=st.lists(st.integers(0, 200), max_size=6),
    parts=st.lists(st.integers(0, 200), max_size=6),
)
def test_a_chunk_opens_however_it_is_cut(chunk: bytes, pieces: list[int], parts: list[int]) -> None:
    sealed, opened = bytearray(len(chunk) + TAG), bytearray(b"\xff" * len(chunk))
    FileCipher(KEY, shape=SHAPE).seal_into(1, chunk, out=sealed)
    body, tag = memoryview(sealed)[:-TAG], bytes(sealed[-TAG:])
    FileCipher(KEY, shape=SHAPE).open_into(
        1, cut(body, pieces), tag, parts=cut(memoryview(opened), parts)
    )
    assert opened == chunk


def cut(whole: memoryview, at: list[int]) -> list[memoryview]:
    ends = sorted(min(place, len(whole)) for place in at)
    return [whole[start:end] for start, end in itertools.pairwise([0, *ends, len(whole)])]


@pytest.mark.parametrize(
    ("size", "count"), [(0, 0), (1, 1), (1 << 20, 1), ((1 << 20) + 1, 2), (5 << 20, 5)]
)
def test_an_empty_file_has_no_chunk_and_the_last_may_be_short(size: int, count: int) -> None:
    assert chunk_count(size, chunk_size=1 << 20) == count


def test_roots_are_those_of_rfc_6962() -> None:
    # The reference vectors of Certificate Transparency's own tests.
    leaves = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657",
              "606162636465666768696a6b6c6d6e6f"]  # fmt: skip
    entries = [bytes.fromhex(leaf) for leaf in leaves]
    assert merkle.root([]).hex() == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert merkle.root(entries[:1]).hex() == (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )
    assert merkle.root(entries).hex() == (
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    )
    for count in range(1, 20):
        many = [bytes([n]) for n in range(count)]
        assert merkle.root(many) == reference.mth(many)


def test_a_second_implementation_reads_what_we_seal(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    seal_model(model, tmp_path / "package")
    signer = SIGNER.public_key().public_bytes_raw()
    read = reference.plaintext(tmp_path / "package", signer=signer, dek=DEK.reveal())
    assert read == {path.name: path.read_bytes() for path in model.iterdir()}
