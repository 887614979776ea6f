import numpy as np
import pytest
import scipy.stats

from fmray.spec.job import Job
from fmray.spec.load import job_from
from fmray.spec.packable import split_ranges
from fmray.spec.ranges import Range, put

SEARCHED = {
    "data": {"path": "sample:iris", "target": "target"},
    "model": {"mlp": {"width": {"choice": [8, 16]}, "dropout": {"uniform": [0, 0.5]}}},
    "train": {
        "batch_rows": {"log_int": [32, 256]},
        "optimizer": {"adamw": {"lr": {"log_uniform": [1e-4, 1e-2]}, "weight_decay": {"uniform": [0, 0.1]}}},
    },
    "task": {"classification": {"label_smoothing": {"uniform": [0, 0.2]}}},
    "steps": ["auto", {"clip": {"columns": ["a"], "quantile": {"choice": [0.99, 0.999]}}}],
}
SHARES = (np.arange(20_000) + 0.5) / 20_000


@pytest.mark.parametrize(
    ("value", "law"),
    [
        ({"uniform": [-1, 3]}, scipy.stats.uniform(-1, 4)),
        ({"log_uniform": [1e-4, 1e-1]}, scipy.stats.loguniform(1e-4, 1e-1)),
    ],
)
def test_equal_shares_of_a_range_are_equally_likely_under_its_law(value, law):
    drawn = [Range.read(value).at(share) for share in SHARES]
    assert scipy.stats.kstest(drawn, law.cdf).statistic < 1e-4


def test_whole_numbers_are_equally_likely_both_ends_included():
    drawn = np.array([Range.read({"int": [2, 6]}).at(share) for share in SHARES])
    assert set(np.unique(drawn, return_counts=True)[1]) == {len(SHARES) // 5}
    assert (drawn.min(), drawn.max()) == (2, 6)


def test_whole_numbers_by_magnitude_have_the_share_of_the_magnitudes_rounded_to_them():
    drawn = np.array([Range.read({"log_int": [1, 8]}).at(share) for share in SHARES])
    edges = np.log(np.arange(0.5, 9.5))
    shares = np.diff(edges) / (edges[-1] - edges[0])
    assert np.bincount(drawn, minlength=9)[1:] / len(SHARES) == pytest.approx(shares, abs=1e-3)


def test_options_are_equally_likely_and_keep_their_types():
    drawn = [Range.read({"choice": [True, "a", None, [1, 2]]}).at(share) for share in SHARES]
    assert [drawn.count(option) for option in (True, "a", None, [1, 2])] == [5_000] * 4


def test_a_job_holds_ranges_apart_and_first_values_in_their_places():
    job = job_from(SEARCHED)
    assert job.model.params == {"width": 8, "dropout": 0.0}
    assert job.train.batch_rows == 32
    assert len(job.ranges) == 7


def test_a_job_with_ranges_is_spelled_as_it_was_written():
    job = job_from(SEARCHED)
    again = Job.from_json({**job.to_json(), "folder": job.folder})
    assert again == job
    assert job.to_json()["model"] == SEARCHED["model"]


def test_a_job_at_some_values_has_no_ranges_and_keeps_first_values_elsewhere():
    job = job_from(SEARCHED)
    concrete = job.at({("model", "mlp", "width"): 16, ("steps", 1, "clip", "quantile"): 0.999})
    assert concrete.ranges == {}
    assert concrete.model.params == {"width": 16, "dropout": 0.0}
    assert concrete.steps[1].params["quantile"] == 0.999
    assert concrete.train == job.train


def test_models_tasks_and_optimizers_say_which_parameters_can_be_packed():
    structural, packable = split_ranges(job_from(SEARCHED))
    assert {keys[-1] for keys in structural} == {"width", "batch_rows", "quantile"}
    assert {keys[-1] for keys in packable} == {"dropout", "lr", "weight_decay", "label_smoothing"}


def test_a_whole_model_or_optimizer_can_be_a_choice_and_is_structural():
    value = {**SEARCHED, "model": {"choice": ["linear", {"mlp": {"width": 4}}]}}
    job = job_from(value)
    structural, _ = split_ranges(job)
    assert ("model",) in structural
    assert job.model.name == "linear"
    assert job.at({("model",): {"mlp": {"width": 4}}}).model.params == {"width": 4}


def test_a_job_without_ranges_says_nothing_of_a_search():
    assert "search" not in job_from({"data": SEARCHED["data"]}).to_json()


def test_values_are_put_without_touching_what_was_given():
    before = {"a": [{"b": 1}]}
    assert put(before, {("a", 0, "b"): 2}) == {"a": [{"b": 2}]}
    assert before == {"a": [{"b": 1}]}
