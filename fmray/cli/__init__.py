"""Answer the command line: check a job, run it, look at what came out."""

from fmray.cli import check, cluster, listing, models, promotion, runs, schedule, tracking, why
from fmray.cli.app import main

__all__ = ["check", "cluster", "listing", "main", "models", "promotion", "runs", "schedule", "tracking", "why"]
