"""Check on fewer rows what `benchmarks/prepare.py` measures on many."""

import pytest
from benchmarks.prepare import measure

NUM_ROWS = 1_000_000


@pytest.mark.slow
@pytest.mark.cluster
def test_preparing_over_ray_keeps_its_distance_to_the_alternatives():
    times = measure(NUM_ROWS)
    assert times.ray_data / times.bare >= 4
    assert times.ray_data / times.whole >= 2.5  # with hashes, split, equal rows, and a record that is safe on disk
    assert times.bare / times.polars <= 3.5
