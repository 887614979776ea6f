"""Refuse what tasks of text cannot do with a job: fill in hidden tokens, or generate a text."""

from fmray.catalogue import ESTIMATORS, MODELS, STEPS, TASKS
from fmray.spec.job import Job
from fmray.spec.refusal import Refusal

MASKED = "masked_language_model"
OF_TRAINING_ROWS = ("adaboost", "stacking")
"""Ensembles that predict training rows."""
OF_TEXTS = ("beams", "length_penalty", "max_new_tokens", "generated_rows")
"""Parameters that say how texts are generated, once members are trained."""


def of_masked(job: Job) -> list[Refusal]:
    """Refuse what cannot fill in hidden tokens, or looks at training rows, of which none is hidden outside training."""
    found: list[Refusal] = []
    name = job.model.name
    if (name in MODELS and not MODELS.params(name).fills_masks) or name in ESTIMATORS:
        fitting = " or ".join(name for name in MODELS if MODELS.params(name).fills_masks)
        found.append((("model",), f"{name} does not fill in hidden tokens, as {MASKED} asks. Take {fitting}."))
    if "linear" in job.evaluate.baselines:
        text = f"linear predicts a token from itself alone, which {MASKED} hides. Give [dummy]."
        found.append((("evaluate", "baselines"), text))
    if job.train.folds is not None or job.ensemble.name in OF_TRAINING_ROWS:
        keys = ("train", "folds") if job.train.folds is not None else ("ensemble",)
        text = f"predicts training rows, of which {MASKED} hides no token then. Leave it out."
        found.append((keys, text))
    found += _of_vocabularies(job)
    if any(keys == ("task", MASKED, "share") for keys in job.ranges):
        text = "is a range, but validation hides tokens once for all members. Give a number."
        found.append((("task", MASKED, "share"), text))
    return found


def of_generation(job: Job) -> list[Refusal]:
    """Refuse a text to generate that the model would see, or that nothing makes tokens of."""
    data = job.data
    task = job.task.name
    if task not in TASKS or not TASKS.params(task).generates:
        text = f"'{data.references}' has no effect: it goes with task: sequence_to_sequence, and this is {task}."
        return [] if data.references is None else [(("data", "references"), f"{text} Leave it out.")]
    found = [*_of_steps(job), *_of_vocabularies(job)]
    for keys in job.ranges:
        if keys[:2] == ("task", task) and keys[-1] in OF_TEXTS:
            text = "is a range, but members are compared before any text is generated. Give one value."
            found.append((keys, text))
    if data.references in data.ignore:
        text = f"'{data.references}' stands in data.ignore, so it is not read. Take it out there: no step reads it."
        found.append((("data", "references"), text))
    if job.evaluate.primary in ("bleu", "chrf"):
        text = f"{job.evaluate.primary} scores generated texts, and epochs generate none. Take nats_per_token."
        found.append((("evaluate", "primary"), text))
    if job.train.folds is not None and job.train.folds.strict:
        text = "gives each fold a vocabulary of its own, so probabilities of members are not averaged token by token."
        found.append((("train", "folds", "strict"), f"{text} Leave it out."))
    return found


def _of_steps(job: Job) -> list[Refusal]:
    """Refuse steps that would show a model the text it is to generate, and a target that none makes tokens of."""
    found: list[Refusal] = []
    task = job.task.name
    target = job.data.target[0]
    read = {place: step.params.get("columns") for place, step in enumerate(job.steps)}
    columns = {place: [given] if isinstance(given, str) else list(given or ()) for place, given in read.items()}
    makers = [place for place, step in enumerate(job.steps) if step.name == "tokenize" and target in columns[place]]
    if len(makers) != 1:
        text = f"{task} generates '{target}', of which {len(makers)} steps make tokens. Add tokenize, for it too."
        found.append((("steps",), text))
    for place, step in enumerate(job.steps):
        if step.name in STEPS and place not in makers and (not columns[place] or target in columns[place]):
            text = f"{step.name} would read '{target}', which is to be generated. Name other columns."
            found.append((("steps", place), text))
        if step.name == "tokenize" and step.params.get("pretrained") is not None:
            text = f"goes with no {task} yet, whose texts begin and end with id 0 of a vocabulary of fmray's own."
            found.append((("steps", place, "tokenize", "pretrained"), f"{text} Leave it out."))
        beside = step.params.get("beside") or ()
        if target == beside or (not isinstance(beside, str) and target in beside):
            text = f"is '{target}', which is to be generated. Name other columns."
            found.append((("steps", place, step.name, "beside"), text))
    if job.model.params.get("shared_embeddings") is True and makers and len(columns[makers[0]]) < 2:
        text = f"shares a table with '{target}', whose tokens have a vocabulary of their own. Take one step for both."
        found.append((("model", job.model.name, "shared_embeddings"), text))
    return found


def _of_vocabularies(job: Job) -> list[Refusal]:
    """Refuse ranges that would give each member a vocabulary of its own, where one is scored and written for all."""
    text = f"is a range, but all members of {job.task.name} read one vocabulary. Give one value."
    return [(keys, text) for keys in job.ranges if keys[0] == "steps" and "tokenize" in keys]
