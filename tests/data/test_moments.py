import numpy as np
import polars as pl
import pytest

from fmray.data import moments


def test_moments_of_parts_add_up_to_those_of_the_whole():
    values = np.random.default_rng(0).normal(1e6, 1e-3, 1000)
    parts = [moments.numbers(pl.DataFrame({"x": part}), ["x"]) for part in np.split(values, [10, 11, 500])]
    merged = parts[0]
    for part in parts[1:]:
        merged = moments.merge(merged, part)
    count, mean, squares, low, high = merged["x"]
    assert (count, low, high) == (1000, values.min(), values.max())
    assert mean == pytest.approx(values.mean(), rel=1e-15)
    assert squares == pytest.approx(((values - values.mean()) ** 2).sum(), rel=1e-5)


def test_no_values_are_no_moments():
    empty = moments.numbers(pl.DataFrame({"x": pl.Series([None], dtype=pl.Float64)}), ["x"])
    some = moments.numbers(pl.DataFrame({"x": [1.0, 3.0]}), ["x"])
    assert empty["x"][0] == 0
    assert moments.merge(empty, some) == some == moments.merge(some, empty)


def test_quantiles_of_few_rows_are_exact_and_those_of_many_within_the_stated_error():
    random = np.random.default_rng(1)
    shares = [0.0, 0.01, 0.5, 0.99, 1.0]
    few = random.normal(size=700)
    points = moments.merge_ranks(moments.ranks(pl.Series(few[:300])), moments.ranks(pl.Series(few[300:])))
    assert moments.quantiles(points, shares) == pytest.approx(np.quantile(few, shares))
    many = random.gamma(0.5, size=400_000)
    points = moments.merge_ranks(moments.ranks(pl.Series(many[:300_000])), moments.ranks(pl.Series(many[300_000:])))
    found = moments.quantiles(points, shares[1:4])
    ranks = [(many < value).mean() for value in found]
    assert np.abs(np.array(ranks) - shares[1:4]).max() < 1 / (2 * moments.POINTS) + 1.5 / moments.SAMPLED**0.5


@pytest.mark.parametrize("num_distinct", [10, 1000, 50_000])
def test_distinct_values_are_counted_within_the_stated_error(num_distinct):
    values = pl.Series(np.random.default_rng(2).integers(0, num_distinct, 200_000))
    parts = [moments.smallest_hashes(part.unique()) for part in (values[:50_000], values[50_000:])]
    merged = moments.merge_hashes(*parts)
    exact = values.n_unique()
    assert moments.distinct(merged) == pytest.approx(exact, rel=0 if exact < moments.SMALLEST_HASHES else 0.12)
