"""Endorsements are files that somebody keeps; a missing one leaves the question open."""

import pytest

from attestation.endorse import FileEndorser
from attestation.errors import Malformed, Undecidable
from attestation.tdx.quote import collateral_key
from tests.appraisal_world import NOW, World
from tests.shared_data import vectors


@pytest.fixture(scope="module")
def quote() -> bytes:
    return World().evidence().quote


def test_a_file_is_used_for_every_quote(tmp_path, quote):
    path = tmp_path / "collateral.json"
    path.write_bytes(World().guest().endorsements(NOW).tdx)
    assert FileEndorser(path).endorsements(quote).tdx == path.read_bytes()


def test_a_directory_is_searched_by_platform_family_and_authority(tmp_path, quote):
    (tmp_path / f"{collateral_key(quote)}.json").write_bytes(b"{}")
    (tmp_path / "000000000000-platform.json").write_bytes(b"other")
    assert FileEndorser(tmp_path).endorsements(quote).tdx == b"{}"


def test_a_genuine_quote_names_its_collateral():
    data = vectors("tdx-v4-00806f-gcp-cos-ccel", "quote.bin").read_bytes()
    assert collateral_key(data) == "00806f050000-platform"


def test_missing_collateral_cannot_be_decided(tmp_path, quote):
    for path in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(Undecidable, match="endorsements-missing"):
            FileEndorser(path).endorsements(quote)


def test_collateral_over_the_limit_is_not_read(tmp_path, quote):
    path = tmp_path / "collateral.json"
    path.write_bytes(bytes(1024 * 1024 + 1))
    with pytest.raises(Undecidable, match="endorsements-missing"):
        FileEndorser(path).endorsements(quote)


def test_a_quote_that_is_none_picks_no_file(tmp_path):
    with pytest.raises(Malformed):
        FileEndorser(tmp_path).endorsements(b"no quote")
