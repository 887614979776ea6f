"""Predict text by the mean of its tokens' embeddings.

Shape legend: K members, B rows, L tokens of the longest row, V ids, E numbers per embedding, D numbers beside the text,
O outputs.
Source: Joulin et al., "Bag of Tricks for Efficient Text Classification", EACL 2017.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn

from fmray.models import layers
from fmray.schema import DENSE, Schema
from fmray.spec.components import models as declared

BOUND = 0.5


class BagOfEmbeddings(nn.Module):
    """Map the mean of the embeddings of each text, side by side with the numbers there are, by one affine map.

    Every block of tokens has embeddings of its own, as each has ids of its own.

    Args:
        schema, num_outputs: Fix V, D and O.
        params: Width (E) and dropout.

    Shapes:
        inputs: per block of tokens ids (B, L) and `<name>_lengths` (B,); `x` (B, D) where there are numbers.
        returns: (K, B, O).
    """

    reads: ClassVar[tuple[str, ...]] = declared.BagOfEmbeddings.reads
    needs: ClassVar[tuple[str, ...]] = declared.BagOfEmbeddings.needs
    packable: ClassVar[tuple[str, ...]] = declared.BagOfEmbeddings.packable

    def __init__(
        self, schema: Schema, num_outputs: int, params: declared.BagOfEmbeddings = declared.BagOfEmbeddings()
    ) -> None:
        super().__init__()
        self.texts = [block.name for block in schema.blocks.values() if block.kind == "tokens"]
        self.embeddings = nn.ModuleList(
            layers.EmbeddingBag(schema.blocks[name].width, params.width, BOUND) for name in self.texts
        )
        self.dropout = layers.Dropout(params.dropout)
        self.output = layers.Linear(params.width * len(self.texts) + schema.width, num_outputs)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Give the outputs of every member."""
        means = []
        for name, embedding in zip(self.texts, self.embeddings, strict=True):
            means.append(embedding(inputs[name], layers.mean_weights(inputs[name], inputs[f"{name}_lengths"])))
        hidden: Tensor = self.dropout(torch.cat(means, -1))
        if DENSE in inputs:
            hidden = torch.cat([hidden, inputs[DENSE].expand(*hidden.shape[:-1], -1)], -1)
        outputs: Tensor = self.output(hidden)
        return outputs
