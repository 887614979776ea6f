"""Every record written as JSON and read back is equal: that is all that resuming from a store relies on."""

import json
from dataclasses import FrozenInstanceError, asdict, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmray.records import SPLITS, Ensemble, Interval, Member, Part, Prepared, Scores, SearchAccount, Target
from fmray.schema import Column, Schema

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**40)
NAMES = st.text(max_size=6)
JSON = st.dictionaries(NAMES, NUMBERS | COUNTS | NAMES | st.none() | st.lists(COUNTS, max_size=3), max_size=3)

INTERVALS = st.builds(Interval, NUMBERS, NUMBERS, NUMBERS, COUNTS, NAMES)
METRICS = st.dictionaries(NAMES, INTERVALS, max_size=3)
TABLES = st.dictionaries(NAMES, METRICS, max_size=3)
TARGETS = st.builds(
    Target,
    st.lists(NAMES, min_size=1, max_size=2).map(tuple),
    st.sampled_from(["number", "class"]),
    st.lists(NAMES, max_size=3).map(tuple),
    st.integers(-1, 2),
    *[st.lists(NUMBERS, max_size=2).map(tuple)] * 2,
    *[st.lists(COUNTS, max_size=3).map(tuple)] * 2,
)
PARTS = st.lists(st.builds(Part, NAMES, COUNTS, COUNTS), max_size=2).map(tuple)
SCHEMAS = st.lists(st.builds(Column, NAMES, st.just("one_hot"), COUNTS, st.lists(NAMES, max_size=2).map(tuple)), max_size=3)  # fmt: skip

RECORDS = {
    "prepared": st.builds(
        Prepared,
        fingerprint=NAMES,
        root=NAMES,
        schema=SCHEMAS.map(lambda columns: Schema(tuple(columns))),
        target=TARGETS,
        num_lanes=COUNTS,
        parts=st.fixed_dictionaries(dict.fromkeys(SPLITS, PARTS)),
        steps=st.lists(JSON, max_size=2).map(tuple),
        rows=st.dictionaries(NAMES, COUNTS),
        quarantine=st.dictionaries(NAMES, COUNTS),
        test_identity=NAMES,
        slices=st.dictionaries(NAMES, st.lists(NAMES, max_size=3).map(tuple), max_size=2),
        weighted=st.booleans(),
        grouped=st.booleans(),
        notes=st.lists(NAMES, max_size=2).map(tuple),
        split=JSON,
        manifest=st.lists(JSON, max_size=2).map(tuple),
    ),
    "member": st.builds(
        Member,
        index=COUNTS,
        model=JSON,
        params=JSON,
        seed=COUNTS,
        root=NAMES,
        status=st.sampled_from(["finished", "stopped", "failed"]),
        best_epoch=COUNTS,
        epochs=COUNTS,
        val_score=NUMBERS | st.none(),
        tensor_hash=NAMES,
        history=st.lists(st.fixed_dictionaries({"epoch": COUNTS, "metric": NAMES, "value": NUMBERS}), max_size=3).map(
            tuple
        ),
        reason=NAMES,
        role=st.sampled_from(["member", "baseline"]),
    ),
    "ensemble": st.builds(
        Ensemble,
        NAMES,
        st.lists(COUNTS, max_size=3).map(tuple),
        st.lists(NUMBERS, max_size=3).map(tuple),
        NUMBERS | st.none(),
        NAMES,
    ),
    "search": st.builds(
        SearchAccount,
        space=JSON,
        **dict.fromkeys(("num_members", "num_structures", "num_packs", "member_epochs", "full_epochs"), COUNTS),
        seconds=NUMBERS,
        **dict.fromkeys(("rungs", "leaderboard", "finalists", "failed"), st.lists(JSON, max_size=2).map(tuple)),
        selection=JSON,
        diversity=JSON,
    ),
    "scores": st.builds(Scores, NAMES, st.booleans(), METRICS, METRICS, TABLES, METRICS, TABLES, COUNTS, JSON, JSON),
}


@pytest.mark.parametrize("kind", list(RECORDS))
def test_a_record_written_as_json_and_read_is_the_same(kind):
    @given(RECORDS[kind])
    @settings(max_examples=40, deadline=None)
    def check(record):
        again = type(record).from_json(json.loads(json.dumps(record.to_json())))
        assert again == record
        assert {f.name: type(getattr(again, f.name)) for f in fields(again)} == {
            f.name: type(getattr(record, f.name)) for f in fields(record)
        }

    check()


@given(TARGETS)
@settings(max_examples=40, deadline=None)
def test_a_target_written_as_json_and_read_is_the_same(target):
    assert Target.from_json(json.loads(json.dumps(asdict(target)))) == target


def test_a_record_does_not_change():
    interval = Interval(0.5, 0.4, 0.6, 10, "wilson")
    with pytest.raises(FrozenInstanceError):
        interval.value = 0.9  # type: ignore[misc]


def test_rows_of_a_split_are_counted_over_its_parts():
    parts = {"train": (Part("a", 0, 3), Part("b", 3, 4)), "val": (), "test": (Part("c", 0, 2),)}
    target = Target(("y",), "number")
    prepared = Prepared("f", "r", Schema(()), target, 64, parts, (), {}, {}, "t")
    assert [prepared.num_rows(split) for split in SPLITS] == [7, 0, 2]
