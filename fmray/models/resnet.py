"""Predict images by a small residual network.

Rows stay apart: normalisation is per row, so a prediction depends neither on the batch nor on who trains beside it.
Shape legend: B rows, D inputs, C channels, H and W pixels, P = H x W, F features, O outputs.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from fmray.schema import Schema, image_shape
from fmray.spec.components.models import Resnet

MOST_GROUPS, LEAST_CHANNELS = 8, 4  # a group of one channel would lose what an image of one pixel has left


class ResNet(nn.Module):
    """Map images to outputs through stages of residual blocks, each stage at half the resolution.

    Args:
        schema, num_outputs: Fix D and O.
        params: Width (channels after the stem), depth (blocks per stage), stages, and the shape of an image.

    Shapes:
        x: (B, D), pixels of channel after channel, row after row.
        returns: (B, O).

    Raises:
        SpecError: If the inputs are no image of this shape.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; group normalisation in place of batch
    normalisation by Wu and He, "Group Normalization", ECCV 2018.
    """

    def __init__(self, schema: Schema, num_outputs: int, params: Resnet = Resnet()) -> None:
        super().__init__()
        self.image_CHW = image_shape(params.image, schema.width, "model.resnet.image")
        self.stem = _convolution(self.image_CHW[0], params.width, stride=2)
        blocks: list[nn.Module] = []
        channels = params.width
        for stage in range(params.stages):
            for place in range(params.depth):
                made = params.width << stage
                blocks.append(Block(channels, made, stride=2 if stage and not place else 1))
                channels = made
        self.blocks = nn.Sequential(*blocks)
        self.output = nn.Linear(channels, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Give the outputs of every row."""
        channels, height, width = self.image_CHW
        x_BCP = x.reshape(-1, channels, height * width)
        # channels last in memory: CPU convolutions are 1.4x faster; spelt out, because vmap refuses memory formats
        x_BCHW = x_BCP.transpose(1, 2).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
        features_BF = self.blocks(F.relu(self.stem(x_BCHW))).mean((2, 3))
        outputs: Tensor = self.output(features_BF)
        return outputs


class Block(nn.Module):
    """Add two normalised convolutions to what comes in.

    Args:
        channels, made: Channels that come in and go out.
        stride: 2 halves the resolution.

    Shapes:
        x: (B, channels, H, W).
        returns: (B, made, H / stride, W / stride), rounded up.
    """

    def __init__(self, channels: int, made: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(channels, made, stride)
        self.second = _convolution(made, made, 1)
        same = stride == 1 and channels == made
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, made, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Change what comes in by a little."""
        return F.relu(self.shortcut(x) + self.second(F.relu(self.first(x))))


def _convolution(channels: int, made: int, stride: int) -> nn.Sequential:
    groups = min(MOST_GROUPS, made // LEAST_CHANNELS)
    while made % groups:
        groups -= 1
    return nn.Sequential(nn.Conv2d(channels, made, 3, stride, 1, bias=False), nn.GroupNorm(groups, made))
