"""Define the sections of a job: every key a user may write, its type and its default.

A key stands here only if it has an effect. Defaults are ones a reviewer would defend.
"""

import re
import zoneinfo
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic.dataclasses import dataclass

from fmray.spec.ref import Ref

Reference = Annotated[Ref, BeforeValidator(Ref.read), PlainSerializer(Ref.to_json)]
# strict: YAML 1.2 reads `on` and '3' as text, and so does fmray
Whole = Annotated[int, Field(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1)]
Share = Annotated[Number, Field(ge=0, lt=1)]
strict = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


def _as_list(value: object) -> object:
    return value if isinstance(value, list | tuple) else [value]


def _as_bytes(value: object) -> object:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]i?)B", value) if isinstance(value, str) else None
    if found is None:
        if isinstance(value, str):
            raise ValueError("bytes, e.g. 512 MB or 2 GiB")
        return value
    step = 1024 if found[2].endswith("i") else 1000
    return int(float(found[1]) * step ** ("KMGT".index(found[2][0]) + 1))


def _as_range(value: object) -> object:
    """Refuse what is no range as a whole, since what pydantic says of its parts is no help."""
    pair = list(value) if isinstance(value, list | tuple) else []
    whole = len(pair) == 2 and all(isinstance(number, int) and not isinstance(number, bool) for number in pair)
    if not whole or not 1 <= pair[0] <= pair[1]:
        raise ValueError("[fewest, most], e.g. [1, 4]")
    return value


def _as_tracker(value: object) -> object:
    address = r"default|(https?|(sqlite|postgresql|mysql|mssql)(\+\w+)?)://\S+"
    if value is None or (isinstance(value, str) and re.fullmatch(address, value)):
        return value
    raise ValueError(f"{value!r}. Accepted: default, or the URI of an MLflow server or of its database")


def _as_time_zone(value: object) -> object:
    try:
        if isinstance(value, str):
            zoneinfo.ZoneInfo(value)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError) as error:
        raise ValueError(f"{value!r}. Accepted: UTC, or a name such as Europe/Berlin or Asia/Tokyo") from error
    return value


def _as_model(value: object) -> object:
    return {"model": value} if isinstance(value, str) else value


def _as_number(value: object) -> object:
    return {"n": value} if isinstance(value, int) and not isinstance(value, bool) else value


@dataclass(frozen=True, kw_only=True, config=strict)
class Sample:
    """Say how often training rows of each class stand in the lanes; one of over, under, rates and share.

    A class's rate is the mean number of copies of its rows. Validation, test and what steps learn stay as they are, and
    probabilities are shifted back to the true shares of the classes.

    Args:
        over: Raise every class with fewer rows than this share of the largest class to that share; 1 makes all equal.
        under: Thin out every class until the smallest one has this share of its rows; 1 makes all equal.
        rates: Class -> rate; classes left out have 1.
        share: Learn from this share of the rows of each class, one at least, as if the others had no label: classes
            are as frequent then as in the rows that are kept. Rows of a smaller share are among those of a larger one,
            and equal rows of a class are kept together. Steps learn from all rows; `auto` asks all labels which
            columns help.
        salt: Another salt keeps and copies other rows.
    """

    over: Annotated[Number, Field(gt=0, le=1)] | None = None
    under: Annotated[Number, Field(gt=0, le=1)] | None = None
    rates: Mapping[str, Annotated[Number, Field(gt=0, le=1_000_000)]] | None = None
    share: Annotated[Number, Field(gt=0, lt=1)] | None = None
    salt: Whole = 0


@dataclass(frozen=True, kw_only=True, config=strict)
class Data:
    """Say where the rows are and what their columns mean.

    Args:
        path: File, folder, glob, URI or `sample:NAME`.
        target: Column, or columns, to predict.
        labels: Spelling found in the data -> the one meant.
        positive: The positive class of a binary target; the rarer one if unsaid.
        null_values: Strings and numbers that mean "missing".
        ignore: Columns that are read by nobody.
        key: Column(s) that identify a row; repeats are an error.
        group: Column whose equal values stay on one side of the split.
        group_nulls: "refuse" rows without a group, or make each its "own".
        time: Column that says when the row was known.
        weight: Column of row weights.
        dedup: "report" counts equal rows, "exact" removes training copies (test rows never go).
        max_quarantine: Largest share of rows that may be set aside with a reason.
        schema: "strict" or "union": whether a column may be absent from some files.
        sample: How often training rows of each class are learned from; each once if unsaid.
        time_zone: Zone of times that carry none, e.g. Asia/Tokyo; needed where other files carry one.
        text: Column of text that the spans of the target lie in; goes with task: span_extraction.
        references: Column of lists of texts that a generated text is scored against, in place of the target; goes with
            task: sequence_to_sequence.
        read_as: Column of bytes -> "text" or "bytes", where the first rows say otherwise.
        verify: "auto" tells changed files by what the filesystem says, and small local data sets by their contents;
            "full" reads and hashes all contents at every run, so that nothing but contents decides.
    """

    path: Text
    target: Annotated[tuple[Text, ...], BeforeValidator(_as_list), Field(min_length=1)]
    labels: Mapping[str, str] = Field(default_factory=dict)
    positive: str | int | bool | None = None
    null_values: tuple[str | float | int, ...] = ()
    ignore: tuple[str, ...] = ()
    key: Annotated[tuple[str, ...], BeforeValidator(lambda v: () if v in (None, "none") else _as_list(v))] = ()
    group: str | None = None
    group_nulls: Literal["refuse", "own"] = "refuse"
    time: str | None = None
    weight: str | None = None
    dedup: Literal["report", "exact"] = "report"
    max_quarantine: Share = 0.01
    schema: Literal["strict", "union"] = "strict"
    sample: Sample | None = None
    time_zone: Annotated[str | None, BeforeValidator(_as_time_zone)] = None
    text: str | None = None
    references: str | None = None
    read_as: Mapping[str, Literal["text", "bytes"]] = Field(default_factory=dict)
    verify: Literal["auto", "full"] = "auto"

    @property
    def reads_target(self) -> tuple[str, ...]:
        """Columns that say what the targets are: these, and the text that they lie in."""
        return self.target if self.text is None else (*self.target, self.text)


@dataclass(frozen=True, kw_only=True, config=strict)
class Split:
    """Say how rows are divided into train, validation and test.

    Args:
        by: "hash" of group, key or features; "group" (hash of `data.group`); "time" (train < val < test by
            `data.time`); "given" by `column`, whose values are train, val or validation, test.
        val, test: Shares of all rows; with "given" and no val rows, val is a share of train.
        column: The given split column.
        sides: For "given", what values of the column stand for, where they say something else: `{val: test}` takes a
            published validation set as the test set.
        val_from, test_from: ISO times at which val and test begin, for "time"; otherwise cut by share.
        salt: Another salt is another split.
        redefine: Replace the split definition recorded under this job's name, which retires its test set.
    """

    by: Literal["hash", "group", "time", "given"] = "hash"
    val: Share = 0.1
    test: Share = 0.2
    column: str | None = None
    sides: Mapping[Text, Literal["train", "val", "test"]] = Field(default_factory=dict)
    val_from: str | None = None
    test_from: str | None = None
    salt: Whole = 0
    redefine: Flag = False


@dataclass(frozen=True, kw_only=True, config=strict)
class EarlyStop:
    """Stop a member that has not improved on validation for `patience` epochs.

    Args:
        patience: Epochs without improvement.
        min_delta: Least gain that counts as an improvement.
    """

    patience: Annotated[Whole, Field(ge=1)] = 5
    min_delta: Annotated[Number, Field(ge=0)] = 0.0


@dataclass(frozen=True, kw_only=True, config=strict)
class Seeds:
    """Say how many seeds train side by side.

    Args:
        n: Members that differ in initialisation and dropout only.
        order: Also give each its own order of rows, one pack per order.
    """

    n: Annotated[Whole, Field(ge=1)] = 1
    order: Flag = False


@dataclass(frozen=True, kw_only=True, config=strict)
class Folds:
    """Say how training rows are cut into folds, each of which one member of every configuration is kept from.

    Args:
        n: Folds.
        strict: Also keep what steps learn from a fold: rows are prepared once more for each, and folds train one after
            the other. Otherwise steps learn from all training rows, once, and folds train side by side.
    """

    n: Annotated[Whole, Field(ge=2)] = 5
    strict: Flag = False


@dataclass(frozen=True, kw_only=True, config=strict)
class WarmStart:
    """Say whose tensors members begin with.

    Args:
        model: "champion" of the job, or the folder of a run or of its model. Rows must be divided as they were for it.
        otherwise: What to do where its inputs, target or model are other ones: "refuse", or "cold" starts from random
            tensors, and says so. Before there is a champion, members start cold.
    """

    model: Text
    otherwise: Literal["refuse", "cold"] = "refuse"


@dataclass(frozen=True, kw_only=True, config=strict)
class StartFrom:
    """Say which trained tensors members begin with, whatever data and target they were trained for.

    Args:
        model: Folder of a run, of its model, or any folder that holds a model.safetensors. What it holds decides which
            run this is, not where it lies.
        part: Take only the tensors whose names begin so, e.g. "encoder", or `[embedding, layers]`; the others are
            drawn. Without it all are taken, and must be those of the model by name and shape; but of a model of this
            kind that was trained for another task those that serve any task, see `fmray.spec.components.models`.
    """

    model: Text
    part: Text | Annotated[tuple[Text, ...], Field(min_length=1)] | None = None


@dataclass(frozen=True, kw_only=True, config=strict)
class Phase:
    """Say how one of the losses that a task steps in turn is minimised otherwise than train says.

    Args:
        optimizer: In place of train.optimizer.
        schedule: In place of train.schedule; constant, cosine or step.
    """

    optimizer: Reference | None = None
    schedule: Reference | None = None


@dataclass(frozen=True, kw_only=True, config=strict)
class ParameterGroup:
    """Say how some parameters of the model are stepped otherwise than the rest.

    Args:
        match: Pattern, or list of them, of parameter names as the module gives them: "encoder.*", "*.bias". A parameter
            belongs to the first group that matches it.
        lr_scale: Its learning rate is this share of the optimizer's.
        weight_decay: Its weight decay, in place of the optimizer's.
        freeze_epochs: Epochs in which it stays as it is, from the first; "all" never trains it.
    """

    match: Annotated[tuple[Text, ...], BeforeValidator(_as_list), Field(min_length=1)]
    lr_scale: Annotated[Number, Field(gt=0)] = 1.0
    weight_decay: Annotated[Number, Field(ge=0)] | None = None
    freeze_epochs: Literal["all"] | Annotated[Whole, Field(ge=0)] = 0


@dataclass(frozen=True, kw_only=True, config=strict)
class Order:
    """Say how rows are shuffled: chunks of a lane are permuted, then rows within windows of chunks.

    Args:
        chunk_rows: Consecutive rows of a lane that are read together.
        window_chunks: Chunks whose rows are shuffled together; a lane with fewer is shuffled whole.
        num_lanes: Lanes per split (V).
        bucket: Rows of similar length that stand side by side in a window, so that batches of so many rows have little
            padding; 0 shuffles without regard to lengths. Goes with blocks of tokens.
    """

    chunk_rows: Annotated[Whole, Field(ge=1)] = 1024
    window_chunks: Annotated[Whole, Field(ge=1)] = 64
    num_lanes: Annotated[Whole, Field(ge=1)] = 64
    bucket: Annotated[Whole, Field(ge=0)] = 0


@dataclass(frozen=True, kw_only=True, config=strict)
class Train:
    """Say how members are trained.

    Args:
        epochs: Largest number of passes over the training rows.
        steps: Largest number of optimizer steps, in place of `epochs`. What counts epochs elsewhere, such as patience,
            rungs and `freeze_epochs`, counts the times that validation is scored then.
        validate_every: Steps after which validation is scored; goes with `steps`. "auto" is a tenth of them.
        batch_rows: Rows of the global batch behind one optimizer step.
        optimizer: Name and parameters, e.g. `{adamw: {lr: 0.001, weight_decay: 0.01}}`.
        schedule: Learning-rate schedule: constant, cosine, step, plateau.
        warmup_steps: Steps over which the learning rate rises linearly from zero.
        clip_norm: Largest gradient norm per member.
        accumulate: Micro-batches that one batch is computed in.
        early_stop: `{patience: n}`, or null to train every epoch.
        ema: Validate and keep the exponential average of the parameters with this decay; null keeps the parameters.
        precision: "float32", or "bfloat16": autocast, refused where the device lacks it.
        seed: Root of every random stream of the training.
        seeds: Number of members that differ in seed only, or `{n: 5, order: true}`.
        order: Shuffling.
        folds: Number of times that every configuration is trained, each without the training rows of one fold, or
            `{n: 5, strict: true}`.
        groups: Parameters with a learning rate, decay or start of their own, e.g.
            `[{match: "encoder.*", lr_scale: 0.1, freeze_epochs: 1}]`.
        phases: Optimizer and schedule of single phases of the task, e.g.
            `{discriminator: {optimizer: {adam: {lr: 0.001}}}}`; only for a task that has several.
        start: Begin with the tensors of another training, or with a part of them, e.g.
            `{model: runs/pretrain/1a2b, part: encoder}`; member i with those of the i-th in there, in turn.
        warm_start: Begin with trained tensors, e.g. "champion", or `{model: champion, otherwise: cold}`; member i with
            those of the i-th that speaks there, in turn. Optimizers begin anew.
    """

    epochs: Annotated[Whole, Field(ge=1)] = 20
    steps: Annotated[Whole, Field(ge=1)] | None = None
    validate_every: Annotated[Whole, Field(ge=1)] | Literal["auto"] = "auto"
    batch_rows: Annotated[Whole, Field(ge=1)] = 256
    optimizer: Reference = Ref("adamw")
    schedule: Reference = Ref("constant")
    warmup_steps: Annotated[Whole, Field(ge=0)] = 0
    clip_norm: Annotated[Number, Field(gt=0)] | None = None
    accumulate: Annotated[Whole, Field(ge=1)] = 1
    early_stop: EarlyStop | None = EarlyStop()
    ema: Annotated[Number, Field(gt=0, lt=1)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Whole = 0
    seeds: Annotated[Seeds, BeforeValidator(_as_number)] = Seeds()
    order: Order = Order()
    folds: Annotated[Folds, BeforeValidator(_as_number)] | None = None
    groups: tuple[ParameterGroup, ...] = ()
    phases: Mapping[str, Phase] = Field(default_factory=dict)
    start: Annotated[StartFrom, BeforeValidator(_as_model, json_schema_input_type=str | StartFrom)] | None = None
    warm_start: Annotated[WarmStart, BeforeValidator(_as_model, json_schema_input_type=str | WarmStart)] | None = None

    @property
    def num_epochs(self) -> int:
        """Say how often validation is scored at most: after each pass, or every so many steps."""
        return self.epochs if self.steps is None else -(-self.steps // self.steps_per_epoch)

    @property
    def steps_per_epoch(self) -> int:
        """Say after how many steps validation is scored where the job counts steps; 0 where it counts passes."""
        if self.steps is None:
            return 0
        return -(-self.steps // 10) if self.validate_every == "auto" else self.validate_every


def _as_seconds(value: object) -> object:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?(s|min|h|d)", value) if isinstance(value, str) else None
    if found is None:
        if isinstance(value, str):
            raise ValueError(f"{value!r}. Accepted: seconds, or a time, e.g. 90 s, 30 min, 2 h")
        return value
    return float(found[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86_400}[found[2]]


@dataclass(frozen=True, kw_only=True, config=strict)
class Search:
    """Say how the ranges of a job are searched.

    What changes a shape, the batch or the prepared rows is structural; members of one structure that differ in anything
    else train together over one pass of the data.

    Args:
        members: Configurations to try; with `by: grid` all there are.
        by: How they are drawn: "sobol" (scrambled), "random", "grid", or "optuna", whose TPE proposes structures. With
            "pbt" they are drawn by sobol, and those that fall behind go on from the state of one that leads, with its
            parameters changed a little (population based training).
        stop: "asha" stops members that are not among the best 1/eta of those that reached an epoch; "none" none.
        structures: Structures to try; members are shared among them.
        eta: Of how many members one goes on.
        first_rung: Epoch of the first comparison; "auto" leaves room for three.
        finalists: Members that are trained again with all of `train.seeds`, and from which the result is made; with pbt
            anew, with the parameters they had at last.
        epochs: Epochs to spend on all members together, beyond which none goes on.
        interval: Epochs after which pbt compares a member with the others; "auto" is a tenth of all.
        time: Time after which no member goes on, in seconds or as text, e.g. "2 h".
        more: Members tried beyond `members`, once these are finished: `fmray run --more`.
    """

    members: Annotated[Whole, Field(ge=1)] = 32
    by: Literal["sobol", "random", "grid", "optuna", "pbt"] = "sobol"
    stop: Literal["asha", "none"] = "asha"
    structures: Literal["auto"] | Annotated[Whole, Field(ge=1)] = "auto"
    eta: Annotated[Whole, Field(ge=2)] = 3
    first_rung: Literal["auto"] | Annotated[Whole, Field(ge=1)] = "auto"
    finalists: Annotated[Whole, Field(ge=1)] = 5
    epochs: Annotated[Whole, Field(ge=1)] | None = None
    interval: Literal["auto"] | Annotated[Whole, Field(ge=1)] = "auto"
    time: Annotated[Number, Field(gt=0), BeforeValidator(_as_seconds)] | None = None
    more: Annotated[Whole, Field(ge=0)] = 0

    def interval_in(self, epochs: int) -> int:
        """Give the epochs between two comparisons of pbt, in a training of so many."""
        return max(1, epochs // 10) if self.interval == "auto" else self.interval


@dataclass(frozen=True, kw_only=True, config=strict)
class Evaluate:
    """Say how the result is judged.

    Args:
        primary: The metric that decides; by default roc_auc (binary), accuracy (multiclass), f1_micro (labels) or r2
            (regression).
        metrics: Further metrics to show; by default all that fit the task.
        slices: Columns whose levels are scored apart.
        baselines: What the result must beat.
        level: Confidence level of every interval.
        min_effect: Gain over the baseline that would matter; gate G20 warns if the test set cannot show it.
        val_rows: Score epochs on a sample of about so many validation rows, chosen by their ids; by default on all of
            them. What comes of the training is scored on all in any case.
    """

    primary: str | None = None
    metrics: tuple[str, ...] | None = None
    slices: tuple[str, ...] = ()
    baselines: tuple[Literal["dummy", "linear"], ...] = ("dummy", "linear")
    level: Annotated[Number, Field(gt=0.5, lt=1)] = 0.95
    min_effect: Annotated[Number, Field(ge=0)] = 0.0
    val_rows: Annotated[Whole, Field(ge=1)] | None = None


@dataclass(frozen=True, kw_only=True, config=strict)
class Rigour:
    """Say how strictly the run is judged.

    Args:
        profile: "draft" turns failed gates into warnings and marks the run as not promotable; "standard" fails it.
        waive: Gate -> reason; a waived gate is shown as such.
        prefer: "simple" lets a linear model that matches the linear baseline pass gate G22.
    """

    profile: Literal["draft", "standard"] = "standard"
    waive: Mapping[str, str] = Field(default_factory=dict)
    prefer: Literal["better", "simple"] = "better"


Range = Annotated[tuple[Annotated[Whole, Field(ge=1)], Annotated[Whole, Field(ge=1)]], BeforeValidator(_as_range)]


@dataclass(frozen=True, kw_only=True, config=strict)
class Track:
    """Say which other tools are told what happened; none of it changes what is asked.

    Args:
        tensorboard: Write the members' histories as event files to `tensorboard/` in the run directory.
        mlflow: Tell MLflow of the run, give it the model and register that: "default" is SQLite in the store
            (`mlflow.db`), else a server (http, https) or the database of one; null tells nobody.
    """

    tensorboard: Flag = False
    mlflow: Annotated[Text | None, BeforeValidator(_as_tracker)] = None


@dataclass(frozen=True, kw_only=True, config=strict)
class RunOptions:
    """Say where and how the run executes; none of it changes what is asked.

    Args:
        workers: 0 trains in this process, n on as many workers of Ray Train, [n, m] on as many as there is room for;
            "auto" is 0 without a cluster address, else one per GPU, or per node where there is none.
        memory: What rows may take of a worker's memory, e.g. "512 MB"; "auto" takes half of what is free. Rows that do
            not fit are streamed.
        ingest: How workers get rows: "ray" streams them through Ray Data, "map" maps the lanes' files; "auto" decides
            by size, and says so.
        max_failures: How often the processes of workers may die before the run does. Lost nodes are not counted.
        hang_seconds: Time without a step after which workers are ended, and started once more, e.g. "10 min"; "auto" is
            50 times the median step, 10 minutes at least; "none" waits for ever.
        gpu: "auto" uses a CUDA device if there is one; true demands it; false forbids it.
        threads: Torch threads; "auto" takes the cores at hand.
        deterministic: Refuse kernels that are not.
        checkpoint_seconds: Least time between two checkpoints inside an epoch; 0 writes one after every step.
        prepare: "auto" prepares small data in this process and large data over Ray; "ray" or "local" say which.
        reuse: Keep hashes of rows and what they say to steps, about 60 bytes a row, for the next run on grown data.
    """

    workers: Literal["auto"] | Annotated[Whole, Field(ge=0)] | Range = "auto"
    gpu: Literal["auto"] | Flag = "auto"
    threads: Literal["auto"] | Annotated[Whole, Field(ge=1)] = "auto"
    deterministic: Flag = False
    checkpoint_seconds: Annotated[Number, Field(ge=0)] = 30.0
    prepare: Literal["auto", "ray", "local"] = "auto"
    reuse: Flag = True
    memory: Literal["auto"] | Annotated[Whole, Field(ge=1), BeforeValidator(_as_bytes)] = "auto"
    ingest: Literal["auto", "ray", "map"] = "auto"
    max_failures: Annotated[Whole, Field(ge=0)] = 3
    hang_seconds: Literal["auto", "none"] | Annotated[Number, Field(gt=0), BeforeValidator(_as_seconds)] = "auto"


Params = Mapping[str, Any]
