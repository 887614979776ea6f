"""Say which members of a pack stop training; imports no torch, for searches are planned without it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Decision:
    """Say which members stop.

    Args:
        dropped: Member -> reason.
        must_wait: The others must wait, for instance until all members have reached a rung.
    """

    dropped: Mapping[int, str] = field(default_factory=dict)
    must_wait: bool = False


Decide = Callable[[int, dict[int, float]], Decision]
"""(epochs finished, member -> best score so far, higher is better) -> which members stop; a pure function."""
