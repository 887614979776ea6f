"""What MLflow is told of a run follows from its records alone."""

import math
import re
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from fmray.events import Epoch, Logged, Note, Place
from fmray.records import Member
from fmray.track.entries import MOST_NESTED, MOST_TEXT, cut, flat, nested_of, plain, progress_of

# as MLflow checks names: characters, and no path that would be another one when normalised
ACCEPTED = re.compile(r"^[/\w.\- :]*$")


def member(index, score, status="finished"):
    return Member(
        index=index, model={"name": "mlp", "params": {}}, params={}, seed=0, root="", status=status, best_epoch=1,
        epochs=1, val_score=score, tensor_hash="",
    )  # fmt: skip


@settings(max_examples=50)
@given(st.text(max_size=400))
def test_every_name_is_one_that_mlflow_accepts(name):
    import posixpath

    spelled = plain(name)
    assert ACCEPTED.match(spelled)
    assert len(spelled) <= 250
    assert posixpath.normpath(spelled) == spelled
    assert spelled not in (".", "..")
    assert not spelled.startswith("/")


@settings(max_examples=50)
@given(st.lists(st.text(max_size=300), unique=True, max_size=6))
def test_names_that_differ_stay_apart(names):
    assert len({plain(name) for name in names}) == len(names)


def test_names_that_mlflow_accepts_stay_as_they_are():
    for name in ("roc_auc", "test/roc_auc/low", "train.optimizer.adamw.lr", "member-00003"):
        assert plain(name) == name


def test_a_long_value_is_cut_and_says_so():
    assert cut("a" * MOST_TEXT, MOST_TEXT) == "a" * MOST_TEXT
    text = cut("a" * 12_345, MOST_TEXT)
    assert len(text) == MOST_TEXT
    assert text.endswith("… (cut, 12,345 characters)")


def test_settings_are_told_by_dotted_path_and_secrets_are_hidden():
    job = {"train": {"epochs": 3, "optimizer": {"adamw": {"lr": 0.1}}}, "steps": ["auto"], "api_key": "hunter2"}
    assert flat(job) == {
        "train.epochs": "3", "train.optimizer.adamw.lr": "0.1", "steps": '["auto"]', "api_key": "***",
    }  # fmt: skip
    many = {"labels": {str(i): "x" for i in range(51)}}
    assert list(flat(many)) == ["labels"]


def test_members_that_speak_come_first_then_the_best_others():
    members = [member(i, i / 1000) for i in range(300)] + [member(300, None, "failed"), member(301, math.nan)]
    told = nested_of(members, {0, 5}, higher_is_better=True)
    assert [m.index for m in told] == [5, 0, *range(299, 299 - MOST_NESTED + 2, -1)]
    told = nested_of(members, {5}, higher_is_better=False)
    assert [m.index for m in told[:4]] == [5, 0, 1, 2]
    assert {300, 301}.isdisjoint(m.index for m in told)


def test_progress_counts_the_epochs_of_the_runs_own_members():
    epoch = Epoch(epoch=1, primary="f1[a]", alive=2)
    told = [Note("x"), epoch, replace(epoch, best=0.5, place=Place("baseline")), replace(epoch, best=0.75, alive=1)]
    events = [Logged(5.0, "train", event) for event in told]
    points = [(p.metric, p.step, p.value) for p in progress_of(events)]
    best = plain("progress/best_f1[a]")
    assert points == [
        ("progress/members_alive", 1, 2), (best, 2, 0.75), ("progress/members_alive", 2, 1),
    ]  # fmt: skip
