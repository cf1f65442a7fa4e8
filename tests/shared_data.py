"""Where the genuine attestation vectors are, or a reason to skip."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[1].parent / "shared"


def vectors(*parts: str) -> Path:
    """Return a path below the shared vectors, or skip with a reason where they are absent."""
    path = SHARED.joinpath("vectors", *parts)
    if not path.exists():
        pytest.skip("genuine attestation vectors (../shared/vectors) are not on this machine")
    return path
