"""Refuse keys that the other keys leave without effect, or that contradict each other.

Whoever wrote a key believes that it does something; a job that ignores it in silence answers another question.
"""

import math
import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from fmray.catalogue import ESTIMATORS, LINEAR_MODELS, MODELS, STEPS, TASKS
from fmray.schema import DECODED
from fmray.spec.explain import dotted
from fmray.spec.inputs import MAKERS, at_odds, lacking
from fmray.spec.job import Job
from fmray.spec.packable import split_ranges
from fmray.spec.promotion import Promote
from fmray.spec.ranges import Keys
from fmray.spec.refusal import Refusal
from fmray.spec.sections import RunOptions, Search, Split, Train
from fmray.spec.text_tasks import MASKED, of_generation, of_masked
from fmray.store import redact


def hidden_params(job: Job) -> list[str]:
    """Say which parameters are hidden wherever they are written, so that what is read back lacks them."""
    named = {"model": job.model, "train.optimizer": job.train.optimizer, "ensemble": job.ensemble, "task": job.task}
    refs = [*named.items(), *(("steps", step) for step in job.steps)]
    return [
        f"{key}.{ref.name}.{name} holds a secret, which is written nowhere: a model that is read back gets '***' in "
        "its place. Read it from the environment in your code, or rename the parameter if it is none"
        for key, ref in refs
        for name, given in ref.params.items()
        if redact({name: given}) != {name: given}
    ]


def without_effect(job: Job, value: Mapping[str, Any]) -> list[Refusal]:
    """List keys without effect, and keys that leave nothing to learn from or judge by.

    Args:
        value: The job as written, to tell what was said from what is default.
    """
    return [
        *_in_split(job, value),
        *_in_times(job, value),
        *_in_data(job),
        *_in_text(job),
        *_in_sample(job),
        *_in_train(job),
        *_in_task(job),
        *of_generation(job),
        *_in_model(job),
        *_in_order(job),
        *_in_judging(job),
        *_in_promotion(job),
        *_in_run(job),
        *_in_search(job, value),
        *_in_ensemble(job),
        *_in_estimator(job),
    ]


def _in_split(job: Job, value: Mapping[str, Any]) -> list[Refusal]:
    found: list[Refusal] = []
    split = job.split
    plain = Split()
    said = {key for key, given in (value.get("split") or {}).items() if given != getattr(plain, key)}
    for key, by in (
        ("column", ("given",)),
        ("sides", ("given",)),
        ("val_from", ("time",)),
        ("test_from", ("time",)),
        ("salt", ("hash", "group", "given")),
    ):
        if key in said and split.by not in by:
            text = f"has no effect with split.by: {split.by}. It goes with {' or '.join(by)}."
            found.append((("split", key), text))
    if split.by == "given":
        if "test" in said:
            text = "has no effect with split.by: given, whose column names the test rows. Leave it out."
            found.append((("split", "test"), text))
        if split.column is None:
            found.append((("split", "column"), "is missing; split.by: given reads it. Name the column."))
    if split.by in ("group", "time") and getattr(job.data, split.by) is None:
        found.append((("data", split.by), f"is missing; split.by: {split.by} reads it. Name the column."))
    if split.val + split.test >= 1 and split.by != "given":
        text = f"val {split.val:g} and test {split.test:g} leave nothing to train on. Make their sum < 1."
        found.append((("split",), text))
    if not split.val and not (split.by == "given" or split.val_from):
        found.append((("split", "val"), "0 leaves nothing to choose by. Give a share, e.g. 0.1."))
    if not split.test and split.by != "given" and not split.test_from:
        found.append((("split", "test"), "0 leaves nothing to judge by. Give a share, e.g. 0.2."))
    return found


def _in_times(job: Job, value: Mapping[str, Any]) -> list[Refusal]:
    found: list[Refusal] = []
    split = job.split
    written = value.get("split") or {}
    times = {}
    for key, share in (("val_from", "val"), ("test_from", "test")):
        given = getattr(split, key)
        if given is None:
            continue
        if share in written:
            found.append((("split", share), f"has no effect beside {key}: {given}. Leave one out."))
        try:
            times[key] = datetime.fromisoformat(given).replace(tzinfo=None)
        except ValueError:
            found.append((("split", key), f"'{given}'. Accepted: an ISO time, e.g. 2024-01-31 or 2024-01-31T06:00."))
    if len(times) == 2 and times["val_from"] >= times["test_from"]:
        text = f"{split.val_from} is not before test_from: {split.test_from}. Validation lies before the test."
        found.append((("split", "val_from"), text))
    return found


def _in_data(job: Job) -> list[Refusal]:
    found: list[Refusal] = []
    data = job.data
    foreign = {"regression": ("labels", "positive"), "multi_label": ("positive",)}
    if keys := foreign.get(job.task.name):
        for key in keys:
            if getattr(data, key) not in (None, {}):
                text = f"{getattr(data, key)!r} goes with classification, and this is {job.task.name}. Leave it out."
                found.append((("data", key), text))
    if re.match(r"(s3a?|gs|gcs)://[^/]*@", data.path):
        text = f"'{redact(data.path)}' carries credentials, which no bucket reads. Set them in the environment."
        found.append((("data", "path"), text))
    if data.group is None and data.group_nulls != "refuse":
        text = f"{data.group_nulls} has no effect without data.group. Name the column, or leave it out."
        found.append((("data", "group_nulls"), text))
    roles = {"target": data.target, "key": data.key}
    roles |= {role: (name,) for role in ("text", "group", "time", "weight") if (name := getattr(data, role))}
    for role, names in roles.items():
        for name in names:
            if name in data.ignore:
                text = f"'{name}' is left out by data.ignore and read as data.{role}. Take it out of one."
                found.append((("data", "ignore"), text))
            if role != "target" and name in data.target:
                found.append((("data", role), f"'{name}' is data.target as well. Name another column."))
    return found


def _in_text(job: Job) -> list[Refusal]:
    """Refuse spans without the text that they lie in, or tokens of it that do not know where they stand."""
    data = job.data
    task = job.task.name
    asks = task in TASKS and TASKS.params(task).in_text
    if not asks:
        text = f"'{data.text}' has no effect: it goes with task: span_extraction, and this is {task}. Leave it out."
        return [] if data.text is None else [(("data", "text"), text)]
    if data.text is None:
        text = f"is missing, and {task} finds spans of a text. Name the column of text that data.target lies in."
        return [(("data", "text"), text)]
    found: list[Refusal] = []
    for key in ("labels", "positive", "sample"):
        if getattr(data, key) not in (None, {}):
            found.append((("data", key), f"goes with classes, and this is {task}. Leave it out."))
    makers = [step for step in job.prepared_steps if step.name in STEPS and STEPS.params(step.name).makes == "tokens"]
    known = all(step.name in STEPS for step in job.prepared_steps)
    fits = [step.name == "tokenize_words" and step.params.get("columns") in (data.text, [data.text]) for step in makers]
    if known and fits != [True]:
        given = ", ".join(f"{step.name} of {step.params.get('columns')}" for step in makers) or "none"
        text = f"{task} needs tokens by tokenize_words of '{data.text}' alone, given: {given}. "
        found.append((("steps",), f"{text}Write steps: [{{tokenize_words: {{columns: {data.text}}}}}]."))
    return found


def _in_sample(job: Job) -> list[Refusal]:
    sample = job.data.sample
    keys = ("data", "sample")
    if sample is None:
        return []
    given = [name for name in ("over", "under", "rates", "share") if getattr(sample, name) is not None]
    if len(given) != 1:
        return [(keys, f"{' and '.join(given) or 'nothing'} given. Give one of over, under, rates, share.")]
    found: list[Refusal] = []
    if job.task.name not in ("auto", "classification"):
        found.append((keys, f"goes with classification, and the task is {job.task.name}. Leave it out."))
    rates = sample.rates
    if rates is not None and set(rates.values()) <= {1}:
        found.append(((*keys, "rates"), f"{dict(rates)} changes nothing. Give a class a rate other than 1."))
    elif rates is not None and sample.salt and all(rate == int(rate) for rate in rates.values()):
        found.append(((*keys, "salt"), f"{sample.salt} has no effect where all rates are whole. Leave it out."))
    return found


def _in_train(job: Job) -> list[Refusal]:
    found: list[Refusal] = []
    train = job.train
    if train.seeds.order and train.seeds.n == 1:
        found.append((("train", "seeds", "order"), "has no effect with one seed. Give train.seeds.n."))
    found += _in_steps(job)
    if train.accumulate > train.batch_rows:
        text = f"{train.accumulate} parts of a batch of {train.batch_rows} rows. Give at most batch_rows."
        found.append((("train", "accumulate"), text))
    schedule = train.schedule
    stop = train.early_stop
    patience = schedule.params.get("patience", 3)
    if schedule.name == "plateau" and stop is not None and patience >= stop.patience:
        text = f"patience {patience} is never reached: early_stop.patience is {stop.patience}. Make it smaller."
        found.append((("train", "schedule"), text))
    if train.folds is not None and train.folds.strict and not job.prepared_steps:
        text = "has no effect without steps, which alone learn from rows before a training. Leave it out."
        found.append((("train", "folds", "strict"), text))
    for name, phase in train.phases.items():
        keys = ("train", "phases", name)
        if phase.schedule is not None and phase.schedule.name == "plateau":
            text = "plateau goes by the score of all phases together. Give it as train.schedule, or take another."
            found.append(((*keys, "schedule"), text))
        if phase.optimizer is None and phase.schedule is None:
            found.append((keys, "says nothing. Give optimizer or schedule, or leave it out."))
    if train.start is not None and train.warm_start is not None:
        found.append((("train", "start"), "says what members begin with, and so does warm_start. Leave one out."))
    if train.start is not None and train.start.part and "folder" in job.model.params and job.model.name == "hf":
        text = "part takes some tensors from elsewhere, which would leave the rest of hf random. Leave one out."
        found.append((("train", "start"), text))
    if train.start is not None and job.ranges:
        found.append((("train", "start"), "goes without ranges, whose members differ in what they are."))
    if train.start is not None and train.folds is not None and train.folds.strict and _learns_vocabulary(job):
        text = "has embeddings of one vocabulary, and train.folds.strict learns one per fold. Give tokenize.pretrained."
        found.append((("train", "start"), text))
    if train.warm_start is not None:
        if job.ranges:
            found.append((("train", "warm_start"), "goes without ranges, whose members differ in what they are."))
        if train.folds is not None or job.ensemble.name == "adaboost":
            other = "train.folds" if train.folds is not None else "ensemble: adaboost"
            text = f"has seen the rows that {other} keeps from members. Leave one out."
            found.append((("train", "warm_start"), text))
    return found


def _learns_vocabulary(job: Job) -> bool:
    names = {step.name for step in job.steps if step.params.get("pretrained") is None}
    return not names.isdisjoint(("tokenize", "tokenize_words"))


def _in_task(job: Job) -> list[Refusal]:
    found: list[Refusal] = []
    task = job.task.name
    if task == "gan":
        if "linear" in job.evaluate.baselines:
            text = "linear generates nothing, and the task is gan. Give [dummy]."
            found.append((("evaluate", "baselines"), text))
        if job.train.folds is not None or job.ensemble.name not in ("auto", "single"):
            text = "points of several generators are not averaged. Give ensemble: single."
            found.append((("ensemble",), text))
    found += of_masked(job) if task == MASKED else []
    for place, step in enumerate(job.steps):
        if task == "language_model" and step.name == "tokenize" and step.params.get("pretrained") is not None:
            text = "goes with no language_model yet, only with masked_language_model."
            found.append((("steps", place, "tokenize", "pretrained"), f"{text} Leave it out."))
    if task == "language_model" and job.model.name in MODELS and MODELS.params(job.model.name).looks_ahead:
        text = f"{job.model.name} sees the tokens behind each, which language_model is to foretell. Take decoder."
        found.append((("model",), text))
    for keys in job.ranges:
        if keys == ("task", "multi_label", "thresholds"):
            text = (
                "members share thresholds, which are chosen once these are trained. Give shared, per_label or a number."
            )
            found.append((keys, text))
    known = (task == "auto" or task in TASKS) and (job.model.name in MODELS or job.model.name in ESTIMATORS)
    if known and (text := at_odds(job.model.name, task, job.model.params.get("per"))):
        found.append((("model",), text))
    loss = job.task.params.get("loss")
    if job.model.name == "perceptron":
        if ":" not in task and loss != "perceptron":
            text = "perceptron learns by a loss of its own, and " + (f"{loss} is given" if loss else "none is given")
            found.append((("model",), text + ". Write task: {classification: {loss: perceptron}}, or model: linear."))
        if job.train.seeds.n > 1 and not job.train.seeds.order:
            text = f"{job.train.seeds.n} members of model perceptron would be one: it starts at zero whatever the seed."
            found.append((("train", "seeds"), f"{text} Give {{n: {job.train.seeds.n}, order: true}}."))
    return found


def _in_model(job: Job) -> list[Refusal]:
    """Refuse a model that cannot do without a block that no step makes; steps of the user's own may make any."""
    name = job.model.name
    if (name not in MODELS and name not in ESTIMATORS) or not all(step.name in STEPS for step in job.prepared_steps):
        return []
    model = MODELS.params(name)
    made = {DECODED, *(STEPS.params(step.name).makes for step in job.prepared_steps)}  # the task makes the one
    return [(("model",), lacking(name, model.reads, kind)) for kind in model.needs if kind not in made]


def _in_order(job: Job) -> list[Refusal]:
    """Refuse buckets of similar lengths where all rows are equally long."""
    known = all(step.name in STEPS for step in job.prepared_steps)
    ragged = any(STEPS.params(step.name).makes in MAKERS for step in job.prepared_steps if known)
    if not job.train.order.bucket or ragged or not known:
        return []
    return [(("train", "order", "bucket"), "has no effect where no step makes tokens. Add one, or leave it out.")]


def _in_judging(job: Job) -> list[Refusal]:
    found: list[Refusal] = []
    if job.evaluate.min_effect and not job.evaluate.baselines:
        text = "has no effect without baselines. Name one: dummy or linear."
        found.append((("evaluate", "min_effect"), text))
    for gate, reason in job.rigour.waive.items():
        if not reason.strip():
            found.append((("rigour", "waive", gate), "gives no reason. Say in words why the gate is waived."))
    linear = job.model.name in LINEAR_MODELS or ":" in job.model.name
    if job.rigour.prefer == "simple" and not linear:
        text = f"simple has no effect on model '{job.model.name}'. It goes with linear."
        found.append((("rigour", "prefer"), text))
    return found


def _in_promotion(job: Job) -> list[Refusal]:
    rule = job.promote
    plain = Promote()
    if rule is None:
        return []
    found: list[Refusal] = []
    for key, only, value in (
        ("horizon", "evidence", "sealed"),
        ("promotions", "evidence", "sealed"),
        ("margin", "mode", "refresh"),
        ("min_effect", "mode", "superior"),
    ):
        if getattr(rule, key) != getattr(plain, key) and getattr(rule, only) != value:
            text = f"has no effect with promote.{only}: {getattr(rule, only)}. It goes with {value}."
            found.append((("promote", key), text))
    if rule.mode == "refresh" and rule.margin is None:
        found.append((("promote", "margin"), "is missing; promote.mode: refresh reads it. Say what may be lost."))
    if rule.slice_margin is not None and not job.evaluate.slices:
        found.append(
            (("promote", "slice_margin"), "has no effect without evaluate.slices. Name columns, or leave it out.")
        )
    if rule.promotions > rule.attempts:
        text = f"{rule.promotions} promotions of {rule.attempts} decisions. Give at most promote.horizon."
        found.append((("promote", "promotions"), text))
    if job.rigour.profile == "draft":
        found.append(
            (("promote",), "has no effect with rigour.profile: draft, which is never promoted. Leave one out.")
        )
    return found


def _in_run(job: Job) -> list[Refusal]:
    """Refuse what only workers of Ray look at, where there are none."""
    run = job.run
    plain = RunOptions()
    text = "has no effect with run.workers: 0. Ask for workers, or leave it out."
    return [
        (("run", key), text)
        for key in ("ingest", "max_failures")
        if run.workers == 0 and getattr(run, key) != getattr(plain, key)
    ]


def _in_steps(job: Job) -> list[Refusal]:
    """Refuse what contradicts a training that counts steps."""
    train = job.train
    if train.steps is None:
        text = "has no effect where validation is scored after each pass over the rows. It goes with train.steps."
        return [(("train", "validate_every"), text)] if train.validate_every != "auto" else []
    found: list[Refusal] = []
    if train.epochs != Train().epochs:
        found.append((("train", "epochs"), f"{train.epochs}, and train.steps says {train.steps:,}. Leave one out."))
    if train.validate_every != "auto" and train.validate_every > train.steps:
        text = f"{train.validate_every:,} is more than the {train.steps:,} steps of train.steps. Make it smaller."
        found.append((("train", "validate_every"), text))
    for keys in job.ranges:
        if keys[:1] == ("train",) and keys[-1] in ("steps", "validate_every", "epochs"):
            found.append((keys, "all members train for as many steps. Give one value."))
    return found


def _in_search(job: Job, value: Mapping[str, Any]) -> list[Refusal]:
    search = job.search
    plain = Search()
    said = {key for key, given in (value.get("search") or {}).items() if given != getattr(plain, key)}
    if not job.ranges:
        text = "has no effect: no value is a range. Write one, e.g. lr: {log_uniform: [1e-4, 1e-2]}."
        return [(("search",), text)] if "search" in value else []
    found: list[Refusal] = []
    structural, _ = split_ranges(job)
    endless = [dotted(keys) for keys, searched in job.ranges.items() if searched.num_values == math.inf]
    if search.by == "grid" and endless:
        text = f"grid tries every value, and {endless[0]} has no end of them. Make it a choice, or search by sobol."
        found.append((("search", "by"), text))
    if search.by == "optuna" and not structural:
        found.append((("search", "by"), "optuna proposes structures, and no range changes one. Search by sobol."))
    without_effect = {
        "members": search.by == "grid" and "by: grid, which tries all",
        "more": (search.by == "grid" and "by: grid, which tries all")
        or (search.by == "optuna" and "by: optuna, which proposes anew for other search.members"),
        "structures": (not structural and "no range that changes a structure")
        or (search.by == "grid" and "by: grid, which tries all"),
        "eta": search.stop == "none" and "stop: none",
        "first_rung": search.stop == "none" and "stop: none",
        "epochs": search.stop == "none" and "stop: none, where members and train.epochs say it",
    }
    for key, reason in without_effect.items():
        if key in said and reason:
            found.append((("search", key), f"has no effect with {reason}. Leave it out."))
    if search.time is not None and job.run.deterministic:
        text = "ends the search by the clock, which no other run repeats. Give search.epochs, or leave one out."
        found.append((("search", "time"), text))
    if search.first_rung != "auto" and search.first_rung >= job.train.num_epochs:
        text = f"{search.first_rung} is never reached before the end at epoch {job.train.num_epochs}. Make it smaller."
        found.append((("search", "first_rung"), text))
    return found + _in_pbt(job, structural, said)


def _in_pbt(job: Job, structural: Collection[Keys], said: Collection[str]) -> list[Refusal]:
    search = job.search
    epochs = job.train.num_epochs
    if search.by != "pbt":
        text = f"has no effect with by: {search.by}. It goes with pbt."
        return [(("search", "interval"), text)] if "interval" in said else []
    found: list[Refusal] = []
    for keys in structural:
        text = f"pbt moves members of one structure, and {dotted(keys)} changes it. Give one value, or search by sobol."
        found.append((("search", "by"), text))
    for key in ("stop", "eta", "first_rung", "structures", "more", "epochs", "time"):
        if key in said:
            text = "has no effect with by: pbt, where every member trains to train.epochs. Leave it out."
            found.append((("search", key), text))
    if search.members < 2:
        found.append((("search", "members"), f"{search.members} has nobody to go on from. Ask for at least 2."))
    if search.interval_in(epochs) >= epochs:
        text = f"{search.interval_in(epochs)} is never reached before the end at epoch {epochs}. Make it smaller."
        found.append((("search", "interval"), text))
    if job.run.workers == 0:
        text = "0 trains in this process, and pbt is run by Ray Tune. Ask for workers, or search by sobol."
        found.append((("run", "workers"), text))
    if job.run.deterministic:
        text = "true is more than pbt can hold: who goes on from whom depends on who has reported by then"
        found.append((("run", "deterministic"), f"{text}. Search by sobol, or leave it out."))
    return found


def _in_ensemble(job: Job) -> list[Refusal]:
    """Refuse what boosting, which trains one configuration round after round, cannot take up."""
    if job.ensemble.name != "adaboost":
        return []
    found: list[Refusal] = []
    if job.ranges:
        text = "adaboost boosts one configuration, and a range asks for many. Leave the ranges out, or take greedy."
        found.append((("ensemble",), text))
    if job.train.folds is not None:
        found.append((("train", "folds"), "has no effect with ensemble: adaboost. Leave one out."))
    if job.train.seeds.n > 1:
        text = f"{job.train.seeds.n} seeds are as many configurations, and adaboost boosts one. Leave them out."
        found.append((("train", "seeds"), text))
    return found


NETWORKS_ONLY = (
    "steps", "optimizer", "schedule", "clip_norm", "accumulate", "ema", "precision", "warm_start", "groups"
)  # fmt: skip
"""Keys of `train` that say how parameters move along gradients."""
OF_BATCHES = ("batch_rows", "warmup_steps")
"""Those that the linear baseline reads as well."""


def said_of_steps(job: Job) -> list[str]:
    """Say what an epoch is where the job counts steps."""
    train = job.train
    if train.steps is None:
        return []
    times = f"{train.num_epochs} times in {train.steps:,} steps"
    return [f"train.steps: an epoch is {train.steps_per_epoch:,} steps; validation is scored {times}"]


def said_of_estimator(job: Job) -> list[str]:
    """Say what an epoch is for a model that learns from whole blocks of rows, and who reads keys about batches."""
    name = job.model.name
    if name not in ESTIMATORS:
        return []
    rounds = ESTIMATORS.read(name, job.at({}).model.params).rounds_per_epoch
    epochs = job.train.num_epochs
    found = [f"an epoch of {name} is {rounds} boosting rounds: train.epochs {epochs} are {epochs * rounds} rounds"]
    if given := [key for key in OF_BATCHES if getattr(job.train, key) != getattr(Train(), key)]:
        keys = " and ".join(f"train.{key}" for key in given)
        found.append(f"{keys}: read by the linear baseline only, not by {name}")
    return found


def _in_estimator(job: Job) -> list[Refusal]:
    """Refuse what a model cannot take up that learns from whole blocks of rows, not by gradients of batches."""
    name = job.model.name
    if name not in ESTIMATORS:
        return []
    found: list[Refusal] = []
    train = job.train
    plain = Train()
    text = f"has no effect on model {name}, which learns from all rows at once. Leave it out."
    keys = [*NETWORKS_ONLY, *(OF_BATCHES if "linear" not in job.evaluate.baselines else ())]
    found += [(("train", key), text) for key in keys if getattr(train, key) != getattr(plain, key)]
    for key in ("chunk_rows", "window_chunks"):
        if getattr(train.order, key) != getattr(plain.order, key) and "linear" not in job.evaluate.baselines:
            found.append((("train", "order", key), text))
    if train.seeds.order:
        found.append((("train", "seeds", "order"), text))
    for place, step in enumerate(job.steps):
        if step in job.live_steps:
            found.append((("steps", place), f"{step.name} changes rows in every epoch, and {name} reads them once."))
    if train.seeds.n > 1 and not _draws(job):
        most = f"{train.seeds.n} members of model {name} would be one: nothing is drawn. Give feature_fraction or"
        found.append((("train", "seeds"), f"{most} bagging_fraction below 1, or ensemble: bagging."))
    if len(job.data.target) > 1:
        found.append((("data", "target"), f"{len(job.data.target)} columns, and {name} learns one. Name one."))
    if job.task.params.get("label_smoothing"):
        found.append((("task",), f"label_smoothing has no effect on model {name}. Leave it out."))
    if job.task.params.get("loss") == "perceptron":
        found.append((("task",), f"loss perceptron is none that {name} minimises. Leave it out."))
    if job.ensemble.name == "soup":
        found.append((("ensemble",), f"soup averages parameters, and {name} has none to average. Take average."))
    if job.search.by == "pbt" and job.ranges:
        found.append((("search", "by"), f"pbt changes members in training, and {name} keeps its own. Take sobol."))
    if job.run.gpu is True:
        found.append((("run", "gpu"), f"true has no effect on model {name}, which trains on the CPU. Leave it out."))
    return found


def _draws(job: Job) -> bool:
    """Tell whether members of an estimator that differ in their seeds differ in anything."""
    declared = ESTIMATORS.params(job.model.name)
    names = ("feature_fraction", "bagging_fraction", "extra_trees")
    if declared.problems(job.model.params) or job.ensemble.name == "bagging":
        return True  # what is wrong with them is said elsewhere
    params = declared(**job.model.params)
    given = [params.feature_fraction < 1, params.bagging_fraction < 1, params.extra_trees]
    return any(given) or any(keys[-1] in names for keys in job.ranges)
