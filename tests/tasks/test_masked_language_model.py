"""A masked language model chooses tokens by seed, epoch and row alone, and loses what torch's cross-entropy says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fmray.errors import TrainError
from fmray.models.encoder import Encoder
from fmray.records import Target
from fmray.schema import Column, Schema
from fmray.spec.components import models, tasks
from fmray.tasks.masked_language_model import MaskedLanguageModel
from fmray.tasks.task import Batch, Places, asked_of
from fmray.train.live import keyed

NUM_IDS = 30
TARGET = Target(("text",), "masked", counts=(0, 0, *range(1, NUM_IDS - 1)), rows=9)
LENGTHS = (1, 7, 20, 13)


def task_of(**params: object) -> MaskedLanguageModel:
    return MaskedLanguageModel(TARGET, [tasks.MaskedLanguageModel(**params)])


def batch_of(lengths=LENGTHS, width: int = 24, *, trains: bool = True, rows: int = 1) -> Batch:
    source = torch.Generator().manual_seed(0)
    ids = torch.randint(2, NUM_IDS, (len(lengths) * rows, width), generator=source)
    sizes = torch.tensor(lengths).repeat(rows)
    there = torch.arange(width) < sizes[:, None]
    inputs = {"tokens": ids.masked_fill(~there, 0), "tokens_lengths": sizes}
    keys = torch.arange(len(ids)) * 977 + 5
    batch = Batch(inputs, ids.masked_fill(~there, -1), None, torch.arange(len(ids)))
    return (
        replace(batch, keys=keyed(torch.stack([keys, keys], 1), 3), places=Places.counted(0, len(ids)))
        if trains
        else batch
    )


def encoder(**params: object) -> Encoder:
    torch.manual_seed(1)
    schema = Schema((Column("text", "tokens", NUM_IDS, block="tokens"),))
    return Encoder(schema, NUM_IDS, models.Encoder(width=16, depth=1, heads=2, per="masked", **params)).eval()


def model_of(module: Encoder):
    return lambda batch: module(**batch.inputs, **batch.given)[None].detach()


def chosen_of(asked: Batch) -> list[list[int]]:
    """Give the places that each row is asked for, in order."""
    pairs = zip(asked.given["chosen"].tolist(), asked.target.tolist(), strict=True)
    return [sorted(place for place, id_ in zip(places, ids, strict=True) if id_ >= 0) for places, ids in pairs]


def test_a_row_is_asked_for_the_same_tokens_in_any_batch_and_padding():
    task = task_of()
    batch = batch_of()
    whole = task.asked(batch)
    assert [len(places) for places in chosen_of(whole)] == [1, 1, 3, 2]
    part = task.asked(batch.slice(1, 3))
    assert chosen_of(part) == chosen_of(whole)[1:3]
    assert torch.equal(part.inputs["tokens"], whole.inputs["tokens"][1:3])
    wide = {"tokens": F.pad(batch.inputs["tokens"], (0, 16)), "tokens_lengths": batch.inputs["tokens_lengths"]}
    padded = task.asked(replace(batch, inputs=wide, target=F.pad(batch.target, (0, 16), value=-1)))
    assert chosen_of(padded) == chosen_of(whole)
    assert torch.equal(padded.inputs["tokens"][:, :24], whole.inputs["tokens"])


def test_other_keys_choose_other_tokens_and_shares_are_as_published():
    batch = batch_of((20, 40), 40, rows=2000)
    task = task_of()
    asked = task.asked(batch)
    is_asked = asked.target >= 0
    own = batch.inputs["tokens"].gather(1, asked.given["chosen"])
    given = asked.inputs["tokens"].gather(1, asked.given["chosen"])
    number = int(is_asked.sum())
    assert number == 2000 * (3 + 6)
    assert torch.equal(asked.target[is_asked], own[is_asked])
    four_sigma = 4 * np.sqrt(0.8 * 0.2 / number)
    assert float((given[is_asked] == 0).float().mean()) == pytest.approx(0.8, abs=four_sigma)
    same = float((given[is_asked] == own[is_asked]).float().mean())
    assert same == pytest.approx(0.1 + 0.1 / (NUM_IDS - 2), abs=four_sigma)
    assert int((asked.inputs["tokens"] != batch.inputs["tokens"]).sum()) == int((given != own)[is_asked].sum())
    other = chosen_of(task.asked(replace(batch, keys=batch.keys + 1)))
    assert sum(a == b for a, b in zip(chosen_of(asked), other, strict=True)) < 100


def test_the_loss_is_torchs_cross_entropy_over_chosen_tokens():
    task, module, batch = task_of(), encoder(), batch_of()
    losses = task.loss(model_of(module), batch, "model")
    asked = task.asked(batch)
    outputs = module(tokens=asked.inputs["tokens"], tokens_lengths=batch.lengths).detach()  # of every token
    counts = torch.tensor(TARGET.counts, dtype=torch.float64) + 1
    logits = outputs.double() + (counts / counts.sum()).log()
    target = torch.full_like(batch.target, -100)
    for row, places in enumerate(chosen_of(asked)):
        target[row, places] = batch.target[row, places]
    expected = F.cross_entropy(logits.flatten(0, 1), target.flatten())
    total, weight = losses.sums()
    assert weight.tolist() == [7]
    assert float(total / weight) == pytest.approx(float(expected), rel=1e-5)


def test_predictions_are_those_of_the_tokens_asked_for_and_add_up_to_the_loss():
    task, module = task_of(), encoder()
    trained = task.asked(batch_of())
    target = torch.full_like(batch_of().target, -1)
    for row, places in enumerate(chosen_of(trained)):
        target[row, places] = batch_of().target[row, places]
    held = replace(batch_of(trains=False), inputs=trained.inputs, target=target)  # as validation is prepared
    output = model_of(module)(asked_of(task, held))
    said = task.predict(output, held)
    assert said.shape == (1, 4, 24, 2)
    assert torch.equal(said[0, ..., 0] > 0, target >= 0)
    total, weight = task.loss(lambda _: output, held, "model").sums()
    nats = -said[0, ..., 0][target >= 0].log().mean()
    assert float(nats) == pytest.approx(float(total / weight), rel=1e-5)
    ours = task.loss(model_of(module), batch_of(), "model").sums()
    assert float(total) == pytest.approx(float(ours[0]), rel=1e-5)
    assert set(said[..., 1].unique().tolist()) <= {0.0, 1.0}


def test_rows_without_identities_are_refused_while_training():
    with pytest.raises(TrainError, match="rows came without identities"):
        task_of().asked(replace(batch_of(), keys=None))


def test_a_fresh_model_begins_near_the_share_of_each_token():
    batch = batch_of((24,) * 64, rows=4)
    total, weight = task_of().loss(model_of(encoder()), batch, "model").sums()
    counts = np.array(TARGET.counts) + 1.0
    asked = task_of().asked(batch)
    ids = asked.target[asked.target >= 0].numpy()
    assert float(total / weight) == pytest.approx(-np.log(counts[ids] / counts.sum()).mean(), abs=0.05)
