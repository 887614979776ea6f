"""Check that summaries of parts are those of the whole, within the errors stated."""

import numpy as np
import polars as pl
import pytest

from fmray import moments


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
    assert moments.distinct(merged) == pytest.approx(exact, rel=0 if exact < moments.SMALLEST_HASHES else 0.06)


def test_ranks_of_many_parts_stay_small_and_within_the_stated_error():
    random = np.random.default_rng(3)
    parts = [random.normal(place % 7, 1 + place % 3, 2000) for place in range(300)]
    points = moments.ranks(pl.Series(parts[0]))
    for part in parts[1:]:
        points = moments.merge_ranks(points, moments.ranks(pl.Series(part)))
        assert len(points[0]) <= 2 * moments.MOST_POINTS
    everything = np.sort(np.concatenate(parts))
    shares = [0.001, 0.1, 0.5, 0.9, 0.999]
    ranks = np.searchsorted(everything, moments.quantiles(points, shares)) / len(everything)
    num_thinned = 300 * moments.POINTS // moments.MOST_POINTS
    stated = 1 / (2 * moments.POINTS) + num_thinned / (2 * moments.MOST_POINTS)
    assert np.abs(ranks - shares).max() < stated
    assert points[1].sum() == pytest.approx(len(everything))


def test_the_sample_of_a_long_part_does_not_beat_in_time_with_its_rows():
    hours = pl.Series(np.arange(8 * moments.SAMPLED) % 24)  # a fixed stride of 8 would see three hours only
    found = moments.quantiles(moments.ranks(hours), [0.25, 0.5, 0.75])
    assert found == pytest.approx(np.quantile(hours.to_numpy(), [0.25, 0.5, 0.75]), abs=1)


def test_counts_of_too_many_levels_keep_the_most_frequent_and_say_so():
    assert moments.levels(pl.Series(["b", "a", "a", "c", None]), 2) == ({"a": 2, "b": 1}, True)
    assert moments.levels(pl.Series(["b", "a", "a"]), 2) == ({"a": 2, "b": 1}, False)
    assert moments.merge_levels({"a": 2, "b": 1}, {"c": 1, "b": 4}, 2) == ({"b": 5, "a": 2}, True)


@pytest.mark.parametrize(
    ("level", "name"), [(1, "1"), (1.0, "1"), (1.5, "1.5"), (True, "True"), ("1.0", "1.0"), (float("inf"), "inf")]
)
def test_a_whole_number_has_one_name_in_every_type(level, name):
    assert moments.spell(level) == name
