"""Keep what causal attention has computed of tokens already read, so that a text goes on one token at a time.

A row's own tokens stand in its first places, whatever the other rows hold; what lies behind them is never looked at.
Shape legend: B rows, N new tokens, S places, A heads, E numbers per head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MULTIPLE = 32
"""Places are made in such steps, so that a longer text seldom means a copy."""


@dataclass
class Seen:
    """Hold keys and values of one layer: (B, A, S, E) each; None before the first token."""

    keys: Tensor | None = None
    values: Tensor | None = None

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """Give keys and values of what has been seen.

        Raises:
            ValueError: If that is nothing.
        """
        if self.keys is None or self.values is None:
            raise ValueError("nothing has been seen")
        return self.keys, self.values

    def some(self, rows: Tensor) -> "Seen":
        """Give those of some rows (n,)."""
        return Seen(*(None if held is None else held[rows] for held in (self.keys, self.values)))


@dataclass(frozen=True)
class Past:
    """Let new tokens of one layer attend to those before them, and to themselves.

    Args:
        seen: What the layer has seen; new tokens join it.
        places: Of the new tokens, each in its own row (B, N), int64.
        size: Places that some row fills, the new tokens included.
    """

    seen: Seen
    places: Tensor
    size: int

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Average the values of all tokens up to each new one.

        Shapes:
            query, key, value: (B, A, N, E), queries and keys rotated by their places.
            returns: (B, A, N, E).
        """
        keys = self.seen.keys = self._joined(self.seen.keys, key)
        values = self.seen.values = self._joined(self.seen.values, value)
        ahead = torch.arange(self.size, device=key.device) > self.places[:, None, :, None]
        return F.scaled_dot_product_attention(
            query, keys[:, :, : self.size], values[:, :, : self.size], attn_mask=~ahead
        )

    def _joined(self, held: Tensor | None, new: Tensor) -> Tensor:
        """Put new entries at their places, in more room where they need it."""
        have = 0 if held is None else held.shape[2]
        if held is None or have < self.size:
            room = new.new_zeros((*new.shape[:2], -(-self.size // MULTIPLE) * MULTIPLE, new.shape[3]))
            if held is not None:
                room[:, :, :have] = held
            held = room
        # padding has places too: behind the row's own tokens, which those that come later overwrite
        at = self.places[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3])
        return held.scatter_(2, at, new)


class Cache:
    """Hold what every layer has seen of some rows.

    Args:
        depth: Number of layers.
        num_rows: B.
        device: Where the network computes.
    """

    def __init__(self, depth: int, num_rows: int, device: torch.device | str = "cpu") -> None:
        self.layers = [Seen() for _ in range(depth)]
        self.lengths = torch.zeros(num_rows, dtype=torch.int64, device=device)

    def pasts(self, num_new: Tensor, width: int) -> list[Past]:
        """Make room for new tokens, so many of each row (B,) in a batch of this width, and give the past per layer."""
        places = self.lengths[:, None] + torch.arange(width, device=self.lengths.device)
        size = int(self.lengths.max()) + width
        self.lengths = self.lengths + num_new
        return [Past(seen, places, size) for seen in self.layers]

    def take(self, rows: Tensor) -> "Cache":
        """Give the cache of some rows (n,), in any order, each as often as it is named."""
        taken = Cache(len(self.layers), len(rows), self.lengths.device)
        taken.lengths = self.lengths[rows]
        taken.layers = [seen.some(rows) for seen in self.layers]
        return taken

    def put(self, rows: Tensor, other: "Cache") -> None:
        """Let these rows (n,) be those of another cache."""
        self.lengths = self.lengths.index_copy(0, rows, other.lengths)
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            if theirs.keys is not None and theirs.values is not None:
                mine.keys = _put(mine.keys, rows, given=theirs.keys, num_rows=len(self.lengths))
                mine.values = _put(mine.values, rows, given=theirs.values, num_rows=len(self.lengths))


class SourceCache(Cache):
    """Hold what a decoder attends to of the source beside what every layer has seen of the target.

    Args:
        sources: Keys and values of each layer.
        seen_B11S: Whether a place of the source is looked at.
    """

    def __init__(self, sources: Sequence[Seen], seen_B11S: Tensor) -> None:
        super().__init__(len(sources), len(seen_B11S), seen_B11S.device)
        self.sources = list(sources)
        self.seen_B11S = seen_B11S

    def take(self, rows: Tensor) -> "SourceCache":
        """Give the cache of some rows (n,), in any order, each as often as it is named."""
        taken = SourceCache([source.some(rows) for source in self.sources], self.seen_B11S[rows])
        taken.lengths = self.lengths[rows]
        taken.layers = [seen.some(rows) for seen in self.layers]
        return taken


def _put(held: Tensor | None, rows: Tensor, given: Tensor, num_rows: int) -> Tensor:
    """Write rows (n, A, S, E) into those that are held (B, A, S', E), in room for both."""
    have = 0 if held is None else held.shape[2]
    if held is None or have < given.shape[2]:
        room = given.new_zeros((num_rows, given.shape[1], given.shape[2], given.shape[3]))
        if held is not None:
            room[:, :, :have] = held
        held = room
    held[rows, :, : given.shape[2]] = given
    return held
