import pytest

from fmray.store import Store
from fmray.tune.halving import Stopper, StoppingRules


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def stopper(store, **rules):
    return Stopper(store, store.path("checkpoints", "k"), StoppingRules(**{"rungs": (1, 3), "eta": 2, **rules}), {})


def test_members_are_compared_with_all_that_came_before(store):
    decide = stopper(store).decide
    assert decide("0.0", 1, {0: 0.1, 1: 0.5, 2: 0.3, 3: 0.4}).dropped.keys() == {0, 2}
    assert decide("1.0", 1, {4: 0.2, 5: 0.45}).dropped.keys() == {4}
    assert decide("0.0", 2, {1: 0.6, 3: 0.6}).dropped == {}


def test_a_pack_that_asks_again_is_told_the_same_though_better_ones_came_since(store):
    first = stopper(store)
    said = first.decide("0.0", 1, {0: 0.1, 1: 0.2})
    first.decide("1.0", 1, {2: 0.9, 3: 0.8})
    assert first.decide("0.0", 1, {0: 0.1, 1: 0.2}) == said


def test_a_stopper_that_is_opened_again_knows_everything(store):
    first = stopper(store, epochs=100)
    said = [first.decide("0.0", epoch, {0: 0.1, 1: 0.2}) for epoch in (1, 2, 3)]
    again = stopper(store, epochs=100)
    assert [again.decide("0.0", epoch, {0: 0.0, 1: 0.0}) for epoch in (1, 2, 3)] == said
    assert again.spent == first.spent == 6
    assert again.rung_scores() == {1: {0: 0.1, 1: 0.2}, 3: {0: 0.1, 1: 0.2}}


def test_a_torn_judgement_was_never_made(store, tmp_path):
    first = stopper(store)
    first.decide("0.0", 1, {0: 0.1, 1: 0.2})
    (log,) = tmp_path.rglob("judgements.jsonl")
    log.write_bytes(log.read_bytes()[:-10])
    assert stopper(store).rung_scores() == {}


def test_where_all_wait_nobody_is_told_before_everyone_is_there(store):
    table = stopper(store, synchronous=True)
    assert table.decide("0.0", 1, {0: 0.1, 1: 0.5}).must_wait
    assert table.decide("1.0", 1, {2: 0.6, 3: 0.4}).must_wait
    assert table.close_rung()
    assert table.decide("0.0", 1, {0: 0.1, 1: 0.5}).dropped.keys() == {0}
    assert table.decide("1.0", 1, {2: 0.6, 3: 0.4}).dropped.keys() == {3}
    assert not table.close_rung()


def test_rungs_are_closed_one_after_the_other(store):
    table = stopper(store, synchronous=True)
    table.decide("0.0", 1, {0: 0.1, 1: 0.5})
    table.close_rung()
    table.decide("0.0", 3, {1: 0.6})
    assert table.close_rung()
    assert table.decide("0.0", 3, {1: 0.6}).dropped == {}


def test_a_budget_of_epochs_ends_everyone_and_says_so(store):
    table = stopper(store, epochs=7)
    assert table.decide("0.0", 1, {0: 0.1, 1: 0.5, 2: 0.4, 3: 0.3}).dropped.keys() == {0, 3}
    assert table.decide("0.0", 2, {1: 0.5, 2: 0.4}).dropped == {}
    dropped = table.decide("0.0", 3, {1: 0.6, 2: 0.5}).dropped
    assert set(dropped.values()) == {"search.epochs: 8 of 7 are spent"}
    assert table.exhausted_budget


def test_a_budget_of_time_counts_what_was_used_before_a_restart(store):
    first = stopper(store, seconds=1000.0)
    first.decide("0.0", 1, {0: 0.1})
    log = store.events("checkpoints/k/judgements.jsonl")
    store.append("checkpoints/k/judgements.jsonl", {**log[-1], "epoch": 2, "seconds": 999.99})
    again = stopper(store, seconds=1000.0)
    while not again.exhausted_budget:
        pass
    assert "search.time" in next(iter(again.decide("0.0", 3, {0: 0.1}).dropped.values()))


def test_an_exact_search_looks_at_its_budget_only_when_all_wait(store):
    table = stopper(store, synchronous=True, deterministic=True, epochs=1)
    assert table.decide("0.0", 1, {0: 0.1, 1: 0.5}).must_wait
    assert table.decide("1.0", 1, {2: 0.2, 3: 0.4}).must_wait
    table.close_rung()
    assert table.decide("1.0", 1, {2: 0.2, 3: 0.4}).dropped.keys() == {2, 3}


def test_whether_a_trial_of_an_exact_search_may_begin_depends_on_those_before_it_and_not_on_when_they_train(store):
    exact = stopper(store, synchronous=True, deterministic=True, epochs=4)
    exact.decide("0.0", 1, dict.fromkeys(range(9), 0.1))
    assert exact.spent == 9
    assert exact.exhausted_for_new(3) == ""
    assert exact.exhausted_for_new(4) == "search.epochs: 4 of 4 are spent"
    assert stopper(store, epochs=4).exhausted_for_new(3) == "search.epochs: 9 of 4 are spent"


def test_members_of_a_sweep_that_is_extended_are_still_there_to_be_compared_with(store):
    before = {1: {0: 0.9, 1: 0.8, 2: 0.7, 3: 0.6}}
    table = Stopper(store, store.path("checkpoints", "k"), StoppingRules(rungs=(1,), eta=2), before)
    assert table.decide("0.0", 1, {4: 0.75, 5: 0.1}).dropped.keys() == {5}
