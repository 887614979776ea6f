"""Learn to fill in tokens of a text that are hidden, from those on both sides.

In training other tokens are chosen in every epoch, by the identity of the row, the seed and the epoch alone: not by the
batch, the worker or the padding. Tokens of validation and test were chosen when rows were prepared.
Shape legend: K members, B windows, L tokens of the longest window, C tokens chosen of a window, V ids.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from fmray.errors import TrainError
from fmray.records import Target
from fmray.spec.components import tasks as declared
from fmray.targets.codec import codec_of
from fmray.targets.masked_token import CHANGED, HIDDEN, MASK, NOT_ASKED, SPECIAL
from fmray.tasks.tagging import Tagging
from fmray.tasks.task import Batch, Losses, Model, Task

SMALLEST = 1e-300
_STEP, _MIX_1, _MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # of splitmix64, as int64


class MaskedLanguageModel(Tagging):
    """Minimise the nats per chosen token, averaged over these: a window counts as often as it has some.

    A model is given `chosen`, the places of tokens (B, C), and gives an output per id for these alone (B, C, V); places
    that a window with fewer chosen tokens has more of count nothing. To outputs the ln of the share of each id among
    training tokens is added: what a model learns is what the tokens around tell beyond that, from the first step on.

    Args:
        target: What is predicted; its counts fix V.
        members: Parameters of each member.

    Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", NAACL 2019.
    """

    where: ClassVar[str] = "task.masked_language_model"
    packable: ClassVar[tuple[str, ...]] = declared.MaskedLanguageModel.packable
    draws_by_epoch: ClassVar[bool] = True

    def __init__(
        self, target: Target, members: Sequence[declared.MaskedLanguageModel] = (declared.MaskedLanguageModel(),)
    ) -> None:
        super().__init__(target, members)
        self.share = members[0].share
        self.prior_V = torch.from_numpy(codec_of(target).constant()).log().float()

    def loss(self, model: Model, batch: Batch, phase: str) -> Losses:
        """Give each member's mean loss over the chosen tokens of each window, in nats."""
        return super().loss(lambda asked: self._with_prior(model(asked)), self.asked(batch), phase)

    def predict(self, output: Tensor, batch: Batch) -> Tensor:
        """Give the probability of each chosen token, and whether it is the likeliest (K, B, L, 2); else zeros."""
        asked = self.asked(batch)
        logits_KBCV = self._with_prior(output)
        target_KBC = asked.target.expand(len(output), -1, -1)
        is_there_KBC = target_KBC >= 0
        log_p_KBC = logits_KBCV.log_softmax(-1).gather(-1, target_KBC.clamp_min(0)[..., None])[..., 0]
        p_KBC = log_p_KBC.double().exp().clamp_min(SMALLEST)
        right_KBC = (logits_KBCV.argmax(-1) == target_KBC).double()
        found_KBC2 = torch.stack([p_KBC, right_KBC], -1) * is_there_KBC[..., None]
        places_KBC2 = asked.given["chosen"][None, ..., None].expand_as(found_KBC2)
        said_KBL2 = found_KBC2.new_zeros(*found_KBC2.shape[:2], batch.target.shape[1], 2)
        return said_KBL2.scatter(2, places_KBC2, found_KBC2)

    def asked(self, batch: Batch) -> Batch:
        """Give the batch with chosen tokens hidden, their places as `chosen`, and targets for these alone (B, C).

        While training tokens are chosen here, by `Batch.keys`. Otherwise those are, that have a target.

        Raises:
            TrainError: If there are no keys while training.
        """
        name = next(name for name in batch.inputs if name.endswith("_lengths")).removesuffix("_lengths")
        if batch.keys is None and batch.places is not None:
            raise TrainError("rows came without identities, by which tokens are chosen.", self.where)
        if batch.keys is None:
            return _pointed(batch, (batch.target >= 0).sum(1), (batch.target < 0).long())
        drawn_BL = _drawn(batch.keys, batch.target.shape[1])
        there_BL = batch.target >= 0
        lengths_B = there_BL.sum(1)
        number_B = (lengths_B * self.share + 0.5).floor().long().clamp_min(1).minimum(lengths_B)
        # a token is chosen if its number is among the smallest of its window
        asked = _pointed(batch, number_B, _right(drawn_BL, 1).masked_fill(~there_BL, torch.iinfo(torch.int64).max))
        chosen_BC = asked.given["chosen"]
        ids_BL = batch.inputs[name]
        own_BC = ids_BL.gather(1, chosen_BC)
        hidden_BC = _hidden(own_BC, _mixed(drawn_BL.gather(1, chosen_BC) + _STEP), self.num_outputs)
        kept_BC = torch.where(asked.target >= 0, hidden_BC.to(own_BC.dtype), own_BC)
        return replace(asked, inputs={**batch.inputs, name: ids_BL.scatter(1, chosen_BC, kept_BC)})

    def select(self, keep: Tensor) -> Task:
        """Give the task of the members at these positions."""
        chosen = super().select(keep)
        chosen.share = self.share  # type: ignore[attr-defined]
        chosen.prior_V = self.prior_V  # type: ignore[attr-defined]
        return chosen

    def _with_prior(self, output: Tensor) -> Tensor:
        """Give the logits that outputs stand for."""
        if output.shape[-1] != self.num_outputs:  # refused by its shape later on
            return output
        self.prior_V = self.prior_V.to(output.device)
        return output.float() + self.prior_V


def _pointed(batch: Batch, number_B: Tensor, rank_BL: Tensor) -> Batch:
    """Ask for as many tokens of each window as it has to give, those of the lowest ranks first."""
    most = max(1, int(number_B.max())) if len(number_B) else 1
    chosen_BC = rank_BL.argsort(dim=1, stable=True)[:, :most]
    is_asked_BC = torch.arange(most, device=number_B.device) < number_B[:, None]
    target_BC = batch.target.gather(1, chosen_BC).masked_fill(~is_asked_BC, NOT_ASKED)
    return replace(batch, target=target_BC, given={**batch.given, "chosen": chosen_BC})


def _hidden(own_BC: Tensor, bits_BC: Tensor, num_ids: int) -> Tensor:
    """Give what stands in place of chosen tokens: mostly the mask, at times another token, at times the same."""
    sort_BC = _right(bits_BC, 11).double() * 2.0**-53
    other_BC = SPECIAL + _right(_mixed(bits_BC + _STEP), 1) % max(1, num_ids - SPECIAL)
    changed_BC = torch.where(sort_BC < CHANGED, other_BC, own_BC)
    return torch.where(sort_BC < HIDDEN, MASK, changed_BC)


def _drawn(keys_B: Tensor, num_places: int) -> Tensor:
    """Give 64 bits for each place of each row (B, L), int64, whatever other places there are."""
    steps_L = torch.arange(1, num_places + 1, device=keys_B.device) * _STEP
    return _mixed(keys_B[:, None] + steps_L)


def _mixed(bits: Tensor) -> Tensor:
    """Mix bits as splitmix64 ends.

    Source: Steele et al., "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
    """
    bits = (bits ^ _right(bits, 30)) * _MIX_1
    bits = (bits ^ _right(bits, 27)) * _MIX_2
    return bits ^ _right(bits, 31)


def _right(bits: Tensor, places: int) -> Tensor:
    """Shift right and fill with zeros; torch fills with the sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)
