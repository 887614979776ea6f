"""Every parameter of the catalogue is declared once, and everything else follows the declaration."""

import inspect

import jsonschema
import pytest

from fmray import catalogue
from fmray.spec.schema import job_schema

TABLES = {
    "steps": catalogue.STEPS,
    "live": catalogue.LIVE,
    "tasks": catalogue.TASKS,
    "models": catalogue.MODELS,
    "optimizers": catalogue.OPTIMIZERS,
    "schedules": catalogue.SCHEDULES,
    "ensembles": catalogue.ENSEMBLES,
}
NAMES = [(kind, name) for kind, table in TABLES.items() for name in table]


@pytest.mark.parametrize(("kind", "name"), [pair for pair in NAMES if pair[0] not in ("tasks", "optimizers")])
def test_code_takes_its_parameters_as_the_object_that_declares_them(kind, name):
    declared, code = TABLES[kind].params(name), TABLES[kind].find(name)
    own = set(declared.model_fields) - ({"keep"} if kind == "ensembles" else set())
    takes = inspect.signature(code).parameters
    assert ("params" in takes) == bool(own)
    if own:
        assert takes["params"].annotation is declared


@pytest.mark.parametrize(("kind", "name"), [pair for pair in NAMES if pair[0] == "optimizers"])
def test_optimizers_of_torch_take_what_is_declared(kind, name):
    assert set(TABLES[kind].params(name).model_fields) <= set(inspect.signature(TABLES[kind].find(name)).parameters)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), [pair for pair in NAMES if pair[0] == "optimizers"])
def test_rates_of_optimizers_are_those_of_torch(kind, name):
    import torch

    made = TABLES[kind].find(name)([torch.nn.Parameter(torch.zeros(1))])
    declared = TABLES[kind].params(name)()
    expected = 0.01 if name == "sgd" else float(made.defaults["lr"])  # 0.001 of plain sgd hardly moves
    assert declared.lr == pytest.approx(expected)
    assert declared.weight_decay == made.defaults["weight_decay"]


@pytest.mark.parametrize(("kind", "name"), NAMES)
def test_every_parameter_is_typed_described_and_bounded(kind, name):
    declared = TABLES[kind].params(name)
    schema = declared.model_json_schema()
    assert declared.__doc__.endswith(".")
    for parameter, info in declared.model_fields.items():
        described = schema["properties"][parameter]
        assert info.description.endswith("."), parameter
        assert {"type", "anyOf", "enum", "const"} & set(described), parameter
        assert declared.accepted(parameter)
    assert set(declared.packable) <= set(declared.model_fields)


ANSWERS = [
    ("models", "mlp", {"dropout": 0}, None),
    ("models", "mlp", {"dropout": 1}, ("dropout", "1. Accepted: a number in [0, 1).")),
    ("models", "mlp", {"dropout": -0.1}, ("dropout", "-0.1. Accepted: a number in [0, 1).")),
    ("models", "mlp", {"dropout": True}, ("dropout", "True. Accepted: a number in [0, 1).")),
    ("models", "mlp", {"dropout": float("nan")}, ("dropout", "nan. Accepted: a number in [0, 1).")),
    ("models", "mlp", {"depth": 2.0}, ("depth", "2.0. Accepted: a whole number in [1, inf).")),
    ("models", "mlp", {"width": [8, 4]}, None),
    (
        "models",
        "mlp",
        {"width": [64, 0]},
        ("width", "[64, 0]. Accepted: a whole number in [1, inf) or a list of whole numbers in [1, inf)."),
    ),
    ("models", "mlp", {"norm": None}, None),
    ("models", "mlp", {"norm": "batch"}, ("norm", "'batch'. Accepted: layer or null.")),
    ("models", "resnet", {"width": 6}, ("width", "6. Accepted: a whole number in [4, inf), a multiple of 4.")),
    (
        "models",
        "resnet",
        {"image": [1, 8]},
        ("image", "[1, 8]. Accepted: a list of 3 whole numbers in [1, inf) or null."),
    ),
    ("optimizers", "adam", {"lr": 0}, ("lr", "0. Accepted: a number in (0, inf).")),
    ("optimizers", "adam", {"betas": [0.9, 1]}, ("betas", "[0.9, 1]. Accepted: a list of 2 numbers in [0, 1).")),
    ("optimizers", "rmsprop", {"alpha": 0}, None),
    ("live", "mixup", {"alpha": 0}, ("alpha", "0. Accepted: a number in (0, inf).")),
    ("schedules", "cosine", {"final": 1}, None),
    ("steps", "drop", {}, ("columns", "is missing. Give text or a list of texts.")),
    ("steps", "drop", {"columns": "a"}, None),
    ("steps", "drop", {"columns": [1]}, ("columns", "[1]. Accepted: text or a list of texts.")),
    ("steps", "drop", {"column": "a"}, ("column", "is no parameter. Did you mean 'columns'?")),
    (
        "steps",
        "impute",
        {"by": "constant"},
        ("", "by 'constant' with value None. A value goes with by: constant, and only there."),
    ),
    ("steps", "clip", {}, ("", "low None, high None, quantile None. Give bounds or a quantile.")),
    ("steps", "clip", {"low": 2, "high": 1}, ("", "low 2 is above high 1. Give the lower bound first.")),
    ("optimizers", "sgd", {"nesterov": True, "momentum": 0.9}, None),
    (
        "optimizers",
        "sgd",
        {"nesterov": True},
        ("nesterov", "true needs a momentum above zero and no dampening. Give momentum, e.g. 0.9."),
    ),
    ("tasks", "regression", {"delta": 2.0}, ("delta", "has no effect with loss: mse. It goes with huber.")),
    ("tasks", "classification", {"class_weights": {"a": 2}}, None),
    (
        "tasks",
        "classification",
        {"class_weights": {"a": 0}},
        ("class_weights", "{'a': 0}. Accepted: balanced or a map or null."),
    ),
]


@pytest.mark.parametrize(("kind", "name", "given", "answer"), ANSWERS, ids=str)
def test_what_does_not_fit_is_answered_with_what_is_accepted(kind, name, given, answer):
    assert TABLES[kind].params(name).problems(given) == ([] if answer is None else [answer])


def test_all_wrong_parameters_are_named_at_once():
    given = {"depth": 0, "dropout": 2, "activation": "x"}
    assert [name for name, _ in catalogue.MODELS.params("mlp").problems(given)] == ["depth", "dropout", "activation"]


@pytest.mark.parametrize(
    ("part", "fits"),
    [
        ({"model": {"mlp": {"dropout": 0.5}}}, True),
        ({"model": {"mlp": {"dropout": 1.5}}}, False),
        ({"model": {"mlp": {"dropout": {"uniform": [0, 0.5]}}}}, True),
        ({"model": {"mlp": {"speed": 1}}}, False),
        ({"model": {"my_nets:Net": {"speed": 1}}}, True),
        ({"steps": ["drop"]}, False),
        ({"steps": [{"drop": {"columns": ["a"]}}, "auto"]}, True),
        ({"ensemble": {"greedy": {"share": 0}}}, False),
        ({"ensemble": {"single": {"keep": "always"}}}, False),
        ({"train": {"optimizer": {"adam": {"betas": [0.9]}}}}, False),
    ],
    ids=str,
)
def test_the_schema_knows_every_parameter(part, fits):
    job = {"data": {"path": "x", "target": "y"}, **part}
    errors = list(jsonschema.Draft202012Validator(job_schema()).iter_errors(job))
    assert (not errors) == fits
