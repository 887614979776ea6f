"""Compute with one thread where nothing else is asked: tests are small, and threads wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything imports torch
