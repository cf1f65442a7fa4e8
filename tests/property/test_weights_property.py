"""Any file, any size, any span comes back; any changed byte of any file of a package is refused."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.errors import Malformed, NotAuthentic, Refusal
from attestation.weights import SealedModel
from tests.sealed_world import CHUNK, DEK, SIGNER, audit, safetensors, seal_model, write_model

SIZES = st.one_of(
    st.integers(0, 2000),
    st.builds(
        lambda chunks, around: max(0, chunks * CHUNK + around),
        st.integers(1, 3),
        st.integers(-17, 17),
    ),
)


@settings(max_examples=25)
@given(size=SIZES, cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)), workers=st.integers(1, 3))
def test_what_is_sealed_comes_back(size: int, cuts: tuple[float, float], workers: int) -> None:
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    with tempfile.TemporaryDirectory() as name:
        model, out = Path(name) / "model", Path(name) / "out"
        model.mkdir()
        (model / "model.safetensors").write_bytes(safetensors({"w": b"weights"}))
        (model / "config.json").write_bytes(content)
        manifest = seal_model(model, out, workers=workers)
        opened = SealedModel.open(out, signer=SIGNER.public_key())
        with opened.unlock(
            DEK, manifest=manifest.digest, minimum_version=1, workers=workers
        ) as unlocked:
            whole = memoryview(bytearray(size))
            unlocked.unseal_into(manifest.files[0], whole)
            assert whole == content
            start, end = sorted(round(cut * size) for cut in cuts)
            part = memoryview(bytearray(end - start))
            unlocked.unseal_into(manifest.files[0], part, offset=start)
            assert part == content[start:end]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("property")
    model = write_model(top / "model", shard_bytes=3000)
    seal_model(model, top / "out", version=7)
    return top / "out"


@settings(max_examples=150)
@given(which=st.integers(0, 20), place=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
def test_no_byte_of_a_package_can_change(
    package: Path, which: int, place: float, mask: int
) -> None:
    manifest = SealedModel.open(package, signer=SIGNER.public_key()).manifest
    paths = sorted(path for path in package.iterdir() if path.stat().st_size)
    path = paths[which % len(paths)]
    good = path.read_bytes()
    bad = bytearray(good)
    bad[int(place * len(bad))] ^= mask
    path.write_bytes(bad)
    try:
        with pytest.raises((Malformed, NotAuthentic)):
            audit(package, manifest)
    finally:
        path.write_bytes(good)


@settings(max_examples=60)
@given(which=st.integers(0, 20), data=st.binary(max_size=200))
def test_any_other_file_in_its_place_is_a_refusal_and_never_a_crash(
    package: Path, which: int, data: bytes
) -> None:
    manifest = SealedModel.open(package, signer=SIGNER.public_key()).manifest
    paths = sorted(path for path in package.iterdir() if path.stat().st_size)
    path = paths[which % len(paths)]
    good = path.read_bytes()
    path.write_bytes(data)
    try:
        with pytest.raises(Refusal):
            audit(package, manifest)
    finally:
        path.write_bytes(good)
