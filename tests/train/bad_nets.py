"""Models of a user that are wrong, each in one way."""

import sys

import torch
from torch import Tensor, nn


class Good(nn.Module):
    def __init__(self, schema, num_outputs, width=8, **ignored):
        super().__init__()
        self.first, self.last = nn.Linear(schema.width, width), nn.Linear(width, num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)))


class Unlucky(Good):
    def __init__(self, schema, num_outputs, width=8):
        if width == 13:
            raise ValueError("width 13 is unlucky")
        super().__init__(schema, num_outputs, width)


class Broken(Good):
    def forward(self, x):
        raise ValueError("not written yet")


class FailsForSeeds(Good):
    """Fail where the first number that is drawn is the lowest of those of three seeds."""

    def __init__(self, schema, num_outputs, fail=1):
        if fail and torch.rand(1).item() < 0.3:
            raise ValueError("this seed does not work")
        super().__init__(schema, num_outputs)


class FailsForward(Good):
    def __init__(self, schema, num_outputs, width=8, fails_at=13):
        super().__init__(schema, num_outputs, width)
        self.bad = width == fails_at

    def forward(self, x):
        if self.bad:
            raise RuntimeError("this width does not work")
        return super().forward(x)


class FailsInEvaluation(FailsForward):
    def forward(self, x):
        if self.bad and not self.training:
            raise RuntimeError("cannot be evaluated")
        return Good.forward(self, x)


class FailsBackward(FailsForward):
    def forward(self, x):
        if not self.bad:
            return Good.forward(self, x)
        hidden = torch.relu(self.first(x)).exp()
        output = self.last(hidden)
        hidden.add_(1)
        return output


class WrongShape(FailsForward):
    def forward(self, x):
        output = Good.forward(self, x)
        return torch.cat([output, output], 1) if self.bad else output


class NotFinite(FailsForward):
    def forward(self, x):
        return Good.forward(self, x) * (float("nan") if self.bad else 1.0)


class NotFiniteInEvaluation(FailsForward):
    def forward(self, x):
        return Good.forward(self, x) * (float("nan") if self.bad and not self.training else 1.0)


class Greedy(Good):
    def __init__(self, schema, num_outputs, width=8):
        super().__init__(schema, num_outputs, 10**15 if width == 13 else width)


class GreedyForward(FailsForward):
    def forward(self, x):
        if self.bad:
            torch.empty(10**15)
        return Good.forward(self, x)


class Exits(FailsForward):
    def forward(self, x):
        if self.bad:
            sys.exit(3)
        return Good.forward(self, x)


class Interrupts(FailsForward):
    def forward(self, x):
        if self.bad:
            raise KeyboardInterrupt
        return Good.forward(self, x)


class Stop(BaseException):
    pass


class Stops(FailsForward):
    def forward(self, x):
        if self.bad:
            raise Stop("enough")
        return Good.forward(self, x)


class TooFew(nn.Module):
    def __init__(self, schema, num_outputs, depth):
        super().__init__()


class OwnTypeError(Good):
    def __init__(self, schema, num_outputs):
        super().__init__(schema, num_outputs)
        len(3)


class Tuple(Good):
    def forward(self, x):
        return super().forward(x), x


class Whole(Good):
    def forward(self, x):
        return super().forward(x).argmax(1, keepdim=True).expand(-1, 2)


class Detached(Good):
    def forward(self, x):
        return super().forward(x).detach()


class InPlace(Good):
    def forward(self, x):
        x.mul_(2)
        return super().forward(x)


class Elsewhere(Good):
    def forward(self, x):
        return super().forward(x).to("meta")


class Lazy(nn.Module):
    def __init__(self, schema, num_outputs):
        super().__init__()
        self.last = nn.LazyLinear(num_outputs)

    def forward(self, x):
        return self.last(x)


class OtherName(Good):
    def forward(self, rows):
        return super().forward(rows)


class NeedsMore(Good):
    def forward(self, x, mask):
        return super().forward(x)


class Normalised(nn.Module):
    def __init__(self, schema, num_outputs, width=8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(schema.width, width), nn.BatchNorm1d(width), nn.Linear(width, num_outputs)
        )

    def forward(self, x):
        return self.layers(x)


class FixedBatch(Good):
    def forward(self, x):
        if self.training:
            x = x.view(100, -1)
        return super().forward(x)


class Dropping(Good):
    def forward(self, x):
        return super().forward(torch.nn.functional.dropout(x, 0.2, self.training))


class Prints(Good):
    def forward(self, x):
        print("hello", end="")
        return super().forward(x)


class Refuses:
    """Refuse to be a module."""

    def __init__(self, schema, num_outputs):
        pass
