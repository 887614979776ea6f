"""Learn to generate a text from another one."""

from collections.abc import Sequence
from typing import ClassVar

from fmray.records import Target
from fmray.spec.components import tasks as declared
from fmray.tasks.language_model import LanguageModel


class SequenceToSequence(LanguageModel):
    """Minimise the nats per token of the target, its end included.

    A model is given the source, and the target's token before each place (teacher forcing).

    Args:
        target: What is predicted; its counts fix V.
        members: Parameters of each member.

    Source: Sutskever et al., "Sequence to Sequence Learning with Neural Networks", NeurIPS 2014.
    """

    where: ClassVar[str] = "task.sequence_to_sequence"
    packable: ClassVar[tuple[str, ...]] = declared.SequenceToSequence.packable

    def __init__(
        self, target: Target, members: Sequence[declared.SequenceToSequence] = (declared.SequenceToSequence(),)
    ) -> None:
        super().__init__(target, members)
