import pytest
import torch
from torch.nn import functional as F

from fmray.errors import TrainError
from fmray.models.layers import Dropout, LayerNorm, Linear


def test_linear_equals_one_torch_linear_per_member():
    modules = [Linear(4, 3) for _ in range(2)]
    stacked = Linear(4, 3)
    stacked.weight_KDH.data = torch.cat([m.weight_KDH.data for m in modules])
    stacked.bias_K1H.data = torch.cat([m.bias_K1H.data for m in modules])
    x = torch.randn(5, 4)
    expected = [F.linear(x, m.weight_KDH[0].T, m.bias_K1H[0, 0]) for m in modules]
    torch.testing.assert_close(stacked(x), torch.stack(expected))


def test_layer_norm_equals_torch():
    norm, x = LayerNorm(6), torch.randn(2, 5, 6)
    torch.testing.assert_close(norm(x), F.layer_norm(x, (6,)))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_share_it_should_and_the_mean(rate):
    layer = Dropout(rate)
    kept = []
    for key in range(20):
        layer.set_keys(
            torch.tensor([key * 7919 + 1], dtype=torch.int32), torch.arange(0, 200, dtype=torch.int32), (0, 200)
        )
        kept.append(layer(torch.ones(1, 200, 50)))
    share = torch.cat(kept).ne(0).float().mean().item()
    assert share == pytest.approx(1 - rate, abs=4 * (rate * (1 - rate) / 200_000) ** 0.5)
    assert torch.cat(kept).mean().item() == pytest.approx(1.0, abs=0.05)


def test_masks_differ_between_rows_units_and_keys_without_correlation():
    layer = Dropout(0.5)
    layer.set_keys(torch.tensor([123456789], dtype=torch.int32), torch.arange(0, 512, dtype=torch.int32), (0, 512))
    mask = layer(torch.ones(1, 512, 128))[0].ne(0).double()
    layer.set_keys(torch.tensor([123456790], dtype=torch.int32), torch.arange(0, 512, dtype=torch.int32), (0, 512))
    other = layer(torch.ones(1, 512, 128))[0].ne(0).double()
    bound = 5 / (512 * 128) ** 0.5
    for a, b in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1]), (mask, other)):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < bound


def test_a_mask_depends_on_the_place_in_the_global_batch_not_on_the_micro_batch():
    layer, x = Dropout(0.4), torch.ones(1, 10, 7)
    key = torch.tensor([99], dtype=torch.int32)
    layer.set_keys(key, torch.arange(0, 10, dtype=torch.int32), (0, 10))
    whole = layer(x)
    layer.set_keys(key, torch.arange(6, 10, dtype=torch.int32), (6, 10))
    assert torch.equal(layer(x[:, :4]), whole[:, 6:])


def test_nothing_is_dropped_outside_of_training():
    layer = Dropout(0.9).eval()
    assert torch.equal(layer(torch.ones(1, 3, 3)), torch.ones(1, 3, 3))


def expected_mask(key, places, num_positions, rate):
    """Work the mask out number by number, with whole numbers that know no overflow."""
    word, low = 1 << 32, lambda value: value % (1 << 32)
    mask = torch.zeros(len(places), num_positions)
    for row, place in enumerate(places):
        for position in range(num_positions):
            cell = low(place * -1640531527) ^ low(position * -2048144789)
            for shift in (16, 13):
                cell = low((cell ^ (cell >> shift)) * -1028477387)
            cell = low((cell ^ low(key)) * -2048144789)
            cell = low((cell ^ (cell >> 15)) * -1028477387)
            signed = cell - word if cell >= word // 2 else cell
            mask[row, position] = 0.0 if (signed >> 1) <= int(rate * 2**31 - 2**30) - 1 else 1 / (1 - rate)
    return mask


@pytest.mark.parametrize("shape", [(5, 7), (5, 3, 4), (5, 5, 2), (5, 2, 3, 2), (5,)])
def test_a_mask_is_a_hash_of_key_row_and_position_for_rows_of_any_shape(shape):
    layer, places = Dropout(0.4), [3, 9, 2, 40, 7]
    layer.set_keys(torch.tensor([77], dtype=torch.int32), torch.tensor(places, dtype=torch.int32), (1,), row_axis=0)
    found = layer(torch.ones(shape))
    assert found.shape == shape
    num_positions = torch.Size(shape[1:]).numel()
    torch.testing.assert_close(found.reshape(5, -1), expected_mask(77, places, num_positions, 0.4))


def test_no_two_rows_share_a_mask_where_there_are_as_many_rows_as_steps_in_time():
    layer, places = Dropout(0.5), torch.arange(8, dtype=torch.int32)
    layer.set_keys(torch.tensor([5], dtype=torch.int32), places, (0, 8), row_axis=0)
    masks = layer(torch.ones(8, 8, 16)).ne(0).reshape(8, -1)
    assert len({tuple(mask.tolist()) for mask in masks}) == 8
    in_time = layer(torch.ones(8, 8, 16)).ne(0).transpose(0, 1).reshape(8, -1)
    assert len({tuple(mask.tolist()) for mask in in_time}) == 8
    outside = Dropout(0.5)(torch.ones(8, 8, 16)).ne(0).reshape(8, -1)  # nobody gave places
    assert len({tuple(mask.tolist()) for mask in outside}) == 8


def test_rows_with_time_folded_in_have_the_masks_of_those_without():
    layer, places = Dropout(0.5), torch.tensor([4, 1, 8], dtype=torch.int32)
    layer.set_keys(torch.tensor([5], dtype=torch.int32), places, (0, 3), row_axis=0)
    x = torch.randn(3, 4, 6)
    assert torch.equal(layer(x.reshape(12, 6)).view(3, 4, 6), layer(x))
    with pytest.raises(TrainError, match=r"^model: Dropout was given \(7, 6\) for 3 rows\."):
        layer(torch.ones(7, 6))


def test_longer_rows_keep_the_masks_of_their_first_steps():
    layer, places = Dropout(0.5), torch.arange(3, dtype=torch.int32)
    layer.set_keys(torch.tensor([5], dtype=torch.int32), places, (0, 3), row_axis=0)
    assert torch.equal(layer(torch.ones(3, 9, 6))[:, :4], layer(torch.ones(3, 4, 6)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_numbers_keep_their_type(dtype):
    assert Dropout(0.5)(torch.ones(4, 6, dtype=dtype)).dtype == dtype
