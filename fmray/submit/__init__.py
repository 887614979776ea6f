"""Send jobs to a cluster over Ray's Jobs API, and see what becomes of them."""

from fmray.submit.cluster import Attempt, Cluster
from fmray.submit.request import Request, plan

__all__ = ["Attempt", "Cluster", "Request", "plan"]
