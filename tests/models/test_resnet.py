import re

import pytest
import torch

from fmray.catalogue import MODELS
from fmray.errors import SpecError
from fmray.models.resnet import ResNet
from fmray.schema import Column, Schema
from fmray.spec.components import models
from fmray.train.population import Blueprint, why_not_packable


def pixels(width):
    return Schema((Column("image", "vector", width),))


def test_resolution_halves_in_the_stem_and_at_each_further_stage_while_channels_double():
    net, shapes = ResNet(pixels(3 * 13 * 20), 5, models.Resnet(width=8, depth=2, stages=3, image=[3, 13, 20])), []
    for block in net.blocks:
        block.register_forward_hook(lambda module, given, made: shapes.append(tuple(made.shape[1:])))
    assert net(torch.randn(2, 780)).shape == (2, 5)
    assert shapes == [(8, 7, 10)] * 2 + [(16, 4, 5)] * 2 + [(32, 2, 3)] * 2


def test_rows_are_read_as_channel_after_channel():
    net, x = ResNet(pixels(48), 2, models.Resnet(width=4, stages=1)), torch.randn(5, 48)
    seen = []
    net.stem.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    net(x)
    assert torch.equal(seen[0], x.view(5, 3, 4, 4))


def test_a_prediction_does_not_depend_on_the_rows_beside_it():
    net, x = ResNet(pixels(64), 3).train(), torch.randn(6, 64)
    torch.testing.assert_close(net(x)[2:3], net(x[2:3]), rtol=1e-4, atol=1e-5)


def test_a_pixel_moved_anywhere_reaches_the_output():
    net, x = ResNet(pixels(64), 1), torch.randn(1, 64, requires_grad=True)
    net(x).sum().backward()
    assert (x.grad != 0).all()


@pytest.mark.parametrize("params", [{}, {"width": 12, "depth": 2, "stages": 2}, {"image": [1, 4, 16]}])
def test_members_can_be_packed(params):
    assert why_not_packable(Blueprint.of("resnet", params, 0), pixels(64), 3, {"x": torch.randn(7, 64)}) == ""


def test_a_few_images_are_learned_by_heart():
    torch.manual_seed(0)
    net, x, y = ResNet(pixels(64), 2, models.Resnet(width=4, stages=2)), torch.randn(16, 64), torch.arange(16) % 2
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
    for _ in range(40):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    assert (net(x).argmax(1) == y).all()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"width": 6}, "model.resnet.width: 6. Accepted: a whole number in [4, inf), a multiple of 4."),
        ({"width": 0}, "model.resnet.width: 0. Accepted: a whole number in [4, inf), a multiple of 4."),
        ({"depth": 0}, "model.resnet.depth: 0. Accepted: a whole number in [1, inf)."),
        ({"image": [1, 7, 8]}, "model.resnet.image: [1, 7, 8] has 56 pixels, the prepared rows have 64 inputs."),
    ],
)
def test_what_is_no_network_is_refused_in_words(params, message):
    with pytest.raises(SpecError, match=re.escape(message)):
        MODELS.build("resnet", pixels(64), 2, params=params)
