from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tune.kill import prepared_rows, write_data

from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.train.ingest import Rows
from fmray.train.pack import Pack
from fmray.tune import width
from fmray.tune.plans import plans_of
from fmray.tune.width import PackLayout, choose_layout


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = write_data(tmp_path)
    return replace(job, train=replace(job.train, seeds=replace(job.train.seeds, n=12)))


@pytest.fixture
def chosen(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PackLayout]:
    """Choose for twelve members on two cores, where a step takes what a function of width and lanes says."""

    def choice(of: Callable[[int, int], float], *, single_worker: bool = True, **run: object) -> PackLayout:
        monkeypatch.setattr(width, "_step_seconds", lambda packs, batch, steps: of(len(packs[0]), len(packs)))
        prepared, before = prepared_rows(job, tmp_path), torch.get_num_threads()
        build = partial(Pack, schema=prepared.schema, target=prepared.target, train=job.train, higher_is_better=True)
        torch.set_num_threads(2)
        try:
            plans, rows = plans_of(job, Ref("classification")), Rows(prepared, "train", "cpu")
            layout = choose_layout(
                plans,
                build,
                rows,
                replace(job.run, **{"deterministic": False, "threads": "auto", **run}),
                single_worker=single_worker,
            )
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)
        return layout

    return choice


def test_members_are_through_after_as_many_rounds_as_packs_do_not_fit_side_by_side():
    assert PackLayout(width=64, threads=1, lanes=1).num_waves(256) == 4
    assert PackLayout(width=64, threads=1, lanes=2).num_waves(256) == 2
    assert PackLayout(width=60, threads=1, lanes=2).num_waves(256) == 3
    assert PackLayout(width=16, threads=1, lanes=2).num_waves(1) == 1


def test_the_width_with_the_least_time_per_member_wins(chosen):
    assert chosen(lambda members, lanes: 1 + abs(members - 4), single_worker=False) == PackLayout(4, 1, 1)
    assert chosen(lambda members, lanes: 1.0, single_worker=False) == PackLayout(12, 1, 1)
    nearly = {1: 1.0, 2: 0.98, 4: 1.05, 8: 1.2, 12: 1.3}  # by chance, four are a little slower than two
    assert chosen(lambda members, lanes: members * nearly[members], single_worker=False) == PackLayout(4, 1, 1)


def test_packs_go_side_by_side_where_that_brings_all_members_through_earlier(chosen):
    assert chosen(lambda members, lanes: members) == PackLayout(6, 1, 2)  # cores do not see each other
    assert chosen(lambda members, lanes: members * lanes) == PackLayout(12, 1, 1)  # all wait for one lock
    assert chosen(lambda members, lanes: 1 + members / 100 + lanes / 2, threads=2) == PackLayout(12, 2, 1)


def test_a_single_pack_is_halved_for_the_second_core_if_that_pays(chosen):
    assert chosen(lambda members, lanes: 1.0 + members) == PackLayout(6, 1, 2)  # 13 in one, 7 in two


def test_where_runs_must_be_deterministic_no_timing_changes_what_bits_depend_on(chosen):
    one = chosen(lambda members, lanes: 1.0, deterministic=True)
    other = chosen(lambda members, lanes: members * lanes, deterministic=True)
    assert (one.width, one.threads) == (other.width, other.threads)
