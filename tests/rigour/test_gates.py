"""Plant a fault for every gate: it must fire in 19 of 20 seeds, and be calm in 19 of 20 without the fault."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest

from fmray.catalogue import GATES
from fmray.errors import SpecError
from fmray.evaluate.facts import Facts
from fmray.evaluate.intervals import interval, paired
from fmray.evaluate.table import Table
from fmray.metrics.find import find_metric
from fmray.records import Scores, Target
from fmray.rigour.gates import Evidence, failed, judge
from fmray.spec.sections import Rigour
from fmray.targets.codec import codec_of

SEEDS = range(20)
TARGETS = {
    "binary": Target(("y",), "class", classes=("a", "b"), positive=1, counts=(1, 1)),
    "five classes": Target(("y",), "class", classes=tuple("abcde"), counts=(1,) * 5),
    "number": Target(("y",), "number", mean=(0.0,), scale=(1.0,)),
}
PRIMARY = {"binary": "roc_auc", "five classes": "accuracy", "number": "r2"}


def softmax(logits):
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def table_of(family: str, random: np.random.Generator, num_rows: int = 600, skill: float = 2.0) -> Table:
    ids = random.integers(0, 2**63, (num_rows, 2)).astype(np.uint64)
    if family == "number":
        target = random.normal(size=num_rows)
        output = target * skill / 2 + random.normal(size=num_rows) * 0.5
    else:
        num_classes = len(TARGETS[family].classes)
        target = random.integers(0, num_classes, num_rows)
        output = softmax(random.normal(size=(num_rows, num_classes)) + skill * np.eye(num_classes)[target])
    return Table(ids, output, target, None, None, {})


def constant(table: Table, family: str) -> Table:
    if family == "number":
        return replace(table, output=np.zeros(len(table)))
    return replace(table, output=np.full_like(table.output, 1 / table.output.shape[1]))


def linear(table: Table, random: np.random.Generator, family: str) -> Table:
    """Answer on the same rows with less skill."""
    if family == "number":
        return replace(table, output=table.output + random.normal(size=len(table)))
    logits = np.log(table.output) + random.normal(size=table.output.shape) * 1.5
    return replace(table, output=softmax(logits))


def scores_of(family: str, test: Table, baselines: dict[str, Table]) -> Scores:
    metric = find_metric(PRIMARY[family], TARGETS[family])
    rows = (test.output, test.target, test.weight)
    versus = {n: paired(metric, rows, (t.output, t.target, t.weight), None, 0.95) for n, t in baselines.items()}
    return Scores(
        primary=metric.name,
        higher_is_better=metric.higher_is_better,
        test={metric.name: interval(metric, rows, None, 0.95)},
        val={},
        baselines={},
        paired={name: gain for name, (gain, _) in versus.items()},
        slices={},
        looks=1,
        extra={"p_values": {n: p for n, (_, p) in versus.items()}, "detectable": {"dummy": 0.01}, "min_effect": 0.0},
    )


def facts_of(table: Table, expected: np.ndarray, num_classes: int, num_parts: int = 1) -> Facts:
    """Sum up a table by parts; what is missing or too many is the last part's."""
    classes = tuple(map(str, range(num_classes)))
    codec = codec_of(Target(("y",), "class", classes) if classes else TARGETS["number"])
    starts = np.linspace(0, min(len(table), len(expected)), num_parts + 1).astype(int)[:-1]
    rows, ids = (np.split(np.arange(n), starts[1:]) for n in (len(table), len(expected)))
    return Facts.merge([Facts.of(table.some(r), expected[i], codec) for r, i in zip(rows, ids, strict=True)])


@dataclass(frozen=True)
class Case:
    """Hold what evidence is made of."""

    scores: Scores
    tables: dict[str, Table]
    expected_ids: dict[str, np.ndarray]
    num_classes: int
    members: tuple = ()
    chosen: tuple[int, ...] = (0,)
    model: str = "mlp"
    health: tuple = ()
    positive: int = -1

    def evidence(self, num_parts: int = 1) -> Evidence:
        facts = {s: facts_of(t, self.expected_ids[s], self.num_classes, num_parts) for s, t in self.tables.items()}
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("tables", "expected_ids")}
        return Evidence(facts=facts, shown=self.tables["test"], **rest)


def evidence_of(family: str, seed: int) -> Case:
    random = np.random.default_rng(seed)
    val, test = table_of(family, random), table_of(family, random)
    baselines = {"dummy": constant(test, family), "linear": linear(test, random, family)}
    return Case(
        scores=scores_of(family, test, baselines),
        tables={"val": val, "test": test},
        expected_ids={"val": val.row_id, "test": test.row_id},
        num_classes=len(TARGETS[family].classes),
        positive=TARGETS[family].positive,
    )


def rescored(evidence: Case, family: str, test: Table, baselines: dict[str, Table]) -> Case:
    return replace(evidence, scores=scores_of(family, test, baselines), tables={**evidence.tables, "test": test})


def only_val(evidence: Case, change: Callable[[np.ndarray], np.ndarray]) -> Case:
    val = evidence.tables["val"]
    return replace(evidence, tables={**evidence.tables, "val": replace(val, output=change(val.output))})


def padded(evidence, family, random):
    test = evidence.tables["test"]
    return replace(evidence, tables={**evidence.tables, "test": test.some(np.r_[0, np.arange(len(test))])})


def last_rows_dropped(evidence, family, random):
    return replace(evidence, tables={**evidence.tables, "test": evidence.tables["test"].some(np.arange(590))})


def one_row_twice(evidence, family, random):
    rows = np.r_[0, 0, np.arange(2, 600)]
    return replace(evidence, tables={**evidence.tables, "test": evidence.tables["test"].some(rows)})


def mean_of_worker_metrics(evidence, family, random):
    """Average the metric of uneven shards, as a framework does that reduces metrics instead of sums."""
    metric, test = find_metric(PRIMARY[family], TARGETS[family]), evidence.tables["test"]
    shards = [test.some(np.arange(100)), test.some(np.arange(100, 600))]
    value = float(np.mean([metric.value(s.output, s.target, None) for s in shards]))
    found = replace(evidence.scores.test[metric.name], value=value)
    return replace(evidence, scores=replace(evidence.scores, test={metric.name: found}))


def constant_head(evidence, family, random):
    return only_val(evidence, lambda output: np.broadcast_to(output[:1], output.shape).copy())


def one_column_argmax(evidence, family, random):
    """Answer class 0 for every row: what taking the maximum over a single column gives."""
    return only_val(evidence, lambda output: np.eye(output.shape[1])[np.zeros(len(output), int)])


def softmax_twice(evidence, family, random):
    return only_val(evidence, softmax)


def logits_for_probabilities(evidence, family, random):
    return only_val(evidence, lambda output: np.log(output))


def one_infinite_output(evidence, family, random):
    def change(output):
        output = output.copy()
        output[random.integers(len(output))] = math.inf
        return output

    return only_val(evidence, change)


def member_diverged(evidence, family, random):
    event = {"member": 0, "step": 7, "where": "parameter w", "positions": [3]}
    return replace(evidence, health=(event,))


def no_interval(evidence, family, random):
    found = replace(evidence.scores.test[evidence.scores.primary], low=math.nan, high=math.nan)
    return replace(evidence, scores=replace(evidence.scores, test={evidence.scores.primary: found}))


def labels_independent_of_rows(evidence, family, random):
    test = evidence.tables["test"]
    test = replace(test, target=random.permutation(test.target))
    return rescored(evidence, family, test, {"dummy": constant(test, family), "linear": linear(test, random, family)})


def model_is_the_dummy(evidence, family, random):
    test = constant(evidence.tables["test"], family)
    return rescored(evidence, family, test, {"dummy": test, "linear": test})


def linear_is_better(evidence, family, random):
    test = evidence.tables["test"]
    return rescored(evidence, family, linear(test, random, family), {"dummy": constant(test, family), "linear": test})


@dataclass(frozen=True)
class Fault:
    gate: str
    plant: Callable[[Case, str, np.random.Generator], Case]
    families: tuple[str, ...] = ("binary", "five classes", "number")


CLASSES = ("binary", "five classes")
FAULTS = (
    Fault("G13", padded),
    Fault("G13", last_rows_dropped),
    Fault("G13", one_row_twice),
    Fault("G13", mean_of_worker_metrics),
    Fault("G14", constant_head),
    Fault("G14", one_column_argmax, CLASSES),
    Fault("G14", softmax_twice, CLASSES),
    Fault("G14", logits_for_probabilities, CLASSES),
    Fault("G15", one_infinite_output),
    Fault("G15", member_diverged),
    Fault("G20", no_interval),
    Fault("G22", labels_independent_of_rows),
    Fault("G22", model_is_the_dummy),
    Fault("G22", linear_is_better),
)


def status(evidence: Case, gate: str, **options) -> str:
    return next(found["status"] for found in judge(evidence.evidence(), Rigour(**options)) if found["gate"] == gate)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.gate} {fault.plant.__name__}")
def test_a_planted_fault_fires(fault):
    for family in fault.families:
        planted = [fault.plant(evidence_of(family, seed), family, np.random.default_rng(seed)) for seed in SEEDS]
        assert sum(status(evidence, fault.gate) == "fail" for evidence in planted) >= 19, family
        assert judge(planted[0].evidence(num_parts=7), Rigour()) == judge(planted[0].evidence(), Rigour())


OF_RESULT = [name for name in GATES if GATES.find(name).stage == "result"]


@pytest.mark.parametrize("gate", OF_RESULT)
@pytest.mark.parametrize("family", list(TARGETS))
def test_an_honest_run_is_left_alone(gate, family):
    assert sum(status(evidence_of(family, seed), gate) != "pass" for seed in SEEDS) <= 1


def test_every_gate_has_a_fault():
    assert {fault.gate for fault in FAULTS} == set(OF_RESULT)


def test_a_gate_that_nothing_excuses_cannot_be_waived():
    with pytest.raises(SpecError, match="G02 cannot be waived"):
        judge(evidence_of("binary", 0).evidence(), Rigour(waive={"G02": "we know"}))


def test_a_waiver_is_shown_with_its_reason_and_does_not_fail_the_run():
    evidence = linear_is_better(evidence_of("binary", 0), "binary", np.random.default_rng(0))
    found = judge(evidence.evidence(), Rigour(waive={"G22": "a pilot, agreed with the data owner"}))
    waived = next(gate for gate in found if gate["gate"] == "G22")
    assert waived["status"] == "waived"
    assert "a pilot" in waived["text"]
    assert failed(found) == ()
    assert failed(judge(evidence.evidence(), Rigour())) == ("G22",)


def test_a_draft_warns_instead_of_failing():
    evidence = linear_is_better(evidence_of("binary", 0), "binary", np.random.default_rng(0))
    assert status(evidence, "G22", profile="draft") == "warn"


def test_a_waiver_of_nothing_is_answered_with_the_gates_there_are():
    with pytest.raises(SpecError, match=r"'G99' is no gate"):
        judge(evidence_of("binary", 0).evidence(), Rigour(waive={"G99": "why not"}))


def test_a_linear_model_need_not_beat_a_linear_model_where_simple_is_preferred():
    evidence = evidence_of("binary", 0)
    test = evidence.tables["test"]
    same = rescored(evidence, "binary", test, {"dummy": constant(test, "binary"), "linear": test})
    assert status(replace(same, model="linear"), "G22", prefer="simple") == "pass"
    assert status(replace(same, model="linear"), "G22") == "fail"
    assert status(replace(same, model="mlp"), "G22", prefer="simple") == "fail"


def test_a_gain_too_small_for_its_rows_is_inconclusive_and_says_how_many_would_do():
    found = None
    for seed in range(40):
        evidence = evidence_of("binary", seed)
        test = evidence.tables["test"]
        slightly = np.log(test.output) + 0.3 * np.random.default_rng(seed).normal(size=test.output.shape)
        other = replace(test, output=softmax(slightly))
        evidence = rescored(evidence, "binary", test, {"dummy": constant(test, "binary"), "linear": other})
        gate = next(gate for gate in judge(evidence.evidence(), Rigour()) if gate["gate"] == "G22")
        if gate["status"] == "inconclusive":
            found = gate["text"]
            break
    assert found is not None
    assert "rows" in found


def test_a_test_set_that_cannot_show_what_matters_is_said_so():
    evidence = evidence_of("binary", 0)
    extra = {**evidence.scores.extra, "min_effect": 0.001}
    assert status(replace(evidence, scores=replace(evidence.scores, extra=extra)), "G20") == "warn"
