import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fmray.records import Ensemble, Interval, Member, Part, Prepared, Scores, Target
from fmray.report import plots
from fmray.report.card import Card, read_card, render, verdict, write_card
from fmray.schema import Column, Schema
from fmray.store import Store

HOSTILE = "<script>alert('x')</script>\"& é 😀 \u202e" + "very_long_" * 30
VOID = {"meta", "br", "link", "img", "hr", "input"}


def member(index: int, num_epochs: int = 4, **changes: object) -> Member:
    history = tuple(
        {"epoch": e, "metric": name, "value": value}
        for e in range(1, num_epochs + 1)
        for name, value in (("roc_auc", 0.5 + 0.1 * e / (index + 1)), ("val_loss", 1 / e), ("train_loss", 0.9 / e))
    )
    values = {"index": index, "model": {"name": "mlp", "params": {}}, "params": {"train.seeds": index}, "seed": index,
              "root": "", "status": "finished", "best_epoch": num_epochs, "epochs": num_epochs, "val_score": 0.9,
              "tensor_hash": "ab" * 32, "history": history}  # fmt: skip
    return Member(**{**values, **changes})


def card(kind: str = "binary", members: int = 3, name: str = "sex") -> Card:
    number = kind == "number"
    classes = () if number else ("no", name) if kind == "binary" else tuple(f"{name}{i}" for i in range(12))
    primary = "r2" if number else "roc_auc"
    found = {
        primary: Interval(0.9, 0.87, 0.93, 120, "delong"),
        "other": Interval(math.nan, math.nan, math.nan, 3, "undefined"),
    }
    target = Target(
        (name,),
        "number" if number else "class",
        classes,
        -1,
        (0.0,) if number else (),
        (1.0,) if number else (),
        (5,) * len(classes),
    )
    bins = [{"predicted": 0.1 * i, "observed": 0.1 * i, "low": 0.05 * i, "high": 0.12 * i, "n": 8} for i in range(8)]
    figures = (
        {"residuals": [{"target": name, "edges": [-1.0, 0.0, 1.0], "counts": [3, 4],
                        "bins": [{"predicted": i, "q25": i - 1, "median": i, "q75": i + 1, "n": 9} for i in range(4)]}]}
        if number
        else {"confusion": {"classes": list(classes), "counts": [[i + j for j in range(len(classes))] for i in range(len(classes))], "note": ""},
              "calibration": {"of": f"class '{name}'", "bins": bins},
              "roc": {"false_positive_rate": [0.0, 0.5, 1.0], "true_positive_rate": [0.0, 0.9, 1.0]}}
    )  # fmt: skip
    scores = Scores(
        primary=primary, higher_is_better=True, test=found, val=found, baselines={"dummy": found, "linear": found},
        paired={"dummy": Interval(0.4, 0.3, 0.5, 120, "paired delta"), "linear": Interval(0.01, -0.01, 0.03, 120, "paired delta")},
        slices={f"{name}=x": found}, looks=1, figures=figures,
        extra={"level": 0.95, "p_values": {"dummy": 1e-9, "linear": 0.2}, "detectable": {"dummy": 0.02}, "min_effect": 0.0, "gap": 0.01},
    )  # fmt: skip
    parts = {split: (Part("a", 0, 10),) for split in ("train", "val", "test")}
    rows = {"read": 33, "train": 10, "val": 10, "test": 10, "duplicates": 1, "quarantined": 1, "unlabelled": 1}
    prepared = Prepared(
        fingerprint="f", root="", schema=Schema((Column(name, "number"),)), target=target, num_lanes=4, parts=parts, steps=(),
        rows=rows, quarantine={f"'{name}' is infinite": 1}, test_identity="t" * 32, notes=(f"note about {name}",),
        split={"by": "hash"}, manifest=({"path": f"{name}.parquet", "bytes": 10, "rows": 33},),
    )  # fmt: skip
    gates = tuple(
        {"gate": f"G{i}", "name": "a gate", "status": s, "text": name}
        for i, s in enumerate(["pass", "fail", "warn", "waived", "not_run"])
    )
    everyone = tuple(member(i) for i in range(members))
    ensemble = Ensemble("average", (0, 1)[:members], (0.5, 0.5)[:members], 0.9, "mean of members")
    return Card(
        job={"name": name[:40], "data": {"path": name, "target": [name]}, "steps": ["auto"]}, run_id="r1", root="", prepared=prepared,
        members=everyone, baselines=(member(0, role="baseline", status="failed", val_score=None, reason=name),), ensemble=ensemble,
        scores=scores, gates=gates, environment={"packages": {"torch": "2"}}, timings={"train": 1.5},
        ledger=({"look": 1, "run": "r1", "when": "now", "who": name, "purpose": "score"},), notes=(name,),
    )  # fmt: skip


class Reader(HTMLParser):
    """Check that tags close in order, and collect what a browser would load or run."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.loads: list[tuple[str, str]] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [
            (tag, value)
            for name, value in attributes
            if name in ("src", "href", "srcset", "data") or name.startswith("on")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


@pytest.mark.parametrize("kind", ["binary", "many classes", "number"])
@pytest.mark.parametrize("name", ["sex", HOSTILE])
@pytest.mark.parametrize("members", [1, 64])
def test_a_page_is_whole_escaped_and_loads_nothing(kind, name, members):
    page = render(card(kind, members, name))
    reader = read(page)
    assert reader.loads == []
    assert "script" not in reader.tags
    assert "http" not in re.sub(r"https?:\\?/\\?/www\.w3\.org", "", page)
    assert "<script>alert" not in page
    assert page.count("<svg") == page.count("</svg>") == page.count('role="img"')
    assert page.count("<figure>") <= page.count("<details>")


def test_256_members_stay_readable_and_small():
    page = render(card(members=256))
    assert len(page) < 1_500_000
    assert "more in members.parquet" in page


@pytest.mark.parametrize(
    "change",
    [
        {"baselines": ()},
        {"ledger": ()},
        {"notes": ()},
        {"gates": ()},
        {"members": (member(0, 1),)},
        {"members": (member(0, 0, status="failed", val_score=None),)},
    ],
)
def test_what_is_missing_leaves_a_page(change):
    read(render(replace(card(), **change)))


def test_a_run_without_baselines_says_so():
    scores = replace(card().scores, baselines={}, paired={})
    read(render(replace(card(), scores=scores)))
    assert verdict(scores) == "There is no baseline to compare with."


@pytest.mark.parametrize(("kind", "num_figures"), [("binary", 3), ("number", 2)])
def test_figures_of_some_of_the_rows_say_of_how_many(kind, num_figures):
    given = card(kind)
    sampled = replace(given.scores, figures={**given.scores.figures, "rows": {"drawn": 250_000, "of": 1_000_000}})
    assert render(replace(given, scores=sampled)).count("Drawn from 250,000 of 1,000,000 rows") == num_figures
    assert "Drawn from" not in render(given)


def test_the_verdict_says_what_is_shown_and_what_is_not():
    text = verdict(card().scores)
    assert "better than the dummy baseline by 0.4000 [0.3000, 0.5000]" in text
    assert "not shown to be better than the linear baseline" in text
    worse = Interval(-0.1, -0.2, -0.05, 120, "paired delta")
    assert "worse than the linear baseline by 0.1000" in verdict(replace(card().scores, paired={"linear": worse}))


def test_curves_of_numbers_that_exploded_still_show_the_others():
    history = tuple(
        {"epoch": e, "metric": "val_loss", "value": v} for e, v in enumerate([1.0, math.inf, 1e30, math.nan], 1)
    )
    page = render(replace(card(), members=(member(0), replace(member(1), history=history))))
    assert "nan" not in re.findall(r'points="([^"]*)"', page).__str__()
    assert "inf" not in re.findall(r'points="([^"]*)"', page).__str__()


def test_a_card_read_back_makes_the_same_page(tmp_path: Path):
    store = Store(str(tmp_path))
    made = replace(card(), root=store.path("runs", "a"))
    path = Path(write_card(made, store))
    page = path.read_bytes()
    write_card(read_card(made.root, store), store)
    assert path.read_bytes() == page


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 7.7), (1e-9, 2e-9), (1e6, 1e9), (0.5, 0.5001)])
def test_ticks_are_round_few_and_inside(low, high):
    found = plots.ticks(low, high)
    assert 2 <= len(found) <= 11
    assert all(low - 1e-9 * abs(low) <= tick <= high + 1e-9 * abs(high) for tick in found)


@pytest.mark.parametrize(
    ("value", "text"), [(0.98571, "0.9857"), (1234567, "1,234,567"), (48123.7, "48,124"), (None, "not defined"),
                        (math.nan, "not defined"), (math.inf, "∞"), (12.3456, "12.35"), (123456.7, "123,457")]
)  # fmt: skip
def test_numbers_are_spelled_for_people(value, text):
    assert plots.number(value) == text
