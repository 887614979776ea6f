"""Show which columns are taken for names of rows: by evidence, never because all values differ."""

import numpy as np
import polars as pl
import pytest

from fmray.data.auto import Auto
from fmray.data.row_names import first_look, is_related, looks_of, marks_of, merge_marks, why_a_name
from fmray.schema import Column, Schema
from fmray.spec.components import steps

N = 1000
RANDOM = np.random.default_rng(3)
NOISE = RANDOM.normal(size=N)
WIDE = np.array(RANDOM.choice(2_000_000, N, replace=False))
SHUFFLED = RANDOM.permutation(N)


def learned(values, target, keep=(), kind="number"):
    frame = pl.DataFrame({"x": values, "other": NOISE})
    schema = Schema((Column("x", kind), Column("other", "number")))
    step, targets = Auto(steps.Auto(keep=keep)), pl.DataFrame({"y": target})
    parts = [
        step.fit(part, schema, goal)
        for part, goal in zip(frame.iter_slices(300), targets.iter_slices(300), strict=False)
    ]
    merged = parts[0]
    for part in parts[1:]:
        merged = step.merge(merged, part)
    return step.learn(merged, schema)


def is_left_out(values, target, **more):
    return "x" not in [column.name for column in learned(values, target, **more).schema.columns]


@pytest.mark.parametrize("target", [WIDE * 2.0, NOISE, np.where(WIDE > 1_000_000, "a", "b")])
@pytest.mark.parametrize("values", [WIDE, 1_600_000_000 + 37 * WIDE, 1_600_000_000_000_000_000 + 10**9 * WIDE])
def test_distinct_integers_are_no_ids_for_that(values, target):
    assert not is_left_out(values, target)


def test_a_feature_by_which_the_file_is_sorted_is_kept_if_the_target_depends_on_it():
    assert not is_left_out(np.sort(WIDE), np.sort(WIDE) + 1000 * NOISE)
    assert is_left_out(np.sort(WIDE), NOISE)


@pytest.mark.parametrize(
    ("values", "target"),
    [
        (np.arange(N), NOISE),
        (np.arange(N), np.arange(N) / 100 + NOISE),  # a trend over time is no reason to keep a counter
        (10_000 - 5 * np.arange(N), NOISE),
        (SHUFFLED, NOISE),
        (SHUFFLED[: N // 2].repeat(1).tolist() + [None] * (N // 2), NOISE),
        (2_000_000_000_000 + 3_600 * np.arange(N), NOISE),
        (5_125_550_000 + 7 * WIDE, NOISE),  # telephones
        (RANDOM.integers(0, 2**62, N), NOISE),
    ],
    ids=["counter", "trend", "downward", "shuffled", "half missing", "stride", "telephone", "hash"],
)
def test_counters_telephones_and_hashes_are_left_out_and_it_is_said_how_to_keep_them(values, target):
    fitted = learned(values, target)
    assert is_left_out(values, target)
    assert fitted.notes[0].startswith("auto leaves out 'x': it names rows:")
    assert fitted.notes[0].endswith("steps: [{auto: {keep: [x]}}] keeps it")
    assert not is_left_out(values, target, keep=["x"])


def test_a_shuffled_counter_that_explains_the_target_is_a_rank_and_is_kept():
    assert not is_left_out(SHUFFLED, np.sin(SHUFFLED / 100) + NOISE / 10)


def test_zip_codes_that_repeat_are_no_names():
    assert not is_left_out(RANDOM.integers(10_000, 99_999, 200)[RANDOM.integers(0, 200, N)], NOISE)


@pytest.mark.parametrize(
    ("values", "look"),
    [
        ([f"a1b2c3d4-0000-4000-8000-{i:012x}" for i in range(9)], "UUIDs"),
        ([f"{i * 2654435761:08x}" for i in range(2, 9)], "hashes"),
        ([f"cust_{i:05}" for i in range(9)], "numbered names"),
        (["aX9", "9-b", "zz3"], "codes"),
        (["anna", "bert"], "single words"),
        (["a sentence of words", "and another"], ""),
    ],
)
def test_text_that_looks_like_names_is_told_from_free_text(values, look):
    assert first_look(looks_of(pl.Series(values))) == look


def test_free_text_is_left_out_as_what_it_is():
    texts = [f"this is remark {i} of many about {WIDE[i]} things" for i in range(N)]
    note = learned(texts, NOISE, kind="text").notes[0]
    assert "auto leaves out 'x': it is free text: 1000 of 1000 values are distinct" in note


def test_chance_is_hardly_ever_taken_for_a_relation():
    random = np.random.default_rng(0)
    found = 0
    for _ in range(300):
        target = np.stack([random.random(500) > 0.9, random.normal(size=500)], axis=1).astype(float)
        found += is_related(marks_of(pl.Series(random.permutation(900)[:500]), target).sample)
    assert found == 0


def test_summaries_of_parts_are_the_summary_of_the_whole_in_any_grouping():
    values, targets = pl.Series(WIDE * 6), NOISE[:, None]
    whole = marks_of(values, targets)
    parts = [marks_of(values[start : start + 90], targets[start : start + 90]) for start in range(0, N, 90)]
    merged = None
    for part in reversed(parts):
        merged = merge_marks(part, merged)
    assert (merged.stride, merged.low, merged.high, merged.rising) == (whole.stride, whole.low, whole.high, False)
    assert why_a_name(merged, N) == why_a_name(whole, N)
    np.testing.assert_array_equal(merged.sample[0], whole.sample[0])
