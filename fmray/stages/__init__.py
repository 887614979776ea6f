"""Do the work of each stage of a run, and keep the run to one process while it lasts."""
