"""Carry a job from its file to its report.

Every stage reads records and writes one; a stage whose inputs are unchanged is read back, not redone. That is all there
is to resuming, to retraining cheaply, and to running the same job twice.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fmray.data.prepare import prepare
from fmray.data.scan import Dataset, scan
from fmray.catalogue import ENSEMBLES
from fmray.evaluate.baselines import dummy
from fmray.evaluate.score import score
from fmray.metrics.find import defaults, find_metric
from fmray.metrics.metric import Metric
from fmray.records import Ensemble, Json, Member, Predictions, Prepared, Run, Scores, Split
from fmray.report.card import write_card
from fmray.report.folder import environment, open_run, read_run, write_members, write_model
from fmray.rigour.gates import Evidence, judge
from fmray.rigour.ledger import Ledger
from fmray.spec.job import Job
from fmray.spec.ref import Ref
from fmray.store import Store
from fmray.train.device import set_up
from fmray.train.predict import predict
from fmray.tune.sweep import Sweep, linear_plans, plans_of, short, sweep
