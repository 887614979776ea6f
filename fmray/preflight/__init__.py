"""Look at a cluster before a job goes there: room, versions, storage, disk, data, and nodes that reach each other."""

from fmray.preflight.judge import Obstacle, judge
from fmray.preflight.needs import LEAST_FREE, MARK, Needs, probe_command

__all__ = ["LEAST_FREE", "MARK", "Needs", "Obstacle", "judge", "probe_command"]
