"""Hold the frozen tables that stages hand to each other.

Data only: every record can be written as JSON and read back equal. What lies beside a record (lanes, tensors, Parquet)
is named in it by path relative to `root`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from fmray.schema import Schema

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
ROW_BYTES = 16
"""What a row takes in memory beside its inputs."""
RAGGED_BYTES = 16
"""What a row takes in memory beside its entries in a ragged column: where it starts, and how long it is."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Locate consecutive rows of a split's prepared sequence in one lane file.

    Inside the file rows are sorted by lane (position mod num_lanes), then by position.

    Args:
        file: Path relative to the record's root.
        start: Position of its first row in the split's sequence.
        num_rows: Rows in the file.
    """

    file: str
    start: int
    num_rows: int


@dataclass(frozen=True)
class Target:
    """Describe what is predicted.

    Args:
        columns: Target column names; several only for regression.
        kind: Names its codec in `fmray.catalogue.TARGETS`: "number", "class", "labels".
        classes: Names of classes or labels, ordered by value; empty for regression.
        positive: Index of the positive class of a binary target, else -1.
        mean, scale: Training mean and standard deviation per target column; empty for classification.
        counts: Training rows per class; empty for regression.
        sampled: Rows per class in the lanes of train, where `data.sample` makes them other than `counts`; else empty.
        rows: Training rows, where several classes may hold for one; else 0.
    """

    columns: tuple[str, ...]
    kind: str
    classes: tuple[str, ...] = ()
    positive: int = -1
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    sampled: tuple[int, ...] = ()
    rows: int = 0

    def to_json(self) -> Json:
        """Give the record as plain values; without `rows` it is as it was before that came."""
        plain = asdict(self)
        return plain if self.rows else {name: value for name, value in plain.items() if name != "rows"}

    @classmethod
    def from_json(cls, value: Json) -> "Target":
        """Read back plain values."""
        plain: Json = {name: tuple(given) if isinstance(given, list) else given for name, given in value.items()}
        return cls(**plain)


def _names(given: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(given)


@dataclass(frozen=True)
class Prepared:
    """Point at the lanes of one prepared data set, with all that was learned while preparing it.

    Args:
        fingerprint: Of everything that went in; names the record in the store.
        root: Folder that holds the lane files.
        schema: Columns of the input block `x`.
        target: What is predicted.
        num_lanes: V; row p of a split lies in lane p mod V.
        parts: Lane files per split, in sequence order.
        steps: Fitted steps, in order, as plain values: {"name", "params", "state"}.
        rows: Row accounting: read, train, val, test, duplicates, quarantined, unlabelled, which add up; and beside
            them, with `data.sample`, sampled: the rows in the lanes of train, copies counted. Row ids repeat there.
        quarantine: Reason -> number of rows.
        test_identity: Digest of the split definition and the test row ids; the ledger's key.
        slices: Column -> level names, for columns carried beside the inputs for slicing.
        weighted: True if a `weight` column lies in the lanes.
        grouped: True if a `group` column lies in the lanes (uint64 hash of the entity).
        notes: What a person should read about the data: duplicates, conflicts, columns left out and why.
        split: The split definition used: {by, columns, salt, hash_version, cut_points ...}.
        manifest: Data files as scanned: [{path, bytes, rows, modified/etag}].
        variants: The same rows, in the same sequence, as other steps of a search prepare them, by fingerprint.
        raw: Columns that the steps are given, as read.
        held: Split -> {"rows", and of val and test "counts" per class, or "low" and "high" per target column}, of rows
            whose weight is above 0.
        with_nulls: Those in which training rows have nulls; None if no step looked at them.
        entries: Column of a ragged block -> its entries in all rows, and those of its longest row.
        overlap: How many test rows have the inputs of a training row, and what gates G02 and G03 ask beside; empty in a
            record of an earlier version.
    """

    fingerprint: str
    root: str
    schema: Schema
    target: Target
    num_lanes: int
    parts: Mapping[Split, tuple[Part, ...]]
    steps: tuple[Json, ...]
    rows: Mapping[str, int]
    quarantine: Mapping[str, int]
    test_identity: str
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    weighted: bool = False
    grouped: bool = False
    notes: tuple[str, ...] = ()
    split: Json = field(default_factory=dict)
    manifest: tuple[Json, ...] = ()
    variants: Mapping[str, "Prepared"] = field(default_factory=dict)
    raw: Schema = field(default_factory=lambda: Schema(()))
    held: Json = field(default_factory=dict)
    with_nulls: tuple[str, ...] | None = None
    entries: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    overlap: Json = field(default_factory=dict)

    @property
    def row_bytes(self) -> float:
        """Bytes that the inputs, the target and the identity of a row take, on average."""
        num_rows = max(1, sum(self.num_rows(split) for split in SPLITS))
        ragged = sum(4 * total / num_rows + RAGGED_BYTES for total, _ in self.entries.values())
        return self.schema.dense_bytes + ROW_BYTES + ragged

    def for_member(self, member: "Member") -> "Prepared":
        """Give the rows as a member learned from them."""
        return self.variants.get(member.prepared, self)

    def num_rows(self, split: Split) -> int:
        """Count the rows of a split as they stand in its lanes."""
        return sum(part.num_rows for part in self.parts[split])

    def to_json(self) -> Json:
        """Give the record as plain values."""
        variants = {name: variant.to_json() for name, variant in self.variants.items()}
        parts = {"schema": self.schema.to_json(), "raw": self.raw.to_json(), "target": self.target.to_json()}
        values = {**asdict(self), **parts, "variants": variants}
        if not self.entries:  # records without ragged blocks read as they always did
            del values["entries"]
        if not self.overlap:
            del values["overlap"]
        return values

    @classmethod
    def from_json(cls, value: Json) -> "Prepared":
        """Read back what `to_json` gave."""
        return cls(
            **{
                **value,
                "schema": Schema.from_json(value["schema"]),
                "raw": Schema.from_json(value.get("raw", [])),
                "with_nulls": _names(value.get("with_nulls")),
                "target": Target.from_json(value["target"]),
                "parts": {split: tuple(Part(**p) for p in parts) for split, parts in value["parts"].items()},
                "steps": tuple(value["steps"]),
                "slices": {name: tuple(levels) for name, levels in value["slices"].items()},
                "notes": tuple(value["notes"]),
                "manifest": tuple(value["manifest"]),
                "variants": {name: cls.from_json(variant) for name, variant in value["variants"].items()},
                "entries": {name: (total, most) for name, (total, most) in value.get("entries", {}).items()},
            }
        )


@dataclass(frozen=True)
class Predictions:
    """Point at a table of what a model says about rows.

    Columns of the Parquet file: `row_id` (16 bytes), `target` (class index or number; one column per target if there
    are several: target_0 ...), `weight` (float, if weighted), `group` (uint64, if grouped), `slice_<column>` (int32
    codes into Prepared.slices), and the outputs: `p_<i>` class probabilities, or `y_<i>` numbers in target units.

    Args:
        path: The Parquet file.
        split: Which rows it holds, each exactly once.
        outputs: Names of the output columns, in class or target order.
        num_rows: Rows in the table.
    """

    path: str
    split: Split
    outputs: tuple[str, ...]
    num_rows: int


TENSORS = "tensors"
"""Kind of artefact that a network leaves."""
HISTORY = ("epoch", "metric", "value")
"""What an entry of a member's history says."""


@dataclass(frozen=True)
class Member:
    """Describe one trained model.

    Args:
        index: Position in the sweep.
        model: {"name", "params"} that build it.
        params: Searched and seeded parameters by dotted path, e.g. {"train.seed": 3}.
        seed: Of its initialisation and dropout.
        root: Folder with its tensors (`model.safetensors`, best state on validation).
        status: "finished", "stopped" (early), or "failed" with `reason`.
        best_epoch: 1-based epoch whose state was kept.
        epochs: Epochs trained.
        val_score: Primary metric on validation of the kept state; None if the member failed.
        tensor_hash: SHA-256 of the kept tensors, or of the file where the artefact is another.
        history: [{epoch, metric, value}] per finished epoch.
        reason: Why it failed or stopped, in words.
        role: "member", "finalist" (a chosen configuration, trained again with another seed), or "baseline".
        structure: Which of the sweep's structures it has: what changes a shape, a batch or the prepared rows.
        pack: Which pack it was trained in.
        prepared: Fingerprint of the rows it learned from.
        rungs: [{epoch, score, survived}] where it was compared with the others of the sweep, scores higher for better.
        artefact: Kind of file in `root` that holds it: "tensors", or what its estimator names.
    """

    index: int
    model: Json
    params: Json
    seed: int
    root: str
    status: Literal["finished", "stopped", "failed"]
    best_epoch: int
    epochs: int
    val_score: float | None
    tensor_hash: str
    history: tuple[Json, ...] = ()
    reason: str = ""
    role: Literal["member", "finalist", "baseline"] = "member"
    structure: int = 0
    pack: int = 0
    prepared: str = ""
    rungs: tuple[Json, ...] = ()
    artefact: str = TENSORS

    def to_json(self) -> Json:
        """Give the record as plain values; the artefact is named where it is not tensors."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.artefact == TENSORS:
            del plain["artefact"]
        # a history is the longest part by far: as three columns it is written and read five times as fast
        return {**plain, "history": {name: [entry[name] for entry in self.history] for name in HISTORY}}

    @classmethod
    def from_json(cls, value: Json) -> "Member":
        """Read back what `to_json` gave."""
        columns = (value["history"][name] for name in HISTORY)
        history = tuple(dict(zip(HISTORY, entry, strict=True)) for entry in zip(*columns, strict=True))
        return cls(**{**value, "history": history, "rungs": tuple(value["rungs"])})


@dataclass(frozen=True)
class Interval:
    """Give a number and how sure one may be of it.

    Args:
        value: The estimate.
        low, high: Ends of the interval at the job's level (95 % unless said otherwise); NaN where undefined.
        n: Rows (or groups, where rows come in groups) behind it.
        method: How the interval was made, e.g. "wilson", "delong", "delta", "group bootstrap".
    """

    value: float
    low: float
    high: float
    n: int
    method: str


@dataclass(frozen=True)
class Ensemble:
    """Name the members whose predictions are combined, with which weights, and how.

    Args:
        name: "single", "average" ...
        members: Indices of the members.
        weights: One per member; sums to 1.
        val_score: Primary metric on validation.
        reason: Why this one, in words.
        combine: How outputs become one: "mean" of predictions, "vote" of the classes they name, "soup" of parameters,
            "logistic" of their log probabilities.
        params: What `combine` needs beside weights, as plain values.
        gain: Over the best single member, each half of validation scored by weights from the other; None for one.
        cost: What it takes to predict: {"parameters": number, "rows_per_second": number}; empty if unmeasured.
    """

    name: str
    members: tuple[int, ...]
    weights: tuple[float, ...]
    val_score: float | None = None
    reason: str = ""
    combine: Literal["mean", "vote", "soup", "logistic"] = "mean"
    params: Json = field(default_factory=dict)
    gain: Interval | None = None
    cost: Json = field(default_factory=dict)

    def to_json(self) -> Json:
        """Give the record as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Json) -> "Ensemble":
        """Read back what `to_json` gave."""
        gain = None if value["gain"] is None else Interval(**value["gain"])
        lists = {name: tuple(value[name]) for name in ("members", "weights")}
        return cls(**{**value, **lists, "gain": gain})


@dataclass(frozen=True)
class SearchAccount:
    """Give account of a sweep: what was tried, what was stopped, and how far its winner may be believed.

    Members are told by their index in `Card.members`, which hold parameters, rungs, epochs and scores.

    Args:
        space: Dotted path -> {"kind": "uniform", "log_uniform", "int", "log_int" or "choice", "packable": bool} with
            "low" and "high", or for a choice "options".
        num_members, num_structures, num_packs: How many there were.
        member_epochs, full_epochs: Epochs trained over all members, and what they would be had none been stopped.
        seconds: Wall clock of the sweep.
        rungs: [{"epoch", "reached", "survived", "cutoff"}], cutoff being the worst score that survived, or None;
            as members are compared, higher for better: the negative of a metric where lower is better.
        leaderboard: [{"member", "score", "low", "high"}] on validation, best first.
        selection: `evaluate.selection.Selection` as plain values; empty where there was nothing to choose from.
        finalists: [{"member", "params", "scores", "mean", "sd"}], scores one per seed it was trained again with.
        diversity: `evaluate.diversity.Diversity` as plain values; empty for one member.
        failed: [{"member", "params", "reason"}].
    """

    space: Json
    num_members: int
    num_structures: int
    num_packs: int
    member_epochs: int
    full_epochs: int
    seconds: float
    rungs: tuple[Json, ...] = ()
    leaderboard: tuple[Json, ...] = ()
    selection: Json = field(default_factory=dict)
    finalists: tuple[Json, ...] = ()
    diversity: Json = field(default_factory=dict)
    failed: tuple[Json, ...] = ()

    def to_json(self) -> Json:
        """Give the record as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Json) -> "SearchAccount":
        """Read back what `to_json` gave."""
        lists = {name: tuple(value[name]) for name in ("rungs", "leaderboard", "finalists", "failed")}
        return cls(**{**value, **lists})


@dataclass(frozen=True)
class Scores:
    """Give metrics with confidence intervals, overall and per slice.

    Args:
        primary: Name of the metric that decides.
        higher_is_better: Its direction.
        test, val: Metric -> interval for the chosen ensemble.
        baselines: Baseline -> metric -> interval on the test rows.
        paired: Baseline -> interval of our gain over it in the primary metric on the same test rows, positive = better.
        slices: "column=level" -> metric -> interval, on the test rows.
        looks: How many times this test set has been looked at, this one included.
        figures: Small tables for plots: confusion, calibration, residuals.
        extra: Anything else worth keeping: p-values, minimum detectable effect.
    """

    primary: str
    higher_is_better: bool
    test: Mapping[str, Interval]
    val: Mapping[str, Interval]
    baselines: Mapping[str, Mapping[str, Interval]]
    paired: Mapping[str, Interval]
    slices: Mapping[str, Mapping[str, Interval]]
    looks: int
    figures: Json = field(default_factory=dict)
    extra: Json = field(default_factory=dict)

    def to_json(self) -> Json:
        """Give the record as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Json) -> "Scores":
        """Read back what `to_json` gave."""

        def table(metrics: Json) -> dict[str, Interval]:
            return {name: Interval(**interval) for name, interval in metrics.items()}

        nested = {key: {name: table(t) for name, t in value[key].items()} for key in ("baselines", "slices")}
        flat = {key: table(value[key]) for key in ("test", "val", "paired")}
        return cls(**{**value, **flat, **nested})


@dataclass(frozen=True)
class Run:
    """Point at one execution of a job: its directory and all that lies in it.

    Args:
        id: Hash of what was asked and of the data, plus an attempt letter.
        job: Name of the job.
        root: Its directory in the store.
        status: "finished", "failed", "running" or "interrupted".
        scores: Its scores once finished.
        report: Path of report.html once finished.
        failed_gates: Gates that failed and were not waived.
    """

    id: str
    job: str
    root: str
    status: Literal["finished", "failed", "running", "interrupted"]
    scores: Scores | None = None
    report: str = ""
    failed_gates: tuple[str, ...] = ()
