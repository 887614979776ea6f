"""Gather what two models say about the same rows, rows that may decide between them.

Predictions of the challenger lie sealed in its run; the others predict anew, from the rows as they are read. A row is
known by the first word of its identity, so of 64 bits that agree by chance nothing comes but a row left out.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pyarrow as pa

from fmray.data.hashing import row_hashes, row_ids
from fmray.data.lanes import Lanes
from fmray.data.scan import Dataset, WorkItem, read_item, scan, work_items
from fmray.data.split import TEST, Definition, assign
from fmray.errors import DataError
from fmray.evaluate.parts import Pass
from fmray.evaluate.table import Table, read
from fmray.events import ignore
from fmray.inference.model import SavedModel, open_model
from fmray.ragged import Array, empty_rows, joined, values_of
from fmray.records import SPLITS, Json, Predictions, Prepared, Split, Target
from fmray.registry import Trust
from fmray.report.card import Card, read_card
from fmray.report.contents import RUN, verify_run
from fmray.rigour.ledger import Ledger
from fmray.spec.job import Job
from fmray.store import Store, redact
from fmray.targets.codec import codec_of
from fmray.train.predict import output_names

SEALED = "sealed/test.parquet"
CHUNK_ROWS = 1 << 22


@dataclass(frozen=True)
class Evidence:
    """Hold predictions of the same rows.

    Args:
        challenger, others: What they say; others by name. Rows that one of the others cannot read are left out.
        left_out: How many those are.
    """

    challenger: Table
    others: Mapping[str, Table]
    left_out: int = 0

    @property
    def rows(self) -> str:
        """Name the set of rows."""
        return digest(self.challenger.row_id)

    def to_json(self) -> Json:
        """Say what was compared, in digests."""
        said = {"challenger": self.challenger, **self.others}
        return {
            "rows": self.rows,
            "num_rows": len(np.unique(self.challenger.row_id, axis=0)),  # each of which may have several targets
            "left_out": self.left_out,
            "predictions": {name: digest(table.output) for name, table in said.items()},
        }


def digest(values: np.ndarray) -> str:
    """Name the content of an array."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:32]


def fresh_rows(card: Card, rivals: Sequence[Card], store: Store, run: Pass) -> Table:
    """Give the challenger's predictions of test rows that nobody had seen when it was trained.

    Seen are rows that a rival learned from or was scored on, and those of which a run of the job showed a score
    earlier, or a run of any job that has the same test rows: whoever saw it may have chosen the challenger by it. Rows
    of runs that tell rows apart in another way (columns came or went, and there is no `data.key`) are known by their
    files.

    Raises:
        DataError: If a rival tells rows apart in another way and read other files.
    """
    table = sealed_table(card, store)
    ledger = Ledger(store)
    looks = ledger.verify(card.prepared.test_identity)
    if not looks or looks[0]["run"] != card.run_id:
        return table.some(np.zeros(0, np.int64))
    others = (*rivals, *_earlier(card, {rival.run_id for rival in rivals}, ledger.first_looks(), store))
    alike = [other for other in others if _told_by(other) == _told_by(card)]
    scored = (sealed_table(other, store).row_id[:, 0] for other in alike if other not in rivals)
    seen = np.zeros(len(table), bool)
    for words in chain(_of_prepared([rival for rival in rivals if rival in alike], SPLITS), scored):
        seen |= np.isin(table.row_id[:, 0], words)
    if unlike := [other for other in others if other not in alike]:
        seen |= _in_files_of(unlike, rivals, card=card, table=table, store=store, run=run)
    return table.some(np.flatnonzero(~seen))


def sealed_rows(card: Card, rivals: Sequence[Card], store: Store) -> Table:
    """Give the challenger's predictions of test rows that no rival has learned from."""
    table = sealed_table(card, store)
    seen = np.zeros(len(table), bool)
    for words in _of_prepared(rivals, ("train", "val")):
        seen |= np.isin(table.row_id[:, 0], words)
    return table.some(np.flatnonzero(~seen))


def sealed_table(card: Card, store: Store) -> Table:
    """Give what a run says about its test rows.

    Raises:
        DataError: If the table is not the one that the run left.
    """
    verify_run(card.root, store, store.read_json(f"{card.root}/{RUN}"), [SEALED])
    num_rows = card.prepared.num_rows("test")
    return read(Predictions(f"{card.root}/{SEALED}", "test", output_names(card.prepared), num_rows))


def _of_prepared(cards: Sequence[Card], splits: Sequence[Split]) -> Iterator[np.ndarray]:
    for prepared in {card.prepared.fingerprint: card.prepared for card in cards}.values():
        for split in splits:
            lanes = Lanes(prepared, split)
            for start in range(0, lanes.num_rows, CHUNK_ROWS):
                yield lanes.between(start, min(start + CHUNK_ROWS, lanes.num_rows), ["row_id"])["row_id"][:, 0]


def _earlier(card: Card, left_out: Collection[str], first_looks: Mapping[str, str], store: Store) -> Iterator[Card]:
    """Give the cards of the job's runs that showed a score before this one did."""
    folder = card.root.rpartition("/")[0]
    for name in store.list(folder):
        is_earlier = name in first_looks and first_looks[name] <= first_looks[card.run_id]
        if is_earlier and name not in {card.run_id, *left_out} and store.exists(f"{folder}/{name}/card.json"):
            yield read_card(f"{folder}/{name}", store)


def _told_by(card: Card) -> tuple[str, ...]:
    """Name the columns that rows are told apart by: the key, or all."""
    data = card.job["data"]
    if data["key"]:
        return tuple(data["key"])
    roles = {data["group"], data["time"], data["weight"], card.prepared.split["column"], *data["target"]}
    return tuple(sorted({column.name for column in card.prepared.raw.columns} | (roles - {None, ""})))


def _in_files_of(
    unlike: Sequence[Card], rivals: Sequence[Card], card: Card, table: Table, store: Store, run: Pass
) -> np.ndarray:
    """Tell which rows (N,) stand in files that some runs read."""
    ours = {entry["path"] for entry in card.prepared.manifest}
    read_by = {other.run_id: {entry["path"] for entry in other.prepared.manifest} for other in unlike}
    for rival in rivals:
        if rival.run_id in read_by and not ours & read_by[rival.run_id]:
            raise DataError(
                f"run {rival.run_id} tells rows apart by {', '.join(_told_by(rival))} and read other files, so its "
                "rows cannot be told from new ones. Name what identifies a row in data.key, or take promote.evidence: "
                "sealed."
            )
    dataset = _dataset_of(card, store)
    items = work_items(dataset)
    item, row = _locate(dataset, items, card=card, ids=table.row_id, run=run)
    is_old = np.array([redact(file.path) in set().union(*read_by.values()) for file in dataset.files])
    seen = np.zeros(len(table), bool)
    for index in np.unique(item).tolist():
        pieces = items[index].pieces
        mine = np.flatnonzero(item == index)
        piece = np.searchsorted(np.cumsum([p[4] for p in pieces]), row[mine], side="right")
        seen[mine] = is_old[np.array([p[0] for p in pieces])[piece]]
    return seen


def compare(card: Card, rows: Table, rivals: Mapping[str, Card], store: Store, run: Pass) -> Evidence:
    """Let rivals predict rows of the challenger's test set.

    Raises:
        DataError: If the data changed since, a rival's model is damaged, or it predicts something else.
    """
    if codec_of(card.prepared.target).from_inputs:
        text = "rows were cut into windows, which rivals cannot be asked about yet. Compare runs by their reports."
        if codec_of(card.prepared.target).generates:
            text = "texts are generated, which rivals cannot be asked for yet. Compare runs by their reports."
        raise DataError(text, "promote")
    dataset = _dataset_of(card, store)
    models = {name: open_model(f"{rival.root}/model") for name, rival in rivals.items()}
    for name, model in models.items():
        _refuse_other_target(card.prepared.target, model.target, f"{name} {rivals[name].run_id}")
    items = work_items(dataset)
    opens = codec_of(card.prepared.target).opens_row(rows.target)
    item, row = _locate(dataset, items, card=card, ids=rows.row_id[opens], run=run)
    order = np.lexsort((row, item))
    cuts = np.searchsorted(item[order], np.arange(len(items) + 1))
    own = [
        (items[index], row[order[cuts[index] : cuts[index + 1]]])
        for index in range(len(items))
        if cuts[index] < cuts[index + 1]
    ]
    folders = {name: (model.folder, model.trust) for name, model in models.items()}
    said: list[dict[str, tuple[Array, np.ndarray]]] = run(ignore, "promote", _say, (dataset, folders), own)
    outputs = {}
    is_sound = np.ones(len(order), bool)
    for name in models:
        outputs[name] = empty_rows(len(order), said[0][name][0])
        outputs[name][order] = joined([part[name][0] for part in said])
        is_sound[order] &= np.concatenate([part[name][1] for part in said])
    sizes = np.diff(np.append(np.flatnonzero(opens), len(rows)))
    ours = rows.some(np.flatnonzero(np.repeat(is_sound, sizes)))
    pairs = {
        name: replace(ours, output=_as_ours(values_of(outputs[name][is_sound]), model.target, card.prepared.target))
        for name, model in models.items()
    }
    return Evidence(ours, pairs, int((~is_sound).sum()))


def _dataset_of(card: Card, store: Store) -> Dataset:
    """Find the rows that a run was made from."""
    job = Job.from_json(card.job)
    dataset = scan(job.data, job.folder, store)
    _refuse_other_data(dataset, card.prepared)
    return dataset


def _locate(
    dataset: Dataset, items: Sequence[WorkItem], card: Card, ids: np.ndarray, run: Pass
) -> tuple[np.ndarray, np.ndarray]:
    """Give the item (N,) that each test row lies in, and its row there (N,)."""
    definition = Definition.from_json(card.prepared.split)
    own = [(item,) for item in items]
    return _places(ids, run(ignore, "promote", _test_rows, (dataset, definition), own))


def _test_rows(dataset: Dataset, definition: Definition, item: WorkItem) -> tuple[np.ndarray, np.ndarray]:
    """Give the rows of an item that are on the side of test (n,), and their hashes (n, 2)."""
    columns = [name for name in dataset.schema.names if name not in dataset.data.ignore]
    table = read_item(dataset, item, list(dict.fromkeys([*columns, *definition.reads()])))
    rows = np.flatnonzero(assign(definition, table, dataset.data.null_values) == TEST)
    (hashes,) = row_hashes(table.take(pa.array(rows)), [dataset.data.key or columns])
    return rows, hashes


def _places(ids: np.ndarray, found: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Find rows by their identity: the item (N,) each lies in, and its row there (N,)."""
    hashes = np.concatenate([part[1] for part in found])
    known = row_ids(hashes, _occurrences(hashes))
    order = np.argsort(known[:, 0], kind="stable")
    place = order[np.minimum(np.searchsorted(known[order, 0], ids[:, 0]), len(order) - 1)]
    if lost := int((known[place] != ids).any(1).sum()):
        raise DataError(f"{lost} of {len(ids)} test rows are not in the data any more. Run the job again.")
    item = np.repeat(np.arange(len(found)), [len(part[0]) for part in found])
    return item[place], np.concatenate([part[0] for part in found])[place]


def _occurrences(hashes: np.ndarray) -> np.ndarray:
    """Count the earlier rows with the same hash; equal rows are on one side, so those of test are all there are."""
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    is_new = np.ones(len(order), bool)
    is_new[1:] = (ordered[1:] != ordered[:-1]).any(1)
    starts = np.flatnonzero(is_new)
    result = np.empty(len(order), np.int64)
    result[order] = np.arange(len(order)) - starts[np.cumsum(is_new) - 1]
    return result


def _say(
    dataset: Dataset, folders: Mapping[str, tuple[str, Trust]], item: WorkItem, rows: np.ndarray
) -> dict[str, tuple[Array, np.ndarray]]:
    """Give what each model says of some rows of an item (n, C or T), and which of them it can read (n,)."""
    models = {name: open_model(folder, trust_code=trust) for name, (folder, trust) in folders.items()}
    names = dict.fromkeys(column.name for model in models.values() for column in model.input_schema.columns)
    known = [name for name in names if name in dataset.schema.names]
    table = read_item(dataset, item, known).take(pa.array(rows))
    return {name: _speak(model, table) for name, model in models.items()}


def _speak(model: SavedModel, table: pa.Table) -> tuple[Array, np.ndarray]:
    predicted = model.outputs(table)
    return codec_of(model.target).as_in_tables(predicted.said, model.saved.ensemble.params), predicted.faulty == 0


def _as_ours(output: np.ndarray, theirs: Target, ours: Target) -> np.ndarray:
    """Lay outputs out in the challenger's classes; one that the rival does not know has no chance."""
    return codec_of(ours).as_ours(output, theirs)


def _refuse_other_data(dataset: Dataset, prepared: Prepared) -> None:
    found = {(redact(f.path), f.size, f.num_rows) for f in dataset.files}
    known = {(entry["path"], entry["bytes"], entry["rows"]) for entry in prepared.manifest}
    if changed := sorted({path for path, _, _ in found ^ known}):
        raise DataError(
            f"{len(changed)} data files came, went or changed since the run, e.g. {changed[0]}. Run the job again, "
            "and promote what comes of it."
        )


def _refuse_other_target(ours: Target, theirs: Target, name: str) -> None:
    if (ours.kind, ours.columns) != (theirs.kind, theirs.columns):
        raise DataError(
            f"{name} predicts {', '.join(theirs.columns)} ({theirs.kind}), the challenger "
            f"{', '.join(ours.columns)} ({ours.kind}). Give the job another name."
        )
