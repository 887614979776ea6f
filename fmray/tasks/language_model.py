"""Learn to foretell each token of a text from those before it.

Shape legend: K members, B windows, L tokens of the longest window, V ids.
"""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from fmray.records import Target
from fmray.spec.components import tasks as declared
from fmray.tasks.tagging import Tagging
from fmray.tasks.task import Batch


class LanguageModel(Tagging):
    """Minimise the nats per token.

    A model is given the token before each place, and must not look at those behind it.

    Args:
        target: What is predicted; its counts fix V.
        members: Parameters of each member.
    """

    where: ClassVar[str] = "task.language_model"
    packable: ClassVar[tuple[str, ...]] = declared.LanguageModel.packable

    def __init__(self, target: Target, members: Sequence[declared.Tagging] = (declared.LanguageModel(),)) -> None:
        super().__init__(target, members)

    def predict(self, output: Tensor, batch: Batch) -> Tensor:
        """Give the probability of each token that is there (K, B, L, 1); any in the padding."""
        token_KBL1 = batch.target.clamp_min(0).expand(len(output), -1, -1)[..., None]
        return output.float().log_softmax(-1).gather(-1, token_KBL1).double().exp()
