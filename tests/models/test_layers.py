import pytest
import torch
from torch.nn import functional as F

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
