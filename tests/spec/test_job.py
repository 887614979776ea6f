import json
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fmray.errors import SpecError
from fmray.spec.job import Job
from fmray.spec.load import job_from, load_job

SMALL = {"data": {"path": "sample:iris", "target": "target"}}
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.sampled_from(["linear", {"mlp": {"width": 8}}, {"mlp": {"width": [4, 2], "dropout": 0.5}}]),
        "steps": st.lists(st.sampled_from(["auto", "standardise", {"clip": {"low": 0, "high": 1}}]), max_size=2),
        "split": st.builds(dict, val=st.floats(0.01, 0.4), test=st.floats(0.01, 0.4), salt=st.integers(0, 9)),
        "train": st.fixed_dictionaries(
            {"epochs": st.integers(1, 99)},
            optional={
                "seeds": st.integers(1, 9) | st.builds(dict, n=st.integers(2, 9), order=st.booleans()),
                "folds": st.none() | st.integers(2, 9) | st.builds(dict, n=st.integers(2, 9)),
                "early_stop": st.none() | st.builds(dict, patience=st.integers(1, 9)),
                "optimizer": st.sampled_from(["sgd", {"adam": {"lr": 0.1, "betas": [0.9, 0.99]}}]),
                "clip_norm": st.none() | st.floats(0.1, 10),
            },
        ),
        "run": st.builds(dict, gpu=st.sampled_from(["auto", True, False]), threads=st.just("auto") | st.integers(1, 4)),
    },
)


@given(SECTIONS)
@settings(max_examples=60, deadline=None)
def test_a_job_written_as_json_and_read_is_the_same(sections):
    job = job_from({**SMALL, **sections})
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_a_job_without_buckets_reads_as_it_always_did():
    plain = job_from(SMALL).to_json()
    assert plain["train"]["order"] == {"chunk_rows": 1024, "window_chunks": 64, "num_lanes": 64}
    assert job_from({**SMALL, "train": {"order": {"bucket": 0}}}).to_json() == plain


def test_a_job_with_buckets_says_so():
    steps = [{"tokenize": {"columns": "text"}}]
    asked = job_from({**SMALL, "steps": steps, "model": "bag_of_embeddings", "train": {"order": {"bucket": 32}}})
    assert asked.to_json()["train"]["order"]["bucket"] == 32
    assert Job.from_json(asked.to_json()) == asked


def test_a_job_does_not_change():
    job = job_from(SMALL)
    with pytest.raises(FrozenInstanceError):
        job.name = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        job.train.epochs = 3  # type: ignore[misc]


def test_short_spellings_mean_the_long_ones():
    short = job_from({"data": {**SMALL["data"], "key": "id"}, "model": "mlp", "train": {"seeds": 3}})
    data = {"path": "sample:iris", "target": ["target"], "key": ["id"]}
    assert short == job_from({"data": data, "model": {"mlp": {}}, "train": {"seeds": {"n": 3, "order": False}}})


def test_the_modules_of_ones_own_code_are_named_once_and_sorted(tmp_path):
    for module in ("nets", "losses"):
        (tmp_path / f"{module}.py").write_text("class Net: ...\nclass Loss: ...\nclass Step: ...\n")
    value = {**SMALL, "model": "nets:Net", "task": "losses:Loss", "steps": ["auto", "nets:Step"]}
    assert job_from(value, tmp_path).modules() == ("losses", "nets")
    assert job_from(SMALL).modules() == ()


def test_steps_that_prepare_are_told_from_those_that_change_rows_while_training():
    job = job_from({**SMALL, "steps": ["auto", {"clip": {"low": 0}}, {"noise": {"scale": 0.5}}, "mixup"]})
    assert [step.name for step in job.prepared_steps] == ["auto", "clip"]
    assert [step.to_json() for step in job.live_steps] == [{"noise": {"scale": 0.5}}, "mixup"]
    assert job.prepared_steps + job.live_steps == job.steps
    assert job_from(SMALL).live_steps == ()


def test_a_misplaced_step_is_named_with_its_line(tmp_path):
    file = tmp_path / "late.yaml"
    file.write_text("data: {path: sample:iris, target: target}\nsteps:\n  - noise\n  - standardise\n")
    with pytest.raises(SpecError, match=r"late.yaml:4 steps.1: 'standardise' prepares rows, and 'noise' before it"):
        load_job(file)
