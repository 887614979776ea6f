"""Models of a user whose tensors are of every kind there is: tied, frozen, and of several types."""

import torch
from torch import nn


class Tied(nn.Module):
    """Two names for one matrix, and two for one buffer."""

    def __init__(self, schema, num_outputs, **ignored):
        super().__init__()
        width = schema.width
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        self.second.weight = self.first.weight
        self.last = nn.Linear(width, num_outputs)
        self.first.register_buffer("shift", torch.rand(width))
        self.second.register_buffer("shift", self.first.shift)

    def forward(self, x):
        x = torch.tanh(self.first(x) + self.first.shift)
        return self.last(torch.tanh(self.second(x) - self.second.shift))


class Frozen(nn.Module):
    """An encoder that does not train, in front of a head that does."""

    def __init__(self, schema, num_outputs, **ignored):
        super().__init__()
        width = schema.width
        self.encoder, self.last = nn.Linear(width, 5).requires_grad_(False), nn.Linear(5, num_outputs)
        self.scale = nn.Parameter(torch.rand(5), requires_grad=False)

    def forward(self, x):
        return self.last(torch.tanh(self.encoder(x)) * self.scale)


class Double(nn.Module):
    """All in double precision."""

    def __init__(self, schema, num_outputs, **ignored):
        super().__init__()
        width = schema.width
        self.first, self.last = nn.Linear(width, 5, dtype=torch.float64), nn.Linear(5, num_outputs, dtype=torch.float64)

    def forward(self, x):
        return self.last(torch.tanh(self.first(x.double())))


class Mixed(nn.Module):
    """A tensor of each type, with and without gradient, tied and not."""

    def __init__(self, schema, num_outputs, **ignored):
        super().__init__()
        width = schema.width
        self.low = nn.Linear(width, width, dtype=torch.bfloat16)
        self.also_low = nn.Linear(width, width, dtype=torch.bfloat16)
        self.also_low.weight = self.low.weight
        self.small = nn.Parameter(torch.rand(width, dtype=torch.float16))
        self.last = nn.Linear(width, num_outputs)
        self.exact = nn.Parameter(torch.rand(width, dtype=torch.float64), requires_grad=False)
        self.places = nn.Parameter(torch.arange(width).flip(0), requires_grad=False)
        self.register_buffer("mask", torch.rand(width) > 0.3)
        self.register_buffer("number", torch.tensor(3))
        self.register_buffer("large", torch.rand(width, dtype=torch.float64))
        self.register_buffer("unkept", torch.rand(width, dtype=torch.float16), persistent=False)

    def forward(self, x):
        x = torch.tanh(self.also_low(torch.tanh(self.low(x.bfloat16()))).float() * self.small)
        x = x[:, self.places] * self.exact.float() * self.mask / self.number
        return self.last(x + self.large.float() + self.unkept.float())
