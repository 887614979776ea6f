"""Say in plain words what a run waits for or why it failed, with the evidence and the fix."""

from fmray.why.collect import Contact, collect
from fmray.why.evidence import Evidence
from fmray.why.finding import Finding
from fmray.why.judge import judge

__all__ = ["Contact", "Evidence", "Finding", "collect", "judge"]
