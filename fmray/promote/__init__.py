"""Move the champion of a job: promote a run, approve what waits for a person, roll back, go on from it."""

from fmray.promote.decide import Outcome, approve, promote, rollback
from fmray.promote.history import champion_of
from fmray.promote.registry import Registry
from fmray.promote.warm import started_from, starts_of

__all__ = ["Outcome", "Registry", "approve", "champion_of", "promote", "rollback", "started_from", "starts_of"]
