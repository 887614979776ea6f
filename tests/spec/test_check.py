import subprocess
import sys
from pathlib import Path

import pytest

from fmray.errors import SpecError
from fmray.spec.load import job_from

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"data": {"path": "sample:iris", "target": "target"}}
NET = """
raise SystemExit("checking a job must not run this")
class Net:
    def __init__(self, schema, num_outputs, width: int = 3): ...
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "my_net.py").write_text(NET)
    return tmp_path


REFUSED = {
    "model: unknown model 'mpl'. Did you mean 'mlp'?": {"model": "mpl"},
    "model: ':Net' is no path of code. Write package.module:Name.": {"model": ":Net"},
    "model: 'my_net:' is no path of code": {"model": "my_net:"},
    "model: module 'my_nett' is neither beside the job file nor installed": {"model": "my_nett:Net"},
    "model: my_net.py has no 'Nett'. Did you mean 'Net'?": {"model": "my_net:Nett"},
    "model.my_net:Net.widht: 'my_net:Net' has no parameter 'widht'. Did you mean 'width'?": {
        "model": {"my_net:Net": {"widht": 3}}
    },
    "model.my_net:Net.width: 'big'. Accepted: a whole number.": {"model": {"my_net:Net": {"width": "big"}}},
    "model.mlp.dropout: 1.5. Accepted: a number in [0, 1).": {"model": {"mlp": {"dropout": 1.5}}},
    "model.mlp.width: 'wide'. Accepted: a whole number in [1, inf) or a list of whole numbers in [1, inf).": {
        "model": {"mlp": {"width": "wide"}}
    },
    "model.mlp.width: 0": {"model": {"mlp": {"width": {"choice": [1, 0]}}}},
    "train.optimizer.adam.lr: 'fast'. Accepted: a number in (0, inf).": {
        "train": {"optimizer": {"adam": {"lr": "fast"}}}
    },
    "train.optimizer.adam.lr: nan. Accepted: a number in (0, inf).": {
        "train": {"optimizer": {"adam": {"lr": float("nan")}}}
    },
    "train.optimizer.sgd.lr: -1. Accepted: a number in (0, inf).": {"train": {"optimizer": {"sgd": {"lr": -1}}}},
    "train.schedule.step.every: 0. Accepted: a whole number in [1, inf).": {
        "train": {"schedule": {"step": {"every": 0}}}
    },
    "train.schedule: unknown schedule 'cosin'. Did you mean 'cosine'?": {"train": {"schedule": "cosin"}},
    "task.regression.loss: 'l1'. Accepted: mse or huber.": {"task": {"regression": {"loss": "l1"}}},
    "task.classification.class_weights: 'equal'. Accepted: balanced or a map or null.": {
        "task": {"classification": {"class_weights": "equal"}}
    },
    "ensemble: unknown ensemble 'averag'. Did you mean 'average'?": {"ensemble": "averag"},
    "ensemble.average.weights: 'average' has no parameter 'weights'. Known: keep.": {
        "ensemble": {"average": {"weights": 3}}
    },
    "ensemble.single.keep: 'single' has no parameter 'keep'. It takes none.": {
        "ensemble": {"single": {"keep": "always"}}
    },
    "ensemble.greedy.keep: 'yes'. Accepted: when_better or always.": {"ensemble": {"greedy": {"keep": "yes"}}},
    "ensemble.stacking.kind: 'ols'. Accepted: nnls or logistic.": {"ensemble": {"stacking": {"kind": "ols"}}},
    "steps.1.impute.by: 'mode'. Accepted: mean or median or most_frequent or constant.": {
        "steps": ["auto", {"impute": {"by": "mode"}}]
    },
    "steps.1: unknown step 'shfit'. Did you mean 'shift'?": {"steps": ["auto", "shfit"]},
    "steps.0.noise.scale: 0. Accepted: a number in (0, inf).": {"steps": [{"noise": {"scale": 0}}]},
    "steps.0.crop.fill: 'edge'. Accepted: zero or mirror.": {"steps": [{"crop": {"fill": "edge"}}]},
    "steps.1: 'auto' prepares rows, and 'shift' before it changes them while training.": {"steps": ["shift", "auto"]},
    "steps.2: mixup stands here a second time. Leave one.": {"steps": ["mixup", "noise", "mixup"]},
    "evaluate.metrics: unknown metric 'f1'": {"evaluate": {"metrics": ["accuracy", "f1"]}},
    "evaluate.primary: unknown metric 'f1[]'. Did you mean 'f1[label]'?": {"evaluate": {"primary": "f1[]"}},
    "rigour.waive.G99: 'G99' is no gate": {"rigour": {"waive": {"G99": "x"}}},
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_names_and_parameters_that_lead_nowhere_are_refused(folder, message):
    with pytest.raises(SpecError) as caught:
        job_from({**SMALL, **REFUSED[message]}, folder)
    assert str(caught.value).startswith(message)


TAKEN = [
    {"ensemble": {"greedy": {"bags": 5, "keep": "always"}}},
    {"model": {"my_net:Net": {"width": 3}}},
    {"model": {"mlp": {"width": [64, 32], "norm": None}}},
    {"train": {"optimizer": {"adam": {"lr": 1, "betas": [0.9, 0.99], "amsgrad": True}}}},
    {"task": {"classification": {"class_weights": {"a": 2}}}},
    {"evaluate": {"primary": "f1[yes]", "metrics": ["accuracy"]}},
    {"steps": [{"impute": {"by": "constant", "value": "none"}}]},
    {"steps": ["auto", {"shift": {"pixels": 2, "image": [1, 8, 8]}}, {"mixup": {"alpha": 0.4}}]},
]


@pytest.mark.parametrize("sections", TAKEN, ids=str)
def test_names_and_parameters_that_lead_to_code_are_taken(folder, sections):
    job_from({**SMALL, **sections}, folder)


def test_checking_a_job_imports_neither_torch_nor_ray_nor_the_users_code(folder):
    code = (
        "import sys; from fmray.spec.load import job_from\n"
        "value = {'data': {'path': 'x', 'target': 'y'}, 'model': 'my_net:Net', 'train': {'optimizer': 'adam'}}\n"
        "job_from(value, '.')\n"
        "print(sorted({'torch', 'ray', 'my_net'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr
