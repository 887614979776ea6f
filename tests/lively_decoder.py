"""A small decoder whose outputs differ from token to token, without having learned anything."""

import torch
from torch import nn

from fmray.models.decoder import Decoder
from fmray.schema import Column, Schema
from fmray.spec.components import models as declared

PARAMS = {"width": 16, "depth": 2, "heads": 2}


def schema_of(num_ids: int) -> Schema:
    return Schema((Column("text", "tokens", num_ids, block="tokens"),))


def lively(num_ids: int, seed: int = 0, spread: float = 0.3, **params: float) -> Decoder:
    """Draw its matrices widely: as members start, their outputs are all alike.

    Args:
        spread: Of the embeddings, which outputs are products with.
    """
    made = Decoder(schema_of(num_ids), num_ids, declared.Decoder(**{**PARAMS, **params}))
    source = torch.Generator().manual_seed(seed)
    for name, parameter in made.named_parameters():
        if parameter.dim() == 2:
            nn.init.normal_(parameter, std=spread if name == "embedding.weight" else 0.8, generator=source)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1, generator=source)
    return made.eval()
