import pytest

from fmray.errors import SpecError
from fmray.spec.job import Job
from fmray.spec.load import job_from

TIMES = {"by": "time", "val_from": "2024-01-01", "test_from": "2024-02-01"}


def job(**sections) -> Job:
    data = {"path": "sample:iris", "target": "target", **sections.pop("data", {})}
    return job_from({"data": data, **sections})


PERCEPTRON = {"model": "perceptron", "task": {"classification": {"loss": "perceptron"}}}
BOTH = [{"tokenize": {"columns": ["de", "target"]}}]
PAIRS = {"task": "sequence_to_sequence", "steps": BOTH, "model": "encoder_decoder"}
IDLE = {
    "split.column: has no effect with split.by: hash. It goes with given.": {"split": {"column": "s"}},
    "split.val_from: has no effect with split.by: hash. It goes with time.": {"split": {"val_from": "2024-01-01"}},
    "split.salt: has no effect with split.by: time": {"split": {**TIMES, "salt": 3}, "data": {"time": "t"}},
    "split.test: has no effect with split.by: given": {"split": {"by": "given", "column": "s", "test": 0.3}},
    "split.val: has no effect beside val_from: 2024-01-01": {"split": {**TIMES, "val": 0.1}, "data": {"time": "t"}},
    "split.test: has no effect beside test_from": {"split": {**TIMES, "test": 0.2}, "data": {"time": "t"}},
    "train.validate_every: has no effect where validation is scored after each pass": {"train": {"validate_every": 5}},
    "train.epochs: 7, and train.steps says 1,000. Leave one out.": {"train": {"epochs": 7, "steps": 1000}},
    "train.validate_every: 70 is more than the 30 steps of train.steps": {"train": {"steps": 30, "validate_every": 70}},
    "train.steps: all members train for as many steps. Give one value.": {"train": {"steps": {"choice": [10, 20]}}},
    "train.steps: has no effect on model lightgbm": {"train": {"steps": 30}, "model": "lightgbm"},
    "train.seeds.order: has no effect with one seed": {"train": {"seeds": {"order": True}}},
    "model: tagger does not fill in hidden tokens, as masked_language_model asks. Take encoder.": {
        "task": "masked_language_model",
        "model": "tagger",
        "steps": [{"tokenize": {"columns": "a"}}],
    },
    "evaluate.baselines: linear predicts a token from itself alone": {
        "task": "masked_language_model",
        "model": "encoder",
        "steps": [{"tokenize": {"columns": "a"}}],
    },
    "train.folds: predicts training rows, of which masked_language_model hides no token": {
        "task": "masked_language_model",
        "model": "encoder",
        "steps": [{"tokenize": {"columns": "a"}}],
        "evaluate": {"baselines": ["dummy"]},
        "train": {"folds": 2},
    },
    "steps.0.tokenize.vocabulary: is a range, but all members of masked_language_model read one vocabulary": {
        "task": "masked_language_model",
        "model": "encoder",
        "steps": [{"tokenize": {"columns": "a", "vocabulary": {"choice": [100, 200]}}}],
        "evaluate": {"baselines": ["dummy"]},
    },
    "model: encoder has outputs per token, and masked_language_model asks for masked ones. Leave per out.": {
        "task": "masked_language_model",
        "model": {"encoder": {"per": "token"}},
        "steps": [{"tokenize": {"columns": "a"}}],
        "evaluate": {"baselines": ["dummy"]},
    },
    "model: encoder has outputs per masked, and tagging asks for other ones. Leave per out.": {
        "task": "tagging",
        "model": {"encoder": {"per": "masked"}},
        "steps": [{"tokenize_words": {"columns": "a"}}],
    },
    "train.start: has embeddings of one vocabulary, and train.folds.strict learns one per fold": {
        "model": "encoder",
        "steps": [{"tokenize": {"columns": "a"}}],
        "train": {"start": "run", "folds": {"n": 2, "strict": True}},
    },
    "steps.0.tokenize.pretrained: goes with no language_model yet": {
        "task": "language_model",
        "steps": [{"tokenize": {"columns": "t", "pretrained": "folder"}}],
        "model": "decoder",
    },
    "steps: sequence_to_sequence generates 'target', of which 0 steps make tokens": {
        **PAIRS,
        "steps": [{"tokenize": {"columns": "de"}}],
    },
    "steps.1: one_hot would read 'target', which is to be generated": {**PAIRS, "steps": [*BOTH, "one_hot"]},
    "steps.1: tfidf would read 'target', which is to be generated": {
        **PAIRS,
        "steps": [*BOTH, {"tfidf": {"columns": ["target"]}}],
    },
    "steps.0.tokenize.pretrained: goes with no sequence_to_sequence yet": {
        **PAIRS,
        "steps": [{"tokenize": {"columns": ["de", "target"], "pretrained": "folder"}}],
    },
    "model.encoder_decoder.shared_embeddings: shares a table with 'target', whose tokens have a vocabulary": {
        **PAIRS,
        "steps": [{"tokenize": {"columns": name, "block": name[:2]}} for name in ("de", "target")],
        "model": {"encoder_decoder": {"shared_embeddings": True}},
    },
    "evaluate.primary: bleu scores generated texts, and epochs generate none": {
        **PAIRS,
        "evaluate": {"primary": "bleu"},
    },
    "train.folds.strict: gives each fold a vocabulary of its own": {**PAIRS, "train": {"folds": {"strict": True}}},
    "data.references: 'r' stands in data.ignore, so it is not read.": {
        **PAIRS,
        "data": {"references": "r", "ignore": ["r"]},
    },
    "task.sequence_to_sequence.beams: is a range, but members are compared before any text is generated.": {
        **PAIRS,
        "task": {"sequence_to_sequence": {"beams": {"choice": [1, 4]}}},
    },
    "steps.0.tokenize.vocabulary: is a range, but all members of sequence_to_sequence read one vocabulary.": {
        **PAIRS,
        "steps": [{"tokenize": {**BOTH[0]["tokenize"], "vocabulary": {"choice": [200, 400]}}}],
    },
    "steps.0.tokenize_words.beside: is 'target', which is to be generated.": {
        **PAIRS,
        "steps": [{"tokenize_words": {"columns": "w", "beside": "target"}}, *BOTH],
    },
    "data.references: 'r' has no effect: it goes with task: sequence_to_sequence": {"data": {"references": "r"}},
    "model: decoder generates no text from another one, and the task is sequence_to_sequence. Take encoder_decoder.": {
        **PAIRS,
        "model": "decoder",
    },
    "model: encoder_decoder goes with task: sequence_to_sequence, and the task is auto.": {
        "model": "encoder_decoder",
        "steps": BOTH,
    },
    "task.sequence_to_sequence.length_penalty: has no effect with beams: 1": {
        **PAIRS,
        "task": {"sequence_to_sequence": {"length_penalty": 2.0}},
    },
    "train.order.bucket: has no effect where no step makes tokens. Add one": {"train": {"order": {"bucket": 32}}},
    "train.folds.strict: has no effect without steps": {"train": {"folds": {"strict": True}}, "steps": ["noise"]},
    "task.regression.delta: has no effect with loss: mse. It goes with huber.": {"task": {"regression": {"delta": 2}}},
    "task.auto.delta: has no effect with loss: mse": {"task": {"auto": {"delta": 2}}},
    "task.classification.label_smoothing: has no effect with loss: perceptron. It goes with cross_entropy.": {
        "task": {"classification": {"loss": "perceptron", "label_smoothing": 0.1}}
    },
    "task.auto.label_smoothing: has no effect with loss: perceptron": {
        "task": {"auto": {"loss": "perceptron", "label_smoothing": 0}}
    },
    "train.seeds: 3 members of model perceptron would be one: it starts at zero whatever the seed": {
        **PERCEPTRON,
        "train": {"seeds": 3},
    },
    "promote.horizon: has no effect with promote.evidence: fresh. It goes with sealed.": {"promote": {"horizon": 9}},
    "promote.promotions: has no effect with promote.evidence: fresh": {"promote": {"promotions": 2}},
    "promote.margin: has no effect with promote.mode: superior. It goes with refresh.": {"promote": {"margin": 0.1}},
    "promote.min_effect: has no effect with promote.mode: refresh": {
        "promote": {"mode": "refresh", "margin": 0.1, "min_effect": 0.1}
    },
    "promote.slice_margin: has no effect without evaluate.slices": {"promote": {"slice_margin": 0.1}},
    "promote: has no effect with rigour.profile: draft": {"promote": {}, "rigour": {"profile": "draft"}},
    "evaluate.min_effect: has no effect without baselines": {"evaluate": {"min_effect": 0.1, "baselines": []}},
    "rigour.prefer: simple has no effect on model 'mlp'": {"rigour": {"prefer": "simple"}},
    "data.labels: {'a': 'b'} goes with classification": {"data": {"labels": {"a": "b"}}, "task": "regression"},
    "data.positive: 'a' goes with classification": {"data": {"positive": "a"}, "task": "regression"},
    "data.sample.rates: {'a': 1.0} changes nothing": {"data": {"sample": {"rates": {"a": 1.0}}}},
    "data.sample.rates: {} changes nothing": {"data": {"sample": {"rates": {}}}},
    "data.sample.salt: 3 has no effect where all rates are whole": {"data": {"sample": {"rates": {"a": 2}, "salt": 3}}},
    "data.sample: goes with classification, and the task is regression": {
        "data": {"sample": {"over": 1}},
        "task": "regression",
    },
    "data.sample: goes with classification, and the task is fmray.tasks.regression:Regression": {
        "data": {"sample": {"over": 1}},
        "task": "fmray.tasks.regression:Regression",
    },
}
WORDS = [{"tokenize_words": {"columns": "words"}}]
CONTRADICTIONS = {
    "model: tagger sees the tokens behind each, which language_model is to foretell. Take decoder.": {
        "task": "language_model",
        "steps": [{"tokenize": {"columns": "target"}}],
        "model": "tagger",
    },
    "model: tagger gives an output per token, and multi_label asks for one per row. Set task: tagging where": {
        "task": "multi_label",
        "steps": WORDS,
        "model": "tagger",
    },
    "model: token_linear gives an output per token, and a target without task: tagging asks for one per row. Set": {
        "steps": WORDS,
        "model": "token_linear",
    },
    "model: bag_of_embeddings gives an output per row, and tagging asks for one per token. Take decoder or encoder or": {
        "task": "tagging",
        "steps": WORDS,
        "model": "bag_of_embeddings",
    },
    "model: encoder gives an output per row, and tagging asks for one per token. Take decoder or tagger or": {
        "task": "tagging",
        "steps": WORDS,
        "model": {"encoder": {"per": "row"}},
    },
    "model: encoder gives an output per token, and regression asks for one per row. Set task: tagging where": {
        "task": "regression",
        "steps": WORDS,
        "model": {"encoder": {"per": "token"}},
    },
    "model: encoder sees the tokens behind each, which language_model is to foretell. Take decoder.": {
        "task": "language_model",
        "steps": [{"tokenize": {"columns": "target"}}],
        "model": "encoder",
    },
    "model: lightgbm gives an output per row, and tagging asks for one per token.": {
        "task": "tagging",
        "model": "lightgbm",
    },
    "data.text: 'said' has no effect: it goes with task: span_extraction, and this is auto. Leave it out.": {
        "data": {"text": "said"}
    },
    "data.text: is missing, and span_extraction finds spans of a text. Name the column of text that data.target": {
        "task": "span_extraction",
        "steps": WORDS,
        "model": "tagger",
    },
    "steps: span_extraction needs tokens by tokenize_words of 'said' alone, given: tokenize of said. Write steps": {
        "task": "span_extraction",
        "data": {"text": "said"},
        "steps": [{"tokenize": {"columns": "said"}}],
        "model": "tagger",
    },
    "steps: span_extraction needs tokens by tokenize_words of 'said' alone, given: tokenize_words of words. Write": {
        "task": "span_extraction",
        "data": {"text": "said"},
        "steps": WORDS,
        "model": "tagger",
    },
    "data.labels: goes with classes, and this is span_extraction. Leave it out.": {
        "task": "span_extraction",
        "data": {"text": "said", "labels": {"a": "b"}},
        "steps": [{"tokenize_words": {"columns": "said"}}],
        "model": "tagger",
    },
    "data.text: 'target' is data.target as well. Name another column.": {
        "task": "span_extraction",
        "data": {"text": "target"},
        "steps": [{"tokenize_words": {"columns": "target"}}],
        "model": "tagger",
    },
    "task.multi_label.thresholds: members share thresholds, which are chosen once these are trained. Give shared": {
        "task": {"multi_label": {"thresholds": {"uniform": [0.2, 0.6]}}},
    },
    "data.sample: nothing given. Give one of over, under, rates, share.": {"data": {"sample": {}}},
    "data.sample: over and rates given. Give one of over, under, rates, share.": {
        "data": {"sample": {"over": 1, "rates": {"a": 2}}}
    },
    "data.sample.over: 0. Accepted: a number greater than 0": {"data": {"sample": {"over": 0}}},
    "data.sample.under: 1.5. Accepted: a number less than or equal to 1": {"data": {"sample": {"under": 1.5}}},
    "data.sample.rates.a: 0. Accepted: a number greater than 0": {"data": {"sample": {"rates": {"a": 0}}}},
    "data.sample.rate: unknown key": {"data": {"sample": {"rate": 2}}},
    "split.column: is missing; split.by: given reads it": {"split": {"by": "given"}},
    "data.group: is missing; split.by: group reads it": {"split": {"by": "group"}},
    "data.time: is missing; split.by: time reads it": {"split": {"by": "time"}},
    "split: val 0.5 and test 0.5 leave nothing to train on": {"split": {"val": 0.5, "test": 0.5}},
    "split.val: 0 leaves nothing to choose by": {"split": {"val": 0}},
    "split.test: 0 leaves nothing to judge by": {"split": {"test": 0}},
    "split.val_from: 'soon'. Accepted: an ISO time": {
        "split": {"by": "time", "val_from": "soon"},
        "data": {"time": "t"},
    },
    "split.val_from: 2024-01-01 is not before test_from: 2024-01-01": {
        "split": {**TIMES, "test_from": "2024-01-01"},
        "data": {"time": "t"},
    },
    "data.ignore: 'target' is left out by data.ignore and read as data.target": {"data": {"ignore": ["target"]}},
    "data.ignore: 'k' is left out by data.ignore and read as data.key": {"data": {"ignore": ["k"], "key": "k"}},
    "data.path: 's3://***@bucket/x' carries credentials": {"data": {"path": "s3://me:hunter2@bucket/x"}},
    "data.weight: 'target' is data.target as well": {"data": {"weight": "target"}},
    "train.accumulate: 9 parts of a batch of 8 rows": {"train": {"accumulate": 9, "batch_rows": 8}},
    "train.optimizer.sgd.nesterov: true needs a momentum": {"train": {"optimizer": {"sgd": {"nesterov": True}}}},
    "train.schedule: patience 5 is never reached: early_stop.patience is 5": {
        "train": {"schedule": {"plateau": {"patience": 5}}}
    },
    "model: perceptron learns by a loss of its own, and none is given. Write task: {classification: {loss: perc": {
        "model": "perceptron"
    },
    "model: perceptron learns by a loss of its own, and mse is given": {
        "model": "perceptron",
        "task": {"regression": {"loss": "mse"}},
    },
    "model: perceptron learns by a loss of its own, and cross_entropy is given": {
        "model": "perceptron",
        "task": {"auto": {"loss": "cross_entropy"}},
    },
    "promote.margin: is missing; promote.mode: refresh reads it": {"promote": {"mode": "refresh"}},
    "promote.promotions: 27 promotions of 26 decisions": {"promote": {"evidence": "sealed", "promotions": 27}},
    "promote.alpha: 0.5. Accepted: a number less than 0.5": {"promote": {"alpha": 0.5}},
    "promote.evidence: 'open'. Accepted: 'fresh', 'sealed'": {"promote": {"evidence": "open"}},
    "promote.aproval: unknown key 'aproval'. Did you mean 'approval'?": {"promote": {"aproval": "required"}},
    "rigour.waive.G22: gives no reason": {"rigour": {"waive": {"G22": " "}}},
}


@pytest.mark.parametrize("message", [*IDLE, *CONTRADICTIONS])
def test_a_key_without_effect_or_against_another_is_refused(message):
    with pytest.raises(SpecError) as caught:
        job(**{**IDLE, **CONTRADICTIONS}[message])
    assert str(caught.value).startswith(message)


FINE = [
    {"split": TIMES, "data": {"time": "t"}},
    {"split": {"by": "given", "column": "s", "val": 0.2}},
    {"split": {"by": "group"}, "data": {"group": "g"}},
    {"split": {"salt": 3}, "data": {"time": "t"}},  # the time is kept out of the features
    {"task": {"regression": {"loss": "huber", "delta": 2}}},
    {"train": {"optimizer": {"sgd": {"nesterov": True, "momentum": 0.9}}}},
    {"train": {"schedule": {"plateau": {"patience": 9}}, "early_stop": None}},
    {"train": {"accumulate": 8, "batch_rows": 8}},
    {"data": {"sample": {"under": 0.5, "salt": 1}}},
    {"data": {"sample": {"rates": {"a": 2.5, "b": 1}, "salt": 1}}, "task": "classification"},
    {"model": "linear", "rigour": {"prefer": "simple", "waive": {"G22": "a floor for others"}}},
    {"split": {"by": "hash", "val": 0.1, "test": 0.2}},
    {"promote": {}},
    {"promote": {"evidence": "sealed", "horizon": 4, "promotions": 2, "min_effect": 0.01, "approval": "required"}},
    {"promote": {"mode": "refresh", "margin": 0.01, "slice_margin": 0.1}, "evaluate": {"slices": ["city"]}},
    {**PERCEPTRON, "train": {"seeds": {"n": 3, "order": True}}, "rigour": {"prefer": "simple"}},
    {"train": {"folds": {"strict": True}}, "steps": ["standardise", "noise"]},
    {"train": {"folds": 2}, "steps": []},
    PAIRS,
    {**PAIRS, "data": {"references": "r"}, "model": {"encoder_decoder": {"shared_embeddings": True}}},
    *(
        {"task": "language_model", "steps": [{"tokenize": {"columns": "target"}}], "model": model}
        for model in ("decoder", "token_linear")
    ),
    *(
        {"train": {"order": {"bucket": 8}}, "steps": [step], "model": "bag_of_embeddings"}
        for step in ({"tokenize": {"columns": "a"}}, {"tokenize_words": {"columns": "a"}})
    ),
    {
        "task": {"span_extraction": {"label_smoothing": 0.1}},
        "data": {"text": "said"},
        "steps": [{"tokenize_words": {"columns": ["said"], "beside": "asked"}}],
        "model": "tagger",
    },
    {"train": {"order": {"bucket": 8}}, "steps": [{"tfidf": {"columns": "a"}}], "model": "linear"},
    {"model": "perceptron", "task": {"auto": {"loss": "perceptron"}}},
    {"model": "mlp", "task": {"classification": {"loss": "perceptron"}}},
    {"task": {"classification": {"loss": "cross_entropy", "label_smoothing": 0.1}}},
]


@pytest.mark.parametrize("sections", FINE, ids=str)
def test_keys_with_an_effect_are_taken(sections):
    assert job(**sections).data.target == ("target",)
