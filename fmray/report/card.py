"""Put everything a reader needs to believe a run, or not, on one page.

`card.json` holds all of it, so the page can be made again; `report.html` needs no network and no script.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import jinja2
from markupsafe import Markup

from fmray.events import Logged
from fmray.metrics.metric import ranked
from fmray.printable import printable
from fmray.records import Ensemble, Interval, Json, Member, Prepared, Scores, SearchAccount
from fmray.report import plots
from fmray.report.contents import REPORT, RUN, verify_run
from fmray.report.plots import Figure, number, spell
from fmray.report.sweep import section
from fmray.store import Store, redact

MOST_MEMBERS = 200
MOST_CURVES = 60
NOT_STATED = {
    "population": "whom the rows stand for, and whom they leave out",
    "intended use": "who will decide what by this model",
    "known harms": "what a wrong answer costs, and to whom",
}


@dataclass(frozen=True)
class Card:
    """Hold what the report shows.

    Args:
        job: As asked, resolved.
        run_id, root: Which run, and its directory.
        prepared: Data, steps, row accounting.
        members, baselines: All that were trained.
        ensemble: Who speaks.
        scores: On validation and test.
        gates: As judged.
        environment: Machine and libraries.
        timings: Stage -> seconds.
        ledger: Looks at this test set.
        notes: What was said along the way.
        search: How members were searched and chosen; None where nothing was searched.
        failures: What went wrong on the way, and what was done about it.
    """

    job: Json
    run_id: str
    root: str
    prepared: Prepared
    members: tuple[Member, ...]
    baselines: tuple[Member, ...]
    ensemble: Ensemble
    scores: Scores
    gates: tuple[Json, ...]
    environment: Json
    timings: Mapping[str, float]
    ledger: tuple[Json, ...]
    notes: tuple[str, ...]
    search: SearchAccount | None = None
    failures: tuple[Logged, ...] = ()

    def to_json(self) -> Json:
        """Give the card as plain values."""
        plain = {name: getattr(self, name) for name in ("job", "run_id", "root", "environment")}
        lists = {name: list(getattr(self, name)) for name in ("gates", "ledger", "notes")}
        lists["failures"] = [line.to_json() for line in self.failures]
        records = {name: getattr(self, name).to_json() for name in ("prepared", "ensemble", "scores")}
        people = {name: [member.to_json() for member in getattr(self, name)] for name in ("members", "baselines")}
        search = None if self.search is None else self.search.to_json()
        return {**plain, **lists, **records, **people, "timings": dict(self.timings), "search": search}

    @classmethod
    def from_json(cls, value: Json) -> "Card":
        """Read back what `to_json` gave; earlier versions kept no failures."""
        value = {"failures": [], **value}
        return cls(
            **{
                **{f.name: value[f.name] for f in fields(cls)},
                "prepared": Prepared.from_json(value["prepared"]),
                "ensemble": Ensemble.from_json(value["ensemble"]),
                "scores": Scores.from_json(value["scores"]),
                "search": None if value["search"] is None else SearchAccount.from_json(value["search"]),
                **{name: tuple(Member.from_json(m) for m in value[name]) for name in ("members", "baselines")},
                **{name: tuple(value[name]) for name in ("gates", "ledger", "notes")},
                "failures": tuple(Logged.from_json(line) for line in value["failures"]),
            }
        )


def write_card(card: Card, store: Store) -> str:
    """Write `card.json` and `report.html` into the run's directory, without secrets, and give the path of the page."""
    card = Card.from_json(redact(card.to_json()))
    store.write_json(f"{card.root}/card.json", card.to_json())
    return write_report(card, store)


def write_report(card: Card, store: Store) -> str:
    """Write `report.html` of a card without secrets, and give its path."""
    path = f"{card.root}/{REPORT}"
    store.write_bytes(path, render(card).encode())
    return path


def read_card(root: str, store: Store) -> Card:
    """Read a card back from a run's directory.

    Raises:
        DataError: If there is none, or it is damaged.
    """
    if store.exists(f"{root}/{RUN}"):
        verify_run(root, store, store.read_json(f"{root}/{RUN}"), ["card.json"])
    return Card.from_json({**store.read_json(f"{root}/card.json"), "root": store.path(root)})


def render(card: Card) -> str:
    """Give the page as HTML; every text from data or job is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "interval": spell}
    scores = card.scores
    page = environment.get_template("card.html").render(
        card=card,
        scores=scores,
        headline=scores.test[scores.primary],
        verdict=verdict(scores),
        curves=_curves(card),
        results=_results(card),
        search=None if card.search is None else section(card.search, card.members, scores),
        versus=plots.intervals(
            scores.primary,
            [("model", scores.test[scores.primary]), *((n, m[scores.primary]) for n, m in scores.baselines.items())],
        ),
        everyone=[*card.members, *card.baselines],
        chosen=set(card.ensemble.members),
        most=MOST_MEMBERS,
        not_stated=NOT_STATED,
        settings=_flat({k: v for k, v in card.job.items() if k != "folder"}),
        facts=_flat(card.environment),
        target=asdict(card.prepared.target),
    )
    return printable(page, keep="\n")  # what figures hold


def _shown(value: object) -> object:
    """Make every text that the template shows printable; markup holds lines of its own."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def verdict(scores: Scores) -> str:
    """Say in a sentence what the test rows show against the baselines."""
    if not scores.paired:
        return "There is no baseline to compare with."
    words = []
    for name, gain in scores.paired.items():
        p = scores.extra["p_values"][name]
        shown = p < 0.05 and gain.low > 0
        size = f"{abs(gain.value):.4f} [{number(gain.low)}, {number(gain.high)}]"
        if math.isnan(gain.value):
            words.append(f"cannot be compared with the {name} baseline")
        elif shown:
            words.append(f"better than the {name} baseline by {size}")
        elif gain.high < 0:
            words.append(f"worse than the {name} baseline by {size}")
        else:
            words.append(
                f"not shown to be better than the {name} baseline "
                f"(difference {number(gain.value)} [{number(gain.low)}, {number(gain.high)}])"
            )
    return f"In {scores.primary}, the model is {' and '.join(words)}."


def _curves(card: Card) -> list[Figure]:
    """Draw the primary metric and the losses of every member, or of the best where they are many."""
    by_metric: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    drawn = card.members
    caption = ""
    if len(drawn) > MOST_CURVES:
        first = [member for member in drawn if member.index in card.ensemble.members]
        others = [m for m in ranked(drawn, card.scores.higher_is_better) if m.index not in card.ensemble.members]
        drawn = (*first, *others)[:MOST_CURVES]
        caption = f"Those of the ensemble and the best others: {len(drawn)} of {len(card.members)} members."
    for member in drawn:
        for entry in member.history:
            by_metric[entry["metric"]][member.index].append((float(entry["epoch"]), float(entry["value"])))
    kept = {member.index: member.best_epoch for member in card.members if member.index in card.ensemble.members}
    figures = []
    for metric in dict.fromkeys([card.scores.primary, "val_loss", "train_loss"]):
        curves = by_metric.get(metric, {})
        lines = [(f"member {index}", points, index in kept) for index, points in sorted(curves.items())]
        best = [p for index, points in curves.items() for p in points if kept.get(index) == p[0]]
        if lines:
            figures.append(plots.learning_curves(_WHERE.get(metric, f"{metric} on validation"), lines, best, caption))
    return figures


_WHERE = {"val_loss": "loss on validation", "train_loss": "loss on training rows"}


def _results(card: Card) -> list[Figure]:
    tables = card.scores.figures
    made = []
    if "confusion" in tables:
        made.append(plots.confusion(tables["confusion"]))
    if "calibration" in tables:
        made.append(plots.calibration(tables["calibration"]))
    if "roc" in tables:
        made.append(plots.roc(tables["roc"]))
    if "labels" in tables:
        found = [(name, Interval(**value)) for name, value in tables["labels"]["f1"].items()]
        made.append(plots.intervals("F1", found, title="F1 per label", caption=tables["labels"]["note"]))
    if "entities" in tables:
        found = [(name, Interval(**value)) for name, value in tables["entities"]["f1"].items()]
        made.append(plots.intervals("F1", found, title="F1 per type of entity", caption=tables["entities"]["note"]))
    if "spans" in tables:
        found = [(name, Interval(**value)) for name, value in tables["spans"]["f1"].items()]
        made.append(plots.intervals("F1", found, title="F1 per type of span", caption=tables["spans"]["note"]))
    for table in tables.get("residuals", []):
        made += plots.residuals(table)
    if rows := tables.get("rows"):
        drawn = f"Drawn from {rows['drawn']:,} of {rows['of']:,} rows, evenly spaced."
        made = [replace(figure, caption=f"{figure.caption} {drawn}".strip()) for figure in made]
    return made


def _flat(value: object, key: str = "") -> list[tuple[str, str]]:
    """List settings by dotted path."""
    if isinstance(value, Mapping) and value:
        return [pair for name, inner in value.items() for pair in _flat(inner, f"{key}.{name}" if key else str(name))]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [(key, ", ".join(map(str, value)) or "none")]
    return [(key, "none" if value in (None, "", {}) else str(value))]
