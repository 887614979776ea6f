"""Answer the command line: check a job, run it, look at what came out."""

from fmray.cli import check, cluster, models, promotion, runs, tracking
from fmray.cli.app import main

__all__ = ["check", "cluster", "main", "models", "promotion", "runs", "tracking"]
