"""Learn to find typed spans of a text, by a tag for each of its words."""

from collections.abc import Sequence
from typing import ClassVar

from fmray.records import Target
from fmray.spec.components import tasks as declared
from fmray.tasks.tagging import Tagging


class SpanExtraction(Tagging):
    """Minimise cross-entropy, averaged over words; see `fmray.targets.spans`.

    Args:
        target: What is predicted; its tags fix C.
        members: Parameters of each member.

    Source: Ramshaw & Marcus, "Text Chunking using Transformation-Based Learning", 1995 (tags B, I and O).
    """

    where: ClassVar[str] = "task.span_extraction"
    packable: ClassVar[tuple[str, ...]] = declared.SpanExtraction.packable

    def __init__(
        self, target: Target, members: Sequence[declared.SpanExtraction] = (declared.SpanExtraction(),)
    ) -> None:
        super().__init__(target, members)
