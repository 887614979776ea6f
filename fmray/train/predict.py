"""Turn trained members into a table of predictions, each row of a split exactly once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fmray.data.lanes import Lanes
from fmray.data.session import run_over_ray, session
from fmray.errors import DataError
from fmray.events import ignore
from fmray.failures import DEVICE_MEMORY, MEMORY
from fmray.ragged import Blocks, Ragged, by_row
from fmray.records import TENSORS as NETWORK
from fmray.records import Ensemble, Member, Predictions, Prepared, Split
from fmray.schema import DENSE
from fmray.spec.ref import Ref
from fmray.store.copies import to_read, to_write
from fmray.store.places import files_of
from fmray.targets.codec import codec_of
from fmray.tasks.task import Batch, Task, asked_of, by_entry, task_of
from fmray.train.artefacts import TENSORS, read_tensors
from fmray.train.blocks import batch_of_rows
from fmray.train.combine import combine_outputs
from fmray.train.estimators import Fitted, load_estimator
from fmray.train.failures import kind_of
from fmray.train.generated import rows_to_generate, with_texts
from fmray.train.ingest import chunk_rows
from fmray.train.layout import ModuleLayout
from fmray.train.population import Blueprint, Population, enter

CHUNK_ROWS = 65_536
TASK_ROWS = 4 * CHUNK_ROWS
"""Rows that a task predicts; fewer in all are not worth a task."""
Generate = Callable[["Predictor"], Callable[[Mapping[str, Blocks]], list[str]]]
"""Predictor -> prepared rows, by the way in which they were prepared -> the text of each row."""
Inputs = np.ndarray | Blocks | dict[str, Blocks]
"""Prepared rows, as block `x` (N, D) alone or with all blocks; or by fingerprint, where they were prepared in several
ways."""


def predict(
    members: Sequence[Member],
    ensemble: Ensemble,
    prepared: Prepared,
    split: Split,
    task: Ref,
    path: str,
    device: torch.device | str = "cpu",
    over_ray: bool = False,
    generate: Generate | None = None,
) -> Predictions:
    """Write what an ensemble says on every row of a split.

    Args:
        members: Those that the ensemble names, in its order.
        ensemble: How their words become one.
        prepared, split: Which rows.
        task: What turns outputs into predictions.
        path: Parquet file to write; columns as `records.Predictions` says.
        over_ray: Let tasks of Ray Data predict, some rows each; they write what the driver puts together in order.
        generate: Generates the texts of rows, where that is what is predicted.

    Raises:
        DataError: If a member's tensors are missing or do not fit, or a row was lost.
        ClusterError: If Ray fails.
    """
    total = Lanes(prepared, split).num_rows
    predictor = _SplitPredictor(
        tuple(members),
        ensemble,
        prepared=prepared,
        split=split,
        task=task,
        device=str(device),
        generate=generate,
    )
    tables = (
        _over_ray(predictor, total, f"{path}.parts") if over_ray and total > TASK_ROWS else predictor.tables(0, total)
    )
    num_rows = 0
    with to_write(path) as here:
        writer: pq.ParquetWriter | None = None
        for table in tables:
            writer = writer or pq.ParquetWriter(here, table.schema, write_page_checksum=True)
            writer.write_table(table)
            num_rows += len(table)
        if writer is None:
            raise DataError(f"the {split} split has no rows. See the row accounting.", "predict")
        writer.close()
        if num_rows != total:
            raise DataError(f"{num_rows} of the {total} rows of {split} were predicted. Run the job again.", "predict")
    return Predictions(path, split, output_names(prepared), num_rows)


@dataclass(frozen=True)
class _SplitPredictor:
    """Hold what is needed to predict some rows of a split, here or in a task."""

    members: tuple[Member, ...]
    ensemble: Ensemble
    prepared: Prepared
    split: Split
    task: Ref
    device: str
    generate: Generate | None

    def tables(self, start: int, stop: int) -> Iterator[pa.Table]:
        """Give the predictions of the rows from `start` up to `stop`, in sequence order."""
        prepared = self.prepared
        lanes = Lanes(self.prepared, self.split)
        predictor = Predictor(self.members, self.ensemble, prepared=prepared, task=self.task, device=self.device)
        texts_of = None if self.generate is None else self.generate(predictor)
        step = chunk_rows(prepared, CHUNK_ROWS)
        for first in range(start, stop, step):
            rows = np.arange(first, min(first + step, stop))
            arrays = lanes.take(rows)
            own = Blocks({name: arrays[name] for name in columns_to_predict(prepared)})
            inputs = inputs_of(self.members, prepared, self.split, rows) if prepared.variants else own
            codec = codec_of(prepared.target)
            outputs = by_row(predictor(inputs), arrays["target"])
            shown = codec.shown_columns(outputs, arrays["target"])
            if texts_of is not None and isinstance(outputs, Ragged):
                chosen = rows_to_generate(arrays["row_id"], lanes.num_rows, self.task)
                some = {name: v[np.flatnonzero(chosen)] for name, v in predictor.by_way(inputs).items()}
                outputs, shown = with_texts(outputs, arrays, chosen, texts_of(some))
            yield as_table(arrays, codec.table_columns(outputs, self.ensemble.params) | shown, prepared)


class Predictor:
    """Predict by an ensemble.

    Args:
        members: Those that the ensemble names, in its order.
        ensemble: How their words become one.
        prepared: What their inputs look like.
        task: What turns outputs into predictions.
        device: Where they compute.

    Raises:
        DataError: If a member's tensors are missing or damaged, or parameters to average differ in shape.
    """

    def __init__(
        self,
        members: Sequence[Member],
        ensemble: Ensemble,
        prepared: Prepared,
        task: Ref,
        device: torch.device | str = "cpu",
    ) -> None:
        self.ensemble = ensemble
        self.device = device
        self.task: Task = task_of(task.name, prepared.target, [task.params])
        self._codec = codec_of(prepared.target)
        rows = [prepared.for_member(member) for member in members]
        self.populations: list[Population | Fitted]
        self.sources = [own.fingerprint for own in rows]
        self._blocks = {own.fingerprint: own.schema.blocks for own in rows}
        self._most_rows = chunk_rows(prepared, CHUNK_ROWS)
        self.populations = [load_member(m, own, self.task, device) for m, own in zip(members, rows, strict=True)]
        if ensemble.combine == "soup":
            networks = [one for one in self.populations if isinstance(one, Population)]
            if len(networks) < len(members):
                text = "averages parameters, and a member that is no network has none to average. Take average."
                raise DataError(text, "ensemble.soup")
            self.populations = [soup(networks, ensemble.weights)]

    @property
    def num_parameters(self) -> int:
        """Count the parameters behind one answer."""
        return sum(
            one.layout.num_parameters if isinstance(one, Population) else one.num_parameters for one in self.populations
        )

    def __call__(self, x: Inputs) -> np.ndarray:
        """Give predictions (N, C or T), float64, for prepared rows, as `inputs_of` gives them; of tokens, for each."""
        given = self.by_way(x)
        num_rows = len(next(iter(given.values())))
        # all members' outputs of these rows are held at once
        step = min(self._most_rows, max(1024, CHUNK_ROWS // len(self.populations)))
        cuts = range(0, num_rows, step)
        parts = ({name: v[slice(start, start + step)] for name, v in given.items()} for start in cuts)
        return np.concatenate([self._say_in_parts(part) for part in parts])

    def by_way(self, x: Inputs) -> dict[str, Blocks]:
        """Give prepared rows by the fingerprint of each way in which members' rows were prepared."""
        rows = Blocks({DENSE: x}) if isinstance(x, np.ndarray) else x
        return rows if isinstance(rows, dict) else dict.fromkeys(self.sources, rows)

    def _say_in_parts(self, x: dict[str, Blocks]) -> np.ndarray:
        """Give the predictions of rows, of so many at a time as memory holds."""
        half = len(next(iter(x.values()))) // 2
        try:
            return self._say(x)
        except Exception as error:
            if half == 0 or kind_of(error) not in (MEMORY, DEVICE_MEMORY):
                raise
        halves = ({name: v[some] for name, v in x.items()} for some in (slice(half), slice(half, None)))
        return np.concatenate([self._say_in_parts(part) for part in halves])

    def _say(self, x: dict[str, Blocks]) -> np.ndarray:
        batches = {name: batch_of_rows(self._trained(v), self._blocks[name], self.device) for name, v in x.items()}
        who = zip(self.populations, self.sources, strict=False)  # a soup is one of several
        with torch.no_grad():
            predictions = [self._output(population, batches[source]) for population, source in who]
        return combine_outputs(self.ensemble, np.stack(predictions))

    def _trained(self, rows: Blocks) -> Blocks:
        """Give rows with the target as it is in training, where they hold one."""
        if "target" not in rows.arrays:
            return rows
        return Blocks({**rows.arrays, "target": self._codec.for_training(rows.arrays["target"])})

    def _output(self, population: Population | Fitted, batch: Batch) -> np.ndarray:
        """Give the predictions of one member (n, O)."""
        return by_entry(self.task.predict(population(asked_of(self.task, batch)), batch), batch)[0].cpu().numpy()


def inputs_of(members: Sequence[Member], prepared: Prepared, split: Split, rows: np.ndarray) -> Inputs:
    """Give the inputs of rows at some positions of a split, for each way that members' rows were prepared.

    Raises:
        DataError: If another way brought the rows into another sequence.
    """
    used = {own.fingerprint: own for own in map(prepared.for_member, members)}
    if used.keys() <= {prepared.fingerprint}:
        return Blocks(Lanes(prepared, split).take(rows, columns_to_predict(prepared)))
    ids = Lanes(prepared, split).take(rows, ["row_id"])["row_id"]
    found = {}
    for name, own in used.items():
        arrays = Lanes(own, split).take(rows, ["row_id", *columns_to_predict(own)])
        if not np.array_equal(arrays.pop("row_id"), ids):
            raise DataError(f"{own.root} holds the rows of {split} in another sequence. Run with --fresh.", "predict")
        found[name] = Blocks(arrays)
    return found


def columns_to_predict(prepared: Prepared) -> list[str]:
    """Name the columns of the lanes that predictions are made from: inputs, and the target where it is made of them."""
    return [*prepared.schema.lane_columns, *["target"] * codec_of(prepared.target).from_inputs]


def soup(populations: Sequence[Population], weights: Sequence[float]) -> Population:
    """Average the parameters of members into one model; whole-number buffers are those of the first.

    Raises:
        DataError: If the members differ in shape.

    Source: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models", ICML 2022.
    """
    first = populations[0]
    if any(population.layout != first.layout for population in populations):
        raise DataError("members differ in the shapes of their parameters. Take members of one pack.", "ensemble.soup")
    flat = sum(w * p.flat.detach().double() for w, p in zip(weights, populations, strict=True))
    buffers = {
        name: sum(w * p.buffers[name].double() for w, p in zip(weights, populations, strict=True))
        for name, value in first.buffers.items()
        # what is equal, as frozen parameters are, must not be rounded
        if value.is_floating_point() and not all(torch.equal(value, p.buffers[name]) for p in populations)
    }
    with torch.no_grad():
        first.load(torch.as_tensor(flat), {name: torch.as_tensor(value) for name, value in buffers.items()})
    return first


def _over_ray(predictor: _SplitPredictor, num_rows: int, folder: str) -> Iterator[pa.Table]:
    """Have tasks write the predictions of a few rows each, and read them back in order."""
    cuts = range(0, num_rows, TASK_ROWS)
    own = [
        (f"{folder}/{number:06d}.parquet", start, min(start + TASK_ROWS, num_rows)) for number, start in enumerate(cuts)
    ]
    try:
        with session():
            run_over_ray(ignore, "predict", function=_write_part, common=(replace(predictor, device="cpu"),), own=own)
        for path, _, _ in own:
            with to_read(path) as here:
                yield pq.read_table(here, page_checksum_verification=True)
    finally:
        files_of(folder).remove(folder)


def _write_part(predictor: _SplitPredictor, path: str, start: int, stop: int) -> None:
    """Predict some rows in a task, which has one core."""
    torch.set_num_threads(1)
    with to_write(path) as here:
        pq.write_table(pa.concat_tables(predictor.tables(start, stop)), here, write_page_checksum=True)


def load_member(member: Member, prepared: Prepared, task: Task, device: torch.device | str) -> Population | Fitted:
    """Build a member again from its record.

    Raises:
        DataError: If its tensors are missing, damaged or do not fit its description.
    """
    if member.artefact != NETWORK:
        return load_estimator(member, prepared, task)
    num_outputs = task.num_outputs
    blueprint = Blueprint.of(member.model["name"], member.model["params"], member.seed)
    module = blueprint.module(prepared.schema, num_outputs)
    path = f"{member.root}/{TENSORS}"
    tensors = read_tensors(path, member.tensor_hash, member.index)
    try:
        module.load_state_dict(ModuleLayout.of(module).with_aliases(tensors))
    except RuntimeError as error:
        raise DataError(f"{path} cannot be read as member {member.index}: {error}.") from error
    population = enter([blueprint], prepared.schema, num_outputs=num_outputs, device=device, modules=[module])
    population.prepare_step(0, None)
    return population


def output_names(prepared: Prepared) -> tuple[str, ...]:
    """Name the output columns, as the target's codec does: p_<class> or y_<target>."""
    return codec_of(prepared.target).columns


def as_table(arrays: dict[str, np.ndarray], outputs: dict[str, pa.Array], prepared: Prepared) -> pa.Table:
    """Lay rows and outputs out as `records.Predictions` says."""
    ids = np.ascontiguousarray(arrays["row_id"]).view(np.uint8).reshape(-1)
    columns: dict[str, pa.Array] = {
        "row_id": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(arrays["row_id"]), [None, pa.py_buffer(ids)])
    }
    columns |= codec_of(prepared.target).target_columns(arrays["target"])
    beside = [name for name in ("weight", "group") if name in arrays] + [f"slice_{name}" for name in prepared.slices]
    return pa.table(columns | {name: pa.array(arrays[name]) for name in beside} | outputs)
