"""Show that live steps are pure functions of seed, epoch, place and row, and draw from the distributions they say."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fmray.catalogue import LIVE
from fmray.errors import SpecError
from fmray.schema import Column, Schema
from fmray.spec.components import steps
from fmray.spec.ref import Ref
from fmray.train.live import Crop, FeatureDropout, Flip, Mixup, Noise, Shift, build_live, normals, row_keys, uniforms

IMAGE = Schema((Column("image", "vector", 3 * 6 * 6),))
MIXED = Schema((Column("age", "number"), Column("city", "one_hot", 3, ("a", "b", "c")), Column("v", "vector", 4)))
PARAMS = {"crop": {"padding": 2}, "feature_dropout": {"rate": 0.4}, "flip": {}, "noise": {}, "shift": {}}
SINGLE = sorted(PARAMS)
MANY = 60_000
SURE = 1e-4  # a true distribution is refused once in ten thousand seeds, and the seeds are fixed


def ids(num_rows, first=0):
    return torch.stack([torch.arange(first, first + num_rows), torch.zeros(num_rows, dtype=torch.long)], dim=1)


def keys(num_rows, seed=3, epoch=1, place=0):
    return row_keys(ids(num_rows), seed, epoch, place)


def rows(num_rows=40, schema=IMAGE):
    return torch.randn(num_rows, schema.width, generator=torch.Generator().manual_seed(5))


def step(name):
    return LIVE.build(name, IMAGE, params=PARAMS[name])


def far_from_related(one, other):
    return abs(np.corrcoef(one.double().flatten(), other.double().flatten())[0, 1]) < 5 / one.numel() ** 0.5


# ----------------------------------------------------------------------------------------------------------------------
# Keys and draws


def test_draws_are_those_of_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    expected = torch.tensor([[(word >> 40) * 2.0**-24 for word in published]])
    assert torch.equal(uniforms(torch.tensor([1234567]), 4), expected)


def test_keys_are_spread_evenly_and_never_meet():
    found = torch.cat([keys(MANY), keys(MANY, epoch=2), keys(MANY, place=1), keys(MANY, seed=4)])
    assert len(found.unique()) == len(found)
    assert stats.kstest(found.numpy() / 2.0**64 + 0.5, "uniform").pvalue > SURE


@pytest.mark.parametrize("word", [0, 1])
def test_each_bit_of_an_id_changes_half_of_the_bits_of_its_key(word):
    start = torch.tensor([[0x1234567, -99]])
    base = int(row_keys(start, 0, 0, 0))
    changes = []
    for bit in range(64):
        other = start.clone()
        other[0, word] ^= (1 << bit) if bit < 63 else -(2**63)
        changes.append(bin((base ^ int(row_keys(other, 0, 0, 0))) & (2**64 - 1)).count("1"))
    assert min(changes) > 12
    assert np.mean(changes) == pytest.approx(32, abs=2.5)


def test_both_words_of_an_id_count_and_are_not_interchangeable():
    pair = torch.tensor([[1, 2], [2, 1], [1, 1], [2, 2]])
    assert len(row_keys(pair, 0, 0, 0).unique()) == 4


def test_uniform_draws_are_uniform_and_below_one():
    drawn = uniforms(keys(MANY), 4)
    assert 0 <= drawn.min() <= drawn.max() < 1
    assert stats.kstest(drawn.flatten().numpy(), "uniform").pvalue > SURE


@pytest.mark.parametrize("num_units", [1, 2, 5])
def test_normal_draws_are_normal_in_every_unit(num_units):
    drawn = normals(keys(MANY), num_units).numpy()
    assert drawn.shape == (MANY, num_units)
    assert np.isfinite(drawn).all()
    for unit in drawn.T:
        assert stats.kstest(unit, "norm").pvalue > SURE
    assert (np.abs(drawn) > 3).mean() == pytest.approx(2 * stats.norm.sf(3), rel=0.25)


@pytest.mark.parametrize("draw", [uniforms, normals])
def test_units_rows_epochs_seeds_and_places_are_unrelated(draw):
    base = draw(keys(4_000), 16)
    for one in range(16):
        for other in range(one):
            assert far_from_related(base[:, one], base[:, other])
            assert far_from_related(base[:, one] ** 2, base[:, other] ** 2)
    assert far_from_related(base[1:], base[:-1])
    for change in ({"epoch": 2}, {"seed": 4}, {"place": 1}):
        assert far_from_related(base, draw(keys(4_000, **change), 16))


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_shares_of_mixup_are_beta_distributed(alpha):
    share = Mixup(IMAGE, steps.Mixup(alpha=alpha)).share(keys(MANY))
    assert share.dtype == torch.float32
    assert 0 <= share.min() <= share.max() <= 1
    assert stats.kstest(share.double().numpy(), stats.beta(alpha, alpha).cdf).pvalue > SURE


def test_shares_near_zero_are_beta_distributed_where_those_near_one_are_rounded_to_it():
    share, beta = Mixup(IMAGE, steps.Mixup(alpha=0.1)).share(keys(MANY)).double().numpy(), stats.beta(0.1, 0.1)
    lower = share[share < 0.5]
    assert len(lower) / MANY == pytest.approx(0.5, abs=0.01)
    assert stats.kstest(lower, lambda value: beta.cdf(value) * 2).pvalue > SURE
    assert (share > 0.9).mean() == pytest.approx(beta.sf(0.9), abs=0.01)


# ----------------------------------------------------------------------------------------------------------------------
# Every step


@pytest.mark.parametrize("name", SINGLE)
@given(start=st.integers(0, 39), size=st.integers(1, 40), seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 999))
@settings(max_examples=25, deadline=None)
def test_a_row_gets_the_same_bits_alone_in_any_batch_and_in_any_order(name, start, size, seed, epoch):
    live, x = step(name), rows()
    whole = live.apply(x, row_keys(ids(40), seed, epoch, 0))
    some = slice(start, start + size)
    assert torch.equal(live.apply(x[some], row_keys(ids(40)[some], seed, epoch, 0)), whole[some])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(size))
    assert torch.equal(live.apply(x[order], row_keys(ids(40)[order], seed, epoch, 0)), whole[order])


@given(start=st.integers(0, 39), size=st.integers(1, 40), alpha=st.floats(0.01, 20))
@settings(max_examples=10, deadline=None)
def test_a_share_is_the_same_in_any_batch(start, size, alpha):
    mixup, some = Mixup(IMAGE, steps.Mixup(alpha=alpha)), slice(start, start + size)
    assert torch.equal(mixup.share(keys(40)[some]), mixup.share(keys(40))[some])


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 2}, {"place": 1}], ids=str)
def test_another_seed_epoch_or_place_gives_something_else(name, change):
    live, x = step(name), rows()
    assert not torch.equal(live.apply(x, keys(40)), live.apply(x, keys(40, **change)))


@pytest.mark.parametrize("name", SINGLE)
def test_rows_of_equal_inputs_are_changed_apart(name):
    changed = step(name).apply(rows(1).expand(40, -1).contiguous(), keys(40))
    assert len(changed.unique(dim=0)) > 1


@pytest.mark.parametrize("name", SINGLE)
def test_what_is_given_stays_as_it_was(name):
    x, given_keys = rows(), keys(40)
    made = step(name).apply(x, given_keys)
    assert torch.equal(x, rows())
    assert torch.equal(given_keys, keys(40))
    assert (made.shape, made.dtype, made.is_contiguous()) == (x.shape, torch.float32, True)


@pytest.mark.parametrize("name", SINGLE)
def test_no_rows_are_no_rows(name):
    assert step(name).apply(rows()[:0], keys(0)).shape == (0, IMAGE.width)


def test_every_live_step_has_a_case():
    assert {*PARAMS, "mixup"} == set(LIVE)


# ----------------------------------------------------------------------------------------------------------------------
# Each step


def test_noise_falls_on_numbers_and_lists_with_the_scale_asked_for():
    x = torch.zeros(5_000, MIXED.width)
    made = Noise(MIXED, steps.Noise(scale=0.3)).apply(x, keys(5_000))
    assert (made[:, 1:4] == 0).all()
    noise = torch.cat([made[:, :1], made[:, 4:]], dim=1)
    assert stats.kstest(noise.flatten().numpy() / 0.3, "norm").pvalue > SURE
    only = Noise(MIXED, steps.Noise(scale=0.3, columns=["age"])).apply(x, keys(5_000))
    assert (only[:, 1:] == 0).all()
    assert (only[:, 0] != 0).all()


def test_feature_dropout_takes_indicators_whole_and_lists_element_by_element():
    made = FeatureDropout(MIXED, steps.FeatureDropout(rate=0.25)).apply(torch.ones(20_000, MIXED.width), keys(20_000))
    assert set(made.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(made[:, 1], made[:, 2])
    assert torch.equal(made[:, 1], made[:, 3])
    units = made[:, [0, 1, 4, 5, 6, 7]]
    assert (units == 0).float().mean(0).tolist() == pytest.approx([0.25] * 6, abs=0.02)
    for one in range(6):
        for other in range(one):
            assert far_from_related(units[:, one], units[:, other])


@pytest.mark.parametrize(("probability", "least", "most"), [(0.0, 0, 0), (0.3, 1_080, 1_320), (1.0, 4_000, 4_000)])
def test_flip_mirrors_left_and_right_of_the_share_asked_for(probability, least, most):
    x = rows(4_000)
    made = Flip(IMAGE, steps.Flip(probability=probability)).apply(x, keys(4_000))
    mirrored = torch.from_numpy(np.ascontiguousarray(x.numpy().reshape(-1, 3, 6, 6)[..., ::-1])).view(x.shape)
    is_mirrored = (made == mirrored).all(1)
    assert least <= int(is_mirrored.sum()) <= most
    assert torch.equal(made[~is_mirrored], x[~is_mirrored])


def windows(larger, num):
    return [larger[:, i : i + 6, j : j + 6].reshape(-1) for i in range(num) for j in range(num)]


@pytest.mark.parametrize(
    ("live", "mode"),
    [
        (Shift(IMAGE, steps.Shift(pixels=2)), "constant"),
        (Crop(IMAGE, steps.Crop(padding=2)), "constant"),
        (Crop(IMAGE, steps.Crop(padding=2, fill="mirror")), "reflect"),
    ],
    ids=["shift", "crop", "mirrored crop"],
)
def test_images_move_to_every_place_as_often(live, mode):
    image = rows(1)
    made = live.apply(image.expand(10_000, -1).contiguous(), keys(10_000)).numpy()
    larger = np.pad(image.numpy().reshape(3, 6, 6), [(0, 0), (2, 2), (2, 2)], mode=mode)
    counts = [int((made == place).all(1).sum()) for place in windows(larger, 5)]
    assert sum(counts) == 10_000
    assert stats.chisquare(counts).pvalue > SURE


def test_images_need_not_be_square():
    schema = Schema((Column("image", "bytes", 2 * 3 * 8),))
    x = torch.arange(48.0).repeat(200, 1)
    for live in (
        Flip(schema, steps.Flip(probability=1.0, image=[2, 3, 8])),
        Shift(schema, steps.Shift(pixels=1, image=[2, 3, 8])),
        Crop(schema, steps.Crop(padding=2, fill="mirror", image=[2, 3, 8])),
    ):
        assert live.apply(x, keys(200)).shape == x.shape
    row = Flip(schema, steps.Flip(probability=1.0, image=[2, 3, 8])).apply(x, keys(200))[0, :8]
    assert row.tolist() == list(range(7, -1, -1))


# ----------------------------------------------------------------------------------------------------------------------
# Building


def test_live_steps_are_built_in_order():
    made = build_live([Ref("shift", {"pixels": 1}), Ref("mixup", {"alpha": 1.0}), Ref("noise")], IMAGE)
    assert [type(live) for live in made] == [Shift, Mixup, Noise]


@pytest.mark.parametrize(
    ("refs", "message"),
    [
        ([Ref("nois")], "unknown live step 'nois'. Did you mean 'noise'?"),
        ([Ref("noise", {"size": 1})], "live_step.noise.size: is no parameter."),
        ([Ref("noise", {"scale": 0})], "live_step.noise.scale: 0. Accepted: a number in (0, inf)."),
        ([Ref("noise", {"columns": ["imag"]})], "steps.noise.columns: column 'imag' is not there."),
        ([Ref("feature_dropout", {"rate": 1})], "live_step.feature_dropout.rate: 1. Accepted: a number in [0, 1)."),
        ([Ref("flip", {"probability": 2})], "live_step.flip.probability: 2. Accepted: a number in [0, 1]."),
        ([Ref("shift", {"pixels": 0})], "live_step.shift.pixels: 0. Accepted: a whole number in [1, inf)."),
        ([Ref("shift", {"pixels": 6})], "steps.shift.pixels: 6 pixels move an image of [3, 6, 6] out."),
        ([Ref("crop", {"fill": "edge"})], "live_step.crop.fill: 'edge'. Accepted: zero or mirror."),
        ([Ref("crop", {"image": [1, 6, 6]})], "steps.crop.image: [1, 6, 6] has 36 pixels"),
        ([Ref("mixup", {"alpha": 0})], "live_step.mixup.alpha: 0. Accepted: a number in (0, inf)."),
        ([Ref("mixup"), Ref("mixup")], "steps: mixup stands more than once"),
    ],
)
def test_live_steps_that_do_not_fit_are_refused_in_words(refs, message):
    with pytest.raises(SpecError) as caught:
        build_live(refs, IMAGE)
    assert str(caught.value).startswith(message)


def test_noise_without_a_number_to_fall_on_is_refused():
    with pytest.raises(SpecError, match="no prepared column holds numbers"):
        Noise(Schema((Column("city", "one_hot", 2, ("a", "b")),)))
