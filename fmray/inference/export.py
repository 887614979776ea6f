"""Write a model as one program that other tools run: prepared inputs to outputs, the whole ensemble.

The steps that prepare inputs are not in the program; they lie beside it as plain values. What was written is read back
and run on golden rows before anybody else can see it.
"""

import copy
import errno
import importlib
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from fmray.errors import DataError, SpecError
from fmray.inference.model import SavedModel, open_model
from fmray.inference.rows import Unseen, as_trained
from fmray.records import TENSORS, Ensemble, Json
from fmray.registry import Trust
from fmray.schema import DENSE
from fmray.store.files import TEMPORARY
from fmray.store.plain import write_text
from fmray.tasks.task import Batch, Task
from fmray.train.blocks import as_floats
from fmray.train.combine import LEAST_PROBABILITY
from fmray.train.population import Population
from fmray.train.predict import Predictor

Format = Literal["torch", "onnx"]
FILES: dict[Format, str] = {"torch": "model.pt2", "onnx": "model.onnx"}
TOLERANCE: dict[Format, float] = {"torch": 1e-6, "onnx": 1e-5}
"""Largest difference on golden rows, relative to the output where that is above 1; float32 sums differ in order."""
EXPORTABLE = ("mean", "soup", "logistic")
NEEDS = {"torch": (), "onnx": ("onnx", "onnxscript", "onnxruntime")}
INSIDE_BYTES = 1 << 30
"""Up to here weights lie in the ONNX file itself; one file holds 2 GB at most."""
Outputs = Callable[[Sequence[np.ndarray]], np.ndarray]


class Program(nn.Module):
    """Compute what an ensemble says, from prepared inputs.

    Args:
        predictor: The ensemble.
        names: Ways in which rows were prepared, in the order of the inputs.

    Shapes:
        x: one (B, D) per way.
        returns: (B, C) probabilities or (B, T) numbers, float64.
    """

    def __init__(self, predictor: Predictor, names: Sequence[str]) -> None:
        super().__init__()
        self.members = nn.ModuleList(
            [_alone(one.module) for one in predictor.populations if isinstance(one, Population)]
        )
        self.inputs = [names.index(source) for source, _ in zip(predictor.sources, predictor.populations, strict=False)]
        self.task: Task = predictor.task
        self.ensemble: Ensemble = predictor.ensemble
        table = {name: self.ensemble.params.get(name, []) for name in ("coefficients", "intercepts")}
        for name, values in table.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float64))

    def forward(self, *x: Tensor) -> Tensor:
        """Give what the ensemble says."""
        said = [self._word(member, x[place]) for member, place in zip(self.members, self.inputs, strict=True)]
        match self.ensemble.combine:
            case "soup":
                return said[0]
            case "logistic":
                return self._logistic(said)
        weighted = [word * weight for word, weight in zip(said, self.ensemble.weights, strict=True)]
        return torch.stack(weighted).sum(0)

    def _word(self, member: nn.Module, x: Tensor) -> Tensor:
        batch = Batch({"x": x}, x[:, 0], None, x[:, 0])  # there are neither targets nor positions
        return self.task.predict(member(x=x).unsqueeze(0), batch)[0]

    def _logistic(self, said: Sequence[Tensor]) -> Tensor:
        groups = list(self.ensemble.params.get("groups", range(len(said))))
        means = [
            torch.stack([word for word, own in zip(said, groups, strict=True) if own == group]).mean(0)
            for group in range(max(groups) + 1)
        ]
        features = torch.cat(means, dim=1).clamp_min(LEAST_PROBABILITY).log()
        return (features @ self.get_buffer("coefficients") + self.get_buffer("intercepts")).softmax(-1)


def export(model_folder: str, kind: Format, out: str, *, trust_code: Trust = False) -> Json:
    """Write a model as a program, and give a summary.

    Args:
        model_folder: Directory of a run, or of a model.
        kind: "torch" writes a program of `torch.export`, "onnx" one of ONNX; both take any number of rows.
        out: Folder to make: the program, `steps.json` with all that turns rows into its inputs, and
            `golden.safetensors` with a few rows of inputs and outputs.
        trust_code: Run the author's own modules that the model needs.

    Raises:
        SpecError: If the ensemble cannot be exported, or a package is missing.
        DataError: If the folder is not empty, or what was written says something else than the model; then nothing is
            left of it.
    """
    model = open_model(model_folder, trust_code=trust_code)
    _refuse(model, kind, out)
    names = list(model.saved.ways())
    inputs, expected = _golden(model, names)
    program = Program(model.predictor, names).eval()
    target = Path(out).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f"{TEMPORARY}{target.name}-{os.getpid()}"
    draft.mkdir()
    try:
        path = str(draft / FILES[kind])
        run = _write(program, inputs, path, kind)
        worst = _compare(run, inputs, expected, kind)
        labels = _labels(len(names))
        save_file({**dict(zip(labels, inputs, strict=True)), "outputs": expected}, str(draft / "golden.safetensors"))
        (draft / "steps.json").write_text(write_text(_steps(model, names, labels), indent=1), encoding="utf-8")
        _put(draft, target, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    written = {name: os.stat(target / name).st_size for name in sorted(os.listdir(target))}
    return {
        "out": str(target), "format": kind, "model": {"folder": model.folder, "identity": model.identity},
        "files": written, "golden": {"rows": len(expected), "difference": worst, "tolerance": TOLERANCE[kind]},
    }  # fmt: skip


def _refuse(model: SavedModel, kind: Format, out: str) -> None:
    combine = model.saved.ensemble.combine
    if combine not in EXPORTABLE:
        raise SpecError(
            f"ensemble '{model.saved.ensemble.name}' combines by {combine}, which jumps where classes are level, so no "
            f"program equals it within a tolerance. Accepted: {', '.join(EXPORTABLE)}, i.e. the ensembles single, "
            "average, greedy, soup and stacking.",
            "MODEL",
        )
    ragged = {name for own in model.saved.ways().values() for name, b in own.schema.blocks.items() if b.is_ragged}
    if ragged:
        raise SpecError(
            f"the model reads rows of different lengths ({', '.join(sorted(ragged))}), which export does not write. "
            "Accepted: models that read x alone; fmray predict and MLflow take this one.",
            "MODEL",
        )
    if others := sorted({m.model["name"] for m in model.saved.members if m.artefact != TENSORS}):
        raise SpecError(
            f"{', '.join(others)} is no network, and {kind} takes networks only. Predict by fmray predict or MLflow, "
            "or read the member's own file.",
            "MODEL",
        )
    for package in NEEDS[kind]:
        if importlib.util.find_spec(package) is None:
            raise SpecError(f"{kind} needs the package {package}. Install fmray[export].", "--format")
    if Path(out).exists() and (not Path(out).is_dir() or any(Path(out).iterdir())):
        raise DataError(f"{out} is not empty. Give a new folder.", "--out")


def _put(draft: Path, target: Path, out: str) -> None:
    """Put the folder in place, unless another process has filled its place meanwhile."""
    try:
        draft.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        text = f"another process has written to {out} meanwhile. Nothing was changed there."
        raise DataError(text, "--out") from error


def _golden(model: SavedModel, names: Sequence[str]) -> tuple[list[np.ndarray], np.ndarray]:
    """Give inputs of a few validation rows, in the order of the names, and what the model says of them."""
    rows = as_trained(model.example, model.input_schema.columns, model.input_types)
    predicted = model.predict_rows(rows, Unseen())
    sound = predicted.faulty == 0
    parts = [part.x for part in model.reader.slices(rows, [], Unseen())]
    if not sound.any():
        raise DataError(f"{model.folder} holds no golden rows to compare with. Run the job again with --fresh.")
    inputs = (torch.from_numpy(np.concatenate([x[name].arrays[DENSE] for x in parts])[sound]) for name in names)
    return [as_floats(x).numpy() for x in inputs], np.asarray(predicted.said)[sound]


def _write(program: Program, inputs: Sequence[np.ndarray], path: str, kind: Format) -> Outputs:
    """Write the program, and give what runs it as it was written."""
    rows = torch.export.Dim("rows", min=1)
    few = tuple(torch.from_numpy(np.concatenate([x, x])) for x in inputs)  # a size of 1 would be taken as fixed
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of packages that nobody asked for
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            exported = torch.export.export(program, few, dynamic_shapes={"x": tuple({0: rows} for _ in few)})
            if kind == "torch":
                exported.example_inputs = None  # they alone would be pickled
                torch.export.save(exported, path)
                return _run_torch(path)
            size = sum(p.numel() * p.element_size() for p in program.parameters())
            torch.onnx.export(
                exported, (), path, dynamo=True, input_names=_labels(len(few)), output_names=["outputs"],
                external_data=size > INSIDE_BYTES, verbose=False,
            )  # fmt: skip
            return _run_onnx(path)
    except Exception as error:  # torch raises its own errors, of many kinds, for what it cannot trace
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SpecError(
            f"torch cannot export this model: {reason} See torch.export for what it can.", "--format"
        ) from error


def _run_torch(path: str) -> Outputs:
    module = torch.export.load(path).module()

    def run(inputs: Sequence[np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            said: np.ndarray = module(*map(torch.from_numpy, inputs)).numpy()
        return said

    return run


def _run_onnx(path: str) -> Outputs:
    runtime: Any = importlib.import_module("onnxruntime")
    opened = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[np.ndarray]) -> np.ndarray:
        said: np.ndarray = opened.run(None, dict(zip(_labels(len(inputs)), inputs, strict=True)))[0]
        return said

    return run


def _compare(run: Outputs, inputs: Sequence[np.ndarray], expected: np.ndarray, kind: Format) -> float:
    """Give the largest difference on golden rows, taken all at once, one, and many at a time.

    Raises:
        DataError: If it is beyond the tolerance.
    """
    worst = 0.0
    for rows in (np.arange(len(expected)), np.arange(1), np.tile(np.arange(len(expected)), 5)):
        said = run([x[rows] for x in inputs])
        wanted = expected[rows]
        if said.shape != wanted.shape:
            raise DataError(f"the exported program gives {said.shape}, the model {wanted.shape}. Nothing was kept.")
        apart = np.abs(said - wanted) / np.maximum(1, np.abs(wanted))
        worst = max(worst, float(np.nan_to_num(apart, nan=np.inf).max()))
    if worst > TOLERANCE[kind]:
        raise DataError(
            f"the exported program differs from the model by {worst:.3g} on golden rows, {TOLERANCE[kind]:g} is "
            "accepted. Nothing was kept."
        )
    return worst


def _steps(model: SavedModel, names: Sequence[str], labels: Sequence[str]) -> Json:
    """Give all that turns rows into inputs, as plain values."""
    ways = model.saved.ways()
    return {
        "inputs": {
            label: {
                "raw": ways[name].raw.to_json(),
                "steps": list(ways[name].steps),
                "features": ways[name].schema.feature_names(),
            }
            for name, label in zip(names, labels, strict=True)
        },
        "null_values": list(model.saved.data.null_values),
        "target": {"columns": list(model.target.columns), "classes": list(model.target.classes)},
        "outputs": list(model.output_names),
        "model": model.identity,
    }


def _labels(number: int) -> list[str]:
    return ["x"] if number == 1 else [f"x_{place}" for place in range(number)]


def _alone(module: nn.Module) -> nn.Module:
    """Give a copy whose parameters are not views of a population's."""
    made = copy.deepcopy(module).eval()
    for parameter in made.parameters():
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(False)
    return made
