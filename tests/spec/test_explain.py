import dataclasses
import typing

import pytest

from fmray.errors import SpecError
from fmray.spec import sections
from fmray.spec.explain import SECTIONS, Origin, dotted
from fmray.spec.job import Job
from fmray.spec.load import job_from
from fmray.spec.promotion import Promote
from fmray.spec.schedule import Schedule

SMALL = {"path": "sample:iris", "target": "target"}


def message(**value: object) -> str:
    with pytest.raises(SpecError) as caught:
        job_from({"data": SMALL, **value})
    return str(caught.value)


WORDS = {
    "train.epochs: 'many'. Accepted: a whole number.": {"train": {"epochs": "many"}},
    "train.epochs: '3'. Accepted: a whole number.": {"train": {"epochs": "3"}},
    "train.epochs: 3.0. Accepted: a whole number.": {"train": {"epochs": 3.0}},
    "train.epochs: true. Accepted: a whole number.": {"train": {"epochs": True}},
    "train.epochs: null. Accepted: a whole number.": {"train": {"epochs": None}},
    "train.epochs: 0. Accepted: a number greater than or equal to 1.": {"train": {"epochs": 0}},
    "train.seeds: 'five'. Accepted: a whole number or a map of keys.": {"train": {"seeds": "five"}},
    "train.folds: 'five'. Accepted: a whole number or a map of keys.": {"train": {"folds": "five"}},
    "train.folds: 1. Accepted: a number greater than or equal to 2.": {"train": {"folds": 1}},
    "train.folds.strict: 1. Accepted: true or false.": {"train": {"folds": {"n": 3, "strict": 1}}},
    "train.clip_norm: inf. Accepted: a finite number.": {"train": {"clip_norm": float("inf")}},
    "run.deterministic: 'on'. Accepted: true or false.": {"run": {"deterministic": "on"}},
    "run.gpu: 100. Accepted: 'auto' or true or false.": {"run": {"gpu": 100}},
    "run.threads: 0. Accepted: 'auto' or a number greater than or equal to 1.": {"run": {"threads": 0}},
    "run.workers: -1. Accepted: 'auto' or a number greater than or equal to 0 or [fewest, most], e.g. [1, 4].": {
        "run": {"workers": -1}
    },
    "run.workers: [2, 1]. Accepted: 'auto' or a whole number or [fewest, most], e.g. [1, 4].": {
        "run": {"workers": [2, 1]}
    },
    "run.workers: [1]. Accepted: 'auto' or a whole number or [fewest, most], e.g. [1, 4].": {"run": {"workers": [1]}},
    "run.max_failures: -1. Accepted: a number greater than or equal to 0.": {"run": {"max_failures": -1}},
    "run.prepare: 'spark'. Accepted: 'auto', 'ray', 'local'.": {"run": {"prepare": "spark"}},
    "train: null. Accepted: a map of keys.": {"train": None},
    "split: 'time'. Accepted: a map of keys.": {"split": "time"},
    "steps: 'auto'. Accepted: a list.": {"steps": "auto"},
    "data.target: []. Accepted: a list that is not empty.": {"data": {**SMALL, "target": []}},
    "data.path: ''. Accepted: text that is not empty.": {"data": {**SMALL, "path": ""}},
    "data.labels.1: 1. Accepted: text.": {"data": {**SMALL, "labels": {1: 2}}},
    "name: 'a b'. Accepted: letters, digits, '.', '_' and '-', the first a letter or digit.": {"name": "a b"},
    "data.target: is missing. Only data.path and data.target must be given.": {"data": {"path": "x"}},
    "evaluate.baselines.1: 'best'. Accepted: 'dummy', 'linear'.": {"evaluate": {"baselines": ["linear", "best"]}},
}


@pytest.mark.parametrize("expected", list(WORDS))
def test_a_wrong_kind_is_said_in_the_words_of_a_job_file(expected):
    assert message(**WORDS[expected]) == expected


@pytest.mark.parametrize("keys", [keys for keys in SECTIONS if keys], ids=dotted)
def test_an_unknown_key_of_any_section_is_answered_with_the_nearest(keys):
    known = [f.name for f in dataclasses.fields(SECTIONS[keys])]
    value: object = {f"{known[0]}x": 1}
    value = {("train", "groups"): [value], ("train", "phases"): {"generator": value}}.get(keys, value)
    for key in reversed(keys):
        value = {key: value}
    top = dict(value)
    if keys[0] == "data":
        top = {"data": {**SMALL, **top["data"]}}
    said = message(**top)
    place = {("train", "groups"): (0,), ("train", "phases"): ("generator",)}.get(keys, ())
    assert said.startswith(
        f"{dotted((*keys, *place, known[0] + 'x'))}: unknown key '{known[0]}x'. Did you mean '{known[0]}'?"
    )


def test_every_section_can_name_its_keys():
    kinds = {kind for kind in vars(sections).values() if getattr(kind, "__module__", "") == sections.__name__}
    kinds = {kind for kind in kinds if dataclasses.is_dataclass(kind)}
    assert set(SECTIONS.values()) == {Job, Promote, Schedule, *kinds}
    assert all(typing.get_type_hints(kind) for kind in SECTIONS.values())


def test_a_key_is_placed_by_the_nearest_one_whose_line_is_known():
    origin = Origin(
        "a.yaml", {("train",): ("a.yaml", 4), ("train", "epochs"): ("base.yaml", 9), ("run",): ("--set", 0)}
    )
    assert origin.where(("train", "epochs")) == "base.yaml:9 train.epochs"
    assert origin.where(("train", "optimizer", "lr")) == "a.yaml:4 train.optimizer.lr"
    assert origin.where(("run", "gpu")) == "--set run.gpu"
    assert origin.where(("data", "path")) == "a.yaml data.path"
    assert Origin("").where(("data", "path")) == "data.path"
