"""Say which members of a pack stop training; imports no torch, for searches are planned without it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Decision:
    """Say which members stop.

    Args:
        dropped: Member -> reason.
        waits: The others must wait until more is known; their training is left as it stands.
    """

    dropped: Mapping[int, str] = field(default_factory=dict)
    waits: bool = False


Decide = Callable[[int, dict[int, float]], Decision]
"""(epochs finished, member -> best score so far, higher for better) -> which members stop; a pure function."""
