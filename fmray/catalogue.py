"""List every name a job file can use, on one page.

Strings only: nothing is imported until a name is used. Third parties write "my_package.module:Name" in the job file.
"""

from fmray.registry import Kind, Registry

STEP = Kind("a class with the methods fit, merge, learn and apply", has=("fit", "merge", "learn", "apply"))
TASK = Kind(
    "a class with phases, packable, loss, predict and select",
    has=("phases", "packable", "loss", "predict", "select"),
)
MODEL = Kind("a class derived from torch.nn.Module", base="torch.nn.modules.module.Module")
OPTIMIZER = Kind("a class derived from torch.optim.Optimizer", base="torch.optim.optimizer.Optimizer")
SCHEDULE = Kind("a class with the method factor", has=("factor",))
METRIC = Kind("a Metric of fmray.metrics.metric", base="fmray.metrics.metric.Metric", is_instance=True)
ENSEMBLE = Kind("a function whose first parameter is `candidates`", first="candidates")
"""What a third party's code must be to stand for a name; anything else is refused and never called."""

STEPS = Registry(
    "step",
    {
        "auto": "fmray.data.auto:Auto",
        "clip": "fmray.data.clean:Clip",
        "copy": "fmray.data.clean:Copy",
        "date_parts": "fmray.data.clean:DateParts",
        "decode_image": "fmray.data.image:DecodeImage",
        "drop": "fmray.data.clean:Drop",
        "embed": "fmray.data.embed:Embed",
        "hashing": "fmray.data.tabular:Hashing",
        "impute": "fmray.data.clean:Impute",
        "min_max": "fmray.data.tabular:MinMax",
        "one_hot": "fmray.data.tabular:OneHot",
        "parse": "fmray.data.parse:Parse",
        "quantile": "fmray.data.tabular:Quantile",
        "robust_scale": "fmray.data.tabular:RobustScale",
        "standardise": "fmray.data.tabular:Standardise",
        "tfidf": "fmray.data.tfidf:Tfidf",
        "tokenize": "fmray.data.tokenize:Tokenize",
        "tokenize_words": "fmray.data.tokenize_words:TokenizeWords",
    },
    STEP,
    components="fmray.spec.components.steps",
)

LIVE = Registry(
    "live step",
    {
        "crop": "fmray.train.live:Crop",
        "feature_dropout": "fmray.train.live:FeatureDropout",
        "flip": "fmray.train.live:Flip",
        "mixup": "fmray.train.live:Mixup",
        "noise": "fmray.train.live:Noise",
        "shift": "fmray.train.live:Shift",
    },
    components="fmray.spec.components.steps",
)
"""Steps that change training rows anew in every epoch; they stand in `steps` too, after all that prepare."""

TASKS = Registry(
    "task",
    {
        "classification": "fmray.tasks.classification:Classification",
        "gan": "fmray.tasks.gan:Gan",
        "language_model": "fmray.tasks.language_model:LanguageModel",
        "masked_language_model": "fmray.tasks.masked_language_model:MaskedLanguageModel",
        "multi_label": "fmray.tasks.multi_label:MultiLabel",
        "regression": "fmray.tasks.regression:Regression",
        "sequence_to_sequence": "fmray.tasks.sequence_to_sequence:SequenceToSequence",
        "span_extraction": "fmray.tasks.span_extraction:SpanExtraction",
        "tagging": "fmray.tasks.tagging:Tagging",
    },
    TASK,
    components="fmray.spec.components.tasks",
)

TARGETS = Registry(
    "kind of target",
    {
        "class": "fmray.targets.classes:Class",
        "labels": "fmray.targets.labels:Labels",
        "masked": "fmray.targets.masked_token:MaskedToken",
        "next": "fmray.targets.next_token:NextToken",
        "number": "fmray.targets.number:Number",
        "sequence": "fmray.targets.sequence:Sequence",
        "spans": "fmray.targets.spans:Spans",
        "tags": "fmray.targets.tags:Tags",
    },
)
"""Codecs by the kind that a task is for; no name of a job file."""

MODELS = Registry(
    "model",
    {
        "bag_of_embeddings": "fmray.models.bag_of_embeddings:BagOfEmbeddings",
        "decoder": "fmray.models.decoder:Decoder",
        "encoder": "fmray.models.encoder:Encoder",
        "encoder_decoder": "fmray.models.encoder_decoder:EncoderDecoder",
        "gan_points": "fmray.models.gan_points:GanPoints",
        "hf": "fmray.models.hf:Hf",
        "linear": "fmray.models.linear:Linear",
        "logistic": "fmray.models.linear:Linear",
        "mlp": "fmray.models.mlp:MLP",
        "perceptron": "fmray.models.linear:Perceptron",
        "resnet": "fmray.models.resnet:ResNet",
        "tagger": "fmray.models.tagger:Tagger",
        "token_linear": "fmray.models.tagger:TokenLinear",
    },
    MODEL,
    components="fmray.spec.components.models",
)
ESTIMATORS = Registry(
    "model", {"lightgbm": "fmray.models.boosting:LightGBM"}, components="fmray.spec.components.models"
)
"""Models that learn from whole blocks of rows, round by round; they stand in `model` too."""
LINEAR_MODELS = ("linear", "logistic", "perceptron", "token_linear")

OPTIMIZERS = Registry(
    "optimizer",
    {
        "adadelta": "torch.optim:Adadelta",
        "adagrad": "torch.optim:Adagrad",
        "adam": "torch.optim:Adam",
        "adamw": "torch.optim:AdamW",
        "rmsprop": "torch.optim:RMSprop",
        "sgd": "torch.optim:SGD",
    },
    OPTIMIZER,
    components="fmray.spec.components.optimizers",
)

SCHEDULES = Registry(
    "schedule",
    {
        "constant": "fmray.train.schedule:Constant",
        "cosine": "fmray.train.schedule:Cosine",
        "plateau": "fmray.train.schedule:Plateau",
        "step": "fmray.train.schedule:Step",
    },
    SCHEDULE,
    components="fmray.spec.components.schedules",
)

METRICS = Registry(
    "metric",
    {
        "accuracy": "fmray.metrics.classification:ACCURACY",
        "average_precision": "fmray.metrics.ranking:AVERAGE_PRECISION",
        "balanced_accuracy": "fmray.metrics.classification:BALANCED_ACCURACY",
        "bleu": "fmray.metrics.sequences:BLEU",
        "brier": "fmray.metrics.probability:BRIER",
        "chrf": "fmray.metrics.sequences:CHRF",
        "entity_f1": "fmray.metrics.tags:ENTITY_F1",
        "f1_macro": "fmray.metrics.classification:F1_MACRO",
        "f1_micro": "fmray.metrics.classification:F1_MICRO",
        "hamming_loss": "fmray.metrics.labels:HAMMING_LOSS",
        "log_loss": "fmray.metrics.probability:LOG_LOSS",
        "mae": "fmray.metrics.regression:MAE",
        "masked_token_accuracy": "fmray.metrics.language:MASKED_TOKEN_ACCURACY",
        "mmd": "fmray.metrics.distribution:MMD",
        "mse": "fmray.metrics.regression:MSE",
        "nats_per_character": "fmray.metrics.sequences:NATS_PER_CHARACTER",
        "nats_per_masked_token": "fmray.metrics.language:NATS_PER_MASKED_TOKEN",
        "nats_per_token": "fmray.metrics.language:NATS_PER_TOKEN",
        "precision_macro": "fmray.metrics.classification:PRECISION_MACRO",
        "r2": "fmray.metrics.regression:R2",
        "recall_macro": "fmray.metrics.classification:RECALL_MACRO",
        "rmse": "fmray.metrics.regression:RMSE",
        "roc_auc": "fmray.metrics.ranking:ROC_AUC",
        "span_f1": "fmray.metrics.spans:SPAN_F1",
        "span_precision": "fmray.metrics.spans:SPAN_PRECISION",
        "span_recall": "fmray.metrics.spans:SPAN_RECALL",
        "subset_accuracy": "fmray.metrics.labels:SUBSET_ACCURACY",
        "token_accuracy": "fmray.metrics.tags:TOKEN_ACCURACY",
        "token_log_loss": "fmray.metrics.tags:TOKEN_LOG_LOSS",
    },
    METRIC,
)

ENSEMBLES = Registry(
    "ensemble",
    {
        "adaboost": "fmray.ensemble.adaboost:adaboost",
        "auto": "fmray.ensemble.averaging:auto",
        "average": "fmray.ensemble.averaging:average",
        "bagging": "fmray.ensemble.voting:bagging",
        "greedy": "fmray.ensemble.greedy:greedy",
        "single": "fmray.ensemble.single:single",
        "soup": "fmray.ensemble.soup:soup",
        "stacking": "fmray.ensemble.stacking:stacking",
        "vote": "fmray.ensemble.voting:vote",
    },
    ENSEMBLE,
    components="fmray.spec.components.ensembles",
)

GATES = Registry(
    "gate",
    {
        "G02": "fmray.rigour.gates.provenance:GATE",
        "G03": "fmray.rigour.gates.content_duplicate:GATE",
        "G13": "fmray.rigour.gates.evaluation_complete:GATE",
        "G14": "fmray.rigour.gates.degenerate_output:GATE",
        "G15": "fmray.rigour.gates.numeric_health:GATE",
        "G20": "fmray.rigour.gates.interval_and_size:GATE",
        "G22": "fmray.rigour.gates.beats_baselines:GATE",
        "G31": "fmray.rigour.gates.same_when_reopened:GATE",
    },
)
UNWAIVABLE = {
    "G01": "cannot be waived: without the ledger of looks no score of a test set means anything.",
    "G02": "cannot be waived: a row that was learned from says nothing as a test row. Remove the copy.",
    "G31": "cannot be waived: a model that answers otherwise once reopened is not the one that was scored.",
}
"""Gates that no reason excuses."""
