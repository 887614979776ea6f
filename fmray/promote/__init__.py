"""Move the champion of a job: promote a run, approve what waits for a person, roll back."""

from fmray.promote.decide import Outcome, approve, promote, rollback
from fmray.promote.history import champion_of
from fmray.promote.registry import Registry

__all__ = ["Outcome", "Registry", "approve", "champion_of", "promote", "rollback"]
