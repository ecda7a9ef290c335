"""Small crystals and small models that several rooms are tested with."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHEMELEON_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def structures() -> list:
    """Well-known crystals of 1 to 10 atoms, and random ones of up to 20."""
    from samples import known_structures, random_structures

    return known_structures() + random_structures(12, seed=0)
